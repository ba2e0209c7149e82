"""Pictures of decoded images at each validation, beside the block sizes that were accepted at each position."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback

from lightning_bpd.callbacks.ranks import shows
from lightning_bpd.codecs.images import ImageCodec, Images
from lightning_bpd.decoding import DecodingOptions, decode
from lightning_bpd.interfaces import Drafter, InputError, SequenceModel, TokenRows
from lightning_bpd.measuring.arms import spread
from lightning_bpd.measuring.panels import BlockwisePanel, ImagePanels, draw_panels
from lightning_bpd.tracking.weights_and_biases import wandb_loggers

if TYPE_CHECKING:
    from lightning_bpd.training.blocks import HeadTraining

# Block sizes shown beside the largest.
SHOWN = (2, 4, 8)


class Panels(Callback):
    """At each validation of a model of images with block heads, draws some images to ``panels.png`` and W&B.

    The picture shows input, truth, greedy output and, for several block sizes, the blockwise output beside the accepted
    sizes. The run's decoding options give the largest block size and the acceptance rule. Other models have only
    ``Samples``.

    The first rank decodes the images as one extra batch. It does not wait for other ranks, nor they for it.

    Args:
        count: Images to show, spread evenly over the validation set; 0 for no picture.

    Raises:
        InputError: ``count`` is negative.
    """

    def __init__(self, count: int = 4) -> None:
        if count < 0:
            raise InputError(f"panels need a count of at least 0, not {count}")
        self.count = count

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Draw after the first batch: averaged weights are loaded by then, and removed after the last batch."""
        if batch_idx or not self.count or not shows(trainer) or not hasattr(pl_module, "block_decoder"):
            return
        module = cast("HeadTraining", pl_module)
        codec: Any = module.data.codec
        if codec.kind != "images":
            return
        # Decode in the precision of the module's steps.
        with trainer.precision_plugin.forward_context():
            panels = decode_panels(
                *module.block_decoder(), codec, module.data, module.device, self.count, module.decode
            )
        picture = Path(trainer.default_root_dir) / "panels.png"
        title = panels_title(f"Validation after {trainer.global_step} steps", module.decode)
        draw_panels(panels, picture, title)
        for logger in wandb_loggers(trainer):
            logger.log_image("val/panels", [str(picture)], step=trainer.global_step)


def decode_panels(
    model: SequenceModel[Any],
    drafter: Drafter | None,
    codec: ImageCodec,
    data: Any,
    device: torch.device,
    count: int,
    options: DecodingOptions,
) -> list[ImagePanels]:
    """Some validation images: input, truth, greedy output and, with a drafter, blocks of several sizes.

    Args:
        model: p_1, in eval mode.
        drafter: Proposes the tokens of a block; None for a model without block heads.
        codec: The codec of the tokens.
        data: The data module.
        device: The model's device.
        count: Number of images, spread evenly.
        options: Give the acceptance rule and the largest block size; their decoder is ignored.
    """
    inputs: Sequence[Images] = data.sources("validation")
    truths: Sequence[Images] = data.references("validation")
    chosen = spread(list(range(len(truths))), count)
    tokens = torch.from_numpy(codec.source_tokens(np.stack([truths[i] for i in chosen]))).to(device)
    rows = TokenRows(tokens, torch.full((len(chosen),), tokens.size(1), device=device))
    plain = codec.decode(decode(model, rows, DecodingOptions()).rows())
    panels: list[list[BlockwisePanel]] = [[] for _ in chosen]
    for size in [] if drafter is None else shown_sizes(options.block_size or drafter.block_size):
        rule = DecodingOptions("blockwise", block_size=size, acceptance=options.acceptance)
        result = decode(model, rows, rule, drafter)
        assert result.accepted is not None
        outputs = codec.decode(result.rows())
        for panel, image, accepted in zip(panels, outputs, result.accepted.cpu().numpy(), strict=True):
            panel.append(BlockwisePanel(size, image, accepted[accepted > 0]))
    return [
        ImagePanels(f"image {i + 1}", inputs[i], truths[i], output, panel)
        for i, output, panel in zip(chosen, plain, panels, strict=True)
    ]


def panels_title(what: str, options: DecodingOptions) -> str:
    """The title of a picture of blocks, with the acceptance rule."""
    return f"{what}, accepted by {options.acceptance}"


def shown_sizes(largest: int) -> list[int]:
    """The block sizes to show, up to and including ``largest``; none if ``largest`` is 1."""
    return sorted({*(size for size in SHOWN if size < largest), largest} - {1})
