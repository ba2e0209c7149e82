import pytest

from lightning_bpd.cli.finish import bleu_label


@pytest.mark.parametrize(
    ("decode", "label"),
    [
        ({"decoder": "greedy", "beam": 4}, "BLEU (greedy)"),
        ({"decoder": "beam", "beam": 5}, "BLEU (beam 5)"),
        (None, "BLEU"),
    ],
)
def test_the_label_says_how_the_output_was_decoded(decode, label):
    assert bleu_label({"decode": decode}) == label


def test_without_a_validation_there_is_nothing_to_say():
    assert bleu_label({"steps": 3}) == "BLEU"
