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
        for name in ("measured", "quality", "speed", "figures", "best", "settings")
    ]
    assert order == sorted(order)
    assert "the paper does not report it" in page
    assert 'name="viewport"' in page


def test_page_needs_nothing_else(page):
    assert not re.search(r"<script|<link|<img|url\(|@import|src=|http", page)


def test_figures_are_drawn_with_a_label_for_every_point(page, plain):
    figures = [block for section in plain["sections"] for block in section["blocks"] if "panels" in block]
    assert [figure["name"] for figure in figures] == ["trade", "wall-clock", "acceptance"]
    drawings = [ElementTree.fromstring(svg) for svg in re.findall(r"<svg.*?</svg>", page, re.S)]
    panels = [panel for figure in figures for panel in figure["panels"]]
    assert len(drawings) == len(panels) == 12
    for drawing, panel in zip(drawings, panels, strict=True):
        assert drawing.get("viewBox")
        assert drawing.get("width") == "100%"
        words = [text.text for text in drawing.iter("text") if text.get("class", "").startswith("t")]
        wanted = []
        for series in panel["series"]:
            labels = [point["label"] for point in series["points"]]
            labels[-1] = f"{labels[-1]} {series['label']}".strip()
            wanted += [label for label in labels if label]
        assert sorted(words) == sorted(wanted)
        lines = [line.get("points").split() for line in drawing.iter("polyline")]
        assert [len(line) for line in lines] == [len(series["points"]) for series in panel["series"]]
        for x, y in (map(float, point.split(",")) for line in lines for point in line):
            assert 0 <= x <= 440
            assert 0 <= y <= 300


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


def test_missing_cells_are_dashes(tmp_path):
    small_grid.write(tmp_path / "run", small_grid.record("joint", "gold", 2, 1))
    report([str(tmp_path / "run")], str(tmp_path / "out"), resamples=100)
    tables = tables_of(json.loads((tmp_path / "out" / "report.json").read_text()))
    (row,) = tables["quality-exact"]["rows"]
    assert [cell["text"] for cell in row[:3]] == ["2", "–", "–"]
    assert re.fullmatch(r"[\d.]+ / [\d.]+", row[3]["text"])
    assert row[4]["text"] == "–"
    assert tables["certainty-exact"]["rows"][0][3]["small"] == "no k = 1 to compare with"


def test_base_alone_untimed(tmp_path):
    record = small_grid.record("base", "gold", 1, 1)
    record["arms"][0]["seconds"] = record["arms"][0]["speed_up"] = None
    small_grid.write(tmp_path / "base", record)
    report([str(tmp_path / "base")], str(tmp_path / "out"), resamples=100)
    text = (tmp_path / "out" / "report.md").read_text(encoding="utf-8")
    assert "it was not measured here either" in text
    assert "nothing was measured to draw it from" in text


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
    assert "No blockwise decoding that was timed is faster" in text
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
