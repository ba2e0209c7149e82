"""Training of a network that generates images of a class, in one order or in any."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

import torch
from pytorch_lightning.cli import OptimizerCallable
from torch import Tensor, nn
from torch.optim import AdamW

from lightning_bpd.decoding import FixedPlan, Sampled, fill
from lightning_bpd.interfaces import InputError, LabelledTokens, TokenRows
from lightning_bpd.metrics import TokenLoss
from lightning_bpd.models import TokenShape, TokenTransformer
from lightning_bpd.orders import Groups, check_groups, grouped, order_of, plan_groups
from lightning_bpd.saved.finished_model import CHECKPOINT_KEY, GenerativeModel, describe
from lightning_bpd.training.losses import summed_cross_entropy
from lightning_bpd.training.optimisation import Schedule
from lightning_bpd.training.scoring import check_codec
from lightning_bpd.training.skeleton import Training

# Groups of training grow by an exponent between 1 and this: plans ask for less of a pass while little is known.
_MOST_GROWTH = 2.5


class ImageGeneration(Training):
    """Trains a TokenTransformer on images of classes by the cross-entropy of each token given the groups before.

    A network of one order (PAR, or raster) learns from whole grids. One with position queries learns from a random
    order of each grid, and random sizes of groups (LPD, arXiv 2507.01957, section 3.2), so it may be asked in any.

    Args:
        architecture: The shape of the network, and its order.
        optimizer: Optimiser with its peak learning rate.
        schedule: Learning rate after the warm-up.
        warmup_steps: Optimiser steps of linear warm-up.
        plan: By which plan a network with position queries is validated: raster, regions-N, consecutive-N, random-P,
            halton-P or locality-P. A network of one order has its own.
    """

    regime = "generation"
    validation_metrics = ("val/loss", "val/bits_per_token")
    """the names of the metrics that validation logs"""

    def __init__(
        self,
        architecture: TokenShape = TokenShape(),  # noqa: B008  # frozen
        optimizer: OptimizerCallable = AdamW,
        schedule: Schedule = "cosine",
        warmup_steps: int = 100,
        plan: str = "raster",
    ) -> None:
        super().__init__(optimizer, schedule, warmup_steps)
        self.architecture = architecture
        self.plan = plan
        self.network: TokenTransformer | None = None
        self.loss = TokenLoss()
        self.likelihood = nn.ModuleDict()

    def configure_model(self) -> None:
        """Build the network, once the data module knows its tokens.

        Raises InputError if the data is no images of classes, or an order does not fit its grid.
        """
        codec = self.data.codec
        if codec.kind != self.architecture.kind:
            raise InputError(
                f"images of a class are generated from {self.architecture.kind}, and the data is {codec.kind}: use "
                "LabelledImages or LabelledDigits"
            )
        if self.network is None:
            # The same weights whatever random numbers the data took before.
            with torch.random.fork_rng():
                torch.manual_seed(self.seed)
                self.network = self.architecture.build(codec.vocabularies)
            self.likelihood.update(codec.likelihood())
            self.groups()

    def groups(self) -> Groups:
        """The order in which validation predicts tokens."""
        assert self.network is not None
        if self.architecture.order != "queries":
            return self.network.groups
        return check_groups(plan_groups(self.plan, self.network.grid), self.network.max_length)

    def trained_parameters(self) -> Iterable[Tensor]:
        """All parameters."""
        assert self.network is not None
        return self.network.parameters()

    def summed_loss(self, batch: LabelledTokens, batch_idx: int) -> tuple[Tensor, Tensor]:
        """Cross-entropy, and the number of tokens."""
        order = sizes = None
        if self.architecture.order == "queries":
            order = torch.rand(batch.tokens.shape, device=batch.tokens.device).argsort(1)
            sizes = random_sizes(batch.tokens.size(1))
        loss, number = self._loss(batch, order, sizes), batch.target_tokens
        self.log("train/loss", loss.detach() / number, prog_bar=True)
        return loss, number

    def _loss(self, batch: LabelledTokens, order: Tensor | None, sizes: list[int] | None) -> Tensor:
        assert self.network is not None
        if order is None or sizes is None:
            hidden = self.network.hidden(batch.labels, batch.tokens)
            targets = batch.tokens[:, self.network.order.to(batch.tokens.device)]
        else:
            hidden = self.network.hidden_of(batch.labels, batch.tokens, order, sizes)
            targets = batch.tokens.gather(1, order)
        return summed_cross_entropy(hidden.flatten(0, 1), self.network.output_weight, targets.flatten())[0]

    def validation_step(self, batch: LabelledTokens, batch_idx: int) -> None:
        """Measure bits per token."""
        self._measure("val", batch)

    def test_step(self, batch: LabelledTokens, batch_idx: int) -> None:
        """Measure bits per token."""
        self._measure("test", batch)

    def _measure(self, stage: Literal["val", "test"], batch: LabelledTokens) -> None:
        order = sizes = None
        if self.architecture.order == "queries":
            groups = self.groups()
            order = order_of(groups).to(batch.tokens.device).expand(len(batch.tokens), -1)
            sizes = [len(group) for group in groups]
        loss, number = self._loss(batch, order, sizes), int(batch.target_tokens)
        self.loss.update(loss, number)
        self.log(f"{stage}/loss", self.loss, prog_bar=True)
        for name, metric in self.likelihood.items():
            metric.update(loss, number)  # type: ignore[operator]
            self.log(f"{stage}/{name}", metric)  # type: ignore[arg-type]

    def predict_step(self, batch: LabelledTokens, batch_idx: int) -> dict[int, Any]:
        """An image of each label, by the position of the label's own image in its part of the data."""
        assert self.network is not None
        source = TokenRows(batch.labels[:, None], torch.ones_like(batch.labels))
        filled = fill(self.network, FixedPlan(self.groups()), source, Sampled(), batch.index)
        return dict(zip(batch.index.tolist(), self.data.codec.decode(filled.tokens.tolist()), strict=True))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Store what makes a finished model of the checkpoint alone: plain data."""
        assert self.network is not None
        self.step_loss.check(self)
        checkpoint[CHECKPOINT_KEY] = describe(GenerativeModel(self.network, self.data.codec))

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse a checkpoint whose tokens do not mean what those of the data mean."""
        check_codec(checkpoint, self.data)


def random_sizes(total: int) -> list[int]:
    """The sizes of groups that fill ``total`` cells: a random number of passes, whose groups grow at random."""
    share, growth = torch.rand(2).tolist()
    passes = round(total**share)
    return [len(group) for group in grouped(range(total), passes, 1 + growth * (_MOST_GROWTH - 1))]
