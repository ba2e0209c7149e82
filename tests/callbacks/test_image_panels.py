"""Panels at validation: which images, under which rule, of which weights, and when not."""

from functools import partial

import numpy as np
import pytest
import torch
import wandb
from known_blocks import Data as Text
from known_blocks import Module as TextModule
from known_blocks import trainer
from PIL import Image
from pytorch_lightning.callbacks import EMAWeightAveraging
from pytorch_lightning.loggers import WandbLogger

from lightning_bpd.callbacks import panels
from lightning_bpd.callbacks.blockwise_decoding import BlockwiseDecoding
from lightning_bpd.callbacks.panels import Panels, decode_panels, shown_sizes
from lightning_bpd.datamodules import Digits
from lightning_bpd.decoding import DecodingOptions, Distance, Exact, blockwise, greedy
from lightning_bpd.drafters import HeadShape
from lightning_bpd.interfaces import InputError, TokenRows
from lightning_bpd.models import ImageArchitecture, ImageTransformer
from lightning_bpd.training import BaseTraining, JointFineTuning

SHAPE = ImageArchitecture(
    height=8, width=8, channels=1, levels=17, scale=2, d_model=16, heads=2, encoder_layers=1, decoder_layers=1,
    feed_forward=32, dropout=0.0, norm="pre", local_block=16,
)  # fmt: skip
NEAR = DecodingOptions(acceptance="distance-2")


def module(decode=NEAR, **heads):
    torch.manual_seed(3)
    shape = HeadShape(**{"block_size": 4, "d_hidden": 16, **heads})
    return JointFineTuning(None, shape, images=SHAPE, warmup_steps=5, decode=decode)


def fitted(folder, *callbacks, module=None, **options):
    loop = trainer(folder, *callbacks, limit_train_batches=3, limit_val_batches=2, **options)
    loop.fit(module, datamodule=Digits(batch_size=16))
    return loop


def check_rows(rows, places, trained, data, rules):
    """What was drawn is what the same images, decoded together, give with the weights that training ended with."""
    truths = np.stack([data.references("validation")[place] for place in places])
    tokens = torch.from_numpy(data.codec.source_tokens(truths))
    source = TokenRows(tokens, torch.full((len(places),), 16))
    model, drafter = trained.eval().block_decoder()
    plain = data.codec.decode(greedy(model, source).rows())
    for number, row in enumerate(rows):
        assert np.array_equal(row.truth, truths[number])
        assert np.array_equal(row.greedy, plain[number])
        assert [panel.block_size for panel in row.blockwise] == list(rules)
    for column, (size, rule) in enumerate(rules.items()):
        result = blockwise(model, drafter, source, size, rule)
        for row, image, accepted in zip(rows, data.codec.decode(result.rows()), result.accepted, strict=True):
            panel = row.blockwise[column]
            assert np.array_equal(panel.image, image)
            assert panel.accepted.tolist() == [size for size in accepted.tolist() if size]


def test_images_that_a_limit_leaves_are_measured(tmp_path):
    """Validation begins with the last images of the corpus."""
    loop = fitted(tmp_path, BlockwiseDecoding(rows=8), module=module())
    metrics = loop.callback_metrics
    measured = [name for name in metrics if name.startswith(("val/k4", "val/replay", "val/mean"))]
    assert len(measured) > 8
    assert all(metrics[name].isfinite() for name in measured)


@pytest.fixture
def drawn(monkeypatch):
    """What was drawn, and under which title."""
    found = []
    draw = panels.draw_panels
    monkeypatch.setattr(panels, "draw_panels", lambda *given: found.append(given) or draw(*given))
    return found


def test_each_validation_draws_the_weights_of_the_moment(tmp_path, drawn):
    trained = module()
    loop = fitted(tmp_path, Panels(3), module=trained, max_epochs=2)
    titles = [f"Validation after {steps} steps, accepted by distance-2" for steps in (3, 6)]
    assert [title for _, _, title in drawn] == titles
    rows, picture, _ = drawn[-1]
    assert picture == tmp_path / "panels.png"
    # Input, truth, greedy, and two panels for each of two block sizes; three rows.
    width, height = Image.open(picture).size
    assert 1.7 < width / height < 2.7

    assert [row.name for row in rows] == ["image 1", "image 66", "image 132"]
    check_rows(rows, (0, 65, 131), trained, loop.datamodule, {2: Distance(2), 4: Distance(2)})


def test_the_largest_block_and_p_1_are_the_runs_own(tmp_path, drawn):
    trained = module(DecodingOptions(block_size=3), first_head="learned")
    loop = fitted(tmp_path, Panels(1), module=trained)
    ((rows, _, title),) = drawn
    assert title.endswith("accepted by exact")
    check_rows(rows, (0,), trained, loop.datamodule, {2: Exact(), 3: Exact()})


@pytest.mark.parametrize(
    ("largest", "sizes"), [(1, []), (2, [2]), (6, [2, 4, 6]), (8, [2, 4, 8]), (10, [2, 4, 8, 10])]
)
def test_shown_sizes(largest, sizes):
    assert shown_sizes(largest) == sizes


@pytest.mark.parametrize("averaged", [True, False])
def test_averaged_weights_are_drawn_where_they_are_validated(tmp_path, monkeypatch, averaged):
    """The average stays what it is after the first step, while the weights themselves go on."""
    weights = []

    def look(model, *given):
        weights.append(model.output.weight.clone())
        return decode_panels(model, *given)

    monkeypatch.setattr(panels, "decode_panels", look)
    average = [EMAWeightAveraging(decay=1.0, use_buffers=False)] if averaged else []
    fitted(tmp_path, *average, Panels(1), module=module(), max_epochs=2)
    first, second = weights
    assert torch.equal(first, second) == averaged


@pytest.mark.parametrize(
    ("count", "options", "base"),
    [
        (0, {}, False),
        (2, {"fast_dev_run": True}, False),
        (2, {"num_sanity_val_steps": 1, "check_val_every_n_epoch": 2}, False),
        (2, {}, True),
    ],
    ids=["switched off", "trial", "sanity check", "no heads"],
)
def test_when_there_is_no_picture(tmp_path, count, options, base):
    trained = BaseTraining(images=SHAPE, warmup_steps=5) if base else module()
    fitted(tmp_path, Panels(count), module=trained, **options)
    assert not (tmp_path / "panels.png").exists()


def test_text_and_other_commands_have_no_picture(tmp_path):
    trainer(tmp_path, Panels()).fit(TextModule(), datamodule=Text())
    loop = trainer(tmp_path, Panels(), limit_val_batches=1)
    loop.validate(module(), datamodule=Digits(), verbose=False)
    assert not (tmp_path / "panels.png").exists()


def test_a_negative_count_is_refused():
    with pytest.raises(InputError, match="a count of at least 0, not -1"):
        Panels(-1)


def test_weights_and_biases_gets_the_picture(tmp_path):
    run = wandb.init(mode="disabled")
    logged = {}
    run.log = logged.update
    fitted(tmp_path, Panels(1), module=module(), logger=WandbLogger(experiment=run, save_dir=tmp_path))
    (image,) = logged["val/panels"]
    assert isinstance(image, wandb.Image)


def test_one_rank_of_two_draws_what_one_alone_draws(tmp_path):
    """Both ranks go on: the other needs nothing of the first."""
    for name, options in (("one", {}), ("two", {"devices": 2, "strategy": "ddp_spawn"})):
        trained = module()
        trained.make_optimizer = partial(torch.optim.SGD, lr=0.0)  # so that both have the same weights
        fitted(tmp_path / name, Panels(2), module=trained, **options)
    one, two = ((tmp_path / name / "panels.png").read_bytes() for name in ("one", "two"))
    assert one == two


def test_without_heads_there_is_greedy_output_alone():
    data = Digits()
    data.setup("fit")
    model = ImageTransformer(SHAPE).eval()
    rows = decode_panels(model, None, data.codec, data, torch.device("cpu"), 2, NEAR)
    assert [row.blockwise for row in rows] == [[], []]
    assert rows[0].greedy.shape == (8, 8, 1)
