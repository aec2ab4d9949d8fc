"""``recbole-llm report``: runs -> tables in Markdown, LaTeX and CSV, and one HTML page with figures."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from recbole_llm.errors import DataError
from recbole_llm.report.cells import TEST_NAMES

FORMATS = "md,tex,csv,html"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="recbole-llm report",
        description="Make tables and figures from finished runs: results.md, results.tex (booktabs), results.csv (full "
        "precision, one line a number) and index.html, a page that loads nothing from elsewhere.",
        epilog="RUNS are folders of 'recbole-llm compare', run folders, or folders of run folders; of two runs with "
        "the same row, dataset, protocol and seed the later counts. The page needs: pip install 'recbole-llm[report]'.",
    )
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUNS", help="folders with records")
    parser.add_argument("-o", "--out", type=Path, required=True, help="folder to write to")
    parser.add_argument(
        "--reference",
        metavar="ROW",
        help="row that the others are tested against; default: the comparison's, else the last one",
    )
    parser.add_argument(
        "--metrics",
        metavar="NAMES",
        help="columns, comma-separated, for example hit@10,full/ndcg@10; default: hit, ndcg, mrr and recall at 10, "
        "without those that repeat another, and coverage, Gini, popularity, tail share and entropy at 10 where present",
    )
    parser.add_argument(
        "--tested",
        metavar="NAMES",
        help="metrics to test, comma-separated; default: the comparison's, else the accuracy metrics of the columns",
    )
    parser.add_argument(
        "--test", choices=list(TEST_NAMES), default="t", help="whose Holm-adjusted p-values make the marks; default: t"
    )
    parser.add_argument("--title", help="default: the comparison's, else Results on the datasets")
    parser.add_argument(
        "--note", default="", metavar="FILE|TEXT", help="remark above the tables: a text file, or the text itself"
    )
    parser.add_argument(
        "--formats", help=f"comma-separated; default: {FORMATS}, the page where its packages are installed"
    )
    return parser


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _note(text: str) -> str:
    """The text of the file that the argument names, or the argument."""
    path = Path(text)
    try:
        if text and path.is_file():
            return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise DataError(f"--note: {path} is not a text file in UTF-8; name another, or give the text itself") from None
    except OSError:  # a text too long to be a file name
        return text
    return text


def main(argv: Sequence[str]) -> int:
    """Write the report; returns the exit code 0.

    Raises:
        RecBoleLLMError: a folder without runs, an unknown row, metric or format, or a missing package.
    """
    args = _parser().parse_args(list(argv))
    from recbole_llm.report.write import NO_PAGE, available_formats, write_report

    formats = available_formats() if args.formats is None else _names(args.formats)
    paths = write_report(
        args.runs,
        args.out,
        reference=args.reference,
        metrics=_names(args.metrics) if args.metrics else None,
        tested=_names(args.tested) if args.tested else None,
        test=args.test,
        title=args.title,
        note=_note(args.note),
        formats=formats,
    )
    for path in paths:
        print(f"wrote {path}")
    if args.formats is None and "html" not in formats:
        print(NO_PAGE)
    return 0
