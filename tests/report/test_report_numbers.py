import random
from dataclasses import replace

import pytest
import small_grid

from lightning_bpd.interfaces import InputError
from lightning_bpd.report.cells import Key, baseline_of, gather, measure, rules_of
from lightning_bpd.report.document import signed, span
from lightning_bpd.report.prediction import best_measured, best_predicted, predict
from lightning_bpd.report.runs import differences, read_runs, unequal_scores
from lightning_bpd.report.statistics import bleu_of, block_size_interval, compare_bleu


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    runs, _ = read_runs([str(small_grid.grid(tmp_path_factory.mktemp("grid")))])
    return runs


def find(runs, regime, data, k, seed):
    (run,) = [run for run in runs if (*run.column, run.block_size, run.seed) == (regime, data, k, seed)]
    return run


def changed(run, **fields):
    return replace(run, record=replace(run.record, **fields))


def test_interval_is_of_the_ratio_of_sums():
    draw = random.Random(1)
    # A mean of ratios would be 2.75; of sums it is 50 / 25.
    tokens, iterations = [4, 6] * 100, [1, 4] * 100
    lower, upper = block_size_interval([tokens], [iterations])
    assert lower < 2.0 < upper < 2.5
    ratios = []
    for _ in range(2000):
        places = draw.choices(range(200), k=200)
        ratios.append(sum(tokens[i] for i in places) / sum(iterations[i] for i in places))
    ratios.sort()
    assert (lower, upper) == pytest.approx((ratios[50], ratios[-50]), abs=0.03)


def test_interval_of_several_models_is_of_their_mean():
    tokens, iterations = [12, 9, 8, 10, 14], [6, 3, 2, 5, 6]
    doubled = block_size_interval([tokens, tokens], [iterations, iterations])
    assert doubled == pytest.approx(block_size_interval([tokens], [iterations]))
    assert block_size_interval([[5, 5]], [[5, 5]]) == (1.0, 1.0)


def test_paired_test_tells_a_better_system_from_an_equal_one():
    references = small_grid.references()
    baseline = small_grid.spoiled(references, 0.3, "one")
    same, other, better = list(baseline), small_grid.spoiled(references, 0.3, "two"), list(references)
    results = compare_bleu(baseline, [same, better, other], references, small_grid.SIGNATURE)
    assert results[0].p_value == 1.0
    assert results[0].system == results[0].baseline == pytest.approx(small_grid.bleu(baseline))
    assert results[1].p_value < 0.01
    assert results[1].system == pytest.approx(100)
    assert results[2].p_value > 0.05


def test_signature_sets_the_metric():
    metric = bleu_of("nrefs:1|case:lc|eff:yes|tok:char|smooth:floor[0.20]|version:2.6.0")
    metric.corpus_score(["a"], [["a"]])
    assert str(metric.get_signature()).startswith("nrefs:1|case:lc|eff:yes|tok:char|smooth:floor[0.20]")
    for wrong in ("nrefs:2|tok:13a", "nrefs:1|case:mixed|nc:6", "nrefs:1|tok:none of them", "text"):
        with pytest.raises(InputError, match="signature"):
            bleu_of(wrong)


def test_baselines(runs):
    assert baseline_of(find(runs, "joint", "gold", 4, 2), runs) is find(runs, "joint", "gold", 1, 2)
    base = find(runs, "base", "gold", 1, 1)
    assert baseline_of(find(runs, "frozen", "distilled", 4, 2), runs) is base
    assert baseline_of(find(runs, "joint", "gold", 1, 2), runs) is None
    without = [run for run in runs if not (run.column[0] == "joint" and run.block_size == 1)]
    joint = find(runs, "joint", "distilled", 4, 2)
    assert baseline_of(joint, without) is base
    # Another base with the run's own data and seed: right for a joint run, not what a frozen run's greedy output says.
    training = replace(base.record.training, data="distilled", seed=2)
    record = replace(base.record, training=training, arms=joint.record.arms[:1])
    other = replace(base, name="other", folder="other", record=record)
    assert baseline_of(joint, [*without, other]) is other
    assert baseline_of(find(runs, "frozen", "distilled", 4, 2), [*without, other]) is base
    assert baseline_of(joint, [joint]) is None


def test_cells_and_differences(runs):
    results = measure(gather(runs), resamples=100)
    frozen = results[Key("frozen", "gold", "exact", 4)]
    assert frozen.quality_differences == [0.0, 0.0]
    assert frozen.p_values == [1.0, 1.0]
    assert frozen.greedy_agreement == 1.0
    joint = results[Key("joint", "gold", "minimum-2", 4)]
    one = results[Key("joint", "gold", "exact", 1)]
    assert joint.quality_differences == pytest.approx(
        [a - b for a, b in zip(joint.qualities, one.qualities, strict=True)]
    )
    assert joint.quality_difference == pytest.approx(joint.quality - one.quality)
    assert joint.seeds == [1, 2]
    lower, upper = joint.interval
    assert 1 < lower < joint.block_size < upper
    assert one.interval is None
    assert one.quality_difference is None
    assert Key("frozen", "gold", "top-2", 1) not in results


def test_other_references_are_not_compared(runs):
    joint, base = find(runs, "joint", "gold", 4, 1), find(runs, "base", "gold", 1, 1)
    base = changed(base, references=base.record.references[::-1])
    result = measure(gather([joint, base]), resamples=100)[Key("joint", "gold", "exact", 4)]
    assert result.quality_difference is None
    assert result.p_values == []


def test_rules_are_in_order(runs):
    arms = runs[-1].record.arms
    rules = ["minimum-10", "top-10", "distance-2", "other", "minimum-2+top-2", "minimum-2", "top-2", "exact"]
    run = changed(runs[-1], arms=[arms[0], *(replace(arms[1], acceptance=rule) for rule in rules)])
    assert rules_of([run]) == [
        "exact",
        "top-2",
        "top-10",
        "distance-2",
        "minimum-2",
        "minimum-2+top-2",
        "minimum-10",
        "other",
    ]


def test_prediction_is_the_formula(runs):
    run = find(runs, "joint", "distilled", 4, 1)
    choices = predict(run)
    assert [choice.block_size for choice in choices] == [1, 2, 3, 4]
    iterations = run.record.replay.iterations[2] / 30
    seconds = 0.001 + (iterations + 1) * 0.0013 + iterations * 0.0002
    greedy = 0.001 + run.record.replay.tokens / 30 * 0.0011
    assert choices[2].seconds == pytest.approx(seconds)
    assert choices[2].predicted == pytest.approx(greedy / seconds)
    assert choices[2].measured == run.record.arm(3, "exact").speed_up
    assert choices[0].predicted == choices[0].measured == 1.0
    assert best_predicted(choices).predicted == max(choice.predicted for choice in choices)
    assert best_measured(choices).measured == max(choice.measured for choice in choices)
    assert predict(changed(run, costs=None)) == predict(find(runs, "base", "gold", 1, 1)) == []
    untimed = [replace(arm, seconds=None, speed_up=None) for arm in run.record.arms]
    assert best_measured(predict(changed(run, arms=untimed))) is None


def test_unequal_settings_are_named(runs):
    assert differences(runs) == []
    record = runs[0].record
    other = changed(
        runs[0],
        settings={**record.settings, "threads": 2},
        corpus=replace(record.corpus, hash="other"),
        provenance={**record.provenance, "packages": {"torch": "2.4.0"}},
    )
    text = " ".join(differences([other, *runs[1:]]))
    for words in (
        "Threads: 1 in",
        "2 in base",
        "Corpus hash: abab",
        "other in base",
        "Packages torch: 2.13.0",
        "2.4.0 in base",
    ):
        assert words in text


def test_scores_that_do_not_follow_from_outputs_are_named(runs):
    assert unequal_scores(runs) == []
    run = runs[-1]
    greedy, *others = run.record.arms
    wrong = changed(run, arms=[replace(greedy, quality={"bleu": greedy.quality["bleu"] + 1}), *others])
    (sentence,) = unequal_scores([*runs[:-1], wrong])
    assert run.name in sentence
    assert "greedy k' = 1, exact)" in sentence


def test_numbers_as_shown():
    assert [signed(value) for value in (-0.001, 0.0, 0.255, -1.5)] == ["±0.00", "±0.00", "+0.26", "−1.50"]
    assert span([2.0, 1.0]) == "1.00–2.00"
    assert span([1.001, 1.002]) == "1.00"
