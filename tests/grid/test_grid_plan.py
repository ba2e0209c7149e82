import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import lightning_bpd
from lightning_bpd.grid.plan import Grid, plan, recipes
from lightning_bpd.grid.state import Record, estimates, record_path, states, total, write_record
from lightning_bpd.interfaces import InputError

REPOSITORY = Path(lightning_bpd.__file__).parents[1]


def by_name(grid):
    return {step.name: step for step in plan(grid)}


def options(step):
    """Each option's last value."""
    return dict(zip(step.arguments[1:-1], step.arguments[2:], strict=True))


def test_the_paper_s_table_is_planned():
    steps = plan(Grid())
    names = [step.name for step in steps]
    assert names[:3] == ["base", "teacher", "distilled"]
    assert names[-1] == "report"
    sizes = {"frozen": (2, 4, 6, 8, 10), "joint": (1, 2, 4, 6, 8, 10)}
    models = [
        f"{regime}_{mix}_k{size}_s1"
        for regime in ("frozen", "joint")
        for mix in ("gold", "distilled")
        for size in sizes[regime]
    ]
    assert names[3:-1] == [*models, "compare_base", *(f"compare_{name}" for name in models)]
    for place, step in enumerate(steps):
        assert set(step.needs) | set(step.after) <= set(names[:place])


def test_command_lines():
    steps = by_name(Grid(name="g", seeds=[3], arguments=["--wandb=disabled"], joint_arguments=["--x=1"]))
    base, teacher = options(steps["base"]), options(steps["teacher"])
    assert (base["--seed_everything"], teacher["--seed_everything"]) == ("1", "2")
    assert (base["--experiment"], base["--runs"], base["--data"]) == ("base", "runs/g", "data/multi30k")
    assert "--wandb=disabled" in steps["base"].arguments
    assert steps["distilled"].arguments == (
        *("distill", "--teacher", "runs/g/teacher/model", "--data", "data/multi30k"),
        *("--output", "runs/g/distilled"),
    )
    frozen = steps["frozen_gold_k4_s3"]
    pairs = zip(frozen.arguments, frozen.arguments[1:], strict=False)
    assert [value for name, value in pairs if name == "--config"] == [
        "configs/translation/multi30k.yaml",
        "configs/translation/frozen.yaml",
    ]
    assert options(frozen)["--model.base"] == "runs/g/base/model"
    assert options(frozen)["--data.mix"] == "gold"
    assert "--data.distilled" not in frozen.arguments
    assert frozen.needs == ("base",)
    joint = steps["joint_distilled_k4_s3"]
    assert options(joint)["--model.base"] == "runs/g/frozen_distilled_k4_s3/model"
    assert options(joint)["--data.distilled"] == "runs/g/distilled"
    assert options(joint)["--model.heads.block_size"] == "4"
    assert options(joint)["--seed_everything"] == "3"
    assert json.loads(options(joint)["--model.head_weights"]) == [8, 4, 2, 1]
    assert joint.needs == ("frozen_distilled_k4_s3", "distilled")
    assert "--x=1" in joint.arguments
    assert "--x=1" not in frozen.arguments
    assert "val/bleu" not in joint.arguments
    alone = steps["joint_gold_k1_s3"]
    assert alone.needs == ("base",)
    assert options(alone)["--best_checkpoint.monitor"] == "val/bleu"
    weights = options(steps["joint_gold_k10_s3"])["--model.head_weights"]
    assert json.loads(weights) == [8, 4, 2, 1, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5]
    compare = steps["compare_joint_gold_k1_s3"]
    assert json.loads(options(compare)["--rules"]) == ["exact", "top-2", "top-3", "minimum-2", "minimum-3"]
    assert compare.result == Path("runs/g/joint_gold_k1_s3/compare_test_2016_flickr.json")
    assert steps["report"].arguments == (
        *("report", "runs/g", "--output", "runs/g/report", "--corpus", "test_2016_flickr"),
    )


def images(**settings):
    return Grid(name="g", **{"kind": "images", "mixes": ["gold"], "corpus": "test", "data": None, **settings})


def test_command_lines_of_images():
    """Their data has no other targets, and may need no folder."""
    steps = by_name(images(rules=["exact", "distance-2"]))
    assert not {"teacher", "distilled"} & set(steps)
    for step in steps.values():
        assert not [argument for argument in step.arguments if argument.startswith("--data")]
    assert options(steps["joint_gold_k1_s1"])["--best_checkpoint.monitor"] == "val/psnr"
    assert options(steps["compare_base"])["--corpus"] == "test"
    assert json.loads(options(steps["compare_base"])["--rules"]) == ["exact", "distance-2"]
    steps = by_name(images(data="images.zip"))
    assert options(steps["base"])["--data.path"] == "images.zip"
    assert options(steps["joint_gold_k2_s1"])["--data.path"] == "images.zip"
    # The model's own run says where they are, but for a base that another run made.
    assert "images.zip" not in steps["compare_base"].arguments
    steps = by_name(images(data="images.zip", base="some/model"))
    assert options(steps["compare_base"])["--data"] == "images.zip"
    assert "images.zip" not in steps["compare_joint_gold_k2_s1"].arguments
    assert "--data" not in by_name(images(base="some/model"))["compare_base"].arguments


def test_what_is_timed_runs_alone_after_all_trainings():
    steps = by_name(Grid(block_sizes=[2]))
    compare = steps["compare_base"]
    assert compare.alone
    assert {"distilled", "frozen_gold_k2_s1", "joint_distilled_k2_s1"} <= set(compare.after)
    untimed = by_name(Grid(block_sizes=[2], timed=0))["compare_base"]
    assert not untimed.alone
    assert untimed.after == ()


def test_gold_alone_needs_no_teacher():
    names = by_name(Grid(mixes=["gold"]))
    assert not {"teacher", "distilled"} & set(names)


def test_joint_may_start_from_the_base():
    steps = by_name(Grid(joint_from="base", regimes=["joint"]))
    assert steps["joint_gold_k8_s1"].needs == ("base",)


def test_finished_results_take_the_place_of_commands():
    steps = by_name(Grid(base="some/model", teacher_data="some/text"))
    assert steps["base"].given == Path("some/model")
    assert "teacher" not in steps
    assert steps["distilled"].needs == ()
    assert options(steps["frozen_gold_k2_s1"])["--model.base"] == "runs/grid/base/model"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "a/b"}, "cannot name a folder"),
        ({"seeds": []}, "seeds is empty"),
        ({"block_sizes": [2, 2]}, "twice"),
        ({"block_sizes": [0]}, "at least 1 token"),
        ({"teacher_seed": 1}, "must differ"),
        ({"regimes": ["joint"]}, "joint_from"),
        ({"jobs": 0}, "jobs is 0"),
        ({"seconds": {"fit": 1.0}}, "'fit'"),
        ({"joint_head_weights": []}, "joint_head_weights"),
        ({"kind": "images"}, "mixes must be"),
        ({"kind": "images", "mixes": ["gold"], "generated_pairs": 10}, "no generated data"),
        ({"data": None}, "data is null"),
    ],
)
def test_contradictions_are_refused(settings, message):
    with pytest.raises(InputError, match=message):
        plan(Grid(**settings))


def test_a_recipe_holds_all_that_came_before():
    def changed(**settings):
        old, new = recipes(plan(Grid(**settings | {"base_arguments": []}))), recipes(plan(Grid(**settings)))
        return {name for name in new if new[name] != old[name]}

    everything = changed(base_arguments=["--trainer.max_epochs=1"])
    assert {"base", "teacher", "distilled", "joint_gold_k2_s1", "compare_base"} <= everything
    old, new = (recipes(plan(Grid(joint_head_weights=weights))) for weights in ([8.0, 4.0], [8, 5]))
    assert old["joint_gold_k1_s1"] == new["joint_gold_k1_s1"]
    assert old["joint_gold_k2_s1"] != new["joint_gold_k2_s1"]
    assert old["frozen_gold_k2_s1"] == new["frozen_gold_k2_s1"]
    assert old["compare_joint_gold_k2_s1"] != new["compare_joint_gold_k2_s1"]


def test_states_of_a_plan(tmp_path):
    grid = Grid(runs=str(tmp_path), mixes=["gold", "distilled"], block_sizes=[2], regimes=["frozen"])
    steps = by_name(grid)
    folder = grid.folder

    def finish(name, arguments=None, content="{}"):
        step = steps[name]
        record = Record(list(arguments or step.arguments), recipes(plan(grid))[name], "now", 60.0, 0)
        write_record(folder, name, record)
        step.result.parent.mkdir(parents=True, exist_ok=True)
        step.result.write_text(content)

    def words(**more):
        return {name: state.words for name, state in states(plan(grid), folder, **more).items()}

    assert words()["base"] == "to run"
    assert words()["frozen_gold_k2_s1"] == "needs base"
    finish("base")
    finish("teacher", arguments=["fit", "otherwise"])
    finish("distilled", content='{"complete": false}')
    assert words()["base"] == "done"
    assert "another command" in words()["teacher"]
    assert words()["distilled"] == "needs teacher"
    assert "kept" in words(keep=True)["teacher"]
    assert words(keep=True)["distilled"] == "to resume"
    assert words()["frozen_gold_k2_s1"] == "to run"
    finish("teacher")
    finish("distilled", content='{"complete": true}')
    assert words()["distilled"] == "done"

    checkpoint = folder / "frozen_gold_k2_s1" / "checkpoints" / "last.ckpt"
    checkpoint.parent.mkdir(parents=True)
    checkpoint.write_text("x")
    assert words()["frozen_gold_k2_s1"] == "to run anew: another command began it"
    finish("frozen_gold_k2_s1")
    steps["frozen_gold_k2_s1"].result.unlink()
    assert words()["frozen_gold_k2_s1"] == "to resume"

    # A result whose record is lost may have been made by anything.
    record_path(folder, "base").unlink()
    assert "no record" in words()["base"]
    # What was measured lies in the folder that will be moved aside.
    finish("compare_base")
    assert words()["compare_base"] == "needs base"
    finish("base")
    assert words()["compare_base"] == "done"

    changed = dataclasses.replace(grid, base_arguments=["--trainer.max_epochs=1"])
    assert "made by another command" in states(plan(changed), folder)["base"].words
    finish("frozen_gold_k2_s1")
    after = states(plan(changed), folder, keep=True)["frozen_gold_k2_s1"].words
    assert after == "kept, though what it needs was made by another command"


def test_a_report_older_than_a_measurement_is_made_again(tmp_path):
    grid = Grid(runs=str(tmp_path), base="m", mixes=["gold"], regimes=["frozen"], block_sizes=[1])
    steps = plan(grid)
    for step in steps:
        write_record(grid.folder, step.name, Record(list(step.arguments), recipes(steps)[step.name], "now"))
        step.result.parent.mkdir(parents=True, exist_ok=True)
        step.result.write_text("{}")
    assert {state.action for state in states(steps, grid.folder).values()} == {"nothing"}
    measured = next(step for step in steps if step.kind == "compare")
    newer = steps[-1].result.stat().st_mtime + 5
    os.utime(measured.result, (newer, newer))
    assert states(steps, grid.folder)["report"].words == "to run: compare_base is newer"


def test_estimates_come_from_finished_steps(tmp_path):
    grid = Grid(runs=str(tmp_path), mixes=["gold"], regimes=["frozen"], block_sizes=[2, 4, 8])
    steps = plan(grid)
    rough = {"base": 100.0, "frozen": 120.0}
    seconds = estimates(steps, grid.folder, rough)
    assert seconds["base"] == 100
    assert seconds["frozen_gold_k8_s1"] == 120
    assert 0 < seconds["frozen_gold_k2_s1"] < seconds["frozen_gold_k4_s1"] < 120
    assert seconds["compare_base"] is None
    todo = states(steps, grid.folder)
    # The base and the longest heads after it take longer than all work divided by many.
    time, unknown = total(steps, seconds, todo, jobs=8)
    assert time == pytest.approx(220)
    assert unknown == 5
    assert total(steps, seconds, todo, jobs=1)[0] == pytest.approx(
        100 + sum(seconds[f"frozen_gold_k{size}_s1"] for size in (2, 4, 8))
    )
    write_record(grid.folder, "frozen_gold_k2_s1", Record([], "", "now", seconds=30.0, exit_code=0))
    write_record(grid.folder, "frozen_gold_k4_s1", Record([], "", "now", seconds=1.0, exit_code=1))
    assert estimates(steps, grid.folder, rough)["frozen_gold_k8_s1"] == pytest.approx(60)


@pytest.mark.parametrize(
    "files", [["translation"], ["translation", "small"], ["demo"], ["digits"], ["cifar10"], ["cifar10_small"]]
)
def test_configured_grids_can_be_planned(files):
    """Every setting is known, and every file and class that it names exists."""
    settings = {}
    for file in files:
        settings |= yaml.safe_load((REPOSITORY / "configs" / "grids" / f"{file}.yaml").read_text())
    grid = Grid(**settings)
    assert plan(grid)
    for config in (*grid.base_configs, grid.frozen_config, grid.joint_config):
        assert (REPOSITORY / config).is_file()


def test_one_point_of_the_sweep_is_a_valid_command(tmp_path):
    """The agent's own expansion, the shell that it starts, and the parser of fit."""
    from wandb.sdk.launch.sweeps.utils import create_sweep_command, create_sweep_command_args

    sweep = yaml.safe_load((REPOSITORY / "configs" / "sweeps" / "heads.yaml").read_text())
    point = {
        name: {"value": space["values"][-1] if "values" in space else space["max"]}
        for name, space in sweep["parameters"].items()
    }
    macros = {
        **create_sweep_command_args({"args": point}),
        "env": ["/usr/bin/env"],
        "program": [str(REPOSITORY / sweep["program"])],
    }
    command = []
    for word in create_sweep_command(sweep["command"]):
        command += macros[word[2:-1]] if word.startswith("${") else [word]
    done = subprocess.run(
        [*command, "--print_config"],
        cwd=REPOSITORY,
        env={
            "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin",
            "WANDB_RUN_ID": "ab12",
            "OMP_NUM_THREADS": "1",
        },
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    config = yaml.safe_load(done.stdout)
    assert config["experiment"] == "ab12"
    assert config["wandb"] == "online"
    model = config["model"]["init_args"]
    assert config["model"]["class_path"].endswith("FrozenBaseHeadDistillation")
    assert model["heads"]["block_size"] == 8
    assert model["loss"] == "sampled"
    assert model["optimizer"]["init_args"]["lr"] == 0.005
    assert sweep["metric"]["name"] == config["best_checkpoint"]["monitor"]
