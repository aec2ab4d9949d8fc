"""Figures of a metric against the values of a setting."""

import numpy as np
import pytest
from report_data import make_result, make_users

from recbole_llm.comparison.record import OK, About, Record, per_user_file, write_about, write_records
from recbole_llm.report.figures import draw
from recbole_llm.report.load import loaded
from recbole_llm.report.sections import build


def written(folder, values: dict, sensitivity: dict):
    """A comparison whose rows differ in a setting. values: label -> the setting's value."""
    records = []
    for label, value in values.items():
        for seed in (1, 2):
            users = make_users(0.3 + 0.1 * len(label) % 0.5, seed)
            config = {"valid_metric": "NDCG@10", "seed": seed, "n_layers": value}
            result = make_result(label, seed, users, config=config, run_folder=f"runs/{label}-{seed}")
            record = Record(label, "Model", "toy", "loo-full", seed, OK, result=result)
            path = per_user_file(folder, record)
            path.parent.mkdir(parents=True, exist_ok=True)
            import pandas as pd

            pd.DataFrame({"user": [f"u{k}" for k in range(len(users["ndcg@10"]))], **users}).to_parquet(path)
            records.append(record)
    write_records(folder, records)
    write_about(folder, About(reference="base", sensitivity=sensitivity))
    return folder


def pictures(folder):
    with loaded([folder]) as runs:
        report = build(runs, reference=None, metrics=None, tested=None, test="t", title=None, note="")
        section = report.sections[0]
        return section, [p for p in draw(section) if p.group == "sensitivity"]


def test_one_a_setting_with_the_means_of_its_values(tmp_path):
    values = {"base": 3, "n_layers=1": 1, "n_layers=4": 4}
    section, found = pictures(written(tmp_path, values, {"n_layers": ["n_layers=1", "n_layers=4"]}))
    assert [p.title for p in found] == ["n_layers"]
    for label, value in values.items():
        mean = np.mean([r.result.test["ndcg@10"] for r in section.records if r.label == label])
        assert f"{value}: {mean:.4f}" in found[0].caption
    assert found[0].caption.index("1: ") < found[0].caption.index("3: ") < found[0].caption.index("4: ")


@pytest.mark.parametrize("values", [(0.001, 0.01, 0.1), (0.0, 0.01, 0.5), (1, 2, 3)])
def test_values_that_span_decades(tmp_path, values):
    rows = dict(zip(("base", "a", "b"), values, strict=True))
    _, found = pictures(written(tmp_path, rows, {"n_layers": ["a", "b"]}))
    assert len(found) == 1 and "<svg" in found[0].svg


@pytest.mark.parametrize(
    ("values", "sensitivity"),
    [
        ({"base": "sum", "a": "concat"}, {"n_layers": ["a"]}),  # no number
        ({"base": 1, "a": 2}, {}),
        ({"base": 1, "a": 2}, {"n_layers": ["b"]}),  # has not run
    ],
)
def test_nothing_where_there_is_nothing_to_draw(tmp_path, values, sensitivity):
    assert pictures(written(tmp_path, values, sensitivity))[1] == []


def test_a_comparison_says_it_to_the_report(tmp_path):
    from recbole_llm.comparison.record import read_about

    about = About("title", "note", "base", ("ndcg@10",), {"n_layers": ["a"]})
    write_about(tmp_path, about)
    assert read_about(tmp_path) == about
