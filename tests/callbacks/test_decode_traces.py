from known_blocks import EOS, Copy, Heads, pad

from lightning_bpd.callbacks.decode_traces import Iteration, markdown, some_rows, trace
from lightning_bpd.codecs.text import TextCodec
from lightning_bpd.codecs.tokenizers import train_tokenizer
from lightning_bpd.decoding import DecodingOptions


def exact(block_size, **settings):
    return DecodingOptions("blockwise", block_size=block_size, extra_length=5, **settings)


def test_a_trace_names_the_head_that_failed_first():
    row = [5, 6, 7, 6, 5, EOS]
    assert trace(Copy(), Heads(), pad([row]), exact(3)) == [
        Iteration([5, 6], [8], 3, 7),
        Iteration([7, 6, 5], [], None, None),
        Iteration([EOS], [], None, None),
    ]
    assert trace(Copy(), Heads(), pad([row]), exact(1)) == [
        Iteration([token], [], None, None) for token in row
    ]
    assert trace(Copy(), Heads(), pad([row]), exact(3, acceptance="top-2"))[0].accepted == [5, 6, 8]
    # What lies past the end was not rejected.
    assert trace(Copy(), Heads(able=True), pad([[5, EOS]]), exact(3)) == [Iteration([5, EOS], [], None, None)]
    unable = trace(Copy(), Heads(able=False), some_rows(pad([[5, 6, EOS], [5, EOS]]), [1]), exact(3))
    assert unable == [Iteration([5], [9, 9], 2, EOS), Iteration([EOS], [], None, None)]


def test_pieces_spell_the_text():
    tokenizer = train_tokenizer(["der alte Mann kauft ein Haus", "die alte Frau geht"] * 5, 300)
    codec = TextCodec(tokenizer, tokenizer)
    text = "der alte é Mann"
    row = [*tokenizer.encode([text])[0], tokenizer.eos_id]
    for cut in range(len(row)):
        found = codec.pieces(row[:cut], row[cut:])
        assert len(found) == len(row) - cut
        assert found[-1] == "</s>"
    assert "".join(codec.pieces([], row)).replace("▁", " ") == "der alte �é Mann</s>"
    assert codec.pieces(row[:1], [tokenizer.bos_id, tokenizer.eos_id]) == [
        f"<{tokenizer.bos_id}>",
        "</s>",
    ]


def test_traces_as_a_document():
    lines = [[2, 1, "a|b", "`c`", 2, "d"], [2, 2, "</s>", "", None, ""], [3, 1, "e", "", None, ""]]
    text = markdown("Traces", lines, ["s1", "s2", "s3"], ["r1", "r2", "r3"])
    assert text.startswith("# Traces\n\nEach line is one iteration")
    assert "\n## Row 2\n\n- source: s2\n- reference: r2\n\n| iteration |" in text
    assert "| 1 | `` a\\|b `` | `` `c` `` | 2 | `` d `` |\n| 2 | `` </s> `` |  |  |  |\n\n## Row 3\n" in text
