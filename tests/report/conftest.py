"""One small comparison, summarised once for the tests that only look at it."""

from pathlib import Path

import pytest
from report_data import make_records, write_comparison

from recbole_llm.report.load import loaded
from recbole_llm.report.sections import Report, build


@pytest.fixture(scope="session")
def comparison(tmp_path_factory) -> Path:
    return write_comparison(tmp_path_factory.mktemp("report") / "comparison", make_records())


@pytest.fixture(scope="session")
def report(comparison) -> Report:
    with loaded([comparison]) as runs:
        return build(
            runs,
            reference=None,
            metrics=None,
            tested=None,
            test="t",
            title="A <b>title</b> & more_so",
            note="One *note*.\n\nTwo.",
        )
