"""Tables from records: means, ranks, costs and tests against what scipy and statsmodels give."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from recbole.evaluator.register import smaller_metrics
from scipy import stats
from statsmodels.stats.multitest import multipletests

from recbole_llm.comparison.differences import per_user
from recbole_llm.comparison.record import FAILED, OK, Record, per_user_file, read_records, write_records
from recbole_llm.comparison.summary import LESS_IS_BETTER, summarise
from recbole_llm.errors import DataError
from recbole_llm.evaluation.impressions import accuracy_and_log_loss
from recbole_llm.experiment.record import RunResult

N_USERS = 80


def make(
    folder, label, seed, values=None, *, protocol="loo-full", split="s1", reason="", users=None, **changes
) -> Record:
    """A record whose per-user ndcg@10 are ``values``; a failure when there are none."""
    if values is None:
        return Record(label, label, "data", protocol, seed, FAILED, reason)
    name = f"{label}-{protocol}-s{seed}"
    test = {"ndcg@10": float(np.mean(values)), "giniindex@10": changes.pop("gini", 0.5)}
    stages = [{"epochs": 4, "seconds_per_epoch": 2.0}, {"epochs": 6, "seconds_per_epoch": 2.0 + seed}]
    fields = {
        "model": label,
        "dataset": "data",
        "protocol": protocol,
        "seed": seed,
        "config": {},
        "config_hash": "",
        "code_hash": "",
        "commit": "",
        "versions": {},
        "machine": {},
        "split": split,
        "features": {},
        "valid": {},
        "test": test,
        "test_reads": 1,
        "stages": stages,
        "seconds": {"build": 0.5, "train": 0.1, "test": 2.0},  # as of a run that was resumed near its end
        "peak_bytes": 100 * seed,
        "n_parameters": 7,
        "run_folder": f"runs/{name}",
    }
    record = Record(label, label, "data", protocol, seed, OK, result=RunResult(**fields | changes))
    path = per_user_file(folder, record)
    path.parent.mkdir(parents=True, exist_ok=True)
    users = [f"u{k:02d}" for k in range(len(values))] if users is None else users
    order = np.random.default_rng(seed).permutation(len(values))  # a file's order of users must not matter
    pd.DataFrame({"user": np.array(users)[order], "ndcg@10": np.asarray(values)[order]}).to_parquet(path)
    return record


@pytest.fixture
def scores():
    """label -> [seeds, users]."""
    rng = np.random.default_rng(4)
    skill = rng.random(N_USERS)
    noise = {"ours": (0.06, 3), "close": (0.05, 3), "weak": (0.0, 1)}
    return {k: skill + shift + rng.normal(0, 0.1, (n, N_USERS)) for k, (shift, n) in noise.items()}


@pytest.fixture
def records(tmp_path, scores):
    return [make(tmp_path, label, s + 1, row) for label, rows in scores.items() for s, row in enumerate(rows)]


def row(table, label):
    return next(r for r in table.rows if r.label == label)


def test_means_deviations_ranks_and_costs(tmp_path, scores, records):
    (table,) = summarise(tmp_path, records, reference="ours")
    means = scores["ours"].mean(1)
    value = row(table, "ours").values["ndcg@10"]
    assert value.mean == pytest.approx(means.mean()) and value.sd == pytest.approx(means.std(ddof=1))
    assert row(table, "weak").values["ndcg@10"].sd is None
    assert [row(table, label).values["ndcg@10"].rank for label in ("ours", "close", "weak")] == [1, 2, 0]
    cost = row(table, "ours").cost
    assert (cost.train_seconds, cost.epoch_seconds, cost.eval_seconds) == pytest.approx((32.5, 3.2, 2.0))
    assert (cost.peak_bytes, cost.n_parameters) == (300, 7)
    assert row(table, "ours").seeds == (1, 2, 3) and row(table, "weak").seeds == (1,)


def test_equal_means_share_a_rank_and_less_gini_is_better(tmp_path):
    values = np.linspace(0, 1, 8)
    rows = [("a", values, 0.9), ("b", values, 0.2), ("c", values / 2, 0.4)]
    records = [make(tmp_path, label, 1, ndcg, gini=gini) for label, ndcg, gini in rows]
    (table,) = summarise(tmp_path, records, reference=None)
    assert [r.values["ndcg@10"].rank for r in table.rows] == [1, 1, 2]
    assert [r.values["giniindex@10"].rank for r in table.rows] == [0, 1, 2]
    assert all(not r.tests for r in table.rows)


def test_where_all_are_equal_none_is_best(tmp_path):
    values = np.linspace(0, 1, 8)
    records = [make(tmp_path, label, 1, values, gini=gini) for label, gini in [("a", 0.9), ("b", 0.2)]]
    (table,) = summarise(tmp_path, records, reference=None)
    assert [r.values["ndcg@10"].rank for r in table.rows] == [0, 0]


def test_less_is_better_of_every_loss_and_error():
    """By the names that the evaluators give: ours of labelled rows, and RecBole's."""
    ours = accuracy_and_log_loss(np.array([0, 1]), np.array([0.2, 0.7]), 0.5)
    losses = {name for name in ours if "loss" in name}
    assert losses == set(ours) & set(LESS_IS_BETTER) and len(losses) == 2
    assert {"rmse", "mae", "logloss"} <= set(smaller_metrics) <= set(LESS_IS_BETTER)


def test_tests_average_seeds_first_and_correct_over_rows(tmp_path, scores, records):
    (table,) = summarise(tmp_path, records, reference="ours")
    others = ["close", "weak"]
    mean = {label: values.mean(0) for label, values in scores.items()}
    raw = [stats.ttest_rel(mean["ours"], mean[label]).pvalue for label in others]
    for k, label in enumerate(others):
        test = row(table, label).tests["ndcg@10"]
        assert test.p["t"] == pytest.approx(raw[k])
        assert test.holm["t"] == pytest.approx(multipletests(raw, method="holm")[1][k])
        assert test.bh["t"] == pytest.approx(multipletests(raw, method="fdr_bh")[1][k])
        assert test.p["wilcoxon"] == pytest.approx(stats.wilcoxon(mean["ours"], mean[label]).pvalue)
        assert test.difference == pytest.approx((mean["ours"] - mean[label]).mean())
        assert test.wins == pytest.approx((mean["ours"] > mean[label]).mean()) and test.wins + test.losses == 1
    assert not row(table, "ours").tests
    seeds = row(table, "close").tests["ndcg@10"].seeds_p
    assert seeds["t"] == pytest.approx(stats.ttest_rel(scores["ours"].mean(1), scores["close"].mean(1)).pvalue)
    assert row(table, "weak").tests["ndcg@10"].seeds_p == {}  # one seed has nothing to pair


def test_p_values_are_adjusted_over_rows_and_metrics(tmp_path, scores, records):
    for record in records:
        file = per_user_file(tmp_path, record)
        table = pd.read_parquet(file)
        table.assign(**{"hit@10": table["ndcg@10"] ** 2}).to_parquet(file)
    (table,) = summarise(tmp_path, records, reference="ours", tested=["ndcg@10", "hit@10"])
    tests = [row(table, label).tests[metric] for metric in ("ndcg@10", "hit@10") for label in ("close", "weak")]
    for name in ("t", "wilcoxon", "permutation"):
        raw = [test.p[name] for test in tests]
        assert [test.holm[name] for test in tests] == pytest.approx(multipletests(raw, method="holm")[1].tolist())
        assert [test.bh[name] for test in tests] == pytest.approx(multipletests(raw, method="fdr_bh")[1].tolist())


def test_what_was_ranked_in_other_ways_is_refused(tmp_path, scores):
    how = {
        "ours": {"mask_history": True},
        "close": {"mask_history": True, "topk": [10]},
        "weak": {"mask_history": False},
    }
    records = [make(tmp_path, label, 1, scores[label][0], config=config) for label, config in how.items()]
    assert len(summarise(tmp_path, records[:2], reference="ours")) == 1
    with pytest.raises(DataError, match=r"loo-full differ in mask_history \(false, true\)"):
        summarise(tmp_path, records, reference="ours")


def test_runs_of_a_row_that_differ_in_more_than_the_seed_are_told(tmp_path, scores):
    same = [
        make(tmp_path, "ours", s, scores["ours"][0], config={"seed": s, "lr": 1, "run_dir": f"r{s}"}) for s in (1, 2)
    ]
    (table,) = summarise(tmp_path, same, reference=None)
    assert row(table, "ours").mixed == ()
    other = make(tmp_path, "ours", 3, scores["ours"][0], config={"seed": 3, "lr": 2}, code_hash="new")
    (table,) = summarise(tmp_path, [*same, other], reference=None)
    assert row(table, "ours").mixed == ("settings", "code")


def test_marks_tell_the_direction(tmp_path, records):
    (table,) = summarise(tmp_path, records, reference="ours")
    assert row(table, "weak").tests["ndcg@10"].mark() == "+"
    (turned,) = summarise(tmp_path, records, reference="weak")
    assert row(turned, "ours").tests["ndcg@10"].mark() == "-"
    assert row(turned, "ours").tests["ndcg@10"].mark(level=1e-30) == ""


def test_failures_stay_in_the_table(tmp_path, records):
    lost = [make(tmp_path, "big", s, reason="out of memory") for s in (1, 2)]
    (table,) = summarise(tmp_path, [*records, *lost, make(tmp_path, "close", 9, reason="killed")], reference="ours")
    big = row(table, "big")
    assert big.failures == ((1, "out of memory"), (2, "out of memory")) and not big.values and big.cost is None
    assert row(table, "close").failures == ((9, "killed"),) and len(row(table, "close").seeds) == 3
    (nothing,) = summarise(tmp_path, lost, reference="big")
    assert nothing.metrics == () and not nothing.rows[0].tests


def test_a_table_for_each_protocol(tmp_path, records):
    other = make(tmp_path, "ours", 1, np.ones(5), protocol="rs-full", split="s2")
    assert [t.protocol for t in summarise(tmp_path, [*records, other], reference="ours")] == ["loo-full", "rs-full"]


def test_mixed_splits_and_users_are_refused(tmp_path, records):
    with pytest.raises(DataError, match="belong to 2 different splits"):
        summarise(tmp_path, [*records, make(tmp_path, "odd", 1, np.ones(N_USERS), split="s2")], reference="ours")
    with pytest.raises(DataError, match="the runs of odd were tested on other users"):
        users = [f"v{k}" for k in range(N_USERS)]
        summarise(tmp_path, [*records, make(tmp_path, "odd", 1, np.ones(N_USERS), users=users)], reference="ours")


class TestASplitForEachSeed:
    """Four draws, each with its own users; a user is in several."""

    DRAWS = {1: range(0, 60), 2: range(20, 80), 3: range(10, 70), 4: range(0, 80, 2)}

    @pytest.fixture
    def values(self):
        rng = np.random.default_rng(6)
        skill = rng.random(N_USERS)
        return {k: skill + shift + rng.normal(0, 0.1, (4, N_USERS)) for k, shift in (("ours", 0.06), ("theirs", 0.0))}

    def record(self, folder, label, seed, values, **changes):
        own = list(self.DRAWS[seed])
        names = [f"u{k:02d}" for k in own]
        config = {"split_seed": seed, "reg_weight": float(seed)} | changes
        return replace(
            make(folder, label, seed, values[label][seed - 1, own], split=f"s{seed}", users=names, config=config),
            grid={"reg_weight": [1.0, 2.0, 3.0, 4.0]},
        )

    def test_a_user_is_the_mean_of_the_draws_that_tested_him(self, tmp_path, values):
        records = [self.record(tmp_path, label, seed, values) for label in values for seed in self.DRAWS]
        (table,) = summarise(tmp_path, records, reference="ours")
        assert table.splits == ("s1", "s2", "s3", "s4")
        assert [r.mixed for r in table.rows] == [(), ()]  # the draw and what was chosen on it belong to the seed
        means = {label: [] for label in values}
        for user in range(N_USERS):
            tested = [seed - 1 for seed, own in self.DRAWS.items() if user in own]
            for label in values:
                if tested:
                    means[label].append(np.mean([values[label][k, user] for k in tested]))
        expected = stats.ttest_rel(means["ours"], means["theirs"])
        test = row(table, "theirs").tests["ndcg@10"]
        assert test.p["t"] == pytest.approx(expected.pvalue)
        assert test.difference == pytest.approx(np.mean(means["ours"]) - np.mean(means["theirs"]))
        by_draw = [[values[label][s - 1, list(own)].mean() for s, own in self.DRAWS.items()] for label in values]
        assert test.seeds_p["t"] == pytest.approx(stats.ttest_rel(*by_draw).pvalue)
        assert row(table, "ours").values["ndcg@10"].mean == pytest.approx(np.mean(by_draw[0]))

    def test_a_row_that_lacks_a_draw_cannot_stand_beside_the_others(self, tmp_path, values):
        records = [self.record(tmp_path, label, seed, values) for label in values for seed in self.DRAWS]
        with pytest.raises(DataError, match="belong to 4 different splits"):
            summarise(tmp_path, records[:-1], reference="ours")
        failed = replace(make(tmp_path, "theirs", 4, reason="killed"), model="theirs")
        (table,) = summarise(tmp_path, [*records[:-1], failed], reference="ours")
        assert row(table, "theirs").failures == ((4, "killed"),)  # it says so itself
        assert row(table, "theirs").tests == {}  # its users are not those of the others

    def test_two_seeds_on_one_of_several_splits(self, tmp_path, values):
        records = [self.record(tmp_path, "ours", seed, values) for seed in (1, 2)]
        same = make(tmp_path, "ours", 3, values["ours"][0, :60], split="s1")
        with pytest.raises(DataError, match="belong to 2 different splits"):
            summarise(tmp_path, [*records, same], reference="ours")

    def test_other_settings_may_not_differ(self, tmp_path, values):
        records = [self.record(tmp_path, "ours", seed, values, topk=[seed]) for seed in (1, 2)]
        with pytest.raises(DataError, match="differ in topk"):
            summarise(tmp_path, records, reference="ours")


def test_users_are_in_token_order(tmp_path, scores, records):
    found = per_user(tmp_path, {"ours": [r for r in records if r.label == "ours"]}, "ndcg@10")
    np.testing.assert_allclose(found["ours"], scores["ours"].mean(0), rtol=1e-15)


class TestRecords:
    def test_round_trip(self, tmp_path, records):
        write_records(tmp_path, records)
        assert read_records(tmp_path) == records

    def test_a_foreign_line_is_named(self, tmp_path):
        (tmp_path / "records.jsonl").write_text('{"label": "x"}\n')
        with pytest.raises(DataError, match="not a record of a comparison"):
            read_records(tmp_path)

    def test_a_missing_per_user_file_is_named(self, tmp_path, records):
        per_user_file(tmp_path, records[0]).unlink()
        with pytest.raises(DataError, match="ours-loo-full-s1.parquet is missing: copy it"):
            summarise(tmp_path, records, reference="ours")
