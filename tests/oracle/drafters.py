"""Small models and drafters that the tests of blockwise decoding share; float64."""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_bpd.decoding import GREEDY, sequential
from lightning_bpd.interfaces import Memory, Proposal, Sampler, TokenRows, VerifiedBlock
from lightning_bpd.models import Architecture, EncoderDecoder

BOS, EOS = 1, 2


def network(
    seed: int, norm: str = "pre", positions: str = "sinusoidal", max_length: int = 12, vocabulary: int = 6
) -> EncoderDecoder:
    torch.manual_seed(seed)
    architecture = Architecture(
        d_model=16, heads=2, encoder_layers=1, decoder_layers=2, feed_forward=32, dropout=0.0,
        norm=norm, positions=positions, max_length=max_length, tie="none",
    )  # fmt: skip
    model = EncoderDecoder(architecture, vocabulary, vocabulary, bos_id=BOS, eos_id=EOS).double().eval()
    torch.nn.init.normal_(model.output.weight)
    return model


def sources(rows: int, longest: int, seed: int, vocabulary: int = 6) -> TokenRows:
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, longest + 1, (rows,), generator=generator)
    return TokenRows(torch.randint(0, vocabulary, (rows, int(lengths.max())), generator=generator), lengths)


def row_of(source: TokenRows, row: int) -> TokenRows:
    length = source.lengths[row : row + 1]
    return TokenRows(source.tokens[row : row + 1, : int(length)], length)


class HeadLike:
    """Linear maps of the last accepted hidden state, projected as p_1 is: knows nothing else, as block heads do."""

    def __init__(self, model: EncoderDecoder, block_size: int, seed: int) -> None:
        self.model, self.block_size = model, block_size
        generator = torch.Generator().manual_seed(seed)
        width = model.architecture.d_model
        noise = torch.randn(block_size, width, width, generator=generator).double()
        self.maps = torch.eye(width).double() + 0.1 * noise

    def start(self, source: TokenRows, max_length: int, sampler: Sampler, memory: Memory) -> None:
        self.sampler = sampler

    def proposals(
        self, hidden: Tensor, following: Tensor, positions: Tensor, rows: Tensor, count: int
    ) -> Proposal:
        logits = self.model.project(torch.einsum("nd,ide->nie", hidden, self.maps[:count]))
        tokens = self.sampler.choose(logits, positions + 1, rows)
        return Proposal(tokens, self.sampler.probabilities(logits))

    def propose(self, verified: VerifiedBlock, following: Tensor, count: int) -> Proposal:
        last = verified.hidden[torch.arange(len(following)), verified.accepted - 1]
        positions = verified.positions + verified.accepted - 1
        return self.proposals(last, following, positions, verified.rows, count)

    def reorder(self, rows: Tensor) -> None:
        pass


class Knowing:
    """Proposes greedy's own tokens, each replaced by a wrong one with probability ``wrong``.

    Has a memory of its own, how far each row is, which it must keep as rows advance and leave.
    """

    block_size = 16

    def __init__(
        self,
        model: EncoderDecoder,
        source: TokenRows,
        extra_length: int,
        wrong: float,
        sampler: Sampler = GREEDY,
        rows: Tensor | None = None,
    ) -> None:
        result = sequential(model, source, extra_length, sampler, rows)
        self.known = torch.nn.functional.pad(result.tokens, (0, self.block_size))
        self.wrong = wrong

    def start(self, source: TokenRows, max_length: int, sampler: Sampler, memory: Memory) -> None:
        self.rows = torch.arange(len(source.lengths))
        self.read = torch.zeros(len(source.lengths), dtype=torch.long)
        self.generator = torch.Generator().manual_seed(0)

    def propose(self, verified: VerifiedBlock, following: Tensor, count: int) -> Proposal:
        self.read += verified.accepted  # the start token was the first
        assert torch.equal(self.known[self.rows, self.read - 1], following)
        tokens = self.known[self.rows[:, None], self.read[:, None] + torch.arange(count)]
        spoiled = torch.rand(tokens.shape, generator=self.generator) < self.wrong
        return Proposal(torch.where(spoiled, (tokens + 1) % 6, tokens))

    def reorder(self, rows: Tensor) -> None:
        self.rows, self.read = self.rows[rows], self.read[rows]
