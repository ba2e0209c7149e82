"""Block heads on a base that stays as it is."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

import torch
from pytorch_lightning.cli import OptimizerCallable
from pytorch_lightning.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torch.optim import AdamW

from lightning_bpd.codecs.codec import check_decoding
from lightning_bpd.decoding import DecodingOptions
from lightning_bpd.drafters import DrafterShape, HeadShape, TrainedDrafter
from lightning_bpd.interfaces import InputError, ParallelBatch, Reading, TokenRows
from lightning_bpd.saved.drafter import described_shape
from lightning_bpd.saved.finished_model import CHECKPOINT_KEY, GenerativeModel, check_base
from lightning_bpd.training.blocks import HeadTraining, LossKind, named_base, weights_of_heads
from lightning_bpd.training.feature_cache import FeatureCache
from lightning_bpd.training.optimisation import Schedule, check_precision, narrow_types


class FrozenBaseHeadDistillation(HeadTraining):
    """Trains block heads on a frozen base (Stern et al. 2018, section 6): its output stays what it was.

    The base is in eval mode and takes no gradient; the optimiser holds the heads only, and so do checkpoints, with the
    fingerprint of the base. Optimiser and schedule start anew, as in the paper.

    The loss of an optimiser step is the weighted mean over the heads of each head's loss, summed over all its targets
    and divided by the number of target tokens of the step (``step_loss``).

    Args:
        base: The model to put heads on: the folder of a finished model, a checkpoint, or a Hugging Face model,
            ``hf:NAME_OR_FOLDER`` (with ``,dtype=bfloat16`` and other options of adapters.Reference).
        heads: The shape of the block heads. If the base has heads of this shape, candidates aside, training goes on
            from them.
        loss: One head a micro-batch, drawn at random (sampled, as the paper), or the mean over all heads (all).
        targets: What heads learn: the data's tokens (data), the base's own distribution of them (distill), or the
            base's own greedy output of the training sources, which ``fit`` makes if it is missing (self).
        temperature: Softens both distributions when ``targets`` is distill.
        head_weights: Weight of each head in the loss, head 1 first; equal by default. A head with weight 0 is not
            trained.
        optimizer: Optimiser with its peak learning rate.
        schedule: Learning rate after the warm-up: inverse square root of the step, half a cosine to zero, or constant.
        warmup_steps: Optimiser steps of linear warm-up.
        decode: How outputs are searched for when they are scored.
        drafter: The shape of another drafter, such as ParallelDraft; in the place of ``heads``.
        cache_features: GiB of disk that the base's hidden states of the training text may take, beside the encoded
            text. They are computed in the first epoch and read in later ones. By default the base reads every batch.

    Raises:
        InputError: The base cannot be read, or the numbers make no sense.
    """

    regime = "frozen"
    base: str
    parts: GenerativeModel
    heads: TrainedDrafter

    def __init__(
        self,
        base: str | None = None,
        heads: HeadShape = HeadShape(),  # noqa: B008  # frozen
        loss: LossKind = "all",
        targets: Literal["data", "distill", "self"] = "data",
        temperature: float = 1.0,
        head_weights: list[float] | None = None,
        optimizer: OptimizerCallable = AdamW,
        schedule: Schedule = "inverse_square_root",
        warmup_steps: int = 4000,
        decode: DecodingOptions = DecodingOptions(),  # noqa: B008  # frozen
        drafter: DrafterShape | None = None,
        cache_features: float | None = None,
    ) -> None:
        shape = heads if drafter is None else drafter
        if temperature <= 0:
            raise InputError(f"temperature must be greater than 0, not {temperature}")
        super().__init__(named_base(base), shape, loss, optimizer, schedule, warmup_steps, decode)
        network = self.parts.network.requires_grad_(False).eval()
        self.base_types = narrow_types(network.parameters())
        self.frozen_base = (self.base, self.fingerprint)
        self.trained_heads = range(self.heads.first, shape.block_size + 1)
        if not self.trained_heads:
            raise InputError(
                "block_size 1 with an identity as first head has nothing to train: raise block_size"
            )
        self.head_weights = weights_of_heads(head_weights, shape, self.trained_heads)
        self.temperature = temperature if targets == "distill" else None
        check_decoding(decode, shape.block_size, self.parts.codec)
        self.cache_features = cache_features
        self._features: FeatureCache | None = None
        # The base is in no checkpoint, so a checkpoint lacks most of this module's weights.
        self.strict_loading = False

    def setup(self, stage: str) -> None:
        """Check that the data fits the base, and find the most frequent tokens."""
        super().setup(stage)
        if stage == "fit":
            self.choose_candidates()

    def on_train_start(self) -> None:
        """Open the cache of features, once the base has the precision of the run."""
        if self.cache_features is not None:
            self._features = self._open_features(self.cache_features)

    def trained_parameters(self) -> Iterable[Tensor]:
        """Those of the heads."""
        return self.heads.parameters()

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """The configured optimiser over the heads, with the schedule."""
        check_precision(self.parts.network.parameters(), self.trainer, self.base_types)
        return super().configure_optimizers()

    @torch.no_grad()
    def read(self, batch: ParallelBatch) -> Reading:
        """What the base computes of a batch, which takes no gradient; in training from the cache if there is one."""
        if self._features is not None and self.training:
            return self._features.read(batch, super().read)
        return super().read(batch)

    def _open_features(self, most: float) -> FeatureCache:
        data: Any = self.data
        if not hasattr(data, "train_corpus"):
            raise InputError("cache_features is for text, whose pairs are numbered: leave it out")
        network = self.parts.network
        # A base under autocast computes other features.
        base = f"{self.fingerprint}, {self.trainer.precision}"
        if network.returned_layers:
            base += f", layers {network.returned_layers}"
        token = torch.zeros(1, 1, dtype=torch.long, device=network.output_weight.device)
        with torch.no_grad():
            state = network.start(TokenRows(token, token[0] + 1), None, 1)
            like = Reading(network.step(token, state), state.memory)
        return FeatureCache(
            data.cache_folder(), data.train_corpus, base, like, network.output_weight.dtype, most
        )

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the heads alone, and the fingerprint of their base."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["state_dict"] = {
            name: tensor for name, tensor in checkpoint["state_dict"].items() if name.startswith("heads.")
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse a checkpoint of other heads, or of heads for another base or other tokens."""
        super().on_load_checkpoint(checkpoint)
        stored = checkpoint.get(CHECKPOINT_KEY, {}).get("heads", {})
        if "base" not in stored:
            raise InputError(
                "the checkpoint is not one of heads on a frozen base: to put heads on the model in it, name it with "
                "model.base"
            )
        remedy = f"name the base that they were trained on ({stored['path']}) with --model.base"
        check_base(stored["base"], self.fingerprint, self.base, remedy)
        if described_shape(stored, "the checkpoint") != self.heads.shape:
            raise InputError(
                f"the checkpoint holds heads of the shape {stored['shape']}, and model.heads asks for others: "
                "let model.heads say the same"
            )
