"""Small grids of compare files, made up, of text and of images: toy outputs, known counts."""

import json
import math
import random
from pathlib import Path
from typing import Any

SENTENCES = 30
RULES = ("exact", "top-2", "minimum-2")
SIGNATURE = "nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:2.6.0"
TEXT = "the old man buys a small house near the river and his wife paints every door of it blue"
WORDS = TEXT.split()


def references() -> list[str]:
    draw = random.Random(7)
    return [" ".join(draw.choices(WORDS, k=draw.randint(6, 12))) for _ in range(SENTENCES)]


def spoiled(texts: list[str], share: float, seed: object) -> list[str]:
    """The texts with a share of their words replaced."""
    draw = random.Random(repr(seed))
    return [" ".join("xyz" if draw.random() < share else word for word in text.split()) for text in texts]


def bleu(outputs: list[str]) -> float:
    from sacrebleu.metrics.bleu import BLEU

    return BLEU().corpus_score(outputs, [references()]).score


def arm(
    decoder: str, size: int, rule: str, outputs: list[str], pace: float, greedy: list[str]
) -> dict[str, Any]:
    """An arm whose iterations are tokens ÷ pace, rounded up, and whose seconds follow from them."""
    tokens = [len(text.split()) + 1 for text in outputs]
    iterations = [
        max(1, -(-each // size), round(each / pace + (place % 3 - 1) * (0.4 if pace > 1 else 0)))
        for place, each in enumerate(tokens)
    ]
    accepted = [0] * size
    for length, blocks in zip(tokens, iterations, strict=True):
        least, longer = divmod(length, blocks)
        accepted[least - 1] += blocks - longer
        if longer:
            accepted[least] += longer
    calls = sum(iterations) / SENTENCES + (size > 1)
    seconds = calls * 0.001 * (1 + 0.1 * size)
    return {
        "decoder": decoder,
        "block_size": size,
        "acceptance": rule,
        "quality": {"bleu": bleu(outputs)},
        "to_greedy": None,
        "calls": calls,
        "mean_accepted_block_size": sum(tokens) / sum(iterations),
        "greedy_agreement": sum(a == b for a, b in zip(outputs, greedy, strict=True)) / SENTENCES,
        "seconds": seconds,
        "outputs": outputs,
        "tokens": tokens,
        "iterations": iterations,
        "accepted_sizes": accepted,
    }


def record(regime: str, data: str, k: int, seed: int) -> dict[str, Any]:
    """What compare writes of one model."""
    base = 0.10 if regime != "joint" else 0.09 + 0.01 * k + (0.02 if data == "gold" else 0)
    greedy = spoiled(references(), base, "base" if regime != "joint" else (regime, data, k, seed))
    speed = {"base": 0.0, "frozen": 0.25, "joint": 0.6}[regime] + 0.05 * (data == "distilled") + 0.01 * seed
    arms = [arm("greedy", 1, "exact", greedy, 1.0, greedy)]
    for rule in RULES if k > 1 else ():
        for size in range(2, k + 1) if rule == "exact" else [k]:
            share = {"exact": 0.0, "top-2": 0.05, "minimum-2": 0.3}[rule]
            pace = 1 + speed * (size - 1) ** 0.7 + share
            arms.append(arm("blockwise", size, rule, spoiled(greedy, share, (rule, size)), pace, greedy))
    for each in arms:
        each["speed_up"] = arms[0]["seconds"] / each["seconds"]
    tokens = sum(arms[0]["tokens"])
    exact = {each["block_size"]: sum(each["iterations"]) for each in arms if each["acceptance"] == "exact"}
    heads = k > 1
    return {
        "format": 2,
        "kind": "text",
        "model": f"runs/grid/{name(regime, data, k, seed)}/model",
        "training": {"regime": regime, "data": data, "block_size": k, "seed": seed},
        "corpus": {"folder": "data/toy", "name": "toy", "rows": SENTENCES, "hash": "ab" * 32},
        "settings": {
            "device": "cpu", "processor": "Some CPU", "cores": 2, "threads": 1, "precision": "float32",
            "batch_size": 64, "timed_rows": 10, "timed_batch_size": 1, "repeats": 1, "extra_length": 50,
        },
        "signature": SIGNATURE,
        "provenance": {
            "python": "3.11.4",
            "packages": {"torch": "2.13.0"},
            "git": {"revision": "0123456789abcdef", "changed": False},
            "command": ["compare", f"{seed}"],
        },
        "references": references(),
        "arms": arms,
        "replay": {"tokens": tokens, "iterations": [exact[size] for size in range(1, k + 1)]} if heads else None,
        "acceptance_by_position": [0.6**place for place in range(k)] if heads else None,
        "costs": {
            "start": 0.001,
            "call": [0.001 * (1 + 0.1 * size) for size in range(1, k + 1)],
            "propose": [0.0001 * size for size in range(k)],
        } if heads else None,
    }  # fmt: skip


def name(regime: str, data: str, k: int, seed: int) -> str:
    return regime if regime == "base" else f"{regime}_{data}_k{k}_s{seed}"


def write(folder: Path, record: dict[str, Any], corpus: str = "toy") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"compare_{corpus}.json"
    file.write_text(json.dumps(record), encoding="utf-8")
    return file


def grid(folder: Path, sizes: tuple[int, ...] = (1, 2, 4), seeds: tuple[int, ...] = (1, 2)) -> Path:
    """2 regimes × 2 data × sizes × seeds, and the base; frozen has no k = 1 of its own."""
    write(folder / "base", record("base", "gold", 1, 1))
    for regime in ("frozen", "joint"):
        for data in ("gold", "distilled"):
            for k in sizes:
                for seed in seeds:
                    if k > 1 or regime == "joint":
                        write(folder / name(regime, data, k, seed), record(regime, data, k, seed))
    return folder


def as_images(record: dict[str, Any]) -> dict[str, Any]:
    """The same of images of 64 intensities, with an error of 400 for each word that is not the reference's."""

    def errors(outputs: list[str], truths: list[str]) -> list[int]:
        pairs = zip(outputs, truths, strict=True)
        return [400 * sum(a != b for a, b in zip(x.split(), y.split(), strict=True)) for x, y in pairs]

    def quality(errors: list[int]) -> dict[str, float | None]:
        psnr = 10 * math.log10(255**2 * 64 * SENTENCES / sum(errors)) if any(errors) else None
        return {"psnr": psnr, "ssim": sum(1 - each / 10_000 for each in errors) / SENTENCES}

    greedy = record["arms"][0]["outputs"]
    for each in record["arms"]:
        outputs = each.pop("outputs")
        each["squared_errors"] = errors(outputs, references())
        each["ssims"] = [1 - error / 10_000 for error in each["squared_errors"]]
        each["quality"] = quality(each["squared_errors"])
        each["to_greedy"] = quality(errors(outputs, greedy))
        each["acceptance"] = each["acceptance"].replace("top-2", "distance-1")
    del record["references"], record["settings"]["extra_length"]
    return {**record, "kind": "images", "intensities": 64, "signature": "PSNR|mse:corpus SSIM|mean:image"}


def image_grid(folder: Path) -> Path:
    """2 regimes × 3 sizes on gold data, and the base."""
    write(folder / "base", as_images(record("base", "gold", 1, 1)))
    for regime in ("frozen", "joint"):
        for k in (1, 2, 4):
            if k > 1 or regime == "joint":
                write(folder / name(regime, "gold", k, 1), as_images(record(regime, "gold", k, 1)))
    return folder
