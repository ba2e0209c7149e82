"""Images decoded greedily and by blocks, for the eye (floor 4)."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from lightning_bpd.callbacks.samples import spread
from lightning_bpd.decoding import blockwise, greedy
from lightning_bpd.interfaces import TokenRows
from lightning_bpd.tasks.finished_model import Parts
from lightning_bpd.tasks.panels import BlockwisePanel, ImagePanels, sizes_per_token
from lightning_bpd.tasks.translation import block_decoder

# Block sizes that are shown, of those that the heads were trained for.
SHOWN = (2, 4, 8)


def decode_panels(parts: Parts, data: Any, device: torch.device, count: int) -> list[ImagePanels]:
    """Some validation images: input, truth, greedy output and, by the exact rule, blocks of several sizes.

    Args:
        parts: A model of images.
        data: The data module.
        device: Where to decode.
        count: How many, evenly spread.
    """
    codec: Any = parts.codec
    truths, inputs = data.references("validation"), data.sources("validation")
    chosen = spread(list(range(len(truths))), count)
    tokens = torch.from_numpy(codec.source_tokens(np.stack([truths[i] for i in chosen]))).to(device)
    rows = TokenRows(tokens, torch.full((len(chosen),), tokens.size(1), device=device))
    network = parts.network.to(device).eval()
    plain = codec.decode(greedy(network, rows).rows())
    panels: list[list[BlockwisePanel]] = [[] for _ in chosen]
    if parts.heads is not None:
        model, drafter = block_decoder(network, parts.heads.to(device).eval())
        for size in sorted(
            {*(size for size in SHOWN if size < drafter.block_size), drafter.block_size} - {1}
        ):
            result = blockwise(model, drafter, rows, size)
            assert result.accepted is not None
            outputs = codec.decode(result.rows())
            for panel, image, accepted in zip(panels, outputs, result.accepted.cpu().numpy(), strict=True):
                sizes = sizes_per_token(accepted[accepted > 0], codec.target_length)
                panel.append(BlockwisePanel(size, image, sizes))
    return [
        ImagePanels(f"image {i + 1}", inputs[i], truths[i], output, panel)
        for i, output, panel in zip(chosen, plain, panels, strict=True)
    ]
