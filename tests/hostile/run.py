"""Try thousands of hostile inputs over all commands: no traceback, nothing written elsewhere, nothing that hangs.

    PYTHONPATH=. python tests/hostile/run.py --count 10000 --processes 2

Each input has a number, which with the seed says all of it: ``--first 17 --count 1`` tries number 17 again. An input
that takes longer than ``--limit`` seconds, or ends the process, counts as a fault. Exits with 1 if there is any fault.
"""

import argparse
import json
import os
import resource
import select
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
ENVIRONMENT = {
    **os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "WANDB_MODE": "offline",
    "PYTHONPATH": os.pathsep.join([str(HERE.parents[1]), str(HERE), os.environ.get("PYTHONPATH", "")]),
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--limit", type=float, default=120.0, help="seconds an input may take")
    parser.add_argument("--memory", type=float, default=8.0, help="GiB of addresses that a process may have")
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker is not None:
        work(options)
        return
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="hostile-") as folder:
        artefacts = Path(folder) / "artefacts"
        artefacts.mkdir()
        code = "from artefacts import write_artefacts, write_results as more; from pathlib import Path; "
        code += "more(write_artefacts(Path.cwd()))"
        with (Path(folder) / "log").open("wb") as log:
            subprocess.run(
                [sys.executable, "-c", code], cwd=artefacts, env=ENVIRONMENT, stdout=log, check=True
            )
        numbers = iter(range(options.first, options.first + options.count))
        faults: list[dict[str, object]] = []
        threads = [
            threading.Thread(target=supervise, args=(options, Path(folder), numbers, faults))
            for _ in range(options.processes)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    print(f"{options.count} inputs in {time.monotonic() - started:.0f} s: {len(faults)} faults")
    sys.exit(1 if faults else 0)


def supervise(
    options: argparse.Namespace, folder: Path, numbers: object, faults: list[dict[str, object]]
) -> None:
    """Give a worker one number after the other, and start another one where it hangs or ends."""
    process = None
    for number in numbers:  # type: ignore[attr-defined]
        if process is None:
            own = ["--worker", str(folder), "--seed", str(options.seed), "--memory", str(options.memory)]
            process = subprocess.Popen(
                [sys.executable, __file__, *own], env=ENVIRONMENT, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
            )  # fmt: skip
            process.stdout.readline()  # it has imported what it needs
        process.stdin.write(f"{number}\n".encode())
        process.stdin.flush()
        ready, _, _ = select.select([process.stdout], [], [], options.limit)
        line = process.stdout.readline() if ready else b""
        if line:
            result = json.loads(line)
        else:
            process.kill()
            ended = (
                f"the process ended with {process.wait()}" if ready else f"it took over {options.limit:.0f} s"
            )
            result, process = {"command": "see --first", "wrong": ended}, None
        if result["wrong"] is not None:
            faults.append(result)
            print(json.dumps({"number": number, **result}), flush=True)
    if process is not None:
        process.stdin.close()
        process.wait()


def work(options: argparse.Namespace) -> None:
    """Try the inputs whose numbers come on standard input; one line of JSON for each."""
    from trial import tried

    import lightning_bpd.cli.app  # noqa: F401

    most = int(options.memory * 2**30)
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    # What C libraries write must not come between the lines.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    answers.write("ready\n")
    answers.flush()
    for line in sys.stdin:
        with tempfile.TemporaryDirectory(dir=options.worker) as place:
            command, wrong = tried(
                int(line), options.seed, options.worker / "artefacts", Path(place) / "input"
            )
        answers.write(json.dumps({"command": command, "wrong": wrong}) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
