"""How far fine-tuning has moved p_1 from the base that it started from."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_bpd.codecs.codec import Codec
from lightning_bpd.decoding import DecodingOptions
from lightning_bpd.interfaces import ParallelBatch, SequenceModel
from lightning_bpd.metrics import Accuracy, TokenLoss
from lightning_bpd.training.losses import decoder_inputs, token_mask
from lightning_bpd.training.scoring import TrainingData, decode_batch

if TYPE_CHECKING:
    from lightning_bpd.network import Network

# Tokens whose logits are held at a time.
CHUNK = 512
# Of a token that a model never gives, whose -inf times its probability, 0, would be no number.
LEAST_LOGIT = -30_000.0


class BaseDrift(nn.Module):
    """Compares p_1 with the untouched base: equal argmax, KL(base || p_1) in nats a token, and the base's own quality.

    Args:
        base: A copy of the network as it was.
        codec: What its tokens mean.
        decode: Options for decoding; only their limits of length are used.
    """

    def __init__(self, base: Network, codec: Codec, decode: DecodingOptions) -> None:
        super().__init__()
        self._greedy = decode.limits()
        # In a tuple it is no submodule: neither trained, nor averaged, nor kept in checkpoints.
        self._base = (base.requires_grad_(False).eval(),)
        self.agreement = Accuracy()
        self.divergence = TokenLoss()
        self.quality = nn.ModuleDict(codec.quality())
        self._outputs: dict[tuple[str, int], Any] = {}

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> BaseDrift:
        """Take the base along once it was used, so that it leaves the accelerator with the module.

        Before, it stays: a copy of the module, such as that of averaged weights, never uses its own.
        """
        if next(self._base[0].parameters()).device.type != "cpu":
            self._base[0]._apply(fn, recurse)
        return super()._apply(fn, recurse)

    @torch.no_grad()
    def update(
        self,
        module: pl.LightningModule,
        stage: Literal["val", "test"],
        batch: ParallelBatch,
        model: SequenceModel[Any],
        hidden: Tensor,
    ) -> None:
        """Add a batch and let the module log at the end of the epoch.

        Args:
            module: The module that measures.
            stage: What the logged names begin with.
            batch: The batch.
            model: p_1 as it is now.
            hidden: What it made of the batch, [B, T, D].
        """
        base = self._base[0].to(hidden.device)
        mask = token_mask(batch.target)
        before = base(batch.source, decoder_inputs(batch.target, base.bos_id))[mask]
        agreeing, divergence = torch.zeros(2, device=hidden.device)
        for old, new in zip(before.split(CHUNK), hidden[mask].split(CHUNK), strict=True):
            old_logits, new_logits = (
                each.project(states).float().clamp(min=LEAST_LOGIT)
                for each, states in ((base, old), (model, new))
            )
            agreeing += (old_logits.argmax(-1) == new_logits.argmax(-1)).sum()
            divergence += F.kl_div(
                new_logits.log_softmax(-1), old_logits.log_softmax(-1), reduction="sum", log_target=True
            )
        self.agreement.update(int(agreeing), len(before))
        self.divergence.update(divergence, len(before))
        module.log(f"{stage}/drift/agreement", self.agreement)
        module.log(f"{stage}/drift/kl", self.divergence)
        data: TrainingData = module.trainer.datamodule  # type: ignore[attr-defined]
        references = data.references("validation" if stage == "val" else "test")
        outputs = self._base_outputs(stage, batch, data)
        for name, metric in self.quality.items():
            metric.update(list(outputs.values()), [references[index] for index in outputs])  # type: ignore[operator]
            module.log(f"{stage}/drift/base_{name}", metric)  # type: ignore[arg-type]

    def _base_outputs(self, stage: str, batch: ParallelBatch, data: TrainingData) -> dict[int, Any]:
        """The base's greedy output, which never changes and is decoded once."""
        indices = batch.index.tolist()
        if any((stage, index) not in self._outputs for index in indices):
            outputs = decode_batch(batch, data.codec, self._base[0], self._greedy)
            self._outputs |= {(stage, index): output for index, output in outputs.items()}
        return {index: self._outputs[stage, index] for index in indices}
