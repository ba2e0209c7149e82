"""Tokens per call of speculative Jacobi decoding, on a raster model of images of a class.

python benchmarks/jacobi.py --model runs/mnist_raster/model

Each output of the exact rule is compared with plain decoding, token for token.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from jsonargparse import auto_cli
from timing import machine, markdown

from lightning_bpd.decoding import GREEDY, JacobiDrafter, Sampled, Speculative, blockwise, sequential
from lightning_bpd.decoding.jacobi import row_length
from lightning_bpd.interfaces import TokenRows
from lightning_bpd.saved.finished_model import read_folder


def main(model: Path, windows: tuple[int, ...] = (4, 8, 16, 32), images: int = 20) -> None:
    """Measure windows, guesses and rules.

    Args:
        model: A finished model of images of a class, of one region.
        windows: Tokens that a call verifies.
        images: Images that are generated together, of all classes in turn.
    """
    torch.set_num_threads(1)
    network: Any = read_folder(model).to("cpu").network
    width = row_length(network)
    labels = torch.arange(images) % network.vocabularies.source_vocabulary
    source = TokenRows(labels[:, None], torch.ones_like(labels))
    samplers = {
        "greedy": GREEDY,
        "temperature 1": Sampled(),
        "temperature 1, top-5": Sampled(top_k=5),
        "temperature 0.7": Sampled(0.7),
    }
    rows = []
    for name, sampler in samplers.items():
        plain = sequential(network, source, sampler=sampler).tokens
        for window in windows:
            arms = [JacobiDrafter(window, guess, width) for guess in ("left", "above", "random")]
            arms.append(JacobiDrafter(window, "above", width, carry=False))
            calls = []
            for drafter in arms:
                result = blockwise(network, drafter, source, window, sampler=sampler)
                assert torch.equal(result.tokens, plain)
                calls.append(float(result.calls.float().mean()))
            if isinstance(sampler, Sampled):
                drafter = JacobiDrafter(window, "above", width, distributions=True)
                rule = Speculative(sampler)
                result = blockwise(network, drafter, source, window, rule, sampler=sampler)
                calls.append(float(result.calls.float().mean()))
            figures = [f"{plain.size(1) / each:.2f}" for each in calls]
            rows.append([name, str(window), *figures, *[""] * (5 - len(figures))])
    print(machine(torch.device("cpu")), f"{images} images, tokens per call\n")
    header = ["sampling", "window", "left", "above", "random", "above, nothing carried over", "above, p/q"]
    print(markdown(header, rows))


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
