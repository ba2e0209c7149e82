"""The runner, on steps that are a line of Python each."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lightning_bpd.grid.plan import Step
from lightning_bpd.grid.run import log_path, run_steps
from lightning_bpd.grid.state import read_record, states

# Every fake step notes when it starts and ends.
NOTE = """
import pathlib, sys, time
folder = pathlib.Path(sys.argv[1])
def note(word):
    with (folder / "notes").open("a") as file:
        file.write(f"{sys.argv[2]} {word} {time.time()}\\n")
def result(name="result"):
    own = folder / sys.argv[2]
    own.mkdir(exist_ok=True)
    (own / name).write_text("{}")
note("start")
"""
WORKS = NOTE + "time.sleep(0.2); result(); note('end')"


@pytest.fixture
def place(tmp_path):
    return tmp_path


def fake(place, name, code=WORKS, **options):
    own = place / name
    return Step(name, "frozen", ("-c", code, str(place), name), result=own / "result", own=own, **options)


class Silent:
    def __init__(self):
        self.started_steps, self.ended_steps, self.most_at_once = [], [], 0

    def started(self, step, resumed):
        self.started_steps.append((step.name, resumed))

    def ended(self, outcome):
        self.ended_steps.append((outcome.step.name, outcome.status))

    def waiting(self, running, settled):
        self.most_at_once = max(self.most_at_once, len(running))

    def asked_to_stop(self, number, running):
        pass


def run(place, *steps, jobs=1, keep=False, slots=None):
    watcher = Silent()
    outcomes, asked = run_steps(steps, place, [sys.executable], slots or [{}] * jobs, watcher, keep)
    assert asked is None
    assert [(outcome.step.name, outcome.status) for outcome in outcomes] == watcher.ended_steps
    return {outcome.step.name: outcome for outcome in outcomes}, watcher


def spans(place):
    """Start and end of each step that ran."""
    found = {}
    for line in (place / "notes").read_text().splitlines():
        name, word, at = line.split()
        found.setdefault(name, {})[word] = float(at)
    return {name: (each["start"], each["end"]) for name, each in found.items()}


def overlap(one, other):
    return one[0] < other[1] and other[0] < one[1]


def test_steps_wait_for_what_they_need(place):
    steps = [
        fake(place, "a"),
        fake(place, "b", needs=("a",)),
        fake(place, "c"),
        fake(place, "d", needs=("b", "c")),
    ]
    outcomes, _ = run(place, *steps, jobs=3)
    assert {outcome.status for outcome in outcomes.values()} == {"done"}
    found = spans(place)
    assert overlap(found["a"], found["c"])
    for before, later in (("a", "b"), ("b", "d"), ("c", "d")):
        assert found[before][1] <= found[later][0]


def test_no_more_at_once_than_jobs(place):
    _, watcher = run(place, *(fake(place, f"s{number}") for number in range(5)), jobs=2)
    assert watcher.most_at_once == 2
    assert len(spans(place)) == 5
    assert [name for name, _ in watcher.started_steps] == [f"s{number}" for number in range(5)]


def test_what_is_measured_runs_alone(place):
    steps = [fake(place, "a"), fake(place, "t1", alone=True), fake(place, "t2", alone=True), fake(place, "b")]
    run(place, *steps, jobs=3)
    found = spans(place)
    for name in ("t1", "t2"):
        assert not any(overlap(found[name], found[other]) for other in found if other != name)


def test_each_job_has_its_own_environment(place):
    code = (
        NOTE
        + "import os; result(); (folder / sys.argv[2] / 'gpu').write_text(os.environ['GPU']); time.sleep(.3)"
    )
    steps = [fake(place, name, code) for name in "ab"]
    run(place, *steps, slots=[{"GPU": "0"}, {"GPU": "1"}])
    assert {(place / name / "gpu").read_text() for name in "ab"} == {"0", "1"}


def test_what_is_done_is_not_done_again(place):
    steps = [fake(place, "a"), fake(place, "b", needs=("a",))]
    run(place, *steps)
    outcomes, watcher = run(place, *steps)
    assert outcomes == {}
    assert watcher.started_steps == []
    # Another command: what it made is kept aside, and so is what was made of it.
    (place / "a" / "mine").write_text("x")
    steps[0] = dataclasses.replace(steps[0], arguments=(*steps[0].arguments, "more"))
    assert run(place, *steps, keep=True)[0] == {}
    outcomes, _ = run(place, *steps)
    assert set(outcomes) == {"a", "b"}
    assert (place / "earlier" / "a.1" / "mine").is_file()
    assert not (place / "a" / "mine").exists()
    assert run(place, *steps)[0] == {}


def test_a_failure_stays_where_it_is(place):
    fails = NOTE + "print('working', flush=True); print('the reason', file=sys.stderr); sys.exit(3)"
    silent = NOTE + "note('end')"
    steps = [
        fake(place, "a", fails),
        fake(place, "b", needs=("a",)),
        fake(place, "c", needs=("b",)),
        fake(place, "d"),
        fake(place, "e", silent),
        fake(place, "last", after=("a", "b", "c", "d", "e")),
    ]
    outcomes, _ = run(place, *steps, jobs=2)
    assert {name: outcome.status for name, outcome in outcomes.items()} == {
        "a": "failed",
        "b": "not run",
        "c": "not run",
        "d": "done",
        "e": "failed",
        "last": "done",
    }
    assert outcomes["a"].exit_code == 3
    assert outcomes["a"].words == "exit code 3"
    assert outcomes["a"].log == ("working", "the reason")
    assert outcomes["b"].words == "needs a"
    assert outcomes["c"].words == "needs b"
    assert "wrote no" in outcomes["e"].words
    assert "the reason" in log_path(place, "a").read_text()
    assert read_record(place, "a").exit_code == 3
    # What failed is tried again.
    steps[0] = fake(place, "a")
    steps[4] = fake(place, "e")
    outcomes, _ = run(place, *steps)
    assert {outcome.status for outcome in outcomes.values()} == {"done"}
    assert set(outcomes) == {"a", "b", "c", "e"}


RESUMABLE = (
    NOTE
    + """
own = folder / sys.argv[2]
own.mkdir(exist_ok=True)
if sys.argv[3:] != ["--go-on"]:
    (own / "last").write_text("half")
    sys.exit(9)
assert (own / "last").read_text() == "half"
time.sleep(0.1)
result()
"""
)


def test_what_was_begun_is_resumed(place):
    def resumable(code):
        last = place / "a" / "last"
        return fake(place, "a", code, resumes_from=last, resume=("--go-on",))

    outcomes, watcher = run(place, resumable(RESUMABLE))
    assert outcomes["a"].exit_code == 9
    seconds = read_record(place, "a").seconds
    outcomes, watcher = run(place, resumable(RESUMABLE))
    assert outcomes["a"].status == "done"
    assert watcher.started_steps == [("a", True)]
    assert read_record(place, "a").seconds > seconds + 0.1
    assert "--go-on" not in read_record(place, "a").arguments
    # Begun by another command, it starts anew.
    (place / "a" / "result").unlink()
    _, watcher = run(place, resumable(WORKS))
    assert watcher.started_steps == [("a", False)]
    assert (place / "earlier" / "a.1" / "last").is_file()


def test_a_finished_model_is_used_where_it_is(place):
    model = place / "elsewhere" / "run" / "model"
    model.mkdir(parents=True)
    (model / "config.json").write_text("{}")
    (model.parent / "config.yaml").write_text("of the base")
    own = place / "base"

    def step(given):
        return Step(
            "base", "base", ("use", str(given)), result=own / "model" / "config.json", own=own, given=given
        )

    outcomes, watcher = run(place, step(model))
    assert outcomes["base"].status == "done"
    assert watcher.started_steps == []
    assert (own / "config.yaml").read_text() == "of the base"
    (own / "measured.json").write_text("{}")
    assert sorted(path.name for path in model.parent.iterdir()) == ["config.yaml", "model"]
    assert run(place, step(model))[0] == {}
    other = place / "other"
    other.mkdir()
    assert run(place, step(other))[0]["base"].status == "failed"
    assert (model / "config.json").is_file()

    text = place / "distilled"
    data = Step("distilled", "distilled", ("use", "other"), text / "d.json", text, "complete", given=other)
    (other / "d.json").write_text('{"complete": false}')
    assert run(place, data)[0]["distilled"].status == "failed"
    (other / "d.json").write_text('{"complete": true}')
    assert run(place, data)[0] == {}
    assert text.resolve() == other


INTERRUPTIBLE = (
    NOTE
    + """
import signal
def stop(number, frame):
    note("saved")
    (folder / sys.argv[2] / "last").write_text("x")
    sys.exit(128 + number)
signal.signal(signal.SIGINT, stop)
signal.signal(signal.SIGTERM, stop)
(folder / sys.argv[2]).mkdir(exist_ok=True)
(folder / sys.argv[2] / "ready").write_text("x")
time.sleep(60)
"""
)
DRIVER = """
import json, sys
from pathlib import Path
sys.path[:0] = [sys.argv[2]]
from test_grid_run import INTERRUPTIBLE, Silent, fake
from lightning_bpd.grid.run import run_steps
place = Path(sys.argv[1])
steps = [fake(place, name, INTERRUPTIBLE, resumes_from=place / name / "last") for name in "abc"]
outcomes, asked = run_steps(steps, place, [sys.executable], [{}, {}], Silent())
print(json.dumps([[(o.step.name, o.status, o.exit_code) for o in outcomes], asked]))
"""


@pytest.mark.parametrize(
    ("number", "arrives_as"),
    [(signal.SIGINT, signal.SIGINT), (signal.SIGTERM, signal.SIGTERM), (signal.SIGHUP, signal.SIGTERM)],
)
def test_signals_are_passed_on_and_waited_for(place, number, arrives_as):
    process = subprocess.Popen(
        [sys.executable, "-c", DRIVER, str(place), str(Path(__file__).parent)],
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        deadline = time.monotonic() + 30
        while not all((place / name / "ready").exists() for name in "ab"):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
        # As a terminal does: to the whole group, which must not reach the steps twice.
        os.killpg(process.pid, number)
        output, _ = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == 0
    outcomes, asked = json.loads(output)
    code = 128 + arrives_as
    assert sorted(outcomes) == [["a", "interrupted", code], ["b", "interrupted", code]]
    assert asked == number
    notes = [line.split()[:2] for line in (place / "notes").read_text().splitlines()]
    assert sorted(notes) == [["a", "saved"], ["a", "start"], ["b", "saved"], ["b", "start"]]
    steps = [fake(place, name, INTERRUPTIBLE, resumes_from=place / name / "last") for name in "abc"]
    assert [state.words for state in states(steps, place).values()] == ["to resume", "to resume", "to run"]
