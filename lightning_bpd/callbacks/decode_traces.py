"""Blockwise decoding of single rows, shown iteration by iteration (Stern et al. 2018, section 7.4)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from torch import Tensor

from lightning_bpd.codecs.codec import Codec
from lightning_bpd.decoding import DecodingOptions, decode
from lightning_bpd.interfaces import Drafter, Proposal, SequenceModel, TokenRows, VerifiedBlock

COLUMNS = ["row", "iteration", "accepted", "rejected", "failed head", "p_1 wanted"]
LEGEND = (
    "Each line is one iteration: the tokens that were accepted, of which the first was certain; those proposed after\n"
    "them and rejected; the head that failed first; and what p_1 wanted in its place."
)


class Iteration(NamedTuple):
    """The accepted and rejected tokens of one iteration, as ids."""

    accepted: list[int]
    rejected: list[int]
    """the block's other tokens; empty if all were accepted or the row ended within the block"""
    failed_head: int | None
    """the number, from 2, of the head that proposed the first rejected token"""
    wanted: int | None
    """p_1's own choice in place of the first rejected token"""


class Recorder:
    """A drafter that records the proposals of another drafter for one row."""

    def __init__(self, drafter: Drafter) -> None:
        self.drafter = drafter
        self.proposals: list[list[int]] = []
        """the proposals of each block, without its certain token"""

    def __getattr__(self, name: str) -> Any:
        return getattr(self.drafter, name)

    def propose(self, verified: VerifiedBlock, following: Tensor, count: int) -> Proposal:
        """Propose, and record the proposals."""
        proposal = self.drafter.propose(verified, following, count)
        self.proposals += proposal.tokens.tolist()
        return proposal


def trace(
    model: SequenceModel[Any],
    drafter: Drafter,
    source: TokenRows,
    options: DecodingOptions,
    row_number: Tensor | None = None,
) -> list[Iteration]:
    """The iterations that decode one row.

    Args:
        model: p_1, in eval mode.
        drafter: Proposes the tokens.
        source: One row, int64 [1, S] and [1].
        options: How to decode blockwise.
        row_number: int64 [1], the number of the row in its corpus, which selects its noise.
    """
    recorder = Recorder(drafter)
    result = decode(model, source, options, recorder, row_number)
    assert result.accepted is not None
    (row,) = result.rows()
    iterations = []
    end = 0
    for number, size in enumerate(size for size in result.accepted[0].tolist() if size):
        accepted, end = row[end : end + size], end + size
        # p_1's choice follows every block but the last. In the last block, tokens not accepted lie past the end.
        rejected = recorder.proposals[number][size - 1 :] if end < len(row) and recorder.proposals else []
        failure = (size + 1, row[end]) if rejected else (None, None)
        iterations.append(Iteration(accepted, rejected, *failure))
    return iterations


def some_rows(rows: TokenRows, positions: list[int]) -> TokenRows:
    """The rows at these positions of the batch, padded to the longest of them."""
    lengths = rows.lengths[positions]
    return TokenRows(rows.tokens[positions, : int(lengths.max())], lengths)


def table_rows(traces: Mapping[int, Sequence[Iteration]], codec: Codec) -> list[list[Any]]:
    """The traces with ``COLUMNS``, a line for each iteration: rows and iterations count from 1, tokens are text."""
    lines: list[list[Any]] = []
    for index, iterations in sorted(traces.items()):
        prefix: list[int] = []
        for number, each in enumerate(iterations, start=1):
            accepted = codec.pieces(prefix, each.accepted)
            prefix += each.accepted
            rejected = codec.pieces(prefix, each.rejected)
            wanted = codec.pieces(prefix, [] if each.wanted is None else [each.wanted])
            texts = [" ".join(part) for part in (accepted, rejected, wanted)]
            lines.append([index + 1, number, texts[0], texts[1], each.failed_head, texts[2]])
    return lines


def markdown(
    title: str, lines: Sequence[Sequence[Any]], sources: Sequence[Any], references: Sequence[Any]
) -> str:
    """The lines of ``table_rows`` as a document with a table for each row of the corpus."""
    text = [f"# {title}", "", LEGEND, ""]
    row = None
    for line in lines:
        if line[0] != row:
            text += [""] if row else []
            row = line[0]
            text += [f"## Row {row}", ""]
            if isinstance(sources[row - 1], str):
                text += [f"- source: {sources[row - 1]}", f"- reference: {references[row - 1]}", ""]
            text += ["| " + " | ".join(COLUMNS[1:]) + " |", "|---" * len(COLUMNS[1:]) + "|"]
        number, accepted, rejected, failed_head, wanted = line[1:]
        cells = [str(number), _code(accepted), _code(rejected), str(failed_head or ""), _code(wanted)]
        text.append("| " + " | ".join(cells) + " |")
    return "\n".join(text) + "\n"


def _code(text: str) -> str:
    # Double backquotes, because the text may hold a single one. A bar would end the cell.
    return "`` " + text.replace("|", "\\|") + " ``" if text else ""
