"""Small models, corpora, images and records, whole: what hostile inputs are made of by damaging them."""

import gzip
import io
import itertools
import json
import sys
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import torch
import yaml
from PIL import Image

from lightning_bpd.cli.entry import main
from lightning_bpd.codecs.images import ImageCodec
from lightning_bpd.codecs.text import TextCodec
from lightning_bpd.codecs.tokenizers import train_tokenizer
from lightning_bpd.drafters import BlockHeads, HeadShape
from lightning_bpd.models import Architecture, EncoderDecoder, ImageArchitecture, ImageTransformer
from lightning_bpd.saved.finished_model import GenerativeModel
from tools.demo_corpus.sentences import sentence_pairs

sys.path.append(str(Path(__file__).parents[1] / "hugging_face"))
import small_models

PAIRS = list(itertools.islice(sentence_pairs(seed=5), 60))
TRAINING = {
    "model": {
        "class_path": "JointFineTuning",
        "init_args": {
            "base": {"d_model": 16, "heads": 2, "encoder_layers": 1, "decoder_layers": 1, "feed_forward": 16},
            "heads": {"block_size": 2, "d_hidden": 8},
            "loss": "all",
            "head_weights": [1, 1],
            "optimizer": {"class_path": "torch.optim.AdamW", "init_args": {"lr": 0.001}},
            "warmup_steps": 2,
        },
    },
    "data": {
        "class_path": "ParallelText",
        "init_args": {"folder": "corpus", "vocab_size": 350, "batch_tokens": 512, "max_length": 40},
    },
    "decode": {"extra_length": 3},
    "trainer": {"max_epochs": 1, "accelerator": "cpu", "devices": 1, "enable_progress_bar": False},
    "wandb": "disabled",
}  # fmt: skip


def write_artefacts(folder: Path) -> Path:
    """Everything that hostile inputs begin with, in a folder; takes a few seconds."""
    torch.manual_seed(0)
    write_corpus(folder / "corpus")
    tokenizer = train_tokenizer([line for pair in PAIRS for line in pair], 350)
    shape = Architecture(
        d_model=8, heads=2, encoder_layers=1, decoder_layers=1, feed_forward=8, output_bias=True, tie="none"
    )  # fmt: skip
    network = EncoderDecoder(
        shape, tokenizer.vocab_size, tokenizer.vocab_size, tokenizer.bos_id, tokenizer.eos_id
    )
    # Random weights seldom end a row.
    network.output_bias[tokenizer.eos_id] = 1.0
    heads = BlockHeads(8, HeadShape(3, 8))
    metrics = {"training": {"regime": "frozen", "data": "gold", "seed": 1}}
    GenerativeModel(network, TextCodec(tokenizer, tokenizer), heads).save(folder / "text", metrics)
    image_shape = ImageArchitecture(
        height=4, width=4, channels=3, levels=16, scale=2, d_model=8, heads=2, encoder_layers=1, decoder_layers=1,
        feed_forward=8, local_block=8,
    )  # fmt: skip
    codec = ImageCodec(height=4, width=4, channels=3, levels=16, factor=2)
    GenerativeModel(ImageTransformer(image_shape), codec, BlockHeads(8, HeadShape(3, 8))).save(
        folder / "images",
        metrics,
    )
    write_images(folder / "pictures")
    small_models.marian(folder / "marian")
    small_models.t5(folder / "t5")
    small_models.causal(folder / "llama")
    (folder / "training.yaml").write_text(yaml.safe_dump(TRAINING))
    (folder / "grid.yaml").write_text(
        yaml.safe_dump({"kind": "text", "data": "corpus", "sizes": [2], "runs": "out"})
    )
    return folder


def write_results(folder: Path) -> None:
    """What the commands make of it: a run with checkpoints, distilled text, a comparison. In the artefacts' folder."""
    main(["fit", "--config", "training.yaml", "--runs", "runs", "--experiment", "run"])
    teacher = ["--teacher", "text", "--data", "corpus", "--output", "distilled", "--extra_length", "3"]
    main(
        [
            "distill",
            *teacher,
            "--processes",
            "1",
            "--part_rows",
            "20",
            "--beam",
            "2",
            "--max_length_ratio",
            "99",
        ]
    )
    (folder / "results").mkdir()
    measure = ["--timed", "2", "--rows", "4", "--device", "cpu"]
    text = ["--data", "corpus", "--output", "results/compare_test.json"]
    main(["compare", "--model", "text", *text, *measure])


def write_corpus(folder: Path) -> None:
    folder.mkdir()
    for name, pairs in (("train", PAIRS[:40]), ("val", PAIRS[40:50]), ("test", PAIRS[50:])):
        for language, side in (("en", 0), ("de", 1)):
            (folder / f"{name}.{language}").write_text("".join(f"{pair[side]}\n" for pair in pairs))
    (folder / "table.tsv").write_text("".join(f"{source}\t{target}\n" for source, target in PAIRS[:12]))
    records = ({"en": source, "de": target} for source, target in PAIRS[:12])
    content = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
    (folder / "records.jsonl").write_text(content)
    (folder / "packed.tsv.gz").write_bytes(gzip.compress((folder / "table.tsv").read_bytes()))


def write_images(folder: Path) -> None:
    (folder / "folder").mkdir(parents=True)
    pixels = np.random.default_rng(1).integers(0, 256, (4, 4, 4, 3), dtype=np.uint8)
    for image, ending in zip(pixels, ("png", "jpg", "bmp", "tif"), strict=True):
        Image.fromarray(image).save(folder / "folder" / f"{ending}.{ending}")
    files = {path.name: path.read_bytes() for path in (folder / "folder").iterdir()}
    write_zip(folder / "images.zip", files)
    write_tar(folder / "images.tar", files, "w")
    write_tar(folder / "images.tar.gz", files, "w:gz")
    np.save(folder / "images.npy", pixels)
    np.savez_compressed(folder / "images.npz", train=pixels, val=pixels, test=pixels)


def write_zip(path: Path, files: dict[str, bytes]) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)


def write_tar(path: Path, files: dict[str, bytes], mode: str = "w") -> None:
    with tarfile.open(path, mode) as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
