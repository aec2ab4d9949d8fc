"""The page: well formed, of one piece, readable without sight or colour, and the same for the same records."""

import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from report_data import make_records, make_users

from recbole_llm.comparison.record import OK
from recbole_llm.errors import MissingDependencyError
from recbole_llm.report import charts, html, svg
from recbole_llm.report.users import binned

pytest.importorskip("jinja2")
pytest.importorskip("matplotlib")

VOID = {"meta", "br", "hr", "img", "input", "link"}


class Page(HTMLParser):
    """Elements of a page with their attributes and ancestors; fails where tags do not match."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[tuple[str, dict]] = []
        self.elements: list[tuple[str, dict, list[tuple[str, dict]]]] = []
        self.texts: list[tuple[str, str]] = []
        self.feed(text)
        self.close()
        assert self.open == [], f"never closed: {self.open}"

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs), list(self.open)))
        if tag not in VOID:
            self.open.append((tag, dict(attrs)))

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs), list(self.open)))

    def handle_endtag(self, tag):
        assert self.open and self.open[-1][0] == tag, f"</{tag}> closes {self.open[-1:]}"
        self.open.pop()

    def handle_data(self, data):
        if data.strip() and self.open:
            self.texts.append((self.open[-1][0], data.strip()))

    def all(self, tag: str) -> list[tuple[dict, list]]:
        return [(attrs, above) for name, attrs, above in self.elements if name == tag]


@pytest.fixture(scope="module")
def text(report) -> str:
    return html.render(report)


@pytest.fixture(scope="module")
def page(text) -> Page:
    return Page(text)


def test_it_loads_nothing_from_elsewhere(text, page):
    for _, attrs, _ in page.elements:
        for name in ("src", "href", "xlink:href", "data", "action", "srcset", "poster"):
            assert attrs.get(name, "#").startswith("#"), attrs
    assert all(target.startswith("#") for target in re.findall(r"url\(\s*['\"]?([^)]*)", text))
    assert not page.all("script") and not page.all("link") and "@import" not in text


def test_ids_are_unique_and_all_references_lead_somewhere(text, page):
    ids = [attrs["id"] for _, attrs, _ in page.elements if "id" in attrs]
    assert len(ids) == len(set(ids))
    used = set(re.findall(r'(?:url\(#|href="#)([^)"]+)', text))
    assert used <= set(ids) and len(used) > 20


def test_every_section_is_there(page):
    ids = {attrs.get("id") for attrs, _ in page.all("section")}
    parts = ("results", "choices", "tests-1", "training", "stages", "cost", "experts", "users", "facts")
    assert {"table-1", *(f"table-1-{part}" for part in parts)} <= ids


def test_every_figure_has_a_text_alternative_and_a_caption(page):
    drawings = page.all("svg")
    assert len(drawings) == len(page.all("figure")) == len(page.all("figcaption")) >= 10
    for attrs, above in drawings:
        assert attrs["role"] == "img" and len(attrs["aria-label"]) > 20
        assert "viewbox" in attrs and "width" not in attrs  # it scales
        assert above[-1][0] == "figure"


def test_every_table_scrolls_in_its_own_box(report, page):
    assert len(page.all("table")) == len(report.sections[0].grids)
    for _, above in page.all("table"):
        box = above[-1][1]
        assert box["class"] == "scroll" and box["tabindex"] == "0" and box["aria-label"]


def test_rows_of_tables_are_as_wide_as_their_heads(report, text):
    for table, grid in zip(re.findall(r"<table>.*?</table>", text, re.DOTALL), report.sections[0].grids, strict=True):
        for row in re.findall(r"<tr>.*?</tr>", table, re.DOTALL):
            spans = sum(int(n) - 1 for n in re.findall(r'colspan="(\d+)"', row))
            assert len(re.findall(r"<t[hd]\b", row)) + spans == len(grid.columns)


def test_it_fits_phones_and_dark_rooms(text, page):
    assert any(a.get("name") == "viewport" and "width=device-width" in a["content"] for a, _ in page.all("meta"))
    assert "@media (prefers-color-scheme: dark)" in text and page.all("html")[0][0]["lang"] == "en"


def test_labels_titles_and_reasons_are_escaped(text, page):
    assert "<b>" not in text
    assert ("title", "A <b>title</b> & more_so") in page.texts
    assert ("th", "Broken|<b>") in page.texts


def test_best_second_and_marks(page):
    strong = [value for tag, value in page.texts if tag == "strong"]
    assert len(strong) == len([value for tag, value in page.texts if tag == "u"]) == 3
    assert {value for tag, value in page.texts if tag == "sup"} == {"▼", "†"}


def test_no_drawing_colour_is_left(text):
    style = text[text.index("<style>") : text.index("</style>")]
    assert re.findall(r"#0[0-9a-f]{5}", text.replace(style, "")) == []
    defined = set(re.findall(r"(--[\w]+):", style))
    assert set(re.findall(r"var\((--\w+)\)", text)) <= defined


def contrast(a: str, b: str) -> float:
    """Contrast of two colours, WCAG 2.2: 1 to 21."""

    def luminance(colour: str) -> float:
        channels = np.array([int(colour[k : k + 2], 16) / 255 for k in (1, 3, 5)])
        linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
        return float(linear @ [0.2126, 0.7152, 0.0722])

    light, dark = sorted((luminance(a), luminance(b)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def test_colours_stand_out_from_both_backgrounds(text):
    schemes = re.findall(r":root \{(.*?)\}", text, re.DOTALL)
    assert len(schemes) == 2
    for scheme in schemes:
        colours = dict(re.findall(r"--(\w+): (#\w{6})", scheme))
        assert all(contrast(colours[name], colours["bg"]) >= 4.5 for name in ("ink", "muted", "link"))
        assert all(contrast(colours[f"c{k}"], colours["bg"]) >= 3 for k in range(svg.N_COLOURS))


def test_the_same_records_give_the_same_bytes(report, text):
    assert html.render(report) == text


def test_a_users_own_style_changes_nothing(report, text):
    import matplotlib

    with matplotlib.rc_context({"font.size": 20, "axes.grid": True, "svg.hashsalt": None}):
        assert html.render(report) == text


def test_no_slices_no_section(page):
    assert "table-1-slices" not in {attrs.get("id") for attrs, _ in page.all("section")}


def test_slices_are_drawn_where_there_are_any(report):
    (section,) = report.sections
    slices = {"tail": {"rows": 12, "ndcg@10": 0.0517}, "head": {"rows": 18, "ndcg@10": 0.25, "other": 1.0}}
    records = tuple(
        replace(r, result=replace(r.result, slices=slices)) if r.status == OK and r.label != "Pop" else r
        for r in section.records
    )
    text = html.render(replace(report, sections=(replace(section, records=records),)))
    page = Page(text)
    part = text[text.index('id="table-1-slices"') : text.index('id="table-1-cost"')]
    (label,) = re.findall(r'aria-label="(Test ndcg@10 on parts[^"]*)"', part)
    assert "tail, SASRec: 0.0517" in label and "head, SASRec: 0.2500" in label and "Pop" not in label
    assert "tail (12 rows)" in part and len(page.all("svg")) > 10


def test_wins_and_losses_are_those_of_the_tests(report, text):
    for row in report.sections[0].table.rows:
        if row.tests:
            test = row.tests["ndcg@10"]
            ties = 1 - test.wins - test.losses
            sentence = (
                f"better for {test.wins:.1%} of 30 users (▲), worse for {test.losses:.1%} (▼), equal for {ties:.1%} (●)"
            )
            assert sentence.replace("%", " %").replace("-0.0 %", "0.0 %") in text


def test_nothing_is_well(tmp_path):
    from report_data import write_comparison

    from recbole_llm.report.load import loaded
    from recbole_llm.report.sections import build

    made = [entry for entry in make_records() if entry[1] is None]
    with loaded([write_comparison(tmp_path / "c", made)]) as runs:
        report = build(runs, reference=None, metrics=None, tested=None, test="t", title=None, note="")
    page = Page(html.render(report))
    assert page.all("svg") == [] and any("loss is not finite" in value for _, value in page.texts)


def test_a_missing_package_is_named(report, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingDependencyError, match=r"'matplotlib'.*recbole-llm\[report\]"):
        html.render(report)


def test_users_that_coincide_share_a_dot():
    x = np.array([0.0, 0.0, 0.0, 0.5, 0.5, 1.0])
    y = np.array([0.0, 0.0, 1.0, 0.5 + 1e-3, 0.5 - 1e-3, 1.0])
    found = sorted(zip(*(v.tolist() for v in binned(x, y)), strict=True))
    expected = [(0.0, 0.0, 2, 0), (0.0, 1.0, 1, 1), (0.5, 0.499, 1, -1), (0.5, 0.501, 1, 1), (1.0, 1.0, 1, 0)]
    assert np.array(found) == pytest.approx(np.array(expected))


def test_dots_hold_every_user_once():
    x, y = make_users(0.7, 1)["ndcg@10"], make_users(0.7, 2)["ndcg@10"]
    mean_x, mean_y, counts, sign = binned(x, y)
    assert counts.sum() == len(x) and (mean_x * counts).sum() == pytest.approx(x.sum())
    assert counts[sign == 1].sum() == (y > x).sum() and counts[sign == -1].sum() == (y < x).sum()
    assert np.array_equal(np.sign(mean_y - mean_x).round(), sign)


def test_labels_keep_apart_and_in_order():
    positions = np.array([0.5, 0.51, 0.0, 0.99, 0.98, 0.52])
    placed = charts.apart(positions, 0.1)
    assert np.array_equal(np.argsort(placed), np.argsort(positions))
    assert np.diff(np.sort(placed)).min() >= 0.1 - 1e-12 and placed.max() <= 1 and placed.min() >= 0


def test_no_curve_for_what_is_not_trained_by_steps(report):
    (section,) = report.sections
    records = tuple(
        replace(r, result=replace(r.result, stages=[r.result.stages[0] | {"train_loss": [0.0]}]))
        if r.status == OK and r.label == "SASRec"
        else r
        for r in section.records
    )
    titles = {
        name: html.render(replace(report, sections=(replace(section, records=rs),))).count("SASRec: training loss")
        for name, rs in (("steps", section.records), ("solved", records))
    }
    assert titles["steps"] > 0 and titles["solved"] == 0
