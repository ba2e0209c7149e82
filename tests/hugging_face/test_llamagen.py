"""Checkpoints in the layout of LlamaGen and PAR, beside a plain computation of their networks."""

import pytest
import torch
from test_image_tokenizers import janus
from torch.nn import functional as F

from lightning_bpd.cli import main
from lightning_bpd.decoding import GREEDY, fill, fixed_plan
from lightning_bpd.interfaces import InputError, TokenRows
from lightning_bpd.saved.finished_model import read_folder
from lightning_bpd.saved.llamagen import read_llamagen

WIDTH, HEADS, LAYERS, HIDDEN, CLASSES, CODES, SIDE = 24, 2, 2, 40, 5, 32, 8


def checkpoint(count):
    """Random weights, named and shaped as published."""
    torch.manual_seed(count)
    shapes = {
        "cls_embedding.embedding_table.weight": (CLASSES + 1, WIDTH),
        "tok_embeddings.weight": (CODES, WIDTH),
        "norm.weight": (WIDTH,),
        "output.weight": (CODES, WIDTH),
    }
    for layer in range(LAYERS):
        shapes |= {
            f"layers.{layer}.attention_norm.weight": (WIDTH,),
            f"layers.{layer}.attention.wqkv.weight": (3 * WIDTH, WIDTH),
            f"layers.{layer}.attention.wo.weight": (WIDTH, WIDTH),
            f"layers.{layer}.ffn_norm.weight": (WIDTH,),
            f"layers.{layer}.feed_forward.w1.weight": (HIDDEN, WIDTH),
            f"layers.{layer}.feed_forward.w2.weight": (WIDTH, HIDDEN),
            f"layers.{layer}.feed_forward.w3.weight": (HIDDEN, WIDTH),
        }
    if count > 1:
        shapes["spe_tok_embeddings.special_embeddings.weight"] = (count - 1, WIDTH)
    return {name: torch.randn(shape) * 0.3 for name, shape in shapes.items()}


def norm(x, weight):
    return x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt() * weight


def published_logits(weights, label, tokens, count):
    """Logits of one image, computed as the papers describe the networks, pair by pair and token by token.

    Tokens are in the published order: cells at the same place of the regions together.
    """
    side = int(count**0.5)
    part = SIDE // side
    cells = [
        (region_row * part + row, region_column * part + column)
        for row in range(part)
        for column in range(part)
        for region_row in range(side)
        for region_column in range(side)
    ]
    embedded = weights["tok_embeddings.weight"][tokens]
    special = weights.get("spe_tok_embeddings.special_embeddings.weight", torch.zeros(0, WIDTH))
    class_token = weights["cls_embedding.embedding_table.weight"][label][None]
    x = torch.cat((class_token, embedded[:count], special, embedded[count:]))
    places = [None, *cells[:count], *[None] * (count - 1), *cells[count:]]
    size, total = WIDTH // HEADS, len(places)
    # Half of the pairs of a head turn with the row, half with the column. Special tokens are multiplied by zero.
    turns = torch.zeros(total, size // 2, dtype=torch.complex64)
    for slot, place in enumerate(places):
        if place is not None:
            for pair in range(size // 4):
                speed = 10_000 ** (-2 * pair / (size // 2))
                for half in range(2):
                    angle = torch.tensor(place[half] * speed)
                    turns[slot, half * (size // 4) + pair] = torch.polar(torch.tensor(1.0), angle)
    sees = torch.ones(total, total, dtype=torch.bool).tril()
    for begin in range(count, total, count):
        sees[begin : begin + count, : begin + count] = True
    for layer in range(LAYERS):
        own = {
            name.split(".", 2)[2]: each
            for name, each in weights.items()
            if name.startswith(f"layers.{layer}.")
        }
        query, key, value = (
            (norm(x, own["attention_norm.weight"]) @ own["attention.wqkv.weight"].T)
            .view(total, 3, HEADS, size)
            .unbind(1)
        )
        query, key = (
            torch.view_as_real(
                torch.view_as_complex(each.reshape(total, HEADS, -1, 2)) * turns[:, None]
            ).flatten(2)
            for each in (query, key)
        )
        scores = torch.einsum("qhd,khd->hqk", query, key) / size**0.5
        attended = torch.einsum("hqk,khd->qhd", scores.masked_fill(~sees, -torch.inf).softmax(-1), value)
        x = x + attended.reshape(total, WIDTH) @ own["attention.wo.weight"].T
        normed = norm(x, own["ffn_norm.weight"])
        gate = F.silu(normed @ own["feed_forward.w1.weight"].T)
        x = x + (gate * (normed @ own["feed_forward.w3.weight"].T)) @ own["feed_forward.w2.weight"].T
    return (norm(x, weights["norm.weight"]) @ weights["output.weight"].T)[: SIDE * SIDE]


@pytest.fixture
def tokenizer(tmp_path):
    torch.manual_seed(1)
    janus().save_pretrained(tmp_path / "vq")
    return f"hf:{tmp_path / 'vq'}"


@pytest.mark.parametrize("count", [1, 4, 16])
@pytest.mark.parametrize("wrapped", [None, "model", "module", "state_dict"])
def test_logits_are_the_published_ones(count, wrapped, tokenizer, tmp_path):
    weights = checkpoint(count)
    torch.save(weights if wrapped is None else {wrapped: weights, "step": 3}, tmp_path / "released.pt")
    model = read_llamagen(tmp_path / "released.pt", tokenizer, side=16, heads=HEADS)
    network = model.to("cpu").network
    tokens = torch.randint(CODES, (2, SIDE * SIDE), generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([3, CLASSES])
    with torch.no_grad():
        found = network.project(network.hidden(labels, tokens))
    for row in range(2):
        expected = published_logits(weights, int(labels[row]), tokens[row, network.order], count)
        torch.testing.assert_close(found[row], expected, rtol=1e-5, atol=1e-5)
    filled = fill(
        network, fixed_plan(network.groups, network), TokenRows(labels[:, None], torch.ones(2).long()), GREEDY
    )
    assert int(filled.calls[0]) == count + (SIDE * SIDE - count) // count


def test_convert_writes_a_model_that_generates(tokenizer, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save(checkpoint(4), "par.pt")
    main(
        [
            "convert",
            "--model",
            "par.pt",
            "--output",
            "m",
            "--tokenizer",
            tokenizer,
            "--side",
            "16",
            "--heads",
            "2",
        ]
    )
    assert read_folder("m").network.architecture.regions == 4
    main(
        [
            "generate-images",
            "--model",
            "m",
            "--output",
            "out",
            "--classes",
            "1,4",
            "--guidance",
            "1.5",
            "--device",
            "cpu",
        ]
    )
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["1_0.png", "4_0.png", "grid.png"]


def test_what_is_no_such_checkpoint_is_refused(tokenizer, tmp_path, capsys):
    weights = checkpoint(4)
    torch.save(weights, tmp_path / "ok.pt")
    with pytest.raises(InputError, match="a width of 24 was not released"):
        read_llamagen(tmp_path / "ok.pt", tokenizer, side=16)
    with pytest.raises(InputError, match=r"num_patches|grid"):
        read_llamagen(tmp_path / "ok.pt", tokenizer, side=384, heads=2)
    torch.save({"a": torch.zeros(1)}, tmp_path / "other.pt")
    with pytest.raises(InputError, match=r"holds no cls_embedding"):
        read_llamagen(tmp_path / "other.pt", tokenizer)
    (tmp_path / "text.pt").write_text("no checkpoint")
    with pytest.raises(InputError, match=r"text.pt"):
        read_llamagen(tmp_path / "text.pt", tokenizer)
    torch.save({**weights, "tok_embeddings.weight": torch.zeros(7, WIDTH)}, tmp_path / "few.pt")
    with pytest.raises(InputError, match="has 7 codes and the tokenizer"):
        read_llamagen(tmp_path / "few.pt", tokenizer, side=16, heads=2)
    with pytest.raises(SystemExit):
        main(["convert", "--model", str(tmp_path / "ok.pt"), "--output", str(tmp_path / "m")])
    assert "--tokenizer is missing" in capsys.readouterr().err
