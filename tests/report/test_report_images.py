"""A report on models of images: the same tables in other words."""

import json
import math
import re
from dataclasses import replace

import numpy as np
import pytest
import small_grid

from lightning_bpd.cli.report import report
from lightning_bpd.interfaces import InputError
from lightning_bpd.measuring.record import read_record
from lightning_bpd.report.cells import Key, gather, measure, timed_rules
from lightning_bpd.report.runs import read_runs, unequal_scores
from lightning_bpd.report.statistics import compare_psnr, psnr


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    small_grid.image_grid(folder / "grid")
    report([str(folder / "grid")], str(folder / "out"), resamples=100)
    return folder


@pytest.fixture
def record():
    return small_grid.as_images(small_grid.record("joint", "gold", 2, 1))


def tables_of(folder):
    plain = json.loads((folder / "out" / "report.json").read_text(encoding="utf-8"))
    blocks = [block for section in plain["sections"] for block in section["blocks"]]
    return {block["name"]: block for block in blocks if "rows" in block}


@pytest.mark.parametrize("file", ["report.html", "report.md", "report.json"])
def test_nothing_is_said_of_text(folder, file):
    text = (folder / "out" / file).read_text(encoding="utf-8")
    assert not re.search(r"bleu|sentences? |Table [14]|distilled", text, re.IGNORECASE)
    assert "PSNR (dB)" in text
    assert "SSIM" in text


def test_cells_follow_from_the_files(folder):
    tables = tables_of(folder)
    table = tables["quality-distance-1"]
    assert table["title"] == "The same by distance-1: PSNR (dB) / mean accepted block size"
    assert tables["quality-exact"]["title"].startswith("Table 2, exact rule")
    assert table["columns"] == ["k", "frozen, gold", "joint, gold"]
    arm = json.loads((folder / "grid" / "joint_gold_k4_s1" / "compare_toy.json").read_text())["arms"][-2]
    assert (arm["acceptance"], arm["block_size"]) == ("distance-1", 4)
    row = next(row for row in table["rows"] if row[0]["text"] == "4")
    size = sum(arm["tokens"]) / sum(arm["iterations"])
    expected = 10 * math.log10(255**2 * 64 * small_grid.SENTENCES / sum(arm["squared_errors"]))
    assert row[2]["text"] == f"{expected:.2f} / {size:.2f}"
    assert row[2]["small"] == f"SSIM {np.mean(arm['ssims']):.3f}"
    certainty = next(row for row in tables["certainty-distance-1"]["rows"] if row[0]["text"] == "4")
    assert re.fullmatch(r"[−+][\d.]+ dB, p: [<\d. ]+", certainty[2]["small"])
    assert tables["speed"]["columns"][:4] == ["model", "k", "PSNR (dB)", "SSIM"]
    assert len(tables["speed-distance-1"]["rows"]) == 4
    nearness = tables["arms"]["columns"].index("PSNR (dB) to greedy")
    shown = {row[1]["text"]: row[nearness]["text"] for row in tables["arms"]["rows"] if row[2]["text"] == "4"}
    assert shown["exact"] == "equal"
    assert re.fullmatch(r"\d\d\.\d\d", shown["distance-1"])


def test_frozen_heads_do_not_change_the_images(folder):
    runs, _ = read_runs([str(folder / "grid")])
    assert timed_rules(runs) == ["exact", "distance-1"]
    results = measure(gather(runs), resamples=100)
    frozen = results[Key("frozen", "gold", "exact", 4)]
    assert (frozen.quality_difference, frozen.p_values) == (0.0, [1.0])
    relaxed = results[Key("joint", "gold", "minimum-2", 4)]
    one = results[Key("joint", "gold", "exact", 1)]
    assert relaxed.quality_difference == pytest.approx(relaxed.quality - one.quality)
    assert relaxed.others["ssim"] != one.others["ssim"]
    assert unequal_scores(runs) == []


def test_paired_test_tells_better_images_from_equal_ones():
    draw = np.random.default_rng(1)
    baseline = draw.integers(1_000, 9_000, 50)
    other = draw.permutation(baseline)
    same, similar, better = compare_psnr(baseline, [baseline, other, baseline // 2], 64)
    assert same.p_value == 1.0
    assert similar.p_value > 0.05
    assert better.p_value < 0.01
    assert better.system - better.baseline == pytest.approx(10 * math.log10(2), abs=0.01)
    assert same.baseline == pytest.approx(10 * math.log10(255**2 * 50 * 64 / baseline.sum()))
    # Draws that hold no wrong image do not spoil it.
    assert 0 < compare_psnr([0, 0, 0, 9], [[0, 0, 9, 9]], 64)[0].p_value <= 1


def test_psnr_is_that_of_the_metric():
    from lightning_bpd.metrics.images import psnr as of_metric

    assert float(psnr(12_345, 640)) == pytest.approx(of_metric(12_345, 640), abs=1e-12)


def test_images_too_small_for_ssim(tmp_path, record):
    for arm in record["arms"]:
        del arm["ssims"], arm["quality"]["ssim"], arm["to_greedy"]["ssim"]
    small_grid.write(tmp_path / "run", record)
    report([str(tmp_path / "run")], str(tmp_path / "out"), resamples=100)
    assert "SSIM" not in tables_of(tmp_path)["arms"]["columns"]
    assert tables_of(tmp_path)["quality-exact"]["rows"][0][1]["small"] == ""


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("kind",), "sound", "kind: it should be 'text' or 'images'"),
        (("intensities",), 0, "intensities: it should be greater than or equal to 1"),
        (
            ("arms", 1, "squared_errors"),
            [1.5] * 30,
            r"arms\[1\].squared_errors\[0\]: it should be a valid integer",
        ),
        (("arms", 1, "ssims"), [1.0], r"arms\[1\].ssims' must hold 30 values"),
        (("arms", 1, "quality"), {"ssim": 1.0}, r"arms\[1\].quality: 'psnr' is missing"),
        (("arms", 1, "quality", "psnr"), None, "infinite because the output equals the reference"),
        (("arms", 1, "to_greedy"), {"psnr": "far"}, r"arms\[1\].to_greedy.psnr: it should be a valid number"),
        (("arms", 1, "to_greedy"), {"psnr": 30.0}, r"arms\[1\].to_greedy: 'ssim' is missing"),
    ],
)
def test_wrong_values_are_named(tmp_path, record, path, value, message):
    inner = record
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    with pytest.raises(InputError, match=message):
        read_record(small_grid.write(tmp_path, record))


def test_scores_that_do_not_follow_from_errors_are_named(tmp_path, record):
    record["arms"][1]["quality"]["psnr"] += 1
    small_grid.write(tmp_path / "run", record)
    (sentence,) = unequal_scores(read_runs([str(tmp_path)])[0])
    assert "blockwise k' = 2, exact)" in sentence


def test_other_images_are_not_compared(folder):
    runs, _ = read_runs([str(folder / "grid")])
    base = next(run for run in runs if run.column[0] == "base")
    corpus = replace(base.record.corpus, hash="other")
    base = replace(base, record=replace(base.record, corpus=corpus))
    joint = next(run for run in runs if (run.column[0], run.block_size) == ("joint", 4))
    assert measure(gather([joint, base]), 100)[Key("joint", "gold", "exact", 4)].quality_difference is None


def test_text_and_images_make_no_table(tmp_path, record):
    small_grid.write(tmp_path / "images", record)
    small_grid.write(tmp_path / "text", small_grid.record("base", "gold", 1, 1))
    with pytest.raises(InputError, match=r"images is of images and .*text of text: report on one kind"):
        read_runs([str(tmp_path)])
