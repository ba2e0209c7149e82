"""Hostile inputs by number: each a command, in a folder of its own, with something damaged that it reads."""

import io
import tarfile
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import NamedTuple

from artefacts import PAIRS, write_tar, write_zip
from damage import LINES, NAMES, copied, damage, damaged_bytes, damaged_lines


class Input(NamedTuple):
    """A command and what stands on its standard input. It may write below ``out``, its working directory."""

    args: list[str]
    stdin: bytes = b""


class Maker:
    """Makes the inputs of one number.

    Args:
        artefacts: What ``artefacts`` wrote.
        place: The input's own folder: what is damaged is in ``in``, and ``out`` is empty.
        draw: Decides everything.
    """

    def __init__(self, artefacts: Path, place: Path, draw: Random) -> None:
        self.artefacts, self.place, self.draw = artefacts, place, draw

    def copy(self, name: str, damaged: bool = True) -> str:
        """The path of a copy of an artefact."""
        path = copied(self.artefacts / name, self.place / "in" / name)
        if damaged:
            damage(self.draw, path)
        return str(path)

    def given(self, name: str) -> str:
        """The path of an artefact as it is, which no command changes."""
        return str(self.artefacts / name)

    def text(self) -> Input:
        sentences = "".join(f"{source}\n" for source, _ in PAIRS[:5]).encode()
        change = damaged_lines if self.draw.random() < 0.8 else damaged_bytes
        content = change(self.draw, sentences)
        command = self.draw.choice(("translate", "translate", "certify"))
        args = [command, "--model", self.given("text"), "--extra_length", "3", "--device", "cpu"]
        if command == "translate":
            args += ["--decoder", self.draw.choice(("greedy", "blockwise", "beam")), "--output", "out.txt"]
        if self.draw.random() < 0.5:
            return Input(args, content)
        path = self.place / "in" / self.draw.choice(("text.en", "text.gz", "-text", "ümlaut\n", "text.zst"))
        path.write_bytes(content)
        return Input([*args, f"--input={path}"])

    def text_model(self) -> Input:
        model = self.copy("text")
        return self.draw.choice(
            [
                Input(["translate", "--model", model, "--extra_length", "3"], b"a man\n"),
                Input(
                    ["translate", "--model", model, "--extra_length", "3", "--decoder", "blockwise"],
                    b"a man\n",
                ),
                Input(["certify", "--model", model, "--extra_length", "3"], b"a man\n"),
                Input(["compare", "--model", model, *self.measured("corpus")]),
                Input(["distill", "--teacher", model, *self.distilled(self.given("corpus"))]),
                Input(["convert", "--model", model, "--output", "model"]),
                Input(
                    ["upscale", "--model", model, "--input", self.given("pictures/folder"), "--output", "big"]
                ),
            ]
        )

    def image_model(self) -> Input:
        model = self.copy("images")
        return self.draw.choice(
            [
                Input(["upscale", "--model", model, "--input", self.given("pictures/folder"), "--output", "big"]),
                Input(["upscale", "--model", model, "--input", self.given("pictures/images.zip"), "--output", "big",
                       "--decoder", "blockwise", "--acceptance", "distance-2"]),
                Input(["compare", "--model", model, *self.measured("pictures/images.npz", "validation")]),
                Input(["translate", "--model", model], b"a\n"),
            ]
        )  # fmt: skip

    def hugging_face(self) -> Input:
        name = self.draw.choice(("marian", "marian", "t5", "llama"))
        model = self.copy(name)
        few = ["--extra_length", "3", "--device", "cpu"]
        if name == "marian" and self.draw.random() < 0.6:
            return Input(["convert", "--model", model, "--output", "model"])
        if self.draw.random() < 0.3:
            return Input(["compare", "--model", f"hf:{model}", *self.measured("corpus")])
        return Input(["translate", "--model", f"hf:{model}", *few], b"a man\n")

    def corpus(self) -> Input:
        folder = self.copy("corpus")
        name = self.draw.choice(("train", "table", "records", "packed", "test", "val"))
        if self.draw.random() < 0.5:
            more = ["--corpus", name, "--rows", "3", "--timed", "0", "--output", "compare_x.json"]
            return Input(["compare", "--model", self.given("text"), "--data", folder, *more])
        return Input(
            ["distill", "--teacher", self.given("text"), *self.distilled(folder), "--corpus", f"[{name}]"]
        )

    def pictures(self) -> Input:
        names = ("folder", "images.zip", "images.tar", "images.tar.gz", "images.npy", "images.npz")
        return self.enlarged(self.copy(f"pictures/{self.draw.choice(names)}"))

    def archive(self) -> Input:
        """An archive whose members' names and kinds are hostile."""
        image = (self.artefacts / "pictures/folder/png.png").read_bytes()
        names = self.draw.choices([*NAMES, str(self.place / "escape.png")], k=self.draw.choice((1, 3, 8)))
        files = {
            name: image if self.draw.random() < 0.7 else damaged_bytes(self.draw, image) for name in names
        }
        kind = self.draw.choice(("zip", "tar", "tar.gz", "links", "folder"))
        path = self.place / "in" / f"images.{kind}"
        if kind == "zip":
            write_zip(path, files)
        elif kind == "folder":
            path.mkdir()
            for name in ("a.png", "a.bmp", "line\nfeed.png", "-.png"):
                (path / name).write_bytes(image)
            (path / "link.png").symlink_to(
                self.draw.choice(("link.png", "/etc/passwd", "nowhere", "a.png", ".."))
            )
            (path / "deep").symlink_to(self.draw.choice((".", "..", "/", "nowhere")))
        elif kind == "links":
            path = path.with_suffix(".tar")
            with tarfile.open(path, "w") as archive:
                for name in names:
                    member = tarfile.TarInfo(name)
                    member.type = self.draw.choice(
                        (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.REGTYPE)
                    )
                    member.linkname = self.draw.choice(("/etc/passwd", "../../escape.png", name, "nowhere"))
                    member.size = len(image) if member.type == tarfile.REGTYPE else 0
                    archive.addfile(member, io.BytesIO(image))
        else:
            write_tar(path, files, "w" if kind == "tar" else "w:gz")
        return self.enlarged(str(path))

    def checkpoint(self) -> Input:
        run = self.copy("runs/run", damaged=False)
        damage(self.draw, Path(run) / "checkpoints" / self.draw.choice(("best.ckpt", "last.ckpt")))
        path = f"{run}/checkpoints/best.ckpt"
        if self.draw.random() < 0.8:
            return Input(["export", "--checkpoint", path, "--output", "model"])
        return Input(["validate", "--runs", str(Path(run).parent), "--experiment", "run", *self.training()])

    def resumed(self) -> Input:
        run = Path(self.copy("runs/run", damaged=False))
        damage(self.draw, run / self.draw.choice(("checkpoints/last.ckpt", "metrics.csv", "config.yaml")))
        place = self.place / "out" / "runs"
        place.mkdir()
        run.rename(place / "run")
        return Input(["fit", "--runs", "runs", "--experiment", "run", "--ckpt_path", "last", "--trainer.max_epochs",
        "2",
                      *self.training()])  # fmt: skip

    def configuration(self) -> Input:
        return Input(["fit", "--config", self.copy("training.yaml"), *self.training()])

    def grid(self) -> Input:
        return Input(["grid", "--config", self.copy("grid.yaml"), "--dry_run"])

    def records(self) -> Input:
        return Input(["report", self.copy("results"), "--output", "report", "--resamples", "100"])

    def distillation(self) -> Input:
        """Distilling goes on in a folder that is damaged."""
        folder = Path(self.copy("distilled"))
        folder.rename(self.place / "out" / "distilled")
        own = [
            "--output",
            "distilled",
            "--extra_length",
            "3",
            "--processes",
            "1",
            "--part_rows",
            "20",
            "--beam",
            "2",
        ]
        return Input(["distill", "--teacher", self.given("text"), "--data", self.given("corpus"), *own,
                      "--max_length_ratio", "99"])  # fmt: skip

    def options(self) -> Input:
        """A command in which one option is hostile."""
        commands = [
            ["translate", "--model", self.given("text"), "--input", self.given("corpus/test.en"), "--output", "o",
             "--decoder", "beam", "--batch_size", "2", "--beam", "2", "--alpha", "0.5", "--extra_length", "3",
             "--device", "cpu", "--acceptance", "exact", "--block_size", "2"],
            ["certify", "--model", self.given("text"), "--input", self.given("corpus/test.en"), "--block_size", "2",
             "--batch_size", "2", "--extra_length", "2", "--bound", "100", "--device", "cpu"],
            ["upscale", "--model", self.given("images"), "--input", self.given("pictures/folder"), "--output", "o",
             "--decoder", "blockwise", "--block_size", "2", "--acceptance", "exact", "--batch_size", "2"],
            ["compare", "--model", self.given("text"), *self.measured("corpus"), "--batch_size", "2",
             "--source_language", "en", "--rules", "[exact]", "--block_sizes", "[2]"],
            ["report", self.given("results"), "--output", "o", "--corpus", "test", "--resamples", "100"],
            ["distill", "--teacher", self.given("text"), *self.distilled(self.given("corpus")), "--alpha", "0.5",
             "--best", "1", "--max_length", "50", "--held_out", "2", "--precision", "float32", "--shard", "1/1"],
            ["grid", "--dry_run", "--config", self.given("grid.yaml"), "--name", "g", "--block_sizes", "[2]",
             "--seeds", "[1]", "--rules", "[exact]", "--mixes", "[gold]"],
            ["export", "--checkpoint", self.given("runs/run/checkpoints/best.ckpt"), "--output", "o"],
            ["convert", "--model", self.given("text"), "--output", "o"],
        ]  # fmt: skip
        args = self.draw.choice(commands)
        values = [
            place
            for place in range(2, len(args))
            if args[place - 1].startswith("--") and args[place][:2] != "--"
        ]
        args[self.draw.choice(values)] = self.draw.choice(
            ["-1", "0", "", "x", "1.5", "nan", "inf", "-inf", "1e400", "null", "[]", "{}", "[1", "{a: b", "ümlaut",
            "x/y",
             "/", "/dev/null/x", "/proc/x", ".", "n" * 300, "\udcff", "a\nb", "--", "-", "'", '"', "true", "no",
             "9" * 5000,
             "[[[[1]]]]", "!!python/name:os.system", "&a [*a]", "top-", "minimum-99", "hf:", "hf:x,y", "[a", "None",
             "1/0",
             "hf:../x", "~", "$HOME", "*", "%s", "{0}"]
        )  # fmt: skip
        return Input(args, self.draw.choice(LINES))

    def enlarged(self, path: str) -> Input:
        if self.draw.random() < 0.7:
            return Input(["upscale", "--model", self.given("images"), "--input", path, "--output", "big"])
        return Input(["compare", "--model", self.given("images"), *self.measured(path, "validation")])

    def measured(self, data: str, corpus: str = "test") -> list[str]:
        path = data if Path(data).is_absolute() else self.given(data)
        return [
            "--data",
            path,
            "--corpus",
            corpus,
            "--rows",
            "3",
            "--timed",
            "0",
            "--output",
            "compare_x.json",
        ]

    def distilled(self, data: str) -> list[str]:
        limits = ["--extra_length", "3", "--beam", "2", "--max_length_ratio", "99"]
        return ["--data", data, "--output", "distilled", "--processes", "1", "--device", "cpu", *limits]

    def training(self) -> list[str]:
        # Whatever the damaged configuration asks for.
        return ["--trainer.max_steps", "2", "--trainer.limit_val_batches", "1", "--trainer.enable_progress_bar",
        "false",
                "--wandb", "disabled", "--data.init_args.cache", str(self.place / "out" / "cache")]  # fmt: skip


# How often each kind is taken: those that train take a hundred times as long as those that translate.
KINDS: dict[Callable[[Maker], Input], int] = {
    Maker.text: 12,
    Maker.text_model: 20,
    Maker.image_model: 12,
    Maker.hugging_face: 12,
    Maker.corpus: 12,
    Maker.pictures: 10,
    Maker.archive: 8,
    Maker.checkpoint: 6,
    Maker.grid: 5,
    Maker.records: 6,
    Maker.distillation: 6,
    Maker.options: 16,
    Maker.configuration: 2,
    Maker.resumed: 1,
}


def make_input(number: int, seed: int, artefacts: Path, place: Path) -> tuple[str, Input]:
    """The name of the kind of an input, and the input; its files are written below ``place``."""
    draw = Random(f"{seed} {number}")
    for name in ("in", "out"):
        (place / name).mkdir(parents=True)
    (kind,) = draw.choices(list(KINDS), list(KINDS.values()))
    return kind.__name__, kind(Maker(artefacts, place, draw))
