"""The single checks, on arrays written out."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy import sparse
from torch import nn

from recbole_llm.diagnose import alignment, leaks
from recbole_llm.diagnose.features import check_features, covered, statistics
from recbole_llm.diagnose.findings import Finding, Part, ordered
from recbole_llm.diagnose.health_page import number
from recbole_llm.diagnose.labels import base_rate_log_loss, check_labels
from recbole_llm.diagnose.rows import follows_time
from recbole_llm.diagnose.scores import Scored, check_scores, check_vectors
from recbole_llm.diagnose.steps import components, first_steps
from recbole_llm.diagnose.training import check_training, dead_branches


def found(part: Part) -> list[tuple[str, str]]:
    return [(f.check, f.severity) for f in part.findings]


class TestFindings:
    def test_come_severest_first(self):
        made = [Finding("c", severity, "s", "m", "a") for severity in ("note", "error", "warning")]
        assert [f.severity for f in ordered([Part("k", "t", findings=made)])] == ["error", "warning", "note"]

    def test_have_a_known_severity(self):
        with pytest.raises(ValueError, match="severity is 'fatal'"):
            Finding("c", "fatal", "s", "m", "a")


def test_numbers_of_a_table():
    values = (None, True, 12345, 0.123456, "x", np.float32(2.5))
    assert [number(v) for v in values] == ["–", "True", "12,345", "0.1235", "x", "2.5"]


class TestLabels:
    def test_log_loss_of_the_base_rate(self):
        assert base_rate_log_loss(0.5) == pytest.approx(np.log(2))
        assert base_rate_log_loss(0.04) == pytest.approx(0.1679, abs=1e-4)
        assert base_rate_log_loss(1.0) == 0.0

    @pytest.mark.parametrize(
        ("share", "expected"),
        [(0.0, "error"), (1.0, "error"), (0.005, "warning"), (0.04, "note"), (0.3, None), (0.7, None)],
    )
    def test_balance(self, share, expected):
        labels = np.arange(1000) < 1000 * share
        assert found(check_labels(labels, labels)) == ([("label-balance", expected)] if expected else [])

    def test_shift(self):
        part = check_labels(np.arange(100) < 40, np.arange(100) < 70)
        assert found(part) == [("label-shift", "note")]
        assert part.facts["training accuracy of the commoner label"] == 0.6

    def test_without_labels_it_is_no_finding(self):
        part = check_labels(None, None)
        assert not part.findings and "none" in part.facts["labels"]


def feature(matrix, present=None, side="item"):
    matrix = np.asarray(matrix, dtype=np.float32)
    present = np.r_[False, np.ones(len(matrix) - 1, dtype=bool)] if present is None else present
    return SimpleNamespace(
        matrix=matrix, present=present, side=side, id_field="item_id", coverage=present.sum() / (len(present) - 1)
    )


class TestFeatures:
    def test_statistics_written_out(self):
        rows = [[0, 0], [3, 4], [3, 4], [0, 0], [1, 4]]
        stats = statistics(np.array(rows, np.float32), np.array([False, True, True, True, True]))
        assert stats["rows"] == 4 and stats["width"] == 2 and stats["distinct rows"] == 3
        assert stats["mean norm"] == pytest.approx((5 + 5 + 0 + 17**0.5) / 4)
        assert stats["rows with a twin"] == stats["commonest row"] == 0.5
        assert stats["zero rows"] == 0.25 and stats["constant columns"] == 0 and not stats["constant"]

    def test_coverage_is_weighted_by_interactions(self):
        assert covered(np.array([False, True, False]), np.array([0, 9, 1])) == 0.9

    @pytest.mark.parametrize(("n_there", "expected"), [(90, None), (40, "warning"), (5, "error")])
    def test_low_coverage(self, n_there, expected):
        matrix = np.random.default_rng(0).normal(size=(101, 3))
        part = check_features(
            {"x": feature(matrix, (np.arange(101) > 0) & (np.arange(101) <= n_there))},
            {"item_id": np.r_[0, np.ones(100, int)]},
        )
        assert found(part) == ([("low-coverage", expected)] if expected else [])

    def test_what_rows_can_be(self):
        rng = np.random.default_rng(0)
        rows = rng.normal(size=(101, 4))
        broken, default, category, zero, narrow = (rows.copy() for _ in range(5))
        broken[5, 1] = np.nan
        default[1:41] = default[1]
        category[1:] = rng.normal(size=(3, 4))[rng.choice(3, 100, p=[0.8, 0.1, 0.1])]
        zero[1:31] = 0
        narrow[:, :3] = 1.0
        all_of = {"healthy": rows, "broken": broken, "default": default, "category": category, "zero": zero}
        all_of |= {"narrow": narrow, "constant": np.ones((101, 4))}
        part = check_features({k: feature(v) for k, v in all_of.items()}, {"item_id": np.r_[0, np.ones(100, int)]})
        assert {(f.subject, f.check, f.severity) for f in part.findings} == {
            ("broken", "not-finite", "error"),
            ("default", "duplicate-rows", "warning"),
            ("category", "duplicate-rows", "note"),
            ("zero", "duplicate-rows", "warning"),
            ("zero", "zero-rows", "warning"),
            ("narrow", "constant-columns", "warning"),
            ("constant", "constant-feature", "error"),
        }


def groups(n_items=80, n_users=150, per_user=12, n_groups=4, taste=20.0, seed=0):
    """Users who like one group of items: interactions [n_items, n_users], group of every item."""
    rng = np.random.default_rng(seed)
    group = np.arange(n_items) % n_groups
    used = np.zeros((n_items, n_users))
    for u in range(n_users):
        p = np.where(group == u % n_groups, taste, 1.0)
        used[rng.choice(n_items, per_user, replace=False, p=p / p.sum()), u] = 1
    return sparse.csr_matrix(used), group


class TestAlignment:
    def rows(self, group, noise=0.5):
        rng = np.random.default_rng(1)
        return rng.normal(size=(4, 6))[group] + noise * rng.normal(size=(len(group), 6))

    def judge(self, rows, used, seed=0):
        one = alignment.alignment(rows, np.ones(len(rows), bool), used, seed)
        return one, found(alignment.check_alignment({"x": one}, {"x": "item"}))

    def test_rows_that_fit_pass_and_permuted_ones_do_not(self):
        used, group = groups()
        rows = self.rows(group)
        one, findings = self.judge(rows, used)
        assert one.judged and one.z > 10 and findings == []
        for seed in range(5):
            order = np.random.default_rng(seed).permutation(len(rows))
            one, findings = self.judge(rows[order], used, seed)
            assert one.judged and findings == [("alignment", "error")]

    def test_interactions_that_repeat_nothing_say_nothing(self):
        used, group = groups(taste=1.0)
        one, findings = self.judge(np.random.default_rng(2).normal(size=(len(group), 6)), used)
        assert not one.judged and findings == [] and one.z_of_interactions < alignment.ENOUGH

    def test_nor_do_few_rows(self):
        used, group = groups(n_items=40)
        one, findings = self.judge(self.rows(group)[::-1], used)
        assert (one.rows, one.z) == (40, None) and findings == []


class TestLeaks:
    rng = np.random.default_rng(3)
    labels = rng.random(2000) < 0.4
    train, valid = np.arange(1500), np.arange(1500, 2000)

    def auc(self, values, tokens=False):
        return leaks.column_auc(np.asarray(values), self.labels, self.train, self.valid, tokens)

    def test_a_column_that_tells_the_label(self):
        assert self.auc(self.labels + 0.1 * self.rng.normal(size=2000)) > leaks.LEAK
        assert self.auc(-1.0 * self.labels) == 1.0  # either way round
        assert self.auc(np.where(self.labels, 7, 3), tokens=True) == 1.0

    def test_a_column_that_does_not(self):
        assert self.auc(self.rng.normal(size=2000)) < 0.6
        assert self.auc(np.arange(2000), tokens=True) == 0.5  # an id of the row, of which training tells nothing
        assert np.isnan(leaks.column_auc(np.ones(20), np.arange(20) < 9, np.arange(10), np.arange(10, 20), False))

    def test_a_feature_that_tells_the_label(self):
        noise = self.rng.normal(size=(2000, 300))
        assert leaks.probe_auc(noise, self.labels, self.train, self.valid) < 0.65
        told = noise + 3.0 * np.outer(self.labels, self.rng.normal(size=300))
        assert leaks.probe_auc(told, self.labels, self.train, self.valid) > leaks.LEAK

    def test_a_users_feature_that_knows_the_held_out_item(self):
        used, _ = groups(n_users=300, n_items=40)
        users = used.T.tocsr()
        history, held_out = users.tolil(), sparse.lil_matrix(users.shape)
        rng = np.random.default_rng(5)
        for u in range(users.shape[0]):
            item = rng.choice(users[u].indices)
            history[u, item], held_out[u, item] = 0, 1
        history, held_out = (sparse.csr_matrix(m) for m in (history, held_out))
        history.eliminate_zeros()
        text = rng.normal(size=(40, 16))  # of the items
        there = np.ones(300, bool)
        honest = leaks.held_out_auc(history @ text, there, history, held_out)
        leaky = leaks.held_out_auc(held_out @ text + 0.2 * rng.normal(size=(300, 16)), there, history, held_out)
        assert not honest.leaks and leaky.leaks
        assert leaks.held_out_auc(history @ text, np.arange(300) < 20, history, held_out) is None
        part = leaks.check_leaks({}, {}, {"profile": leaky}, ["profile"])
        assert found(part) == [("label-leak", "error"), ("split-unknown", "note")]

    def test_a_column_that_tells_who_is_held_out(self):
        assert found(leaks.check_leaks({}, {"fold": 1.0, "rating": 0.51}, {}, [])) == [("split-column", "warning")]

    def test_columns_that_follow_time(self):
        times = np.arange(100.0)
        assert follows_time(times**2, times, tokens=False)
        assert follows_time(times // 10, times, tokens=True)
        assert not follows_time(np.random.default_rng(0).random(100), times, tokens=False)
        assert not follows_time(np.arange(100) % 7, times, tokens=True)
        assert not follows_time(np.arange(100), times, tokens=True)  # all different: an id of the row
        assert not follows_time(times, None, tokens=False)


def scored(scores, labels=None, **how):
    scores = np.asarray(scores, dtype=np.float64)
    labels = np.zeros(scores.shape, bool) if labels is None else np.asarray(labels, dtype=bool)
    return check_scores(Scored(scores, labels, np.ones(scores.shape, bool), **how))


class TestScores:
    rng = np.random.default_rng(4)
    labels = rng.random((1000, 1)) < 0.1

    def pairs(self, p, **how):
        return found(scored(p, self.labels, pairs=True, **how))

    def test_not_finite(self):
        assert found(scored([[1.0, np.nan], [0.0, 1.0]])) == [("scores-not-finite", "error")]

    def test_constant(self):
        ranks = self.rng.normal(size=(1, 5))
        assert found(scored(np.full((3, 5), 2.0))) == [("constant-scores", "error")]
        assert found(scored(np.repeat(ranks, 3, 0))) == [("constant-scores", "error")]
        assert found(scored(np.repeat(ranks, 3, 0), unpersonal=True)) == [("constant-scores", "note")]
        assert found(scored(self.rng.normal(size=(4, 1)).repeat(5, 1))) == [("constant-scores", "error")]
        assert found(scored(self.rng.normal(size=(3, 5)))) == []

    def test_what_is_not_counted_is_not_looked_at(self):
        scores, counted = np.array([[np.nan, 1.0, 2.0], [np.nan, 2.0, 1.0]]), np.ones((2, 3), bool)
        counted[:, 0] = False
        assert found(check_scores(Scored(scores, ~counted, counted))) == []

    def test_saturated_means_sure_and_wrong(self):
        sure = np.where(self.labels, 0.999, 0.001)
        assert self.pairs(sure) == []
        assert ("saturated-scores", "error") in self.pairs(
            np.full_like(sure, 0.994) + 0.005 * self.rng.random((1000, 1))
        )
        ranked = np.zeros((4, 500)) + 0.001 * self.rng.random((4, 500))  # rare positives in a catalogue: 0 is right
        assert found(scored(ranked, np.arange(500) == [[3], [4], [5], [6]])) == []

    def test_bounds_that_leave_the_base_rate_out(self):
        p = 0.12 + 0.76 * self.rng.random((1000, 1))  # sigmoid(2 cos)
        assert self.pairs(p) == [("score-range", "error")]
        assert self.pairs(p, trained=False) == []
        assert self.pairs(p / 2) == [("worse-than-base-rate", "warning")]
        assert self.pairs(np.where(self.labels, 0.3, 0.05) + 0.02 * self.rng.random((1000, 1))) == []

    def test_logits_of_a_model_that_learns_from_labels(self):
        logits = 8.0 + self.rng.random((1000, 1))
        assert ("saturated-scores", "error") in self.pairs(logits, logits=True)
        assert self.pairs(logits) == []  # scores that only rank

    def test_vectors_that_collapse(self):
        vectors = self.rng.normal(size=(50, 8))
        assert found(check_vectors(vectors, "item_embedding")) == []
        assert found(check_vectors(vectors + 30, "item_embedding")) == [("collapsed-vectors", "warning")]
        assert check_vectors(None).facts


class Net(nn.Module):
    """Parts with names: a list, a branch, a tensor of its own."""

    def __init__(self, rate: float = 1.0) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(4, 4) for _ in range(2)])
        self.branch = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
        self.scale = nn.Parameter(torch.ones(()))
        self.off, self.broken = False, False

    def calculate_loss(self, x):
        h = self.layers[1](self.layers[0](x))
        h = h if self.off else h + self.branch(x)
        loss = (self.scale * h - x).square().mean()
        return (loss * float("nan") if self.broken else loss, 0.0 * loss)


class TestTraining:
    def look(self, prepare=lambda model: None, trained=False, rate=0.01, n_steps=12):
        torch.manual_seed(0)
        model = Net()
        prepare(model)
        batches = [torch.randn(64, 4) for _ in range(5)]
        parameters = [p for p in model.parameters() if p.requires_grad]
        steps = first_steps(model, batches, [(parameters, rate)], n_steps, torch.device("cpu"), {"max_norm": 5.0})
        return steps, check_training(model, steps, {}, trained)

    def test_healthy(self):
        steps, part = self.look()
        assert found(part) == [] and len(steps.losses) == 12 and all(steps.moved.values())
        assert set(steps.norms) == {"layers.0", "layers.1", "branch", "scale"}
        assert steps.sizes == {"layers.0": 20, "layers.1": 20, "branch": 40, "scale": 1}

    def test_norms_are_those_of_the_gradient(self):
        steps, _ = self.look(n_steps=1)
        torch.manual_seed(0)
        model = Net()
        batch = torch.randn(64, 4)
        sum(model.calculate_loss(batch)).backward()
        for part, names in components(model).items():
            gradients = torch.cat([dict(model.named_parameters())[name].grad.flatten() for name in names])
            assert steps.norms[part] == [pytest.approx(gradients.norm().item(), rel=1e-5)]

    def test_a_branch_that_is_left_out(self):
        _, part = self.look(lambda model: setattr(model, "off", True))
        assert [(f.check, f.subject) for f in part.findings] == [("untrained-branch", "branch")]

    def test_a_gate_at_zero_opens_within_the_steps(self):
        _, part = self.look(lambda model: nn.init.zeros_(model.branch[2].weight))
        assert found(part) == []

    def test_a_loss_that_is_not_finite(self):
        steps, part = self.look(lambda model: setattr(model, "broken", True))
        assert found(part) == [("loss-not-finite", "error")] and len(steps.losses) == 1

    def test_a_rate_that_is_too_high(self):
        assert ("loss-rises", "warning") in found(self.look(rate=10.0)[1])

    def test_a_rate_that_is_lost_in_rounding(self):
        assert ("not-moved", "error") in found(self.look(rate=1e-30)[1])

    def test_units_that_are_always_off(self):
        _, part = self.look(lambda model: nn.init.constant_(model.branch[0].bias, -50.0))
        assert ("dead-units", "warning") in found(part)
        assert next(iter(part.tables[k] for k in part.tables if "ReLU" in k)) == [
            {"layer": "branch.1", "units": 4, "never on": 4}
        ]

    def test_parameters_that_are_held_back_or_in_no_group(self):
        steps, _ = self.look()
        steps.frozen, steps.groupless = ["scale"], ["layers.0.weight"]
        assert found(check_training(Net(), steps, {}, False)) == [
            ("untrained-branch", "error"), ("frozen-parameters", "note")
        ]  # fmt: skip

    def test_dead_modules_are_named_once_the_outermost(self):
        names = {name for name, _ in Net().named_parameters()}
        inside = {name for name in names if name.startswith("branch.")}
        assert dead_branches(Net(), inside, names) == (["branch"], [])
        assert dead_branches(Net(), names, names) == ([""], [])
        assert dead_branches(Net(), {"branch.0.weight", "scale"}, names) == ([], ["branch.0.weight", "scale"])

    def test_experts(self):
        usage = {"user": {"a": 0.999, "b": 0.001}, "item": {"a": 0.6, "b": 0.4}}
        assert [f.subject for f in check_training(Net(), None, usage, True, "x").findings] == ["user: b"]
        assert check_training(Net(), None, usage, False, "x").findings == []
