"""The end of a run on images: its picture is that of the finished model, under the run's rule."""

import pytorch_lightning as pl
import torch
from rich.console import Console

from lightning_bpd.callbacks.checkpoints import LastCheckpoint
from lightning_bpd.callbacks.throughput import Throughput
from lightning_bpd.cli import finish
from lightning_bpd.datamodules import Digits
from lightning_bpd.decoding import DecodingOptions
from lightning_bpd.drafters import HeadShape
from lightning_bpd.models import ImageArchitecture
from lightning_bpd.tracking.metrics_file import MetricsFile
from lightning_bpd.training import JointFineTuning

SHAPE = ImageArchitecture(
    height=8, width=8, channels=1, levels=17, scale=2, d_model=16, heads=2, encoder_layers=1, decoder_layers=1,
    feed_forward=32, dropout=0.0, norm="pre", local_block=16,
)  # fmt: skip


def test_the_picture_of_the_finished_model(tmp_path, monkeypatch, capsys):
    drawn = []
    draw = finish.draw_panels
    monkeypatch.setattr(finish, "draw_panels", lambda *given: drawn.append(given) or draw(*given))
    torch.set_num_threads(1)
    rule = DecodingOptions(block_size=3, acceptance="minimum-2")
    heads = HeadShape(block_size=4, d_hidden=16, first_head="learned")
    module = JointFineTuning(None, heads, images=SHAPE, warmup_steps=5, decode=rule)
    trainer = pl.Trainer(
        accelerator="cpu", devices=1, default_root_dir=tmp_path, callbacks=[LastCheckpoint(), Throughput()],
        logger=MetricsFile(tmp_path), max_epochs=1, limit_train_batches=2, limit_val_batches=1, log_every_n_steps=1,
        enable_progress_bar=False, enable_model_summary=False, use_distributed_sampler=False,
    )  # fmt: skip
    trainer.fit(module, datamodule=Digits())
    finish.finish(trainer, Console(width=500))
    ((rows, picture, title),) = drawn
    assert title == "Best checkpoint, 2 steps, accepted by minimum-2"
    assert picture == tmp_path / "panels.png"
    assert picture.is_file()
    assert f"Images: {picture}" in capsys.readouterr().out
    assert len(rows) == finish.PANELS
    for row in rows:
        assert [panel.block_size for panel in row.blockwise] == [2, 3]
        assert row.blockwise[0].accepted.tolist() == [2] * 32
