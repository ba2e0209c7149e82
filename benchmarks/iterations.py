"""Where the time of an iteration goes: a call over k tokens, and what the drafter adds; plain and compiled.

python benchmarks/iterations.py --model runs/multi30k/model
python benchmarks/iterations.py --repeats 3

Rows have no end and drafters random weights, so that every arm decodes the same number of tokens, about one a call.
The call alone is timed with a drafter that costs nothing. Efficiency / L_k is the time of that
iteration over the time of one with a real drafter.
"""

from __future__ import annotations

import statistics
from functools import partial
from pathlib import Path

import torch
from jsonargparse import auto_cli
from timing import interleaved_seconds, machine, markdown
from torch import Tensor

from lightning_bpd.decoding import blockwise, greedy
from lightning_bpd.decoding.compiled import compiled
from lightning_bpd.drafters import HeadShape, ParallelDraft
from lightning_bpd.interfaces import (
    Drafter,
    Memory,
    Proposal,
    Sampler,
    TokenRows,
    VerifiedBlock,
    Vocabularies,
)
from lightning_bpd.models import Architecture, EncoderDecoder
from lightning_bpd.saved.finished_model import read_folder


class NextToken:
    """Proposes the token after the certain one in the vocabulary, at no cost."""

    compiles = True

    def __init__(self, block_size: int, vocabulary: int) -> None:
        self.block_size, self.vocabulary = block_size, vocabulary

    def start(self, source: TokenRows, max_length: int, sampler: Sampler, memory: Memory) -> None:
        """Nothing to begin."""

    def propose(self, verified: VerifiedBlock, following: Tensor, count: int) -> Proposal:
        """Propose the same token ``count`` times, which is hardly ever right."""
        return Proposal(((following + 1) % self.vocabulary)[:, None].expand(-1, count))

    def reorder(self, rows: Tensor) -> None:
        """Nothing to reorder."""


def main(
    model: Path | None = None,
    block_sizes: tuple[int, ...] = (2, 4, 8),
    batch_size: int = 1,
    source_length: int = 14,
    tokens: int = 64,
    candidates: int = 1500,
    repeats: int = 7,
    threads: int = 1,
) -> None:
    """Time iterations of a translation model with random drafters.

    Args:
        model: A finished model's folder; the base size of Vaswani et al. (2017), of random weights, by default.
        block_sizes: Tokens that a call verifies.
        batch_size: Rows of the batch.
        source_length: Tokens of each source.
        tokens: Tokens that each row gets.
        candidates: Tokens that drafters choose from.
        repeats: Timed runs of each arm, which take turns.
        threads: Threads of torch.
    """
    torch.set_num_threads(threads)
    vocabularies = Vocabularies(32_000, 32_000, bos_id=1, eos_id=2)
    network = Architecture().build(vocabularies) if model is None else read_folder(model).network
    assert isinstance(network.eval(), EncoderDecoder)
    network.ends = frozenset()
    torch.manual_seed(0)
    source = TokenRows(
        torch.randint(4, network.source_vocabulary, (batch_size, source_length)),
        torch.full((batch_size,), source_length),
    )
    most = max(block_sizes)
    candidates = min(candidates, network.target_vocabulary)
    drafters: dict[str, Drafter] = {"none": NextToken(most, network.target_vocabulary)}
    for name, shape in {
        "heads": HeadShape(block_size=most, candidates=candidates),
        "ParallelDraft, 2 layers": ParallelDraft(
            block_size=most, layers=2, correction=64, candidates=candidates
        ),
    }.items():
        drafters[name] = shape.build(network).eval().drafter(network)
    extra = tokens - source_length
    arms = {
        ("greedy", 1, False): partial(greedy, network, source, extra),
        ("greedy", 1, True): partial(compiled, network, None, source, 1, extra_length=extra),
    }
    for name, drafter in drafters.items():
        for size in block_sizes:
            for loop in (blockwise, compiled):
                arms[name, size, loop is compiled] = partial(
                    loop, network, drafter, source, size, extra_length=extra
                )
    calls = {key: int(arm().calls.max()) for key, arm in arms.items()}
    device = torch.device("cpu")
    seconds = interleaved_seconds({str(key): arm for key, arm in arms.items()}, repeats, device)
    each = {key: statistics.median(seconds[str(key)]) / calls[key] * 1e3 for key in arms}
    print(machine(device), f"{batch_size} rows of {tokens} tokens, {repeats} repeats\n")
    rows = []
    for name, size, kind in arms:
        own, one = each[name, size, kind], each["greedy", 1, kind]
        alone = each["none", size, kind] if size > 1 else own
        figures = f"{own:.2f}", f"{own / one:.2f}", f"{alone / own:.2f}"
        rows.append(["compiled" if kind else "plain", name, str(size), *figures])
    header = ["loop", "drafter", "k", "ms an iteration", "in greedy calls", "efficiency / L_k"]
    print(markdown(header, sorted(rows)))


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
