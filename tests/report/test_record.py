"""Records that version 0.1 wrote are read, and written again to the byte."""

import json
from pathlib import Path

import pytest

from lightning_bpd.cli.report import report
from lightning_bpd.measuring.record import read_record, write_record

OLD = sorted(Path(__file__).with_name("compare_0_1").glob("*/*/*.json"))


@pytest.mark.parametrize("file", OLD, ids=lambda file: "-".join(file.parts[-3:-1]))
def test_earlier_records_are_read_and_written_the_same(file, tmp_path):
    record = read_record(file)
    write_record(tmp_path / "again.json", record)
    assert json.loads((tmp_path / "again.json").read_bytes()) == json.loads(file.read_bytes())


@pytest.mark.parametrize("kind", ["text", "images"])
def test_earlier_records_make_a_report(kind, tmp_path):
    report([str(OLD[0].parents[2] / kind)], str(tmp_path), resamples=100)
    assert "k = 4" in (tmp_path / "report.md").read_text(encoding="utf-8")


def test_acceptance_in_the_words_of_vllm():
    record = read_record(next(file for file in OLD if file.parts[-3:-1] == ("text", "heads")))
    exact = record.arm(4, "exact")
    # Draft acceptance rate: accepted proposals over proposals. Mean acceptance length: 1 + accepted over drafts.
    iterations, accepted = sum(exact.iterations), sum(exact.tokens) - sum(exact.iterations)
    assert exact.draft_acceptance_rate == pytest.approx(accepted / (3 * iterations))
    assert exact.mean_accepted_block_size == pytest.approx(1 + accepted / iterations)
    assert exact.acceptance_by_position == pytest.approx(record.acceptance_by_position)
    assert record.greedy.draft_acceptance_rate is None
