"""What stands in the cells: best and second, marks, failures, costs, choices, and which metrics are shown."""

from dataclasses import replace

import numpy as np
import pytest
from report_data import SEEDS, make_records, make_result, make_users, write_comparison

from recbole_llm.comparison.differences import Test as PairedTest
from recbole_llm.comparison.record import OK, Record
from recbole_llm.comparison.summary import Cost, SummaryRow, Table, Value
from recbole_llm.errors import ConfigError
from recbole_llm.report import cells, tables
from recbole_llm.report.load import Loaded, loaded
from recbole_llm.report.sections import build


def built(folder, **options):
    defaults = {"reference": None, "metrics": None, "tested": None, "test": "t", "title": None, "note": ""}
    with loaded([folder]) as runs:
        return build(runs, **defaults | options)


def without_users(made):
    """Records alone: nothing is tested, which takes longest."""
    return [(record, None) for record, _ in made]


def grid(section, name: str):
    return next(g for g in section.grids if g.name == name)


def column(grid, title: str) -> dict:
    k = [c.title for c in grid.columns].index(title)
    return {row[0].text: row[k] for row in grid.rows if len(row) > k}


def test_best_and_second_best(report):
    (section,) = report.sections
    means = {}
    for record in section.records:
        if record.status == OK:
            means.setdefault(record.label, []).append(record.result.test["ndcg@10"])
    order = sorted(means, key=lambda label: -np.mean(means[label]))
    found = column(grid(section, "results"), "ndcg@10")
    assert {label: cell.rank for label, cell in found.items() if cell.rank} == {order[0]: 1, order[1]: 2}


def test_less_is_better_where_it_is(tmp_path):
    made = [
        (Record(f"R{k}", "M", "toy", "p", 1, OK, result=make_result("M", 1, {"giniindex@10": np.full(3, value)})), None)
        for k, value in enumerate((0.9, 0.2, 0.5))
    ]
    made = [(replace(r, result=replace(r.result, run_folder=r.label)), u) for r, u in made]
    (section,) = built(write_comparison(tmp_path / "c", made)).sections
    found = column(grid(section, "results"), "giniindex@10 ↓")
    assert [cell.rank for cell in found.values()] == [0, 1, 2]


def test_mean_and_deviation(report):
    (section,) = report.sections
    values = [r.result.test["hit@10"] for r in section.records if r.label == "SASRec"]
    found = column(grid(section, "results"), "hit@10")
    assert found["SASRec"].text == f"{np.mean(values):.4f} ± {np.std(values, ddof=1):.4f}"
    assert "±" not in found["Single_seed"].text


def test_marks_follow_the_chosen_test(comparison):
    (section,) = built(comparison, reference="Partly", metrics=["hit@10"]).sections
    for test in cells.TEST_NAMES:
        found = column(tables.results(section.table, section.metrics, test), "hit@10")
        for row in section.table.rows:
            if row.tests:
                shown = row.tests["hit@10"]
                expected = "" if shown.holm[test] > 0.05 else "▼" if shown.difference > 0 else "▲"
                assert found[row.label].mark == expected
        assert {"▼", "▲"} <= {cell.mark for cell in found.values()}


def test_marks_at_the_level():
    """One row of every kind, by hand."""
    values = {"m": Value(0.5, None)}

    def mark(difference: float, t: float, wilcoxon: float) -> str:
        adjusted = {"t": t, "wilcoxon": wilcoxon}
        test = PairedTest(difference, 0, 0, 0.95, 0, adjusted, adjusted, adjusted, {}, 0, 0)
        row = SummaryRow("R", "M", (1,), values, Cost(1, None, 1, 0, 1, 0), 0, {"m": test})
        return tables.results(Table("d", "p", ("m",), (row,), "x", ("m",), ()), ["m"], "wilcoxon").rows[0][1].mark

    assert [mark(0.1, 1, 0.05), mark(-0.1, 1, 0.05), mark(0.1, 0, 0.0501)] == ["▼", "▲", ""]


def test_the_reference_is_the_last_row_unless_named(comparison, report):
    def marked(section):
        return [row[0].text for row in grid(section, "results").rows if row[0].mark == "†"]

    assert marked(report.sections[0]) == ["Ours (placebo=none)"]
    assert marked(built(comparison, reference="Pop", metrics=["hit@10"]).sections[0]) == ["Pop"]


def test_a_row_of_failures_has_its_reason_in_the_place_of_numbers(report):
    results = grid(report.sections[0], "results")
    row = next(row for row in results.rows if row[0].text == "Broken|<b>")
    assert len(row) == 2 and row[1].span == len(results.columns) - 1
    assert row[1].text == "failed: seeds 1 and 2: out of memory: 5 GiB & 100 % of $HOME_DIR #1"


def test_a_failed_seed_is_told_beneath(report):
    results = grid(report.sections[0], "results")
    assert column(results, "seeds")["Partly"].text == "1 of 2"
    assert "Partly: failed with seed 2: loss is not finite." in results.notes


def test_all_rows_are_as_wide_as_the_head(report):
    for g in report.sections[0].grids:
        assert {sum(cell.span for cell in row) for row in g.rows} == {len(g.columns)}


def test_costs(report):
    results = grid(report.sections[0], "results")
    costs = [column(results, name)["SASRec"].text for name in tables.COSTS]
    assert costs == ["5.00", "0.50", "0.25", "230", "12,345"]
    assert column(results, "s/epoch")["Pop"].text == "–"


def test_what_was_made_elsewhere_has_no_training_cost(tmp_path):
    users = make_users(0.5, 1)
    made = []
    for label, peak in (("imported", 0), ("Pop", 5 * 2**20)):
        result = make_result(label, 1, users, stages=[], n_parameters=0, peak_bytes=peak, run_folder=label)
        made.append((Record(label, label, "toy", "p", 1, OK, result=result), users))
    (section,) = built(write_comparison(tmp_path / "c", made)).sections
    results = grid(section, "results")
    costs = {label: [column(results, n)[label].text for n in tables.COSTS] for label in ("imported", "Pop")}
    assert costs == {"imported": ["–", "–", "0.25", "–", "–"], "Pop": ["2.00", "–", "0.25", "5", "0"]}


def test_choices_name_grid_and_point(report):
    choices = grid(report.sections[0], "choices")
    assert [[cell.text for cell in row] for row in choices.rows] == [
        ["SASRec", "2", "learning_rate=0.01", "learning_rate=[0.01, 0.001]", "9.50"]
    ]


def test_seeds_that_chose_differently_are_told_apart(tmp_path):
    made = make_records()
    k = next(k for k, (record, _) in enumerate(made) if record.label == "SASRec" and record.seed == 2)
    made[k] = (replace(made[k][0], chosen={"learning_rate": 0.001}), made[k][1])
    choices = grid(built(write_comparison(tmp_path / "c", without_users(made))).sections[0], "choices")
    assert choices.rows[0][2].text == (
        "seed 1: learning_rate=0.01; seed 2: learning_rate=0.001; seed 3: learning_rate=0.01"
    )


def test_tests_of_every_other_row(report):
    (section,) = report.sections
    found = grid(section, "tests-1")
    assert found.caption.startswith("hit@10: Ours (placebo=none) minus each row")
    assert [row[0].text for row in found.rows] == ["Pop", "SASRec", "Single_seed", "Partly"]
    test = next(row for row in section.table.rows if row.label == "Pop").tests["hit@10"]
    assert column(found, "difference")["Pop"].text == f"+{test.difference:.4f}"
    assert column(found, "p wilcoxon")["Pop"].text == f"{test.p['wilcoxon']:.2g}"
    assert column(found, "Holm (t)")["Pop"].text == f"{test.holm['t']:.2g}"
    assert column(found, "p seeds (t)")["Single_seed"].text == "–"
    assert column(found, "wins")["Pop"].text == f"{100 * test.wins:.1f} %"


def test_recall_is_left_out_where_it_repeats_hit(report):
    assert report.sections[0].metrics == ("hit@10", "ndcg@10", "mrr@10")


def test_recall_stays_where_it_differs(tmp_path):
    made = make_records()
    first, users = made[0]
    made[0] = (replace(first, result=replace(first.result, test=first.result.test | {"recall@10": 0.123})), users)
    (section,) = built(write_comparison(tmp_path / "c", without_users(made))).sections
    assert section.metrics == ("hit@10", "ndcg@10", "mrr@10", "recall@10")


def test_metrics_beyond_accuracy_follow_and_are_not_tested(tmp_path):
    made = []
    for record, users in make_records():
        if users is not None:
            extra = {"itemcoverage@10": 0.5, "tailpercentage@10": 0.2, "ndcg@5": 0.1, "few/ndcg@10": 0.3}
            record = replace(record, result=replace(record.result, test=record.result.test | extra))
        made.append((record, users))
    (section,) = built(write_comparison(tmp_path / "c", without_users(made))).sections
    assert section.metrics == ("hit@10", "ndcg@10", "mrr@10", "few/ndcg@10", "itemcoverage@10", "tailpercentage@10")
    assert section.table.tested == ("hit@10", "ndcg@10", "mrr@10")


def test_what_is_tested_is_shown_and_is_what_figures_are_about(tmp_path):
    made = []
    for record, users in make_records():
        if users is not None:
            users = users | {"ndcg@20": users["ndcg@10"] / 2 + 0.1}
            test = record.result.test | {"ndcg@20": float(users["ndcg@20"].mean())}
            record = replace(record, result=replace(record.result, test=test))
        made.append((record, users))
    folder = write_comparison(tmp_path / "c", made)
    (section,) = built(folder, tested=["ndcg@20"]).sections
    assert section.metrics == ("ndcg@20", "hit@10", "ndcg@10", "mrr@10") and section.table.tested == ("ndcg@20",)
    assert section.main_metric == "ndcg@20" and section.users
    (section,) = built(folder).sections
    assert "ndcg@20" not in section.metrics and section.main_metric == "ndcg@10"


def test_other_metrics_are_shown_where_none_is_known(tmp_path):
    result = make_result("FM", 1, {}, test={"auc": 0.7, "logloss": 0.5})
    folder = write_comparison(tmp_path / "c", [(Record("FM", "FM", "toy", "ctr", 1, OK, result=result), None)])
    (section,) = built(folder).sections
    assert section.metrics == ("auc", "logloss")


def test_runs_without_users_are_not_tested_and_it_says_so(tmp_path):
    folder = write_comparison(tmp_path / "c", without_users(make_records()))
    (section,) = built(folder).sections
    assert not any(row.tests for row in section.table.rows) and section.users == {}
    assert any(note.startswith("No tests: the runs have no per-user") for note in grid(section, "results").notes)


def test_a_reference_without_result_is_named(comparison):
    (section,) = built(comparison, reference="Broken|<b>").sections
    notes = grid(section, "results").notes
    assert "No tests: the reference, Broken|<b>, has no result." in notes


def test_one_table_a_dataset_and_protocol(tmp_path):
    made = make_records()
    for seed in SEEDS:
        users = make_users(0.4, seed)
        result = make_result("Pop", seed, users, protocol="other", split="0" * 64, run_folder=f"other-{seed}")
        made.append((Record("Pop", "Pop", "toy", "other", seed, OK, result=result), users))
    sections = built(write_comparison(tmp_path / "c", made)).sections
    assert [s.heading for s in sections] == ["toy, loo-full", "toy, other"]
    assert [note for note in grid(sections[1], "results").notes if note.startswith("No tests")] == []  # nothing to test


def test_unknown_reference_and_metric(comparison):
    with pytest.raises(ConfigError, match="--reference: no table has a row 'SASrec'; did you mean 'SASRec'"):
        built(comparison, reference="SASrec")
    with pytest.raises(ConfigError, match="--metrics: no table has a metric 'ndgc@10'; did you mean 'ndcg@10'"):
        built(comparison, metrics=["hit@10", "ndgc@10"])


def test_only_what_is_asked_for_is_tested(comparison):
    (section,) = built(comparison, tested=["mrr@10"], metrics=["hit@10"]).sections
    assert section.metrics == ("hit@10",) and section.table.tested == ("mrr@10",)
    assert [g.caption.partition(":")[0] for g in section.grids if g.name.startswith("tests")] == ["mrr@10"]
    with pytest.raises(ConfigError, match="--tested: no table has a metric 'map@10'"):
        built(comparison, tested=["map@10"])


def test_facts_say_what_it_rests_on(report):
    facts = dict(report.sections[0].facts)
    assert facts["Split"] == "5b1e5b1e5b1e" and facts["Seeds"] == "1, 2, 3"
    assert facts["Commit"] == "abcdef012345+ (+: with uncommitted changes)"
    assert "Pop: c0dePop" in facts["Code"] and "SASRec: c0deSASRec" in facts["Code"]
    assert facts["Packages"] == "python 3.12.1, torch 2.7.0"
    assert facts["Machine"] == "Test <CPU> & co, 1 thread, cpu"
    assert "30 test users" in facts["Numbers"] and "read once" in facts["Selection"]


def test_facts_do_not_hide_a_second_read_of_the_test_rows(tmp_path):
    made = make_records()
    made[0] = (replace(made[0][0], result=replace(made[0][0].result, test_reads=2)), made[0][1])
    (section,) = built(write_comparison(tmp_path / "c", without_users(made))).sections
    assert "read 1 and 2 times" in dict(section.facts)["Selection"]


def test_slices_stand_in_a_table(tmp_path):
    found = {"head": {"ndcg@10": 0.2, "positives": 20.0}, "cold": {"positives": 0.0}}
    made = [
        (replace(r, result=r.result and replace(r.result, slices=found if r.label == "Pop" else {})), users)
        for r, users in make_records()
    ]
    (section,) = built(write_comparison(tmp_path / "c", made)).sections
    (grid,) = [grid for grid in section.grids if grid.name == "known-items"]
    assert [column.title for column in grid.columns] == ["row", "head (20)", "cold (0)"]
    assert [[cell.text for cell in row] for row in grid.rows] == [["Pop", "0.2000", "–"]]
    assert "the most used 20% of the items" in grid.notes[0]


def test_a_row_of_mixed_runs_is_told(tmp_path):
    made = make_records()
    changed = replace(made[0][0].result, code_hash="another")
    made[0] = (replace(made[0][0], result=changed), made[0][1])
    (section,) = built(write_comparison(tmp_path / "c", made)).sections
    assert "Pop: its runs differ in code; run the comparison again." in section.grids[0].notes


def test_nothing_is_well(tmp_path):
    made = [entry for entry in make_records() if entry[1] is None]
    report = built(write_comparison(tmp_path / "c", made))
    assert [row[1].text.startswith("failed: seed") for row in report.sections[0].grids[0].rows] == [True, True]


def test_a_report_needs_no_files_for_its_layout():
    empty = Loaded({}, {}, None, frozenset(), ("nothing",))
    report = build(empty, reference=None, metrics=None, tested=None, test="t", title=None, note=" a\nb \n\n c ")
    assert report.sections == () and report.note == ("a b", "c") and report.remarks == ("nothing",)


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.12345, "0.1235"), (-0.5, "−0.5000"), (12.345, "12.35"), (1234.56, "1,234.6"), (float("inf"), "∞")],
)
def test_numbers(value, text):
    assert cells.number(value) == text


@pytest.mark.parametrize(("value", "text"), [(None, "–"), (0.2, "0.20"), (12.34, "12.3"), (4321.0, "4,321")])
def test_seconds(value, text):
    assert cells.seconds(value) == text


def test_failures_are_gathered_by_reason():
    assert cells.failures([(1, "a"), (2, "b\nc"), (3, "a"), (4, "a")]) == "seeds 1, 3 and 4: a; seed 2: b c"


def chosen_runs(label: str, metric: str, *scores: tuple[float, float]) -> list:
    made = []
    for seed, (valid, test) in enumerate(scores):
        config = {"valid_metric": metric.upper()}
        result = make_result("M", seed, {}, config=config, valid={metric: valid}, test={metric: test})
        made.append(
            (Record(label, "M", "toy", "p", seed, OK, result=replace(result, run_folder=f"{label}{seed}")), None)
        )
    return made


def test_what_chose_stands_beside_test(tmp_path):
    made = [*chosen_runs("A", "ndcg@10", (0.30, 0.20), (0.32, 0.24)), *chosen_runs("B", "ndcg@10", (0.25, 0.26))]
    (section,) = built(write_comparison(tmp_path / "c", made)).sections
    found = grid(section, "validation")
    assert [c.title for c in found.columns] == ["row", "validation ndcg@10", "test ndcg@10"]
    texts = [[cell.text for cell in row] for row in found.rows]
    assert texts == [["A", "0.3100 ± 0.0141", "0.2200 ± 0.0283"], ["B", "0.2500", "0.2600"]]


def test_rows_that_were_chosen_by_other_metrics_say_so(tmp_path):
    made = [*chosen_runs("A", "cold/auc", (0.6, 0.5)), *chosen_runs("B", "warm-a/auc", (0.7, 0.8))]
    (section,) = built(write_comparison(tmp_path / "c", made)).sections
    found = grid(section, "validation")
    assert [c.title for c in found.columns] == ["row", "metric", "validation", "test"]
    assert [[cell.text for cell in row] for row in found.rows] == [
        ["A", "cold/auc", "0.6000", "0.5000"], ["B", "warm-a/auc", "0.7000", "0.8000"]
    ]  # fmt: skip


def test_recommendations_made_elsewhere_were_chosen_by_nothing(tmp_path):
    made = [(Record("A", "M", "toy", "p", 1, OK, result=make_result("M", 1, {"ndcg@10": np.ones(3)}, valid={})), None)]
    (section,) = built(write_comparison(tmp_path / "c", made)).sections
    assert "validation" not in [g.name for g in section.grids]
