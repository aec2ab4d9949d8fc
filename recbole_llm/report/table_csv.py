"""Reports as CSV, one line a number, in full precision.

Columns: ``dataset, protocol, row, model, seed, kind, name, value``. Lines with a seed are about one run: kind
``valid`` and ``test`` (name: metric), ``seconds`` (name: phase), ``cost`` (``peak_bytes``, ``n_parameters``),
``chosen`` (name: setting), ``status`` (name: ``ok`` or ``failed``, value: reason). Lines without one are about the
row: ``mean``, ``sd`` and ``rank`` (name: metric), ``cost`` (name: see ``comparison.summary.Cost``) and, for the
reference minus the row on the metric in ``name``, ``difference``, ``ci_low``, ``ci_high``, ``effect_size``, ``wins``,
``losses`` and ``p_``, ``holm_``, ``bh_`` and ``seeds_p_`` with the test behind. Numbers read back to the very same
floats.
"""

import csv
import io
from collections.abc import Iterator
from dataclasses import asdict

from recbole_llm.comparison.differences import Test
from recbole_llm.comparison.record import Record
from recbole_llm.comparison.summary import SummaryRow
from recbole_llm.report.sections import Report

COLUMNS = ("dataset", "protocol", "row", "model", "seed", "kind", "name", "value")


def render(report: Report) -> str:
    """All numbers of the report; metrics that its tables leave out are there too."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(COLUMNS)
    for section in report.sections:
        where = section.table.dataset, section.table.protocol
        for record in section.records:
            for line in _run(record):
                writer.writerow((*where, record.label, record.model, record.seed, *line))
        for row in section.table.rows:
            for line in _row(row):
                writer.writerow((*where, row.label, row.model, "", *line))
    return file.getvalue()


def _run(record: Record) -> Iterator[tuple[str, str, object]]:
    yield "status", record.status, record.reason
    yield from (("chosen", name, value) for name, value in record.chosen.items())
    result = record.result
    if result is None:
        return
    for kind, values in (("valid", result.valid), ("test", result.test), ("seconds", result.seconds)):
        yield from ((kind, name, value) for name, value in values.items())
    yield "cost", "peak_bytes", result.peak_bytes
    yield "cost", "n_parameters", result.n_parameters


def _row(row: SummaryRow) -> Iterator[tuple[str, str, object]]:
    for metric, value in row.values.items():
        yield "mean", metric, value.mean
        if value.sd is not None:
            yield "sd", metric, value.sd
        yield "rank", metric, value.rank
    if row.cost:
        yield from (("cost", name, value) for name, value in asdict(row.cost).items() if value is not None)
    for metric, test in row.tests.items():
        yield from ((kind, metric, value) for kind, value in _test(test))


def _test(test: Test) -> Iterator[tuple[str, float]]:
    yield from (("difference", test.difference), ("ci_low", test.low), ("ci_high", test.high))
    yield from (("effect_size", test.effect_size), ("wins", test.wins), ("losses", test.losses))
    for kind in ("p", "holm", "bh", "seeds_p"):
        yield from ((f"{kind}_{name}", value) for name, value in getattr(test, kind).items())
