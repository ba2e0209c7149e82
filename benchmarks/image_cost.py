"""What a token costs in images of several sizes: local attention with a cache of a window should make it the same.

python benchmarks/image_cost.py

One Image Transformer with random weights decodes greedily, one image at a time. Of each size the last local block of an
image is timed: all tokens before it are fed first, so that the cache is as full as it gets, and after each turn it is
rewound to there. All arms take turns, and ratios are taken within a turn.

A token attends to a window of the output, which is as long in all sizes, and to the whole input, which is not: at a
scale of 4 an image of 64 x 64 has an input of 16 x 16. So each size is decoded twice, from its own input and from one
as small as the smallest size's: what the first takes longer is cross-attention over the longer input.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from jsonargparse import auto_cli
from timing import interleaved_seconds, machine, markdown, write_json

from lightning_bpd.interfaces import TokenRows
from lightning_bpd.models import ImageArchitecture, ImageTransformer
from lightning_bpd.models.encoder_decoder import EncoderDecoderState


@dataclass
class Image:
    """An image that is decoded but for its last local block."""

    network: ImageTransformer
    source: TokenRows
    state: EncoderDecoderState

    @property
    def timed(self) -> int:
        """Tokens of the last local block."""
        return self.network.architecture.local_block

    @torch.inference_mode()
    def decode(self) -> None:
        """Decode the last local block greedily, and forget it again."""
        network = self.network
        newest = torch.zeros(1, 1, dtype=torch.long, device=self.source.tokens.device)
        for _ in range(self.timed):
            newest = network.project(network.step(newest, self.state)).argmax(-1)
        self.state.rewind(torch.tensor([network.max_length - self.timed]))

    @torch.inference_mode()
    def attend_to_input(self) -> None:
        """What of that is cross-attention, its projections included."""
        x = torch.zeros(1, 1, self.network.architecture.d_model, device=self.source.tokens.device)
        for _ in range(self.timed):
            for layer, keys_values in zip(self.network.decoder, self.state.row_source, strict=True):
                layer.cross_attention.cross(x, *keys_values, None)

    @torch.inference_mode()
    def encode(self) -> None:
        """What is done once an image: the encoder, and keys and values of the input."""
        self.network.start(self.source, None, self.network.max_length)

    def bytes(self) -> dict[str, int]:
        """What the decoder remembers of one row."""
        source = sum(part.nbytes for keys_values in self.state.row_source for part in keys_values)
        return {"cache bytes": self.state.cache.entries.nbytes, "input bytes": source}


@torch.inference_mode()
def prepare(architecture: ImageArchitecture, weights: ImageTransformer, device: torch.device) -> Image:
    """An image of random tokens up to its last local block, by a network that shares ``weights``."""
    network = ImageTransformer(architecture).to(device).eval()
    network.load_state_dict(weights.state_dict(), assign=True)
    source, before = (
        torch.randint(architecture.levels, (1, length), device=device)
        for length in (architecture.source_length, network.max_length - architecture.local_block)
    )
    rows = TokenRows(source, torch.tensor([architecture.source_length], device=device))
    state = network.start(rows, None, network.max_length)
    network.step(before, state)
    return Image(network, rows, state)


def main(
    sides: Sequence[int] = (16, 32, 64),
    shape: ImageArchitecture = ImageArchitecture(dropout=0.0),  # noqa: B008  # frozen
    threads: int = 1,
    device: Literal["cpu", "cuda"] = "cpu",
    repeats: int = 5,
    json: Path | None = None,
) -> None:
    """Time a token of greedy decoding in images of several sizes, in float32, one image at a time.

    Args:
        sides: Height and width of the images in pixels, the smallest first.
        shape: The network; its height and width do not matter. The paper's if not given.
        threads: CPU threads.
        device: Where to decode.
        repeats: Timed turns.
        json: Where to write the numbers as well.
    """
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    place = torch.device(device)
    weights = ImageTransformer(shape).to(place)
    own, small = (
        [
            prepare(replace(shape, height=side, width=side, scale=scale), weights, place)
            for side, scale in zip(sides, scales, strict=True)
        ]
        for scales in ([shape.scale] * len(sides), [side * shape.scale // sides[0] for side in sides])
    )
    arms: dict[str, Callable[[], object]] = {}
    for side, one, other in zip(sides, own, small, strict=True):
        arms |= {
            f"own {side}": one.decode,
            f"small {side}": other.decode,
            f"input {side}": one.attend_to_input,
            f"encoder {side}": one.encode,
        }
    seconds = interleaved_seconds(arms, repeats, place)

    def ratio(one: str, other: str) -> float:
        return statistics.median(a / b for a, b in zip(seconds[one], seconds[other], strict=True))

    results = []
    for side, image in zip(sides, own, strict=True):
        token = {
            arm: 1e6 * statistics.median(seconds[f"{arm} {side}"]) / image.timed
            for arm in ("own", "small", "input")
        }
        results.append(
            {
                "image": f"{side} x {side}",
                "tokens": image.network.max_length,
                "input tokens": image.source.tokens.size(1),
                "us a token": token["own"],
                "to the smallest": ratio(f"own {side}", f"own {sides[0]}"),
                "us a token, smallest input": token["small"],
                "to the smallest, smallest input": ratio(f"small {side}", f"small {sides[0]}"),
                "cross-attention, us a token": token["input"],
                "share": ratio(f"input {side}", f"own {side}"),
                "encoder, ms an image": 1e3 * statistics.median(seconds[f"encoder {side}"]),
                **image.bytes(),
            }
        )
    print(f"{machine(place)}, {repeats} repeats, the last {shape.local_block} tokens of each image\n")
    print(markdown(list(results[0]), [list(map(_cell, entry.values())) for entry in results]))
    write_json(json, {"machine": machine(place), "shape": asdict(shape), "results": results})


def _cell(value: float | int | str) -> str:
    if isinstance(value, float):
        return f"{value:.2f}" if value < 10 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) else value


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
