"""A ``ParallelDrafter`` in decoding: its cache, and its proposals from left to right."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lightning_bpd.drafters.correction import MOST_TABLE, LeftToRight
from lightning_bpd.interfaces import Memory, Proposal, Sampler, TokenRows, VerifiedBlock
from lightning_bpd.kernels.linear import linear
from lightning_bpd.models.state import EncoderDecoderState, encoded_tensors
from lightning_bpd.rows import Rows, StaticRows

if TYPE_CHECKING:
    from lightning_bpd.drafters.parallel import ParallelDrafter


class ParallelProposer:
    """Proposes the sampler's choices at the position after the certain token and at mask tokens behind it.

    Every call appends the accepted tokens to the cache, and mask tokens, which the next call writes over. As masks only
    look back, the first proposals do not depend on how many there are.

    Args:
        module: The weights, in eval mode.
        weight: The base's vocabulary projection, [V, D].
        bias: The bias of the base's logits, [V], or None.
    """

    compiles = True
    sampler: Sampler
    """chooses the proposals; given to ``start``"""

    def __init__(self, module: ParallelDrafter, weight: Tensor, bias: Tensor | None) -> None:
        self.module = module
        self.candidates = module.candidates_of(len(weight))
        self._weight = weight.detach()
        self._bias = None if bias is None else bias.detach()
        self._chooser = LeftToRight(module.correction, self.candidates, len(weight), weight.dtype)

    @property
    def block_size(self) -> int:
        """The largest block that can be proposed."""
        return self.module.block_size

    # Lazy: training makes a drafter for each validation batch, mostly for its block size only.

    @cached_property
    def weight(self) -> Tensor:
        """The projection to the tokens that are proposed, [C, D]."""
        return self._weight if self.candidates is None else self._weight[self.candidates]

    @cached_property
    def bias(self) -> Tensor | None:
        """The bias of these tokens, [C], or None."""
        return self._bias if self._bias is None or self.candidates is None else self._bias[self.candidates]

    @cached_property
    def token_inputs(self) -> Tensor | None:
        """The part of the inputs that depends on the token, [V, D]; None if the table would be large."""
        if self._weight.numel() > MOST_TABLE:
            return None
        return self.module.of_tokens(self._weight)

    @torch.no_grad()
    def start(self, source: TokenRows, max_length: int, sampler: Sampler, memory: Memory) -> None:
        """Compute keys and values of the memory, and preallocate the cache (Drafter.start)."""
        self.sampler = sampler
        states, mask = self.module.seen(memory, self._weight)
        encoded = encoded_tensors(states, mask, (layer.cross_attention for layer in self.module.layers))
        # A call appends a block and at most as many mask tokens, of which the last may extend past the row's end.
        rows = Rows(len(states), max_length + 2 * self.block_size, states.device)
        self.state = EncoderDecoderState.of_source(encoded, rows, None)
        self.module.positions(rows.max_length, states)

    @torch.no_grad()
    def propose(self, verified: VerifiedBlock, following: Tensor, count: int) -> Proposal:
        """Propose ``count`` tokens that come after ``following`` (Drafter.propose)."""
        rows, accepted = self.state.cache.rows, None
        if isinstance(rows, StaticRows):
            rows.rewind(verified.positions)
        else:
            begins, accepted = torch.stack((verified.positions, verified.accepted)).tolist()
            rows.rewind(begins)
        outputs = self._outputs(verified, following, accepted, count)
        logits = linear(outputs.to(self._weight.dtype), self.weight, self.bias)
        positions = verified.positions + verified.accepted
        return self._chooser.choose(logits, following, positions, verified.rows, self.sampler)

    def reorder(self, rows: Tensor) -> None:
        """Let row i become what row ``rows[i]`` was (Drafter.reorder)."""
        self.state.reorder(rows)

    def _outputs(
        self, verified: VerifiedBlock, following: Tensor, accepted: list[int] | None, count: int
    ) -> Tensor:
        """The outputs that predict the ``count`` tokens after ``following``, [B, count, D].

        ``accepted`` is ``verified.accepted`` on the host; None if the host does not wait for it.
        """
        module, cache = self.module, self.state.cache
        most = verified.tokens.size(1) if accepted is None else max(accepted)
        tokens = torch.cat((verified.tokens[:, 1:most], following[:, None]), 1)
        alike = accepted is not None and min(accepted) == most
        index = torch.arange(most - 1 + count, device=tokens.device)
        last = verified.accepted[:, None] - 1
        if not alike:
            # The accepted tokens, the certain one, and what is passed over: proposals that were not accepted.
            tokens = torch.where(index[:most] == last, following[:, None], tokens)
        table = self.token_inputs
        of_tokens = module.of_tokens(self._weight[tokens]) if table is None else table[tokens]
        x = module.of_hidden(verified.hidden[:, :most]) + of_tokens
        x = torch.cat((x, module.masks[: count - 1].expand(x.size(0), -1, -1)), 1)
        if not alike:
            # The mask tokens follow the certain token, and what is passed over comes last.
            order = torch.where(index <= last, index, (index - last - 1 + most).clamp(max=len(index) - 1))
            x = x.gather(1, order[..., None].expand_as(x))
        slots, mask = cache.slots(len(index))
        positions = module.positions(cache.rows.max_length, x)
        start = slots.start
        x = x + positions[slots.positions if start is None else slice(start, start + slots.tokens)]
        for number, layer in enumerate(module.layers):
            x = layer.step(x, self.state, number, slots, mask)
        cache.rows.append(len(index))
        if alike:
            return module.norm(x[:, most - 1 :])
        places = last + index[:count]
        return module.norm(x.gather(1, places[..., None].expand(-1, -1, x.size(2))))
