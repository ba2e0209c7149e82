"""Block heads in decoding: a drafter, and a base whose predictions come from head 1."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any, Generic

import torch
from torch import Tensor

from lightning_bpd.drafters.correction import LeftToRight
from lightning_bpd.drafters.layer import HeadLayer
from lightning_bpd.interfaces import (
    InputError,
    Memory,
    Proposal,
    Sampler,
    SequenceModel,
    State,
    TokenRows,
    VerifiedBlock,
)
from lightning_bpd.kernels.linear import linear

if TYPE_CHECKING:
    from lightning_bpd.drafters.block_heads import BlockHeads

# Number of weights from which reading a projection takes longer than rounding the rows to 8 bits.
EIGHT_BITS_FROM = 1_000_000


class HeadDrafter:
    """Proposes the sampler's choices among the logits of heads 2 to k at the last accepted token.

    p_1 verifies every proposal, so the logits of the heads need not be exact. On a CPU a large projection is rounded
    to 8 bits, which reads a quarter of the memory. Except for near-ties, the proposals do not change.

    Args:
        heads: The heads. If the vocabulary is small, they are folded into the projection (``folded``) at the first
            proposal, with the weights as they are at that time.
        weight: The base's vocabulary projection, [V, D]; rounded or selected at the first proposal, too.
        eight_bits: Whether to round to 8 bits; by default if it is faster and the processor supports it.
        bias: The bias of the base's logits, [V], or None.

    Raises:
        InputError: ``eight_bits`` is True, but the processor, the device or the weight's dtype does not allow it.
    """

    def __init__(
        self,
        heads: BlockHeads,
        weight: Tensor,
        eight_bits: bool | None = None,
        bias: Tensor | None = None,
    ) -> None:
        self.heads = heads
        self.candidates = heads.candidates_of(len(weight))
        self._weight = weight.detach()
        self._bias = None if bias is None else bias.detach()
        self._chooser = LeftToRight(heads.correction, self.candidates, len(weight), weight.dtype)
        possible = weight.is_cpu and weight.dtype == torch.float32 and _multiplies_eight_bits()
        if eight_bits and not possible:
            raise InputError(
                "8 bits need a float32 projection and a processor with VNNI: leave eight_bits out"
            )
        if eight_bits is None:
            tokens = len(weight) if self.candidates is None else len(self.candidates)
            eight_bits = possible and tokens * weight.size(1) >= EIGHT_BITS_FROM
        self.eight_bits = eight_bits

    # The properties below are lazy: training makes a drafter for each validation batch, mostly for its block size only.

    compiles = True
    sampler: Sampler
    """chooses the proposals; given to ``start``"""

    @cached_property
    def weight(self) -> Tensor:
        """The projection to the tokens that heads propose, [C, D]."""
        return self._weight if self.candidates is None else self._weight[self.candidates]

    @cached_property
    def bias(self) -> Tensor | None:
        """The bias of these tokens, [C], or None."""
        return self._bias if self._bias is None or self.candidates is None else self._bias[self.candidates]

    @cached_property
    def rounded(self) -> _EightBits | None:
        """The projection in 8 bits, or None if it is not rounded."""
        return _EightBits(self.weight, self.bias) if self.eight_bits else None

    @cached_property
    def folded(self) -> HeadLayer | None:
        """Heads with their second matrix folded into the projection, if V is at most D; else None.

        W (O u + b + h) = (W O) u + W b + W h, which has fewer multiplications and one product less. This is for images.
        """
        layer, weight = self.heads.layer, self.weight
        if len(weight) > weight.size(1) or weight.dtype != layer.output_weight.dtype:
            return None
        return layer._replace(
            output_weight=weight @ layer.output_weight, output_bias=layer.output_bias @ weight.t()
        )

    @property
    def block_size(self) -> int:
        """The largest block that the heads can propose."""
        return self.heads.block_size

    def start(self, source: TokenRows, max_length: int, sampler: Sampler, memory: Memory) -> None:
        """Choose proposals by ``sampler`` (Drafter.start)."""
        self.sampler = sampler

    def propose(self, verified: VerifiedBlock, following: Tensor, count: int) -> Proposal:
        """Propose ``count`` tokens that come after ``following`` (Drafter.propose)."""
        index = torch.arange(following.size(0), device=following.device)
        hidden = verified.hidden[index, verified.accepted - 1]
        positions = verified.positions + verified.accepted - 1
        return self.proposals(hidden, following, positions, verified.rows, count)

    def reorder(self, rows: Tensor) -> None:
        """Do nothing: the drafter remembers nothing of the rows (Drafter.reorder)."""

    @torch.no_grad()
    def proposals(
        self, hidden: Tensor, following: Tensor, positions: Tensor, rows: Tensor, count: int
    ) -> Proposal:
        """Propose the tokens of heads 2 to ``count`` + 1 (ReplayableDrafter.proposals).

        Raises:
            InputError: There are fewer heads.
        """
        logits = self.logits(hidden, count, following)
        return self._chooser.choose(logits, following, positions + 1, rows, self.sampler)

    def logits(self, hidden: Tensor, count: int, following: Tensor | None = None) -> Tensor:
        """Compute the logits of heads 2 to ``count`` + 1, [..., count, C], without corrections.

        Args:
            hidden: [..., D], the hidden states of the last accepted tokens.
            count: The number of heads.
            following: int64 [...], the certain tokens, for heads that see them.
        """
        heads = range(2, count + 2)
        seen = None
        if self.heads.shape.following:
            assert following is not None
            seen = self._weight[following]
        if self.folded is not None:
            flat = hidden.reshape(-1, hidden.size(-1))
            layer = self.folded.of(self.heads.learned(heads))
            inputs = flat if seen is None else torch.cat((flat, seen.reshape(flat.shape)), 1)
            logits = layer.outputs(linear(flat, self.weight, self.bias), layer.units(inputs))
            return logits.view(*hidden.shape[:-1], count, -1)
        outputs = _outputs(self.heads, hidden, heads, seen)
        if torch.compiler.is_compiling() or self.rounded is None:
            return linear(outputs, self.weight, self.bias)
        return self.rounded.products(outputs)


def _outputs(heads: BlockHeads, hidden: Tensor, numbers: range, following: Tensor | None = None) -> Tensor:
    """Compute heads in the dtype of their weights; return outputs in the dtype of the hidden states."""
    dtype = heads.hidden_weight.dtype
    following = None if following is None else following.to(dtype)
    return heads(hidden.to(dtype), numbers, following).to(hidden.dtype)


class _EightBits:
    """A float32 matrix [V, D], each row rounded to 255 steps of its own size, and a bias [V]."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self.bias = bias
        self.steps = weight.abs().amax(1).clamp(min=torch.finfo(weight.dtype).tiny) / 127
        rounded = (weight / self.steps[:, None]).round().to(torch.int8)
        self.packed = torch.ops.onednn.qlinear_prepack(rounded, None)
        self.zeros = torch.zeros(len(weight), dtype=torch.long)

    def products(self, rows: Tensor) -> Tensor:
        """Compute approximate logits of hidden states: [..., D] to [..., V]."""
        rows = rows.float()
        steps = rows.abs().amax(-1, keepdim=True).clamp(min=torch.finfo(rows.dtype).tiny) / 127
        # The processor needs one unsigned factor: 128 represents 0.
        rounded = (rows / steps).round().add(128).to(torch.uint8)
        products = torch.ops.onednn.qlinear_pointwise(
            rounded,
            1.0,
            128,
            self.packed,
            self.steps,
            self.zeros,
            None,
            1.0,
            0,
            torch.float32,
            "none",
            [],
            "",
        )
        products *= steps
        return products if self.bias is None else products + self.bias


def _multiplies_eight_bits() -> bool:
    # torch.compile makes this operator from a quantized layer. Without VNNI it is slower than float32.
    return hasattr(torch.ops.onednn, "qlinear_pointwise") and bool(
        getattr(torch.cpu, "_is_vnni_supported", bool)()
    )


class FirstHead(Generic[State]):
    """A base whose predictions come from a learned head 1.

    Args:
        model: The base.
        heads: Heads with a learned head 1.

    Raises:
        InputError: Head 1 is the identity, which needs no wrapper.
    """

    def __init__(self, model: SequenceModel[State], heads: BlockHeads) -> None:
        if heads.first != 1:
            raise InputError("these heads have no learned head 1: decode with the base itself")
        self.model = model
        self.heads = heads
        self.bos_id = model.bos_id
        self.compiles = getattr(model, "compiles", False)

    @property
    def ends(self) -> frozenset[int]:
        """Tokens that end a row."""
        return self.model.ends

    @property
    def max_length(self) -> int | None:
        """The longest row that the model can decode, in tokens; None for no limit."""
        return self.model.max_length

    def start(self, source: TokenRows, rows: Tensor | None, max_length: int, **encode: Any) -> State:
        """Encode each source once and preallocate a cache (SequenceModel.start)."""
        return self.model.start(source, rows, max_length, **encode)

    def step(self, tokens: Tensor, state: State) -> Tensor:
        """Append tokens (int64 [B, T]) to the rows; return the base's hidden states [B, T, D]."""
        return self.model.step(tokens, state)

    def project(self, hidden: Tensor) -> Tensor:
        """Project the base's hidden states [..., D] to head 1's logits [..., V]."""
        return self.model.project(_outputs(self.heads, hidden, range(1, 2)).squeeze(-2))
