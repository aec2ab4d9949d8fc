"""Markdown, LaTeX and CSV: structure, escapes and numbers that read back."""

import csv
import io
import re

import pytest

from recbole_llm.report import cells, latex, markdown, table_csv
from recbole_llm.report.cells import Cell


def pipe_tables(text: str) -> list[list[list[str]]]:
    """Tables of a Markdown text, as rows of cells; escaped pipes part no cells."""
    found = re.findall(r"(?:^\|.*\|\n?)+", text, flags=re.MULTILINE)
    return [[re.split(r"(?<!\\)\|", line)[1:-1] for line in table.splitlines()] for table in found]


def test_markdown_tables_have_as_many_cells_in_every_row(report):
    found = pipe_tables(markdown.render(report))
    assert len(found) == len(report.sections[0].grids)
    for table, grid in zip(found, report.sections[0].grids, strict=True):
        assert {len(row) for row in table} == {len(grid.columns)}
        assert len(table) == len(grid.rows) + 2


def test_a_terminal_gets_the_results_alone(report):
    text = markdown.results(report)
    assert text.startswith("toy, loo-full\n\n| row |") and len(pipe_tables(text)) == 1
    assert "† the reference." in text and "How to read it" not in text


def test_markdown_marks_best_and_second(report):
    table = pipe_tables(markdown.render(report))[0]
    ndcg = {row[0].strip(): row[2].strip() for row in table}
    assert re.fullmatch(r"\*\*0\.\d{4} ± 0\.\d{4}\*\*", ndcg["SASRec"])
    assert re.fullmatch(r"<u>0\.\d{4} ± 0\.\d{4}</u>", ndcg["Ours (placebo=none) †"])
    assert ndcg["Pop"].endswith(" ▼") and "*" not in ndcg["Pop"]


@pytest.mark.parametrize(
    ("text", "escaped"),
    [("a|b", r"a\|b"), ("*x*_y_", r"\*x\*\_y\_"), ("<b>&", "&lt;b&gt;&amp;"), ("a\nb", "a b"), ("`[#", r"\`\[\#")],
)
def test_markdown_escapes(text, escaped):
    assert markdown.escape(text) == escaped


def test_markdown_shows_no_markup_of_labels_titles_and_notes(report):
    text = markdown.render(report)
    assert text.startswith("# A &lt;b&gt;title&lt;/b&gt; &amp; more\\_so\n\nOne \\*note\\*.\n\nTwo.\n\n")
    assert "| Broken\\|&lt;b&gt; | failed: seeds" in text and "<b>" not in text


def test_latex_environments_and_braces_are_balanced(report):
    text = latex.render(report)
    code = "\n".join(line for line in text.splitlines() if not line.startswith("%"))
    for name in ("table", "tabular"):
        n = code.count(rf"\begin{{{name}}}")
        assert n == code.count(rf"\end{{{name}}}") == len(report.sections[0].grids)
    stack = []
    for kind, name in re.findall(r"\\(begin|end)\{(\w+)\}", code):
        stack.append(name) if kind == "begin" else None
        assert kind == "begin" or stack.pop() == name
    assert stack == []
    plain = re.sub(r"\\[{}]", "", code)
    assert plain.count("{") == plain.count("}")
    for rule in ("toprule", "midrule", "bottomrule"):
        assert code.count(rf"\{rule}") == len(report.sections[0].grids)


def test_latex_rows_have_as_many_cells_as_columns(report):
    text = latex.render(report)
    tables = re.findall(r"\\begin\{tabular\}\{([lr]+)\}(.*?)\\end\{tabular\}", text, flags=re.DOTALL)
    assert len(tables) == len(report.sections[0].grids)
    for columns, body in tables:
        for row in re.findall(r"^    (.*) \\\\$", body, flags=re.MULTILINE):
            spans = sum(int(n) - 1 for n in re.findall(r"\\multicolumn\{(\d+)\}", row))
            assert len(re.split(r"(?<!\\)&", row)) + spans == len(columns)


def test_latex_escapes():
    assert latex.escape("5 % & $x_1 #2 {a} \\ ~ ^ <b>") == (
        r"5 \% \& \$x\_1 \#2 \{a\} \textbackslash{} \textasciitilde{} \textasciicircum{} \textless{}b\textgreater{}"
    )
    assert latex.escape("−0.1 ± 0.2 – x") == r"$-$0.1 $\pm$ 0.2 -- x"


def test_latex_has_no_sign_left_to_escape(report):
    code = [line for line in latex.render(report).splitlines() if not line.startswith("%")]
    for line in code:
        line = re.sub(r"(?<!\\)%$", "", line)  # ends of lines that TeX must not take for spaces
        line = re.sub(r"\\(label)\{[^}]*\}|(?<!\\)\$\\?[a-z-]+\$|(?<!\\)\$-\$", "", line)
        assert not re.search(r"(?<!\\)[%#$_]", line), line
    assert any(r"5 GiB \& 100 \% of \$HOME\_DIR \#1" in line for line in code)


def test_latex_marks_best_and_second():
    assert latex._cell(Cell("0.5", rank=1, mark="▼")) == r"\textbf{0.5}\textsuperscript{$\bigtriangledown$}"
    assert latex._cell(Cell("0.5", rank=2)) == r"\underline{0.5}"


def test_latex_labels_are_unique(report):
    labels = re.findall(r"\\label\{([^}]*)\}", latex.render(report))
    assert len(labels) == len(set(labels)) == len(report.sections[0].grids)


def rows_of(report) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(table_csv.render(report), newline="")))


def test_csv_reads_back_to_the_very_same_floats(report):
    (section,) = report.sections
    rows = rows_of(report)
    runs = {(r["row"], int(r["seed"]), r["name"]): float(r["value"]) for r in rows if r["kind"] == "test"}
    expected = {
        (record.label, record.seed, metric): value
        for record in section.records
        if record.result
        for metric, value in record.result.test.items()
    }
    assert runs == expected
    for row in section.table.rows:
        own = {(r["kind"], r["name"]): r["value"] for r in rows if r["row"] == row.label and not r["seed"]}
        for metric, value in row.values.items():
            assert float(own["mean", metric]) == value.mean and int(own["rank", metric]) == value.rank
            assert (("sd", metric) in own) == (value.sd is not None)
        for metric, test in row.tests.items():
            assert float(own["difference", metric]) == test.difference
            assert float(own["holm_wilcoxon", metric]) == test.holm["wilcoxon"]
            assert (("seeds_p_t", metric) in own) == bool(test.seeds_p)


def test_csv_keeps_failures_and_choices(report):
    rows = rows_of(report)
    failed = [(r["row"], r["seed"], r["value"]) for r in rows if r["kind"] == "status" and r["name"] == "failed"]
    reason = "out of memory: 5 GiB & 100 % of $HOME_DIR #1"
    assert failed == [("Broken|<b>", "1", reason), ("Broken|<b>", "2", reason), ("Partly", "2", "loss is not finite")]
    chosen = [(r["seed"], r["name"], r["value"]) for r in rows if r["kind"] == "chosen"]
    assert chosen == [(str(seed), "learning_rate", "0.01") for seed in (1, 2, 3)]


def test_csv_has_costs_of_rows(report):
    cost = next(row.cost for row in report.sections[0].table.rows if row.label == "SASRec")
    found = {
        r["name"]: r["value"] for r in rows_of(report) if r["row"] == "SASRec" and r["kind"] == "cost" and not r["seed"]
    }
    assert float(found["train_seconds"]) == cost.train_seconds and int(found["peak_bytes"]) == cost.peak_bytes


def test_settings_are_short_where_that_loses_digits_nobody_reads():
    values = {"a": 0.00654132355080527, "b": 200.0, "c": 1e-05, "d": [1, 2], "e": "x", "f": 20480}
    assert cells.settings(values) == "a=0.006541, b=200.0, c=1e-05, d=[1, 2], e=x, f=20480"
