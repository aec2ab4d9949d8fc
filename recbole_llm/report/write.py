"""Writes a report: finds the runs, builds the tables once, renders every format, then writes the files."""

from collections.abc import Sequence
from pathlib import Path

from recbole_llm.data.files import atomic_writer
from recbole_llm.errors import ConfigError, MissingDependencyError
from recbole_llm.report import html, latex, markdown, svg, table_csv
from recbole_llm.report.load import loaded
from recbole_llm.report.sections import Report, build

# format -> (file, renderer)
FORMATS = {
    "md": ("results.md", markdown.render),
    "tex": ("results.tex", latex.render),
    "csv": ("results.csv", table_csv.render),
    "html": ("index.html", html.render),
}


NO_PAGE = "no index.html: it needs jinja2 and matplotlib; run: pip install 'recbole-llm[report]'"


def available_formats() -> tuple[str, ...]:
    """All formats, "html" only where its packages are installed."""
    try:
        svg.require()
    except MissingDependencyError:
        return tuple(name for name in FORMATS if name != "html")
    return tuple(FORMATS)


def make_report(
    folders: Sequence[str | Path],
    *,
    reference: str | None = None,
    metrics: Sequence[str] | None = None,
    tested: Sequence[str] | None = None,
    test: str = "t",
    title: str | None = None,
    note: str = "",
) -> Report:
    """Find some runs and lay out their tables.

    Args:
        folders: see ``load.loaded``.
        reference, metrics, tested, test, title, note: see ``sections.build``.
    Raises:
        ConfigError: on an unknown reference or metric.
        DataError: when a folder is missing or its runs cannot be compared.
    """
    with loaded(folders) as runs:
        return build(runs, reference=reference, metrics=metrics, tested=tested, test=test, title=title, note=note)


def write_files(report: Report, out: str | Path, formats: Sequence[str] = tuple(FORMATS)) -> list[Path]:
    """Render a report, then write its files; the same report gives the same bytes.

    Args:
        out: folder of the files, made where missing.
        formats: of "md", "tex", "csv" and "html".
    Returns:
        The files, in the order of the formats.
    Raises:
        ConfigError: on an unknown format.
        MissingDependencyError: for "html" without jinja2 or matplotlib.
    """
    _check(formats)
    texts = {Path(out) / FORMATS[name][0]: FORMATS[name][1](report) for name in formats}
    for path, text in texts.items():
        with atomic_writer(path) as file:
            file.write(text.encode())
    return list(texts)


def write_report(
    folders: Sequence[str | Path], out: str | Path, *, formats: Sequence[str] = tuple(FORMATS), **options
) -> list[Path]:
    """``make_report(folders, **options)`` and ``write_files(..., out, formats)``; a missing package shows at once."""
    _check(formats)  # before the tests, which take longest
    return write_files(make_report(folders, **options), out, formats)


def _check(formats: Sequence[str]) -> None:
    for name in formats:
        if name not in FORMATS:
            raise ConfigError(f"--formats: '{name}' is not known; choose from: {', '.join(FORMATS)}")
    if "html" in formats:
        svg.require(", or choose other --formats")
