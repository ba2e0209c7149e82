"""Kill fit, distill, grid and the writing of models at random moments, resume, and compare with what was never killed.

    python tests/killing/kill.py --kills 100

Each life of a command is killed (SIGKILL) some times, then it ends by itself. What it wrote is compared to the last
byte: weights, losses, model and samples of fit, files of distill, results of grid. A model's folder is a whole model
after each kill. Children are forked from this process, which has imported everything: a kill then falls into work and
not into imports.
"""

import argparse
import csv
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
TESTS = Path(__file__).resolve().parents[1]
sys.path += [str(TESTS.parent), str(TESTS / "distillation")]

# ruff: noqa: E402
import small_distillation
import torch
import yaml

from lightning_bpd import load
from lightning_bpd.cli import app, main  # noqa: F401  # imported before the first fork
from lightning_bpd.grid.plan import Step
from lightning_bpd.grid.run import run_steps
from lightning_bpd.saved import finished_model
from tools.demo_corpus.sentences import sentence_pairs

BASE = {
    "d_model": 32,
    "heads": 2,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "feed_forward": 64,
    "dropout": 0.2,
}
DATA = {"train": ["train"], "validation": "val", "vocab_size": 400, "batch_tokens": 300}
SMALL = {
    "model": {"init_args": {"base": BASE, "heads": {"block_size": 4}}},
    "decode": {"extra_length": 5},
    "trainer": {"max_epochs": 2, "val_check_interval": 8, "log_every_n_steps": 2, "accelerator": "cpu"},
    "last_checkpoint": {"every_n_train_steps": 3},
    "wandb": "disabled",
}
# A step that counts, keeps its count, and refuses to run beside itself, as a training does.
COUNTS = """
import fcntl, hashlib, os, pathlib, sys, time
own = pathlib.Path(sys.argv[1]); own.mkdir(exist_ok=True)
lock = (own / "lock").open("w")
fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
state = own / "state"
digest, done = state.read_text().split() if state.exists() else ("", 0)
for count in range(int(done), 12):
    time.sleep(0.02)
    digest = hashlib.sha256(f"{digest}{count}".encode()).hexdigest()
    (own / "new").write_text(f"{digest} {count + 1}"); os.replace(own / "new", state)
(own / "new").write_text(digest); os.replace(own / "new", own / "result")
"""


def forked(work: Callable[[], object], folder: Path) -> int:
    """Start work in a process group of its own, with its output in a file; the process's id."""
    process = os.fork()
    if process == 0:
        code = 1
        try:
            os.setsid()
            log = os.open(folder / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(log, 1), os.dup2(log, 2)
            os.chdir(folder)
            random.seed(1)
            work()
            code = 0
        except SystemExit as error:
            code = error.code if isinstance(error.code, int) else int(error.code is not None)
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            sys.stdout.flush(), sys.stderr.flush()
            os._exit(code)
    return process


def finish(work: Callable[[], object], folder: Path) -> None:
    """Let work end by itself, and well."""
    _, status = os.waitpid(forked(work, folder), 0)
    if status:
        raise AssertionError(f"exit status {status}:\n{(folder / 'log').read_text()[-4000:]}")


class Fit:
    """A base and its heads on the generated corpus, by one and the same command."""

    whole_group = True

    def __init__(self, folder: Path) -> None:
        self.config = folder / "small.yaml"
        corpus = folder / "corpus"
        corpus.mkdir()
        lines = [f"{source}\t{target}\n" for source, target in islice(sentence_pairs(seed=4), 250)]
        for name, part in (("train", lines[4:]), ("val", lines[:4])):
            (corpus / f"{name}.tsv").write_text("".join(part))
        data = {"class_path": "ParallelText", "init_args": {"folder": str(corpus), **DATA}}
        self.config.write_text(yaml.safe_dump({**SMALL, "data": data}))

    def work(self, folder: Path) -> None:
        sys.argv = ["train.py", "fit", "--config", str(self.config), "--ckpt_path", "auto"]
        main(sys.argv[1:])

    def after_kill(self, folder: Path) -> None:
        pass

    def result(self, folder: Path) -> Any:
        run = folder / "runs" / "default"
        found: dict[str, Any] = {}
        for name in ("best", "last"):
            checkpoint = torch.load(run / "checkpoints" / f"{name}.ckpt", weights_only=True)
            found[name] = (
                checkpoint["global_step"],
                finished_model.fingerprint(Weights(checkpoint["state_dict"])),
            )
        names = ("step", "epoch", "train/loss", "train/learning_rate", "val/loss", "val/bleu")
        with (run / "metrics.csv").open(newline="") as file:
            found["losses"] = [tuple(row.get(name) for name in names) for row in csv.DictReader(file)]
        files = (
            "model/model.safetensors",
            "model/heads.safetensors",
            "model/config.json",
            "model/tokenizer.model",
        )
        for name in (*files, "samples.md", "traces.md"):
            found[name] = (run / name).read_bytes()
        return found


class Weights:
    """What ``fingerprint`` asks of a network."""

    def __init__(self, state: dict[str, torch.Tensor]) -> None:
        self.state_dict = lambda: state


class Distill:
    """A small teacher's translations of a small corpus."""

    whole_group = True

    def __init__(self, folder: Path) -> None:
        self.corpus = folder / "corpus"
        self.corpus.mkdir()
        pairs = list(islice(sentence_pairs(seed=4), small_distillation.ROWS))
        (self.corpus / "train.tsv").write_text("".join(f"{source}\t{target}\n" for source, target in pairs))
        lines = [line for pair in pairs for line in pair]
        self.teacher = small_distillation.write_teacher(folder / "teacher", 1.0, lines)

    def work(self, folder: Path) -> None:
        small_distillation.run(self.teacher, self.corpus, folder / "out", processes=1, held_out=5)

    def after_kill(self, folder: Path) -> None:
        pass

    def result(self, folder: Path) -> Any:
        return small_distillation.contents(folder / "out")


class Grid:
    """Steps that need one another. Only the grid itself is killed: its steps must not go on without it."""

    whole_group = False

    def __init__(self, folder: Path) -> None:
        pass

    def work(self, folder: Path) -> None:
        steps = []
        for number in range(4):
            own = folder / "grid" / f"s{number}"
            steps.append(
                Step(
                    own.name,
                    "frozen",
                    ("-c", COUNTS, str(own)),
                    result=own / "result",
                    own=own,
                    needs=(f"s{number - 2}",) if number > 1 else (),
                    resumes_from=own / "state",
                )
            )
        (folder / "grid").mkdir(exist_ok=True)
        outcomes, _ = run_steps(steps, folder / "grid", [sys.executable], [{}, {}], Silent())
        assert all(outcome.status == "done" for outcome in outcomes), outcomes

    def after_kill(self, folder: Path) -> None:
        pass

    def result(self, folder: Path) -> Any:
        results = [(folder / "grid" / f"s{number}" / "result").read_bytes() for number in range(4)]
        # What a step wrote before its first checkpoint is set aside. A step that ended just before the grid was killed
        # has no exit code in its record: its result counts.
        names = {path.name for path in (folder / "grid").iterdir()} - {"earlier"}
        codes = [
            json.loads(path.read_text())["exit_code"] for path in (folder / "grid" / "steps").glob("step_*")
        ]
        assert set(codes) <= {0, None}, codes
        return results, names


class Silent:
    """Is told what a grid does, and keeps it for itself."""

    def started(self, *_: Any) -> None: ...
    def ended(self, *_: Any) -> None: ...
    def waiting(self, *_: Any) -> None: ...
    def asked_to_stop(self, *_: Any) -> None: ...


class Model:
    """Two models that take each other's place in one folder."""

    whole_group = True

    def __init__(self, folder: Path) -> None:
        lines = [line for pair in islice(sentence_pairs(seed=4), 40) for line in pair]
        self.models = [load(small_distillation.write_teacher(folder / str(i), i, lines)) for i in (1.0, 1.1)]
        self.fingerprints = {finished_model.fingerprint(model.network) for model in self.models}

    def work(self, folder: Path) -> None:
        for number in range(40):
            self.models[number % 2].save(folder / "model", {"number": number})

    def after_kill(self, folder: Path) -> None:
        if (folder / "model").exists():
            self.check(folder)

    def check(self, folder: Path) -> None:
        read = finished_model.read_folder(folder / "model")
        assert finished_model.fingerprint(read.network) in self.fingerprints
        number = json.loads((folder / "model" / "metrics.json").read_text())["number"]
        assert finished_model.fingerprint(read.network) == finished_model.fingerprint(
            self.models[number % 2].network
        )

    def result(self, folder: Path) -> Any:
        self.check(folder)
        return small_distillation.contents(folder / "model"), sorted(path.name for path in folder.iterdir())


KINDS = {"fit": Fit, "distill": Distill, "grid": Grid, "model": Model}


def kill(name: str, kills: int, seed: int, folder: Path, kills_of_a_life: int = 5) -> dict[str, int]:
    """Kill one kind of work so many times and compare; how many kills fell while it ran, and into how many lives."""
    folder.mkdir(parents=True)
    chance = random.Random(f"{name} {seed}")
    kind = KINDS[name](folder)
    whole = folder / "whole"
    whole.mkdir()
    started = time.monotonic()
    finish(lambda: kind.work(whole), whole)
    seconds = time.monotonic() - started
    expected = kind.result(whole)
    done = lives = 0
    while done < kills:
        lives += 1
        life = folder / f"life {lives}"
        life.mkdir()
        for _ in range(min(kills_of_a_life, kills - done)):
            process = forked(lambda: kind.work(life), life)  # noqa: B023
            time.sleep(chance.uniform(0, seconds))
            ended, status = os.waitpid(process, os.WNOHANG)
            if ended:
                # It came to its end before it was killed: a new life.
                assert status == 0, (life / "log").read_text()[-4000:]
                break
            try:
                (os.killpg if kind.whole_group else os.kill)(process, signal.SIGKILL)
            except ProcessLookupError:
                # It was not yet the leader of a group, so it has no children either.
                os.kill(process, signal.SIGKILL)
            os.waitpid(process, 0)
            kind.after_kill(life)
            done += 1
        finish(lambda: kind.work(life), life)  # noqa: B023
        found = kind.result(life)
        assert found == expected, f"{name} differs:\n{found}\nwhere never killed:\n{expected}"[:4000]
        left = [str(path) for path in life.rglob("*") if path.name.endswith((".partial", ".earlier"))]
        assert not left, left
    return {"kills": done, "lives": lives}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=100, help="in all, shared by the kinds")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--kinds", nargs="+", default=list(KINDS), choices=list(KINDS))
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as place:
        for position, each in enumerate(options.kinds):
            share = (options.kills + position) // len(options.kinds)
            began = time.monotonic()
            figures = kill(each, share, options.seed, Path(place) / each)
            print(each, figures, f"{time.monotonic() - began:.0f} s", flush=True)
