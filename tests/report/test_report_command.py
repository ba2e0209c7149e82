import json
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser

import pytest
import small_grid

from lightning_bpd.cli.report import report
from lightning_bpd.interfaces import InputError


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    small_grid.grid(folder / "grid")
    report([str(folder / "grid")], str(folder / "out"), resamples=100)
    return folder


@pytest.fixture(scope="module")
def page(folder):
    return (folder / "out" / "report.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def plain(folder):
    return json.loads((folder / "out" / "report.json").read_text(encoding="utf-8"))


def tables_of(plain):
    blocks = [block for section in plain["sections"] for block in section["blocks"]]
    return {block["name"]: block for block in blocks if "rows" in block}


class Tables(HTMLParser):
    """Each table of a page: rows of cells, each the texts in it."""

    def __init__(self):
        super().__init__()
        self.tables, self.table, self.inside = {}, None, False

    def handle_starttag(self, tag, attributes):
        if tag == "table":
            self.table = self.tables.setdefault(dict(attributes)["id"].removesuffix("-table"), [])
        elif tag == "tr":
            self.table.append([])
        elif tag in ("td", "th"):
            self.table[-1].append([])
            self.inside = True

    def handle_endtag(self, tag):
        if tag in ("td", "th"):
            self.inside = False

    def handle_data(self, data):
        if self.inside:
            self.table[-1][-1].append(data)


def test_every_cell_of_the_page_is_in_the_json(page, plain):
    parser = Tables()
    parser.feed(page)
    tables = tables_of(plain)
    assert parser.tables.keys() == tables.keys()
    assert {
        "answer",
        "measured",
        "quality-exact",
        "quality-top-2",
        "certainty-exact",
        "speed",
        "best",
        "runs",
        "arms",
    } <= set(tables)
    for name, table in tables.items():
        rows = [[[cell["text"], cell["small"]] for cell in row] for row in table["rows"]]
        shown = [[[*cell, "", ""][:2] for cell in row] for row in parser.tables[name]]
        if any(table["columns"]):
            assert shown.pop(0) == [[column, ""] for column in table["columns"]], name
        assert shown == rows, name


def test_cells_follow_from_the_files(folder, plain):
    table = tables_of(plain)["quality-exact"]
    assert [row[0]["text"] for row in table["rows"]] == ["1", "2", "4"]
    assert table["columns"] == ["k", "frozen, gold", "frozen, distilled", "joint, gold", "joint, distilled"]
    cell = table["rows"][2][4]
    arms = []
    for seed in (1, 2):
        file = folder / "grid" / f"joint_distilled_k4_s{seed}" / "compare_toy.json"
        arms += [
            arm
            for arm in json.loads(file.read_text())["arms"]
            if (arm["acceptance"], arm["block_size"]) == ("exact", 4)
        ]
    bleus = [small_grid.bleu(arm["outputs"]) for arm in arms]
    sizes = [sum(arm["tokens"]) / sum(arm["iterations"]) for arm in arms]
    assert bleus[0] != bleus[1]
    assert cell["text"] == f"{sum(bleus) / 2:.2f} / {sum(sizes) / 2:.2f}"
    assert cell["small"].startswith(f"n = 2: {min(bleus):.2f}–{max(bleus):.2f}")
    assert cell["numbers"]["qualities"] == pytest.approx(bleus)
    assert cell["numbers"]["block_sizes"] == pytest.approx(sizes)
    base = json.loads((folder / "grid" / "base" / "compare_toy.json").read_text())
    for place in (1, 2):
        assert table["rows"][0][place]["text"] == f"{base['arms'][0]['quality']['bleu']:.2f} / 1.00"


def test_sections_are_in_order(page):
    order = [
        page.index(f'<section id="{name}">')
        for name in ("answer", "quality", "speed", "figures", "best", "settings")
    ]
    assert order == sorted(order)
    assert "the paper does not report it" in page
    assert 'name="viewport"' in page


def test_page_needs_nothing_else(page):
    assert not re.search(r"<script|<link|<img|url\((?!#)|@import|src=|http", page)


def test_the_page_begins_with_the_answer(folder, page, plain):
    answer = plain["sections"][0]
    assert answer["name"] == "answer"
    sentence, _, table, figure = answer["blocks"]
    arms = [
        (file.parent.name, arm)
        for file in (folder / "grid").glob("*/compare_toy.json")
        for arm in json.loads(file.read_text())["arms"]
        if arm["decoder"] == "blockwise"
    ]
    exact = [each for each in arms if each[1]["acceptance"] == "exact"]
    name, best = max(exact, key=lambda each: each[1]["speed_up"])
    start = f"Blockwise decoding is {best['speed_up']:.2f} times as fast as greedy decoding and gives the same output"
    assert sentence["text"].startswith(f"{start} ({name}, blocks of {best['block_size']}).")
    assert page.index(start) < page.index("<h3>")
    # Rules that cost more than 1 BLEU stand in the table only.
    assert "rule" not in sentence["text"]
    assert [row[1]["text"] for row in table["rows"]] == ["exact", "top-2", "minimum-2"]
    labels = [series["label"] for series in figure["panels"][0]["series"]]
    assert labels == ["speed-up, k = 4", "block size, k = 4"]


def test_a_rule_that_costs_little_is_part_of_the_answer(tmp_path):
    record = small_grid.record("joint", "gold", 2, 1)
    exact, top = record["arms"][1:3]
    top.update({key: exact[key] for key in ("outputs", "quality")}, greedy_agreement=0.9, speed_up=1.75)
    small_grid.write(tmp_path / "run", record)
    report([str(tmp_path / "run")], str(tmp_path / "out"), resamples=100)
    text = (tmp_path / "out" / "report.md").read_text(encoding="utf-8")
    assert (
        "top-2 is 1.75 times as fast as greedy decoding and gives the same output for 90.0% of sentences"
        in text
    )


def test_figures_are_drawn_as_the_data_say(page, plain):
    figures = [block for section in plain["sections"] for block in section["blocks"] if "panels" in block]
    assert [figure["name"] for figure in figures] == ["answer", "trade", "wall-clock", "acceptance"]
    drawings = [ElementTree.fromstring(svg) for svg in re.findall(r"<svg.*?</svg>", page, re.DOTALL)]
    panels = [panel for figure in figures for panel in figure["panels"]]
    assert len(drawings) == len(panels) == 13
    names = [each.get("id") for drawing in drawings for each in drawing.iter() if each.get("id")]
    assert len(names) == len(set(names))
    for drawing, panel in zip(drawings, panels, strict=True):
        assert drawing.get("viewBox")
        assert drawing.get("width") == "100%"
        words = [text.text for text in drawing.iter("text")]
        for series in panel["series"]:
            assert len(panel["series"]) == 1 or series["label"] in words
            assert all(mark in words for mark in series["marks"] or ())
            assert len(series["x"]) == len(series["y"])
        lines = [each.find("path") for each in drawing.iter("g") if "line2d" in each.get("id", "")]
        points = {len(re.findall("[ML]", line.get("d"))) for line in lines if line is not None}
        assert {len(series["x"]) for series in panel["series"]} <= points
    # Only the page's colours, which differ in the dark.
    assert not re.search(r'style="[^"]*: #', page)


def test_markdown_has_every_table(folder, plain):
    text = (folder / "out" / "report.md").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line.startswith("|")]
    tables = tables_of(plain).values()
    assert len(lines) == sum(len(table["rows"]) + 2 for table in tables)
    cells = [re.split(r"(?<!\\)\|", line) for line in lines]
    widths = [len(table["columns"]) + 2 for table in tables for _ in range(len(table["rows"]) + 2)]
    assert [len(line) for line in cells] == widths
    assert tables_of(plain)["quality-exact"]["rows"][1][3]["text"] in text


def test_text_of_the_files_is_escaped(tmp_path):
    record = small_grid.record("joint", "gold", 2, 1)
    record["settings"]["processor"] = "<script>alert(1)</script> & |pipe|"
    small_grid.write(tmp_path / "a<b>&c", record)
    report([str(tmp_path / "a<b>&c")], str(tmp_path / "out"), resamples=100)
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "<script" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt; &amp; |pipe|" in page
    assert "a&lt;b&gt;&amp;c" in page
    assert r"\|pipe\|" in (tmp_path / "out" / "report.md").read_text(encoding="utf-8")


def test_columns_without_data_are_left_out(tmp_path):
    small_grid.write(tmp_path / "run", small_grid.record("joint", "gold", 2, 1))
    report([str(tmp_path / "run")], str(tmp_path / "out"), resamples=100)
    tables = tables_of(json.loads((tmp_path / "out" / "report.json").read_text()))
    assert tables["quality-exact"]["columns"] == ["k", "joint, gold"]
    (row,) = tables["quality-exact"]["rows"]
    assert row[0]["text"] == "2"
    assert re.fullmatch(r"[\d.]+ / [\d.]+", row[1]["text"])
    assert tables["certainty-exact"]["rows"][0][1]["small"] == "no k = 1 to compare with"
    for table in tables.values():
        for column in zip(*table["rows"], strict=True):
            assert any(cell["text"] != "–" for cell in column)


def test_missing_cells_are_dashes(tmp_path):
    for data, k in (("gold", 2), ("distilled", 4)):
        small_grid.write(tmp_path / data, small_grid.record("joint", data, k, 1))
    report([str(tmp_path)], str(tmp_path / "out"), resamples=100)
    table = tables_of(json.loads((tmp_path / "out" / "report.json").read_text()))["quality-exact"]
    assert [[cell["text"] == "–" for cell in row[1:]] for row in table["rows"]] == [
        [False, True],
        [True, False],
    ]


def test_base_alone_untimed(tmp_path):
    record = small_grid.record("base", "gold", 1, 1)
    record["arms"][0]["seconds"] = record["arms"][0]["speed_up"] = None
    small_grid.write(tmp_path / "base", record)
    report([str(tmp_path / "base")], str(tmp_path / "out"), resamples=100)
    text = (tmp_path / "out" / "report.md").read_text(encoding="utf-8")
    assert "Only greedy decoding was measured (30 sentences of toy, on Some CPU). BLEU: base " in text
    assert not re.search(r"\d speed-up|\[Figure", text)


def test_blocks_that_were_not_timed(tmp_path):
    record = small_grid.record("joint", "gold", 4, 1)
    for arm in record["arms"]:
        arm["seconds"] = arm["speed_up"] = None
    small_grid.write(tmp_path / "run", record)
    report([str(tmp_path)], str(tmp_path / "out"), resamples=100)
    plain = json.loads((tmp_path / "out" / "report.json").read_text())
    size = next(each for each in record["arms"] if (each["acceptance"], each["block_size"]) == ("exact", 4))
    start = f"Blockwise decoding accepts {size['mean_accepted_block_size']:.2f} tokens per iteration"
    assert plain["sections"][0]["blocks"][0]["text"].startswith(start)
    assert "Wall clock was not measured" in plain["sections"][0]["blocks"][0]["text"]
    assert plain["sections"][0]["blocks"][-1]["y_label"] == "share of iterations"
    assert "speed-up" not in tables_of(plain)["arms"]["columns"]


def test_models_that_do_not_say_their_data(tmp_path):
    for number, (regime, k) in enumerate([("base", 1), ("frozen", 2), ("joint", 2)]):
        record = small_grid.record(regime, "gold", k, 1)
        record["training"] |= {"data": "unknown", "seed": None if number else 3}
        small_grid.write(tmp_path / regime, record)
    report([str(tmp_path)], str(tmp_path / "out"), resamples=100)
    table = tables_of(json.loads((tmp_path / "out" / "report.json").read_text()))["quality-exact"]
    place = table["columns"].index("frozen, unknown")
    assert [row[place]["text"] != "–" for row in table["rows"]] == [True, True]


def test_slower_than_greedy_is_said(tmp_path):
    record = small_grid.record("frozen", "gold", 2, 1)
    record["arms"][1]["speed_up"] = 0.8
    small_grid.write(tmp_path / "run", record)
    report([str(tmp_path / "run")], str(tmp_path / "out"), resamples=100)
    text = (tmp_path / "out" / "report.md").read_text(encoding="utf-8")
    assert "is faster than greedy decoding: 0.80 times its speed, with the same output" in text
    assert "gold data, 0.80 at k = 2" in text


def test_same_report_whatever_the_environment(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("SACREBLEU_SEED", "1")
    report([str(folder / "grid")], str(tmp_path / "out"), resamples=100)
    for name in ("report.json", "report.html", "report.md"):
        assert (tmp_path / "out" / name).read_bytes() == (folder / "out" / name).read_bytes()


def test_mistakes_of_the_user(folder, tmp_path):
    with pytest.raises(InputError, match="at least 100"):
        report([str(folder / "grid")], str(tmp_path / "out"), resamples=10)
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="is a file"):
        report([str(folder / "grid")], str(tmp_path / "file"))


def test_torch_stays_out(folder, tmp_path):
    code = (
        "import sys; from lightning_bpd.cli.report import report; "
        f"report([{str(folder / 'grid' / 'base')!r}], {str(tmp_path / 'out')!r}); "
        "assert not {'torch', 'pytorch_lightning', 'lightning'} & sys.modules.keys(), 'imported'"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
