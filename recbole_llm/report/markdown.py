"""Reports as Markdown with pipe tables."""

import re

from recbole_llm.report.cells import Cell, Grid
from recbole_llm.report.sections import Report

_SPECIAL = re.compile(r"([\\`*_{}\[\]#|~])")


def escape(text: str) -> str:
    """Text that Markdown shows as it is, on one line."""
    text = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return _SPECIAL.sub(r"\\\1", text)


def render(report: Report) -> str:
    """The report: title, note, then a chapter a table."""
    parts = [f"# {escape(report.title)}", *map(escape, report.note)]
    for section in report.sections:
        parts.append(f"## {escape(section.heading)}")
        following = (*section.grids[1:], None)
        for grid, after in zip(section.grids, following, strict=True):
            if grid.name != "results":
                parts.append(f"### {escape(grid.caption)}")
            parts.append(table(grid))
            if after is None or after.notes != grid.notes:  # tables of one kind share their notes
                parts += map(escape, grid.notes)
        parts.append("### How to read it")
        parts.append("\n".join(f"- **{escape(name)}**: {escape(text)}" for name, text in section.facts))
    if report.remarks:
        parts.append("\n".join(f"- {escape(remark)}" for remark in report.remarks))
    return "\n\n".join(parts) + "\n"


def results(report: Report) -> str:
    """The results alone, for a terminal: heading, table and legend of every section."""
    parts = []
    for section in report.sections:
        grid = section.grids[0]
        parts += [section.heading, table(grid), "\n".join(grid.notes)]
    return "\n\n".join(parts)


def table(grid: Grid) -> str:
    """A pipe table, without caption and notes."""
    head = [escape(column.title) for column in grid.columns]
    rule = [":---" if column.text else "---:" for column in grid.columns]
    rows = [[text for cell in row for text in _cells(cell)] for row in grid.rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, rule, *rows))


def _cells(cell: Cell) -> list[str]:
    """A cell and the empty ones that it covers: pipe tables cannot span."""
    text = escape(cell.text)
    if cell.rank == 1:
        text = f"**{text}**"
    elif cell.rank == 2:
        text = f"<u>{text}</u>"
    return [f"{text} {cell.mark}" if cell.mark else text] + [""] * (cell.span - 1)
