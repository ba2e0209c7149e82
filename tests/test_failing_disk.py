"""Every writer of what may be somebody's only copy, on a disk that fails at any one request."""

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from failing_disk import FAULTS, failing_disk
from PIL import Image

from lightning_bpd.callbacks.accepted_sizes_file import add_sizes
from lightning_bpd.callbacks.checkpoints import WholeCheckpoints, save_checkpoint
from lightning_bpd.cli.translate import _open_output
from lightning_bpd.codecs.text import TextCodec
from lightning_bpd.codecs.tokenizers import train_tokenizer
from lightning_bpd.datamodules.encoded_corpus import encode_corpus
from lightning_bpd.datamodules.encoded_images import encode_images
from lightning_bpd.datamodules.image_files import list_images
from lightning_bpd.datamodules.text_files import PairFiles
from lightning_bpd.distillation.assemble import assemble
from lightning_bpd.distillation.part_files import Hypothesis, Row, part_path, read_body, write_part
from lightning_bpd.distillation.plan import Job, Settings, close_folder, open_folder, reopen_folder
from lightning_bpd.files import write_atomically
from lightning_bpd.grid.state import Record, read_record, write_record
from lightning_bpd.interfaces import InputError
from lightning_bpd.models import Architecture, EncoderDecoder
from lightning_bpd.saved.finished_model import GenerativeModel, read_folder
from lightning_bpd.tracking.config_file import SaveConfig
from lightning_bpd.tracking.metrics_file import MetricsFile, read_metrics

LINES = ["the old man buys a house", "a dog sleeps in the garden", "where is the red book ?"] * 20
TOKENIZER = train_tokenizer(LINES, vocab_size=300)
SETTINGS = Settings("beam", 4, 0.6, 1, 50, 256, "float32", 1024, 2, "cpu")
JOB = Job("teacher", "corpus", 4, SETTINGS)
ABOUT = {"teacher": {"path": "t"}, "corpus": {"path": "c"}}


class Writer(NamedTuple):
    """Writes version 1 or 2 into a folder, and reads what the program would take for whole; None if nothing."""

    write: Callable[[Path, int], object]
    read: Callable[[Path], Any]


def write_checkpoint(folder: Path, version: int) -> None:
    tensors = {f"weight {i}": torch.full((50,), float(version)) for i in range(3)}
    WholeCheckpoints().save_checkpoint({"version": version, **tensors}, folder / "checkpoints" / "last.ckpt")


def read_checkpoint(folder: Path) -> Any:
    path = folder / "checkpoints" / "last.ckpt"
    if not path.exists():
        return None
    found = torch.load(path, weights_only=True)
    return found["version"], [found[f"weight {i}"].tolist() for i in range(3)]


def write_model(folder: Path, version: int) -> None:
    torch.manual_seed(version)
    shape = Architecture(d_model=8, heads=2, encoder_layers=1, decoder_layers=1, feed_forward=8, tie="output")
    size = TOKENIZER.vocab_size
    network = EncoderDecoder(shape, size, size, TOKENIZER.bos_id, TOKENIZER.eos_id)
    GenerativeModel(network, TextCodec(TOKENIZER, TOKENIZER), None, None).save(
        folder / "model", {"v": version}
    )


def read_model(folder: Path) -> Any:
    if not (folder / "model").exists():
        return None
    weights = read_folder(folder / "model").network.state_dict()
    metrics = json.loads((folder / "model" / "metrics.json").read_text())
    return metrics, {name: tensor.tolist() for name, tensor in weights.items()}


def rows(version: int) -> list[Row]:
    texts = [f"text {version} of {row}" for row in range(4)]
    return [Row(row, 5, [Hypothesis(text, 4, True, 0.5)]) for row, text in enumerate(texts)]


def read_part(folder: Path) -> Any:
    return read_body(folder, JOB, 0) if part_path(folder, 0).exists() else None


def write_distilled(folder: Path, version: int) -> None:
    """Version 2 holds a row out: train gets shorter."""
    folder = folder / "distilled"
    open_folder(folder, JOB, ABOUT)
    write_part(folder, JOB, 0, rows(1)[:2])
    write_part(folder, JOB, 1, rows(1)[2:])
    reopen_folder(folder)
    held_out = np.arange(4) == 3 if version == 2 else None
    counts = assemble(folder, JOB, ["a", "b", "c", "d"], ("en", "de"), 9.0, held_out)
    close_folder(folder, counts)


def read_distilled(folder: Path) -> Any:
    folder = folder / "distilled"
    manifest = folder / "distillation.json"
    if not manifest.exists() or not json.loads(manifest.read_text())["complete"]:
        return None
    names = [folder / f"{part}.{language}" for part in ("train", "val") for language in ("en", "de")]
    # Whoever reads it knows by the manifest whether rows are held out.
    held_out = "held out" in json.loads(manifest.read_text())["result"]
    return [path.read_text() for path in names[: 4 if held_out else 2]]


def write_metrics(folder: Path, version: int) -> None:
    """Version 2 goes on with the file of version 1, if there is one, as a resumed run does."""
    log = MetricsFile(folder / "run")
    first = 3 if len(read_metrics(log.path)) >= 4 else 0
    for step in range(first, 3 * version):
        log.log_metrics({"train/loss": step / 7}, step)
        if step % 3 == 2:
            log.log_metrics({"val/loss": 1 / 3}, step)


def read_metrics_file(folder: Path) -> Any:
    found = read_metrics(folder / "run" / "metrics.csv")
    known = [{"step": step, "train/loss": step / 7} for step in range(6)]
    for step in (5, 2):
        known.insert(step + 1, {"step": step, "val/loss": 1 / 3})
    # Rows that were logged before the disk failed may be there; half a row is not.
    assert found == known[: len(found)]
    return None


def write_config(folder: Path, version: int) -> None:
    parser = SimpleNamespace(dump=lambda config, **_: f"version: {version}\n")
    config = SimpleNamespace(clone=dict)
    trainer = SimpleNamespace(default_root_dir=str(folder), loggers=[])
    SaveConfig(parser, config).save_config(trainer, None, "fit")


def encode(folder: Path, version: int) -> Any:
    corpus = encode_corpus(
        [PairFiles(folder / "text", None, "source")],
        TOKENIZER,
        TOKENIZER,
        folder / "cache",
        50,
        False,
        "train",
    )
    return [row.tolist() for row in map(corpus.source.__getitem__, range(len(corpus)))]


def encode_pictures(folder: Path, version: int) -> Any:
    names = list_images(folder / "pictures")
    return encode_images(folder / "pictures", names, (2, 2, 3), folder / "cache", "train").images.tolist()


def write_output(folder: Path, version: int) -> None:
    with _open_output(str(folder / "out.txt")) as file:
        for _ in range(3):
            file.write(b"line %d\n" % version)


def whole_text(name: str) -> Callable[[Path], Any]:
    return lambda folder: (folder / name).read_text() if (folder / name).exists() else None


WRITERS = {
    "any file": Writer(
        lambda folder, version: write_atomically(folder / "new" / "file", "x" * version),
        whole_text("new/file"),
    ),
    "checkpoint": Writer(write_checkpoint, read_checkpoint),
    "finished model": Writer(write_model, read_model),
    "distilled part": Writer(
        lambda folder, version: write_part(folder, JOB, 0, rows(version)[:2]), read_part
    ),
    "distilled corpus": Writer(write_distilled, read_distilled),
    "grid's record": Writer(
        lambda folder, version: write_record(folder, "fit", Record(["fit"], "recipe", "now", version)),
        lambda folder: read_record(folder, "fit"),
    ),
    "metrics": Writer(write_metrics, read_metrics_file),
    "accepted sizes": Writer(
        lambda folder, version: add_sizes(
            folder / "sizes.csv", version, "val", {"exact": torch.tensor([0, 3, version])}
        ),
        whole_text("sizes.csv"),
    ),
    "configuration": Writer(write_config, whole_text("config.yaml")),
    "encoded text": Writer(encode, lambda folder: None),
    "encoded images": Writer(encode_pictures, lambda folder: None),
    "translations": Writer(write_output, whole_text("out.txt")),
}


def prepare(folder: Path) -> Path:
    (folder / "pictures").mkdir(parents=True)
    (folder / "text").write_text("".join(f"{line}\n" for line in LINES))
    for name in "ba":
        Image.fromarray(np.full((2, 2, 3), ord(name), np.uint8)).save(folder / "pictures" / f"{name}.png")
    return folder


def leftovers(folder: Path) -> list[str]:
    return [str(path) for path in folder.rglob("*") if path.name.endswith((".partial", ".earlier"))]


@pytest.mark.parametrize("earlier", [False, True], ids=["new", "replacing"])
@pytest.mark.parametrize("name", WRITERS)
def test_nothing_is_lost_or_half_written_whatever_fails(tmp_path, name, earlier):
    writer = WRITERS[name]
    ready = prepare(tmp_path / "ready")
    before = None
    if earlier:
        writer.write(ready, 1)
        before = writer.read(ready)
    expected = tmp_path / "expected"
    shutil.copytree(ready, expected)
    with failing_disk(expected) as disk:
        made = writer.write(expected, 2)
    after = writer.read(expected)
    # What was made before is found again: nothing is written.
    assert {"open", "fsync"} <= set(disk.requests) or (earlier and name.startswith("encoded"))
    for fails_at in range(1, len(disk.requests) + 1):
        # Each fault at each request, but where one writing takes long.
        for number in FAULTS if len(disk.requests) < 20 else FAULTS[fails_at % 3 :][:1]:
            folder = tmp_path / f"{fails_at}-{number}"
            shutil.copytree(ready, folder)
            where = f"request {fails_at}, {disk.requests[fails_at - 1]}, errno {number}"
            try:
                with failing_disk(folder, fails_at, number):
                    writer.write(folder, 2)
            except (OSError, InputError) as error:
                # Whoever reads the message learns where.
                assert str(folder) in str(error), f"{where}: {error}"  # noqa: PT017
            else:
                # A model's folder is exchanged where it cannot be renamed; there are several temporary files to try.
                assert (name, disk.requests[fails_at - 1]) in (
                    ("finished model", "rename"),
                    ("distilled corpus", "open"),
                ), where
                assert writer.read(folder) == after, where
            assert not leftovers(folder), where
            # A corpus that is being replaced says that it is not finished; nothing else is ever lost.
            assert writer.read(folder) in (before, after, *([None] if name == "distilled corpus" else [])), (
                where
            )
            assert writer.write(folder, 2) == made, where
            assert writer.read(folder) == after, where
            assert not leftovers(folder), where
            shutil.rmtree(folder)


def test_a_model_is_replaced_where_folders_cannot_be_exchanged(tmp_path, monkeypatch):
    monkeypatch.setattr("lightning_bpd.files.ctypes.CDLL", lambda name: object())
    test_nothing_is_lost_or_half_written_whatever_fails(tmp_path, "finished model", True)


def test_a_checkpoint_without_permission_is_an_error(tmp_path):
    """Lightning's own writer reports success."""
    trainer = pl.Trainer(
        max_steps=1, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False
    )
    trainer.strategy.connect(pl.LightningModule())
    with failing_disk(tmp_path, 1, FAULTS[1]), pytest.raises(PermissionError, match=r"last\.ckpt"):
        save_checkpoint(trainer, tmp_path / "checkpoints" / "last.ckpt")


def test_half_a_row_of_metrics_is_no_row(tmp_path):
    log = MetricsFile(tmp_path)
    log.log_metrics({"train/loss": 0.5}, 1)
    log.log_metrics({"train/loss": 0.25}, 17)
    content = log.path.read_bytes()
    for end in range(len(content) - len("17,,0.25\r\n"), len(content)):
        log.path.write_bytes(content[:end])
        assert read_metrics(log.path) == [{"step": 1, "train/loss": 0.5}]
    log.path.write_bytes(content[:-4])
    MetricsFile(tmp_path).log_metrics({"train/loss": 0.125}, 17)
    with log.path.open(newline="") as file:
        assert [row["step"] for row in csv.DictReader(file)] == ["1", "17"]
