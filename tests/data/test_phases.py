"""Who is in which phase, what is left out, what a model is given, and the errors."""

import numpy as np
import pytest
from phased import PHASES, interactions, phased_settings, write_phased

from recbole_llm.config import build_config
from recbole_llm.data.phases import Phases, PhaseSpec
from recbole_llm.errors import ConfigError, DataError
from recbole_llm.experiment.data import build_data, train_loader


def spec(**changes) -> PhaseSpec:
    block = {key: changes.pop(key, value) for key, value in PHASES.items()}
    return PhaseSpec.of(block, **({"label_from": 4, "seed": 2020} | changes))


def phases(rows, **changes) -> Phases:
    users, items, ratings, times = zip(*rows, strict=True)
    return Phases.from_interactions(
        users, items, spec(**changes), times=np.array(times), ratings=np.array(ratings, dtype=float)
    )


def tokens(rows, indices) -> list[tuple]:
    return [rows[k] for k in indices]


@pytest.fixture(scope="module")
def rows():
    return interactions()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_phased(tmp_path_factory.mktemp("phased"))


class TestParts:
    def test_every_row_has_one_place_and_rare_items_none(self, rows):
        split = phases(rows)
        test = split.open_phases()
        parts = [split.train, *split.validation.warm, split.validation.evaluation, *test.warm, test.evaluation]
        placed = np.concatenate(parts)
        assert len(set(placed)) == len(placed)
        assert {rows[k] for k in range(len(rows)) if k not in set(placed)} == {r for r in rows if r[1][0] == "r"}
        assert not any(item[0] == "r" for item in split.universe) and len(split.universe) == 24

    def test_hot_items_train_or_validate_and_cold_ones_test(self, rows):
        split = phases(rows)
        valid, test = split.cold_items["valid"], split.cold_items["test"]
        assert len(valid) == 4 and {i[0] for i in valid} == {"h"} and test == sorted(f"c{k}" for k in range(8))
        trained = {rows[k][1] for k in split.train}
        assert trained == {f"h{k}" for k in range(16)} - set(valid)
        assert {rows[k][1] for k in split.valid} == set(valid)
        opened = split.open_phases()
        assert {rows[k][1] for k in np.concatenate([*opened.warm, opened.evaluation])} == set(test)

    @pytest.mark.parametrize("distinct", [True, False])
    def test_an_item_s_rows_go_through_the_phases_in_the_order_of_time(self, distinct):
        rows = interactions(distinct_times=distinct)
        split = phases(rows)
        for part in (split.validation, split.open_phases()):
            for item in {rows[k][1] for k in part.evaluation}:
                own = [[k for k in rows_of if rows[k][1] == item] for rows_of in (*part.warm, part.evaluation)]
                expected = sorted((k for k in range(len(rows)) if rows[k][1] == item), key=lambda k: (rows[k][3], k))
                assert sum(own, []) == expected  # equal times keep file order
                assert [len(o) for o in own[:3]] == [4, 4, 4] and len(own[3]) == len(expected) - 12 > 0

    def test_neither_file_order_nor_other_rows_matter(self, rows):
        one = phases(rows)
        shuffled = [rows[k] for k in np.random.default_rng(3).permutation(len(rows))]
        without_rare = [row for row in shuffled if row[1][0] != "r"]
        for others in (shuffled, without_rare):
            other = phases(others)
            assert other.fingerprint == one.fingerprint and other.cold_items == one.cold_items
            assert set(tokens(others, other.train)) == set(tokens(rows, one.train))
            again = phases(rows).open_phases()
            for a, b in zip((*other.open_phases().warm,), again.warm, strict=True):
                assert tokens(others, a) == tokens(rows, b)

    def test_the_fingerprint_covers_rules_labels_and_rows(self, rows):
        first = rows.index(next(row for row in rows if row[1][0] == "c"))
        flipped = [(u, i, 6 - r if k == first else r, t) for k, (u, i, r, t) in enumerate(rows)]
        changed = [phases(rows, seed=7), phases(rows, label_from=5), phases(rows, phase_rows=3), phases(flipped)]
        found = {split.fingerprint for split in [phases(rows), *changed, phases(rows[1:])]}
        assert len(found) == 6 or rows[0][1][0] == "r"
        assert phases(rows, seed=7).cold_items["valid"] != phases(rows).cold_items["valid"]

    def test_the_test_rows_open_once(self, rows):
        split = phases(rows)
        assert split.n_test == len(phases(rows).open_test()) == sum(row[1][0] == "c" for row in rows)
        assert not split.test_opened
        split.open_phases()
        with pytest.raises(DataError, match="already opened"):
            split.open_phases()


class TestErrors:
    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"cold_from": 11}, "3 phases of phases.phase_rows: 4 take 12 rows"),
            ({"hot_above": 13}, "hot_above .13. must be at least phases.cold_from .14."),
            ({"valid_share": 0}, "valid_share is a share of the hot items"),
            ({"valid_share": "a"}, "phases.valid_share must be a number"),
            ({"phase_rows": 0}, "phases.phase_rows must be a whole number of at least 1"),
            ({"hot_above": 30.5}, "phases.hot_above must be a whole number"),
            ({"seed": -1}, "split_seed must be a whole number"),
            ({"label_from": "good"}, "the value of threshold must be a number"),
        ],
    )
    def test_rules_that_cannot_be_meant(self, changes, message):
        with pytest.raises(ConfigError, match=message):
            spec(**changes)

    def test_a_block_with_a_key_missing(self):
        with pytest.raises(ConfigError, match="phases must be a block with the keys hot_above, cold_from"):
            PhaseSpec.of({"hot_above": 3}, 4, 0)

    def test_no_item_is_cold(self, rows):
        with pytest.raises(DataError, match="no item has 29 to 30 ratings .the most that an item has is"):
            phases([row for row in rows if row[1][0] != "c"], cold_from=29)

    def test_too_few_hot_items(self, rows):
        with pytest.raises(DataError, match="16 items have more than 30 ratings.*0 for validation"):
            phases(rows, valid_share=0.01)

    def test_one_label_only(self, rows):
        with pytest.raises(DataError, match="the valid rows of emerg-phases have one label only"):
            phases(rows, label_from=0)

    def test_times_that_are_not_finite(self, rows):
        users, items, ratings, times = zip(*rows, strict=True)
        with pytest.raises(DataError, match="interactions have no finite time"):
            Phases.from_interactions(users, items, spec(), times=np.full(len(times), np.nan), ratings=np.array(ratings))


class TestDataset:
    def data(self, folder, model: str, **changes):
        config = build_config(model, "phased", (), phased_settings(folder, **changes), ())
        return config, build_data(config)

    def test_ids_are_those_of_hot_and_cold_items(self, folder):
        _, data = self.data(folder, "BPR")
        assert sorted(data.base.field2id_token["item_id"][1:]) == list(data.split.universe)

    def test_all_models_share_a_split(self, folder):
        assert len({self.data(folder, m)[1].split.fingerprint for m in ("BPR", "EASE")}) == 1
        _, labelled = self.data(folder, "FM")
        assert labelled.split.fingerprint == self.data(folder, "BPR")[1].split.fingerprint

    def test_a_model_of_positives_is_given_positive_rows_alone(self, folder):
        _, data = self.data(folder, "LightGCN")
        _, labelled = self.data(folder, "FM")
        assert data.train.inter_num == data.labels[data.split.train].sum() < len(data.split.train)
        assert labelled.train.inter_num == len(data.split.train)
        assert set(labelled.train.inter_feat["label"].tolist()) == {0.0, 1.0}
        assert data.train.inter_matrix().nnz == data.train.inter_num

    def test_a_loader_draws_negatives_knowing_all_known_rows(self, folder):
        config, data = self.data(folder, "BPR")
        known = np.concatenate([data.split.train, data.split.validation.warm[0]])
        later = data.knowing(known)
        used = {(int(data.user_ids[k]), int(data.item_ids[k])) for k in data.learnt(known)}
        loader = train_loader(config, later, later.dataset(data.split.validation.warm[0]))
        batches = list(loader)
        users, items = (np.concatenate([b[name] for b in batches]) for name in ("user_id", "item_id"))
        expected = data.learnt(data.split.validation.warm[0])
        assert sorted(zip(users, items, strict=True)) == sorted(
            zip(data.user_ids[expected], data.item_ids[expected], strict=True)
        )
        negatives = np.concatenate([b["neg_item_id"] for b in batches])
        assert not used & set(zip(users.tolist(), negatives.tolist(), strict=True))

    def test_what_is_known_is_told_apart(self, folder):
        _, data = self.data(folder, "BPR")
        more = data.knowing(np.concatenate([data.split.train, data.split.validation.warm[0]]))
        assert more.train.inter_num > data.train.inter_num and more.item_counts.sum() > data.item_counts.sum()
        assert more.split is data.split

    def test_inputs_hold_no_label_and_no_rating(self, folder):
        _, data = self.data(folder, "FM")
        rows = data.split.validation.evaluation
        inputs = data.pairs(rows)
        assert {"user_id", "item_id", "colour"} <= set(inputs.interaction) and not {"label", "rating"} & set(
            inputs.interaction
        )
        assert inputs["user_id"].tolist() == data.user_ids[rows].tolist()
        assert inputs["item_id"].tolist() == data.item_ids[rows].tolist()

    @pytest.mark.parametrize(
        ("model", "changes", "error", "message"),
        [
            ("SASRec", {}, ConfigError, "SASRec learns a next item"),
            (
                "FM",
                {"train_neg_sample_args": {"distribution": "uniform", "sample_num": 1}},
                ConfigError,
                "FM learns from labelled rows and draws no negatives",
            ),
            ("BPR", {"threshold": None}, ConfigError, "phases need labels: set threshold"),
            ("BPR", {"min_rating": 3}, ConfigError, "min_rating does not go together with phases"),
            (
                "BPR",
                {"load_col": {"inter": ["user_id", "item_id", "rating"]}},
                DataError,
                "takes the order in time from",
            ),
            ("BPR", {"load_col": {"inter": ["user_id", "item_id", "timestamp"]}}, DataError, "takes the labels from"),
            ("BPR", {"phases": {"cold_from": 58, "hot_above": 59}}, DataError, "no item has 58 to 59 ratings"),
            ("BPR", {"phases": {"cold": 3}}, ConfigError, "unknown key 'cold' in phases"),
            ("BPR", {"metrics": ["NDCG"]}, ConfigError, "metrics under phases are .AUC."),
            ("BPR", {"valid_metric": "NDCG@10"}, ConfigError, "valid_metric under phases names AUC or F1 of a phase"),
            ("BPR", {"choice_metric": ["hot/AUC"]}, ConfigError, "choice_metric under phases .* not 'hot/AUC'"),
            ("BPR", {"choice_metric": "cold/MRR"}, ConfigError, "choice_metric under phases .* not 'cold/MRR'"),
            ("BPR", {"protocol": "rs-full"}, ConfigError, "phases need update_epochs too; use protocol: emerg-phases"),
            ("BPR", {"update_batches": 0}, ConfigError, "update_batches must be a whole number of at least 1"),
            ("BPR", {"update_learning_rate": -1.0}, ConfigError, "update_learning_rate must be at least 0"),
        ],
    )
    def test_what_cannot_be_run_is_said_in_a_sentence(self, folder, model, changes, error, message):
        if isinstance(changes.get("phases"), dict):
            changes = {"phases": PHASES | changes["phases"]}
        with pytest.raises(error, match=message):
            self.data(folder, model, **changes)
