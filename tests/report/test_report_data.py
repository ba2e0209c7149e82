import json

import pytest
import small_grid

from lightning_bpd.interfaces import InputError
from lightning_bpd.measuring.record import read_record
from lightning_bpd.report.runs import read_runs


@pytest.fixture
def record():
    return small_grid.record("joint", "gold", 2, 1)


def test_runs_are_ordered_and_read_once(tmp_path):
    folder = small_grid.grid(tmp_path / "grid", sizes=(1, 2, 10))
    runs, left_out = read_runs([str(folder), str(folder / "base"), str(folder)])
    assert len(runs) == 1 + 2 * 2 * 2 * 2 + 2 * 2
    assert left_out == []
    places = [(*run.column, run.block_size, run.seed) for run in runs]
    assert places[:3] == [("base", "gold", 1, 1), ("frozen", "gold", 2, 1), ("frozen", "gold", 2, 2)]
    assert places[-1] == ("joint", "distilled", 10, 2)
    assert runs[-1].name == "joint_distilled_k10_s2"
    assert runs[-1].record.arm(10, "top-2").acceptance == "top-2"
    assert runs[-1].record.arm(3, "top-2") is None


def test_earlier_runs_that_were_moved_aside_are_left_out(tmp_path, record):
    for name in ("run", "run.1", "other.2"):
        small_grid.write(tmp_path / name, {**record, "training": {**record["training"], "seed": len(name)}})
    runs, (sentence,) = read_runs([str(tmp_path)])
    assert {run.name for run in runs} == {"run", "other.2"}
    assert "run.1 was left out" in sentence


def test_two_runs_of_one_cell_are_refused(tmp_path, record):
    for name in ("one", "two"):
        small_grid.write(tmp_path / name, record)
    with pytest.raises(InputError, match=r"one and .*two are both joint, gold, k = 2, seed 1"):
        read_runs([str(tmp_path)])


def test_corpus_must_be_clear(tmp_path, record):
    small_grid.write(tmp_path / "one", record)
    small_grid.write(tmp_path / "one", record, "other")
    small_grid.write(tmp_path / "two", record, "other")
    with pytest.raises(InputError, match="choose one of other, toy by --corpus"):
        read_runs([str(tmp_path)])
    with pytest.raises(InputError, match=r"no run has a compare_x\.json: there are other, toy"):
        read_runs([str(tmp_path)], "x")
    runs, (sentence,) = read_runs([str(tmp_path)], "toy")
    assert [run.name for run in runs] == ["one"]
    assert "two was left out: it was not measured on toy" in sentence


def test_folders_without_files(tmp_path):
    with pytest.raises(InputError, match="at least one run"):
        read_runs([])
    with pytest.raises(InputError, match="nowhere is not a folder"):
        read_runs([str(tmp_path / "nowhere")])
    (tmp_path / "empty" / "inner").mkdir(parents=True)
    with pytest.raises(InputError, match=r"empty holds no compare_\*\.json"):
        read_runs([str(tmp_path / "empty")])


@pytest.mark.parametrize("content", [b"", b'{"format": 2, ', b"\xff\xfe", b"[1, 2"])
def test_damaged_files(tmp_path, content):
    file = tmp_path / "compare_toy.json"
    file.write_bytes(content)
    with pytest.raises(InputError, match=r"compare_toy\.json is damaged"):
        read_runs([str(tmp_path)])


@pytest.mark.parametrize("content", [b"[]", b'{"format": 1}', b"{}", b"3"])
def test_other_formats(tmp_path, content):
    (tmp_path / "compare_toy.json").write_bytes(content)
    with pytest.raises(InputError, match=r"compare_toy\.json is of format .* reads format 2"):
        read_runs([str(tmp_path)])


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (
            ("training", "regime"),
            "thawed",
            "training.regime: it should be 'base', 'frozen', 'joint' or 'unknown'",
        ),
        (("training", "block_size"), 0, "training.block_size: it should be greater than or equal to 1"),
        (("corpus", "rows"), 29, "'references' must hold 29 values, and holds 30"),
        (("settings",), None, "settings: it should be an object"),
        (("signature",), 5, "signature: it should be a valid string"),
        (("references",), [1], r"references\[0\]: it should be a valid string"),
        (("arms",), [], "the first of 'arms' must be greedy"),
        (("arms", 1, "accepted_sizes"), [1], r"arms\[1\]: 'accepted_sizes' must hold 2 values"),
        (("arms", 1, "quality", "bleu"), "high", r"arms\[1\].quality.bleu: it should be a valid number"),
        (
            ("arms", 1, "quality", "bleu"),
            float("nan"),
            r"arms\[1\].quality.bleu: it should be a finite number",
        ),
        (("arms", 1, "tokens"), [1, 2], r"arms\[1\].tokens' must hold 30 values, and holds 2"),
        (("arms", 1, "iterations"), [0] * 30, "no iterations"),
        (("arms", 1, "outputs"), None, r"arms\[1\].outputs' is missing"),
        (("arms", 1, "seconds"), "fast", r"arms\[1\].seconds: it should be a valid number"),
        (("arms", 1), 3, r"arms\[1\]: it should be an object"),
        (("replay", "iterations"), [1], "replay.iterations' must hold 2 values"),
        (("costs", "call"), [1.0, None], r"costs.call\[1\]: it should be a valid number"),
        (("costs",), {}, "costs.start: it is missing"),
        (("acceptance_by_position",), [1.0], "must hold 2 values"),
    ],
)
def test_wrong_values_are_named(tmp_path, record, path, value, message):
    inner = record
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    with pytest.raises(InputError, match=message) as error:
        read_record(small_grid.write(tmp_path, record))
    assert "compare_toy.json" in str(error.value)


@pytest.mark.parametrize("key", ["training", "arms", "corpus", "provenance", "model", "references"])
def test_missing_values_are_named(tmp_path, record, key):
    del record[key]
    with pytest.raises(InputError, match=rf"compare_toy\.json: ('{key}'|{key}: it) is missing"):
        read_record(small_grid.write(tmp_path, record))


def test_what_may_be_null(tmp_path, record):
    for key in ("replay", "costs", "acceptance_by_position"):
        record[key] = None
    for arm in record["arms"]:
        arm["seconds"] = arm["speed_up"] = None
    run = read_record(small_grid.write(tmp_path, json.loads(json.dumps(record))))
    assert run.replay is run.costs is run.acceptance_by_position is run.greedy.speed_up is None


def test_what_a_model_does_not_say(tmp_path, record):
    record["training"] |= {"data": "unknown", "seed": None}
    run = read_record(small_grid.write(tmp_path, record))
    assert (run.training.data, run.training.seed) == ("unknown", None)


def test_provenance_is_flat(tmp_path, record):
    record["provenance"]["device"] = None
    small_grid.write(tmp_path, record)
    ((run,), _) = read_runs([str(tmp_path)])
    assert run.provenance["packages torch"] == "2.13.0"
    assert run.provenance["git revision"] == "0123456789abcdef"
    assert run.provenance["git changed"] == "false"
    assert run.revision == "0123456789ab"
    assert "device" not in run.provenance
