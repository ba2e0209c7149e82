import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from failing_disk import failing_disk

import lightning_bpd
from lightning_bpd import files
from lightning_bpd.files import whole_folder, write_atomically


@pytest.mark.parametrize(
    ("content", "written"), [("ä\r\n", b"\xc3\xa4\r\n"), (b"\x00\xff", b"\x00\xff"), ("", b"")]
)
def test_content_is_written_as_it_is(tmp_path, content, written):
    path = tmp_path / "new" / "folder" / "file"
    for _ in range(2):
        write_atomically(path, content)
        assert path.read_bytes() == written
    assert [each.name for each in path.parent.iterdir()] == ["file"]


def test_an_interrupted_writing_leaves_the_old_file(tmp_path, monkeypatch):
    def interrupted(source, target):
        raise KeyboardInterrupt

    path = tmp_path / "file"
    path.write_text("old")
    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, "new")
    assert path.read_text() == "old"
    assert [each.name for each in tmp_path.iterdir()] == ["file"]


def test_the_disk_has_it_before_it_has_its_name(tmp_path):
    with failing_disk(tmp_path) as disk:
        write_atomically(tmp_path / "new" / "file", "x")
    assert disk.requests == [
        "mkdir",
        "open",
        "fsync",
        *("open", "open", "write", "fsync"),
        *("replace", "open", "fsync"),
    ]
    with failing_disk(tmp_path) as disk:
        write_atomically(tmp_path / "new" / "file", "x", durable=False)
    assert disk.requests == ["open", "open", "write", "replace"]
    with failing_disk(tmp_path) as disk, whole_folder(tmp_path / "folder", replace=True) as folder:
        (folder / "a").write_text("a")
    # The file, the folder with its name, and the one above.
    assert disk.requests.count("fsync") == 3


WRITE_UNTIL_KILLED = """
import sys
from pathlib import Path
from lightning_bpd.files import whole_file, whole_folder
with whole_file(Path("file")) as file, whole_folder(Path("folder"), replace=True) as folder:
    (folder / "content").write_text("half")
    print("writing", flush=True)
    sys.stdin.read()
"""


def test_what_a_killed_process_was_writing_is_removed_and_what_a_living_one_writes_is_not(tmp_path):
    def start():
        process = subprocess.Popen(
            [sys.executable, "-c", WRITE_UNTIL_KILLED],
            cwd=tmp_path,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert process.stdout.readline() == b"writing\n"
        return process

    def write():
        files.remove_what_was_left.cache_clear()
        write_atomically(tmp_path / "other", "x")

    (tmp_path / ".of another program.partial").touch()
    (tmp_path / ".another-machine-01234567.partial").touch()
    start().communicate()  # its input ends, and it ends well
    killed, living = start(), start()
    killed.kill()
    killed.communicate()
    assert len(list(tmp_path.glob(".*.partial"))) == 6
    write()
    assert len(list(tmp_path.glob(".*.partial"))) == 4
    living.communicate()
    write()
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        *(".another-machine-01234567.partial", ".of another program.partial", "file", "folder", "other")
    ]
    # Of another machine it is known after a day.
    os.utime(tmp_path / ".another-machine-01234567.partial", (0, 0))
    write()
    assert [path.name for path in tmp_path.glob(".*")] == [".of another program.partial"]


def test_many_writers_of_one_file(tmp_path):
    """None takes another's unfinished file for one that was left, and the file is always whole."""

    def write(number):
        for _ in range(20):
            files.remove_what_was_left.cache_clear()
            write_atomically(tmp_path / "file", str(number) * 1000, durable=False)
            assert set((tmp_path / "file").read_text()) <= set("01234567")

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(8)))
    assert len((tmp_path / "file").read_text()) == 1000
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_every_writer_goes_through_here():
    """Nothing in the package opens a file to write, or renames one, by itself; exceptions say why."""
    exceptions = {
        "files.py": "this is it",
        "cli/entry.py": "streams that were closed",
        "cli/run_folder.py": "the lock, and the folder of an earlier run",
        "cli/translate.py": "pipes and devices",
        "kernels/ahead_of_time.py": "moved from a folder beside it by the compiler's own writer",
        "training/feature_cache.py": "memory-mapped, and each pair is marked after it was written",
        "grid/run.py": "logs of steps, and what an earlier command wrote",
        # Into a folder that whole_folder gives.
        **dict.fromkeys(
            (
                *(
                    "saved/finished_model.py",
                    "codecs/image_tokenizers.py",
                    "codecs/tokenizers.py",
                    "adapters/tokenizer.py",
                ),
                *(
                    "datamodules/caches.py",
                    "datamodules/encoded_corpus.py",
                    "datamodules/encoded_images.py",
                    "datamodules/encoded_tokens.py",
                    "measuring/generated_images.py",
                    "tracking/weights_and_biases.py",
                ),
            ),
            "inside a whole folder",
        ),
    }
    package = Path(lightning_bpd.__file__).parent
    pattern = re.compile(
        r"""\.write_text\(|\.write_bytes\(|os\.replace\(|\.rename\(|\.tofile\(|save_file\(|savefig\((picture|path)"""
        r"""|open\([^)\n]*["'][wax]b?\+?["']"""
    )
    found = {
        str(path.relative_to(package)) for path in package.rglob("*.py") if pattern.search(path.read_text())
    }
    assert found == exceptions.keys()
