"""Reports as LaTeX tables in the style of booktabs."""

import re

from recbole_llm.report import cells
from recbole_llm.report.cells import Cell, Grid
from recbole_llm.report.sections import Report, Section

WIDEST = 6  # columns of a table that is set in its natural width
_ESCAPES = {
    "\\": r"\textbackslash{}",
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "±": r"$\pm$",
    "−": r"$-$",
    "–": "--",
    "∞": r"$\infty$",
    "↓": r"$\downarrow$",
    cells.REFERENCE_BETTER: r"$\bigtriangledown$",
    cells.REFERENCE_WORSE: r"$\bigtriangleup$",
    cells.IS_REFERENCE: r"$\dagger$",
}


def escape(text: str) -> str:
    """Text that LaTeX shows as it is, on one line."""
    return "".join(_ESCAPES.get(sign, sign) for sign in " ".join(text.split()))


def render(report: Report) -> str:
    r"""One ``table`` environment a grid, to be ``\input``; what it rests on stands in comments."""
    lines = [_comment(report.title), *map(_comment, report.note), *map(_comment, report.remarks)]
    lines.append(r"% needs \usepackage{booktabs} and \usepackage{graphicx}")
    for section in report.sections:
        lines += ["", _comment(section.heading), *(_comment(f"{name}: {text}") for name, text in section.facts)]
        for grid in section.grids:
            lines += ["", *_table(section, grid)]
    return "\n".join(lines) + "\n"


def _comment(text: str) -> str:
    return f"% {' '.join(text.split())}"


def _table(section: Section, grid: Grid) -> list[str]:
    wide = len(grid.columns) > WIDEST
    caption = grid.caption if grid.name == "results" else f"{section.heading}. {grid.caption}"
    caption = " ".join([caption.rstrip(".") + ".", *grid.notes])
    label = re.sub(r"[^a-z0-9]+", "-", f"{section.heading} {grid.name}".lower())
    return [
        r"\begin{table}",
        r"  \centering",
        rf"  \caption{{{escape(caption)}}}",
        rf"  \label{{tab:{label}}}",
        *[r"  \resizebox{\linewidth}{!}{%"] * wide,
        rf"  \begin{{tabular}}{{{''.join('l' if column.text else 'r' for column in grid.columns)}}}",
        r"    \toprule",
        f"    {' & '.join(escape(column.title) for column in grid.columns)} " + r"\\",
        r"    \midrule",
        *(f"    {' & '.join(_cell(cell) for cell in row)} " + r"\\" for row in grid.rows),
        r"    \bottomrule",
        r"  \end{tabular}%" if wide else r"  \end{tabular}",
        *["  }"] * wide,
        r"\end{table}",
    ]


def _cell(cell: Cell) -> str:
    text = escape(cell.text)
    if cell.rank:
        text = rf"\{'textbf' if cell.rank == 1 else 'underline'}{{{text}}}"
    if cell.mark:
        text += rf"\textsuperscript{{{escape(cell.mark)}}}"
    return rf"\multicolumn{{{cell.span}}}{{l}}{{{text}}}" if cell.span > 1 else text
