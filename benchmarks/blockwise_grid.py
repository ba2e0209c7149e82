"""Quality, accepted block size and speed-up of models with block heads, for block sizes and acceptance rules.

python benchmarks/blockwise_grid.py --models '[runs/frozen/model, runs/joint/model]' --folder data/multi30k --corpus val

Quality is that of the whole corpus, in batches of the largest size; speed-ups are wall clock over our own cached greedy
decoding of the same sentences by the same model, the arms in turns, for each batch size.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from jsonargparse import auto_cli
from timing import machine, markdown, write_json

import lightning_bpd
from lightning_bpd.benchmark.comparison import Arm, compare_decoders
from lightning_bpd.callbacks.samples import spread
from lightning_bpd.datamodules.text_files import find_pair_files, read_pairs

BLOCK_SIZES, ACCEPTANCES, BATCH_SIZES = (1, 2, 4, 6, 8), ("exact", "top-2", "top-3", "minimum-2"), (1, 8, 32)


def blockwise_grid(
    models: list[Path],
    folder: Path = Path("data/multi30k"),
    corpus: str = "val",
    source_language: str = "en",
    target_language: str = "de",
    block_sizes: list[int] = list(BLOCK_SIZES),  # noqa: B006  # never changed
    acceptances: list[str] = list(ACCEPTANCES),  # noqa: B006
    batch_sizes: list[int] = list(BATCH_SIZES),  # noqa: B006
    timed: int = 192,
    threads: int = 1,
    device: str = "cpu",
    json: Path | None = None,
) -> None:
    """Print a Markdown table for each model.

    Args:
        models: Folders of finished models with block heads.
        folder: Where the corpus is.
        corpus: Its name, such as val or test_2016_flickr.
        source_language: As the data module has it.
        target_language: As the data module has it.
        block_sizes: Block sizes k' to decode with.
        acceptances: Rules to decode by; minimum-2 makes no difference at k' = 1, and is left out there.
        batch_sizes: Sentences decoded together.
        timed: Sentences that are timed, evenly spread over the corpus; the largest batch size takes all of them.
        threads: Of torch.
        device: Where to decode.
        json: File for the numbers.
    """
    torch.set_num_threads(threads)
    (files,) = find_pair_files(folder, [corpus], source_language, target_language)
    pairs = list(read_pairs(files))
    sources, references = [source for source, _ in pairs], [target for _, target in pairs]
    chosen = spread(list(range(len(pairs))), timed)
    rules = [
        (size, rule) for rule in acceptances for size in block_sizes if size > 1 or rule == acceptances[0]
    ]
    numbers = {}
    for folder_of_model in models:
        translator = lightning_bpd.load(folder_of_model, device)
        arms: dict[int, list[Arm]] = {}
        for batch_size in sorted(batch_sizes, reverse=True):
            places = range(len(pairs)) if batch_size == max(batch_sizes) else chosen
            arms[batch_size] = compare_decoders(
                translator, [sources[i] for i in places], [references[i] for i in places], rules, batch_size
            )
            sys.stderr.write(f"{folder_of_model}: batch size {batch_size} done\n")
        numbers[str(folder_of_model)] = {size: [arm._asdict() for arm in arms[size]] for size in arms}
        header = ["", "BLEU", "same as greedy", "mean accepted block size", "calls a sentence"]
        header += [f"speed-up, batch {size}" for size in sorted(batch_sizes)]
        rows = []
        for number, arm in enumerate(arms[max(batch_sizes)]):
            speed_ups = [arms[size][0].seconds / arms[size][number].seconds for size in sorted(batch_sizes)]
            rows.append(
                [
                    f"k' = {arm.block_size}, {arm.acceptance}" if number else "greedy",
                    f"{arm.bleu:.2f}",
                    f"{arm.greedy_agreement:.1%}",
                    f"{arm.mean_accepted_block_size:.3f}",
                    f"{arm.calls:.2f}",
                    *(f"{speed_up:.2f}" for speed_up in speed_ups),
                ]
            )
        print(f"\n{folder_of_model}, {corpus}, {threads} threads\n\n{markdown(header, rows)}")
    write_json(json, {"machine": machine(torch.device(device)), "corpus": corpus, "models": numbers})


if __name__ == "__main__":
    auto_cli(blockwise_grid, as_positional=False)
