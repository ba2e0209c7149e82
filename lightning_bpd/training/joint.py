"""A base and its block heads, trained together."""

from __future__ import annotations

import copy
from typing import Any

from pytorch_lightning.cli import OptimizerCallable
from torch.optim import AdamW, Optimizer

from lightning_bpd.codecs.hugging_face import refuse_own_code
from lightning_bpd.decoding import DecodingOptions
from lightning_bpd.drafters import DrafterShape, HeadShape
from lightning_bpd.interfaces import InputError
from lightning_bpd.models import Architecture, ImageArchitecture, NetworkShape
from lightning_bpd.saved.finished_model import GenerativeModel
from lightning_bpd.saved.network import LoraShape
from lightning_bpd.training.autoregressive import build_network
from lightning_bpd.training.blocks import (
    HeadTraining,
    LossKind,
    build_heads,
    check_base_type,
    compute_layers_again,
    named_base,
    train_low_rank,
    weights_of_heads,
)
from lightning_bpd.training.drift import BaseDrift
from lightning_bpd.training.optimisation import Schedule


class JointFineTuning(HeadTraining):
    """Trains a base together with block heads (Stern et al. 2018, section 6.1): blocks grow longer, p_1 moves.

    Starts from a trained base, whose optimiser and schedule are left behind, as in the paper; then validation logs how
    far p_1 has moved from it (``val/drift``). Or it starts from random weights.

    The loss of an optimiser step is the weighted mean over the heads, p_1 included, of each head's loss, summed over
    all its targets and divided by the number of target tokens of the step (``step_loss``).

    Args:
        base: What to start from: the folder of a finished model, a checkpoint, a Hugging Face model
            (``hf:NAME_OR_FOLDER``), or the shape of a new network: an Architecture, or any other NetworkShape.
        heads: The shape of the block heads. If the base has heads of this shape, candidates aside, training goes on
            from them.
        loss: One of p_1 and the heads a micro-batch, drawn at random (sampled, as the paper), or the mean over all of
            them (all).
        head_weights: Weight of each head in the loss, p_1 first; equal by default. A head with weight 0 is not trained.
        optimizer: Optimiser with its peak learning rate.
        base_learning_rate: Peak learning rate of the base; that of the optimiser, which the heads have, by default.
        schedule: Learning rate after the warm-up: inverse square root of the step, half a cosine to zero, or constant.
        warmup_steps: Optimiser steps of linear warm-up.
        decode: How outputs are searched for when they are scored.
        images: The shape of a new network for images, in the place of ``base``.
        gradient_checkpointing: Whether a Hugging Face base computes its layers again in the backward pass: less
            memory, more time.
        lora: Low-rank updates to train in the place of a Hugging Face base's weights; the finished model has them
            merged. The whole base is trained if not given.
        drafter: The shape of another drafter, such as ParallelDraft; in the place of ``heads``.

    Raises:
        InputError: The base cannot be read, or the numbers make no sense.
    """

    regime = "joint"

    def __init__(
        self,
        base: str | Architecture | NetworkShape | None = None,
        heads: HeadShape = HeadShape(),  # noqa: B008  # frozen
        loss: LossKind = "all",
        head_weights: list[float] | None = None,
        optimizer: OptimizerCallable = AdamW,
        base_learning_rate: float | None = None,
        schedule: Schedule = "inverse_square_root",
        warmup_steps: int = 4000,
        decode: DecodingOptions = DecodingOptions(),  # noqa: B008  # frozen
        images: ImageArchitecture | None = None,
        gradient_checkpointing: bool = False,
        lora: LoraShape | None = None,
        drafter: DrafterShape | None = None,
    ) -> None:
        shape = heads if drafter is None else drafter
        if images is not None and base is not None:
            raise InputError(f"base is {base} and images asks for a new network: leave one of them out")
        start = images or (named_base(base) if base is None or isinstance(base, str) else base)
        super().__init__(start, shape, loss, optimizer, schedule, warmup_steps, decode)
        if self.parts is not None:
            network: Any = self.parts.network
            if network.of_hugging_face:
                refuse_own_code(network, self.parts.codec, str(start))
                network.keep_layers()
            self.drift = BaseDrift(copy.deepcopy(network), self.parts.codec, decode)
            # Hugging Face models come in eval mode.
            network.train()
        if gradient_checkpointing:
            compute_layers_again(self.network)
        if lora is not None:
            train_low_rank(self.network, lora, self.seed)
        if self.network is not None:
            check_base_type(self.network)
        self.trained_heads = range(1, shape.block_size + 1)
        self.head_weights = weights_of_heads(head_weights, shape, self.trained_heads)
        self.base_learning_rate = base_learning_rate

    def configure_model(self) -> None:
        """Build a network that starts from random weights, once the data module knows its vocabularies."""
        if self.network is None:
            assert not isinstance(self.base, str)
            self.network = build_network(self.base, self.data, self.seed)
            self.heads = build_heads(GenerativeModel(self.network, self.data.codec), self.shape, self.seed)
        if self.trainer.state.fn == "fit":
            self.choose_candidates()

    def trained_parameters(self) -> list[dict[str, Any]]:
        """Two groups, heads and base."""
        assert self.network is not None
        assert self.heads is not None
        # Sinusoids are parameters that are never trained, in some families.
        base: dict[str, Any] = {"params": [each for each in self.network.parameters() if each.requires_grad]}
        if self.base_learning_rate is not None:
            base["lr"] = self.base_learning_rate
        heads = {"params": list(self.heads.parameters())}
        return [heads, base] if heads["params"] else [base]

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Log the base's learning rate, too."""
        super().on_before_optimizer_step(optimizer)
        self.log("train/base_learning_rate", optimizer.param_groups[-1]["lr"])
