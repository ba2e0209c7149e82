import json
import logging
import os
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from jsonargparse import ArgumentParser
from PIL import Image

from lightning_bpd.datamodules.images import Digits, Images
from lightning_bpd.interfaces import InputError

COUNTS = {"train": 20, "val": 5, "test": 4}


def pixels(seed):
    return np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)


@pytest.fixture
def folder(tmp_path):
    for first, (part, count) in enumerate(COUNTS.items()):
        (tmp_path / "images" / part).mkdir(parents=True)
        for number in range(count):
            Image.fromarray(pixels(100 * first + number)).save(
                tmp_path / "images" / part / f"{number:02d}.png"
            )
    return tmp_path / "images"


def make(path, **settings):
    return Images(str(path), **{"height": 8, "width": 8, "factor": 2, "batch_size": 6, **settings})


def ready(path, stage="fit", **settings):
    data = make(path, **settings)
    data.prepare_data()
    data.setup(stage)
    return data


def batches(loader):
    return [batch.index.tolist() for batch in loader]


def test_batches_hold_the_images(folder):
    data = ready(folder, None)
    assert (data.mix, data.max_length) == ("gold", 192)
    images = data.references("train")
    assert (images == np.stack([pixels(number) for number in range(20)])).all()
    seen = []
    for batch in data.train_dataloader():
        assert len(batch.index) <= 6
        assert (batch.source.lengths == 4 * 4 * 3).all()
        assert (batch.target.lengths == 8 * 8 * 3).all()
        assert torch.equal(batch.target.tokens, torch.from_numpy(images[batch.index]).flatten(1).long())
        small = data.sources("train")[batch.index]
        assert torch.equal(batch.source.tokens, torch.from_numpy(small).flatten(1).long())
        seen += batch.index.tolist()
    assert sorted(seen) == list(range(20))
    assert data.references("test").shape == (4, 8, 8, 3)
    assert data.sources("validation").shape == (5, 4, 4, 3)
    assert sorted(row for rows in batches(data.val_dataloader()) for row in rows) == list(range(5))


def test_target_counts(folder):
    data = ready(folder, levels=4)
    counts = data.target_counts()
    assert counts.shape == (4,)
    tokens = torch.cat([batch.target.tokens.flatten() for batch in data.train_dataloader()])
    assert torch.equal(counts, tokens.bincount(minlength=4))


def test_archives_and_arrays_give_the_same_as_the_folder(folder, tmp_path):
    expected = ready(folder)
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as tar:
        for path in sorted(folder.rglob("*.png"), reverse=True):
            tar.add(path, path.relative_to(folder.parent))
    arrays = {
        part: np.stack([pixels(100 * first + n) for n in range(count)])
        for first, (part, count) in enumerate(COUNTS.items())
    }
    np.savez(tmp_path / "a.npz", **arrays)
    for name in ("a.tar.gz", "a.npz"):
        data = ready(tmp_path / name)
        assert (data.train_images == expected.train_images).all()
        assert (data.validation_images == expected.validation_images).all()
        assert batches(data.train_dataloader()) == batches(expected.train_dataloader())


def test_the_order_is_new_each_epoch_and_known(folder):
    data = ready(folder)
    loader = data.train_dataloader()
    first = batches(loader)
    loader.batch_sampler.set_epoch(1)
    assert batches(loader) != first
    assert batches(ready(folder).train_dataloader()) == first
    assert batches(ready(folder, seed=2).train_dataloader()) != first


def test_a_second_start_reads_nothing(folder, monkeypatch):
    ready(folder)
    made = sorted((folder / ".encoded").rglob("*"))
    monkeypatch.setattr(
        "lightning_bpd.datamodules.encoded_images.read_images", lambda *_: pytest.fail("read again")
    )
    ready(folder)
    assert sorted((folder / ".encoded").rglob("*")) == made
    assert not [path for path in made if "partial" in path.name or "unsorted" in path.name]


def test_changed_images_are_read_again(folder):
    ready(folder)
    Image.fromarray(pixels(77)).save(folder / "train" / "00.png")
    assert (ready(folder).train_images[0] == pixels(77)).all()


def test_damaged_images_are_left_out_and_named(folder, caplog):
    (folder / "train" / "03.png").write_bytes(b"no image")
    with caplog.at_level(logging.INFO, "lightning_bpd"):
        data = ready(folder)
    assert len(data.train_images) == 19
    assert "train: 19 images, 1 left out (train/03.png: damaged, or of an unknown format)" in caplog.text
    assert (data.train_images[3] == pixels(4)).all()


def test_no_image_can_be_used(folder):
    with pytest.raises(
        InputError, match=r"no train image can be used: 20 left out \(train/00\.png: 8 x 8 pixels"
    ):
        make(folder, height=16, width=16).prepare_data()
    assert not list((folder / ".encoded").iterdir())


def test_a_damaged_cache_is_told(folder):
    ready(folder)
    for path in (folder / ".encoded").rglob("images"):
        path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(InputError, match="delete this folder"):
        ready(folder)


def test_missing_test_images_matter_only_when_they_are_needed(folder):
    for path in (folder / "test").iterdir():
        path.unlink()
    data = ready(folder)
    data.setup(None)
    with pytest.raises(
        InputError, match=r"no test images \(20 train, 5 validation, 0 test\); add a folder called test"
    ):
        data.setup("test")


def test_cache_goes_where_it_can_be_written(folder, tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    folder.chmod(0o555)
    ready(folder)
    folder.chmod(0o755)
    assert list(Path("data/.encoded").glob("images-*/about.json"))
    assert not (folder / ".encoded").exists()
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cache folder cannot be written"):
        ready(folder, cache=str(tmp_path / "file" / "cache"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch_size": 0}, "batch_size is 0"),
        ({"validation_batch_size": 0}, "validation_batch_size is 0"),
        ({"workers": -1}, "workers is -1"),
        ({"seed": -1}, "seed is -1"),
        ({"factor": 3}, "3 times smaller"),
        ({"test_share": 1.0}, "test_share is 1.0"),
    ],
)
def test_settings_that_make_no_sense(folder, settings, message):
    with pytest.raises(InputError, match=message):
        make(folder, **settings)


def test_workers_give_the_same_batches(folder):
    alone, worked = (list(ready(folder, workers=workers).train_dataloader()) for workers in (0, 2))
    for one, other in zip(alone, worked, strict=True):
        assert torch.equal(one.index, other.index)
        assert torch.equal(one.target.tokens, other.target.tokens)


def test_datasets_are_sent_to_other_processes_without_their_images(folder):
    collate = ready(folder).train_dataloader().collate_fn
    pickled = pickle.dumps(collate)
    assert len(pickled) < 1000 < collate.args[0].nbytes
    assert torch.equal(pickle.loads(pickled)([3]).target.tokens, collate([3]).target.tokens)


class _Ranks:
    """What a data module asks of a trainer, seen from one of several processes."""

    current_epoch = 0
    ckpt_path = None

    def __init__(self, rank, world_size, use_distributed_sampler=False):
        self.global_rank, self.world_size = rank, world_size
        self._accelerator_connector = self.fit_loop = self
        self.use_distributed_sampler = use_distributed_sampler
        self.is_resuming = False


def of_ranks(data, loader, world_size):
    found = []
    for rank in range(world_size):
        data.trainer = _Ranks(rank, world_size)
        found.append(batches(getattr(data, loader)()))
    return found


def test_ranks_share_the_images(folder):
    data = ready(folder)
    for loader, count in (("train_dataloader", 20), ("val_dataloader", 5)):
        found = of_ranks(data, loader, 3)
        assert sorted(row for rank in found for batch in rank for row in batch) == list(range(count))
        assert len({len(rank) for rank in found}) == 1
    with pytest.raises(InputError, match="5 images make 1 batches of at most 6, which 7 processes"):
        of_ranks(data, "val_dataloader", 7)
    data.trainer = _Ranks(1, 2, use_distributed_sampler=True)
    with pytest.raises(InputError, match=r"set trainer\.use_distributed_sampler to false"):
        data.train_dataloader()


class _Recorder(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.rows = []

    def training_step(self, batch):
        self.rows.append(batch.index.tolist())
        return self.weight * 1.0

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


class _SaveAt(pl.Callback):
    def __init__(self, path, step):
        self.path, self.step = path, step

    def on_train_batch_end(self, trainer, *_):
        if trainer.global_step == self.step:
            trainer.save_checkpoint(self.path)


def fit(data, checkpoint=None, callbacks=()):
    trainer = pl.Trainer(
        accelerator="cpu",
        max_steps=11,
        logger=False,
        enable_progress_bar=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        limit_val_batches=0,
        callbacks=list(callbacks),
    )
    model = _Recorder()
    trainer.fit(model, data, ckpt_path=checkpoint)
    return model.rows


@pytest.mark.parametrize("step", [3, 4, 5])
def test_a_resumed_run_goes_on_with_the_next_batch(folder, tmp_path, step):
    path = tmp_path / "stopped.ckpt"
    whole = fit(make(folder), callbacks=[_SaveAt(path, step)])
    assert len(whole) == 11
    assert fit(make(folder), path) == whole[step:]


def test_flags_of_the_command_line(folder):
    parser = ArgumentParser()
    parser.add_subclass_arguments((Images, Digits), "data")
    flags = ["--data=lightning_bpd.datamodules.images.Images", f"--data.path={folder}", "--data.levels=16"]
    data = parser.instantiate(parser.parse_args(flags)).data
    assert data.codec.levels == 16
    flags = ["--data=lightning_bpd.datamodules.images.Digits", "--data.batch_size=7"]
    assert parser.instantiate(parser.parse_args(flags)).data.batch_size == 7


def test_digits_are_always_the_same():
    data = Digits()
    data.prepare_data()
    data.setup()
    parts = [data.references(part) for part in ("train", "validation", "test")]
    assert [part.shape for part in parts] == [(1400, 8, 8, 1), (197, 8, 8, 1), (200, 8, 8, 1)]
    from sklearn.datasets import load_digits

    levels = load_digits().images.astype(int)
    tokens = np.concatenate([data.codec.target_tokens(part) for part in parts])
    assert sorted(map(tuple, tokens)) == sorted(map(tuple, levels.reshape(-1, 64)))
    # The split is part of what a reported number means.
    assert [int(data.codec.target_tokens(part).sum()) for part in parts] == [437744, 61687, 62287]
    shapes = {(*batch.source.tokens.shape, *batch.target.tokens.shape) for batch in data.val_dataloader()}
    assert shapes == {(32, 16, 32, 64), (197 % 32, 16, 197 % 32, 64)}


@pytest.mark.skipif("LIGHTNING_BPD_CIFAR10" not in os.environ, reason="LIGHTNING_BPD_CIFAR10 names no folder")
def test_cifar10(tmp_path):
    (archive,) = Path(os.environ["LIGHTNING_BPD_CIFAR10"]).glob("*.tar.gz")
    data = ready(archive, height=32, width=32, factor=4, cache=str(tmp_path), batch_size=100)
    assert (len(data.train_images), len(data.validation_images)) == (20000, 1000)
    assert sorted(row for rows in data.train_dataloader().batch_sampler for row in rows) == list(range(20000))
    for about in tmp_path.glob("*/about.json"):
        assert json.loads(about.read_text())["skipped"] == []
