"""Which runs a report is about, what its rows are called, and what it says of folders that hold none."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from report_data import USERS, make_records, make_result, make_users, write_comparison

from recbole_llm.comparison.record import (
    FAILED,
    RECORDS_FILE,
    About,
    per_user_file,
    read_about,
    read_per_user,
    write_about,
    write_records,
)
from recbole_llm.config.record import NOT_RUN_RELEVANT
from recbole_llm.errors import DataError
from recbole_llm.report import load
from recbole_llm.report.load import LONGEST_LABEL, NO_DIFFERENCE, loaded
from recbole_llm.report.write import make_report


def write_run(folder, name: str, result, users=None) -> None:
    """A run folder, as a finished run leaves it."""
    run = folder / name
    run.mkdir(parents=True)
    (run / "result.json").write_text(replace(result, run_folder=str(run)).to_json(), encoding="utf-8")
    if users is not None:
        pd.DataFrame({"user": [f"u{k}" for k in range(USERS)]} | users).to_parquet(run / "per_user.parquet")


def with_config(model: str, seed: int, **settings):
    users = make_users(0.5, seed)
    config = {"valid_metric": "NDCG@10", "seed": seed, "run_dir": f"somewhere/{seed}", "learning_rate": 0.001}
    return make_result(model, seed, users, config=config | settings), users


def labels(*folders) -> list[str]:
    with loaded(folders) as runs:
        return [record.label for record in runs.records]


def test_file_names_are_those_of_runs():
    from recbole_llm.experiment.run import CONFIG_FILE, PER_USER_FILE, RESULT_FILE

    assert (load.RESULT_FILE, load.CONFIG_FILE, load.PER_USER_FILE) == (RESULT_FILE, CONFIG_FILE, PER_USER_FILE)


def test_what_no_run_depends_on_tells_no_rows_apart():
    assert NO_DIFFERENCE == NOT_RUN_RELEVANT | {"seed"}


def test_a_comparison_keeps_its_records_and_users(comparison):
    with loaded([comparison]) as runs:
        made = [record for record, _ in make_records()]
        assert [r.key for r in runs.records] == [r.key for r in made]
        assert runs.without_users == frozenset() and runs.notes == ()
        for record, (original, users) in zip(runs.records, make_records(), strict=True):
            if original.result is None:
                assert record.result is None
                continue
            assert record.result.test == original.result.test
            names, values = read_per_user(runs.folder, record, ["ndcg@10"])
            assert list(names) == [f"u{k:03d}" for k in range(USERS)]
            np.testing.assert_array_equal(values["ndcg@10"], users["ndcg@10"])


def test_seeds_of_one_setting_share_a_label(tmp_path):
    for seed in (1, 2):
        write_run(tmp_path, f"a-{seed}", *with_config("SASRec", seed))
    write_run(tmp_path, "b-1", *with_config("Markov", 1))
    assert labels(tmp_path) == ["SASRec", "SASRec", "Markov"]


def test_settings_that_differ_stand_in_the_label(tmp_path):
    write_run(tmp_path, "a", *with_config("M", 1, placebo="none", features={"x": {"missing": "error"}}, same=[1]))
    write_run(tmp_path, "b", *with_config("M", 1, placebo="shuffle", features={"x": {"missing": "zero"}}, same=[1]))
    write_run(tmp_path, "c", *with_config("Other", 1, placebo="shuffle"))
    assert labels(tmp_path) == [
        "M (features.x.missing=error, placebo=none)",
        "M (features.x.missing=zero, placebo=shuffle)",
        "Other",
    ]


def test_long_labels_are_cut_and_stay_different(tmp_path):
    for k in range(2):
        write_run(tmp_path, str(k), *with_config("M", 1, words=[f"word {k}"] * 20))
    found = labels(tmp_path)
    assert len(set(found)) == 2 and all(len(label) <= LONGEST_LABEL for label in found)


def test_settings_are_told_apart_across_folders(tmp_path):
    for name, rate in (("x", 0.1), ("y", 0.2)):
        write_run(tmp_path / name, "run", *with_config("M", 1, learning_rate=rate))
    assert labels(tmp_path / "x", tmp_path / "y") == ["M (learning_rate=0.1)", "M (learning_rate=0.2)"]


def test_a_run_does_not_slip_into_the_row_of_a_comparison(tmp_path, comparison):
    write_run(tmp_path, "run", *with_config("SASRec", 77))
    assert labels(comparison, tmp_path)[-1] == "SASRec (run folder)"


def test_a_single_run_folder_is_enough(tmp_path):
    write_run(tmp_path, "run", *with_config("M", 1))
    assert labels(tmp_path / "run") == ["M"]


def test_runs_of_one_name_in_two_folders_keep_their_own_users(tmp_path):
    users = {name: make_users(0.5, seed) for seed, name in enumerate(("x", "y"))}
    for seed, name in enumerate(users):
        result = make_result("M", seed, users[name])
        write_run(tmp_path / name, "run", result, users[name])
    with loaded([tmp_path / "x", tmp_path / "y"]) as runs:
        for record, name in zip(runs.records, users, strict=True):
            _, values = read_per_user(runs.folder, record, ["mrr@10"])
            assert sorted(values["mrr@10"]) == sorted(users[name]["mrr@10"])


def test_the_later_of_two_runs_with_one_key_counts(tmp_path):
    for name in ("x", "y"):
        write_run(tmp_path / name, "run", *with_config("M", 1))
    late, users = with_config("M", 1)
    (tmp_path / "y" / "run" / "result.json").write_text(replace(late, n_parameters=7).to_json(), encoding="utf-8")
    with loaded([tmp_path / "x", tmp_path / "y"]) as runs:
        assert [record.result.n_parameters for record in runs.records] == [7]


def test_a_failure_does_not_take_the_place_of_a_result(tmp_path, comparison):
    failed = [replace(record, status=FAILED, reason="killed", result=None) for record, _ in make_records()]
    again = write_comparison(tmp_path / "again", [(record, None) for record in failed])
    with loaded([comparison]) as alone, loaded([comparison, again]) as both:
        assert [r.status for r in both.records] == [r.status for r in alone.records]


class TestAbout:
    """What a comparison wants said of its tables comes with its folder."""

    ABOUT = About("A title", "One.\n\nTwo.", "SASRec", ("mrr@10",))

    def test_it_comes_back_as_it_was(self, tmp_path):
        assert read_about(tmp_path) == About()
        write_about(tmp_path, self.ABOUT)
        assert read_about(tmp_path) == self.ABOUT

    @pytest.mark.parametrize("text", ["{", "[]", "{}", '{"tested": [], "more": 1}'])
    def test_a_broken_file_is_named(self, tmp_path, text):
        (tmp_path / "comparison.json").write_text(text)
        with pytest.raises(DataError, match="comparison.json does not say what a report needs"):
            read_about(tmp_path)

    def test_a_report_follows_it_unless_told_otherwise(self, tmp_path):
        folder = write_comparison(tmp_path / "c", make_records())
        write_about(folder, self.ABOUT)
        report = make_report([folder])
        table = report.sections[0].table
        assert (report.title, report.note, table.reference) == ("A title", ("One.", "Two."), "SASRec")
        assert table.tested == ("mrr@10",) and set(table.rows[0].tests) == {"mrr@10"}
        other = make_report([folder], reference="Pop", tested=["hit@10"], title="Mine", note="My own.")
        table = other.sections[0].table
        assert (other.title, other.note, table.reference) == ("Mine", ("My own.",), "Pop")
        assert table.tested == ("hit@10",)

    def test_a_reference_without_a_run_stays_named(self, tmp_path):
        """No other row takes its place unasked."""
        folder = write_comparison(tmp_path / "c", make_records())
        write_about(folder, About(reference="Not yet"))
        (section,) = make_report([folder]).sections
        assert section.table.reference == "Not yet" and not any(row.tests for row in section.table.rows)
        assert "No tests: the reference, Not yet, has no result." in section.grids[0].notes

    def test_each_comparison_has_its_own(self, tmp_path):
        """Two comparisons in one report: no table is tested against the other's reference."""
        write_about(first := write_comparison(tmp_path / "a", make_records()), self.ABOUT)
        made = [
            (replace(r, protocol="rs-full", result=r.result and replace(r.result, protocol="rs-full")), users)
            for r, users in make_records()
        ]
        write_about(second := write_comparison(tmp_path / "b", made), About("Another", "Three.", "Pop"))
        report = make_report([first, second])
        assert [s.table.reference for s in report.sections] == ["SASRec", "Pop"]
        assert (report.title, report.note) == ("Results on toy", ("One.", "Two.", "Three."))

    def test_two_on_the_same_data_are_two_tables(self, tmp_path):
        """Rows of one name may have other settings in another comparison."""
        write_about(first := write_comparison(tmp_path / "a", make_records()), self.ABOUT)
        write_about(second := write_comparison(tmp_path / "b", make_records()), About("Another", reference="Pop"))
        write_about(third := write_comparison(tmp_path / "c", make_records()), self.ABOUT)
        report = make_report([first, second, third])
        assert [s.heading for s in report.sections] == ["toy, loo-full: A title", "toy, loo-full: Another"]
        assert [len(s.records) for s in report.sections] == [len(make_records())] * 2


def test_unfinished_runs_are_counted(tmp_path):
    write_run(tmp_path, "run", *with_config("M", 1))
    (tmp_path / "run" / "config.yaml").write_text("", encoding="utf-8")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.yaml").write_text("", encoding="utf-8")
    with loaded([tmp_path]) as runs:
        assert len(runs.notes) == 1 and runs.notes[0].startswith("1 run folder(s)")


def test_no_such_folder(tmp_path):
    with pytest.raises(DataError, match="absent: no such folder"), loaded([tmp_path / "absent"]):
        pass


def test_a_folder_without_runs(tmp_path):
    with pytest.raises(DataError, match="holds neither records.jsonl nor run folders"), loaded([tmp_path]):
        pass


def test_an_empty_comparison(tmp_path):
    write_records(tmp_path, [])
    with pytest.raises(DataError, match="records.jsonl is empty"), loaded([tmp_path]):
        pass


@pytest.mark.parametrize("text", ["{", "[]", json.dumps({"model": "M"})])
def test_broken_files_are_named(tmp_path, text):
    (tmp_path / "comparison").mkdir()
    (tmp_path / "comparison" / RECORDS_FILE).write_text(text + "\n", encoding="utf-8")
    with pytest.raises(DataError, match="records.jsonl: not a record"), loaded([tmp_path / "comparison"]):
        pass
    (tmp_path / "runs" / "one").mkdir(parents=True)
    (tmp_path / "runs" / "one" / "result.json").write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=r"one/result.json is not the record of a run"), loaded([tmp_path / "runs"]):
        pass


def test_one_missing_file_of_users_is_named(tmp_path):
    made = make_records()
    folder = write_comparison(tmp_path / "c", made)
    path = per_user_file(folder, made[3][0])
    path.unlink()
    with pytest.raises(DataError, match=f"{path.name} is missing: copy it from where SASRec, seed 1"), loaded([folder]):
        pass


def test_no_users_at_all_are_no_error(tmp_path):
    folder = write_comparison(tmp_path / "c", [(record, None) for record, _ in make_records()])
    with loaded([folder]) as runs:
        assert runs.without_users == {("toy", "loo-full")}
