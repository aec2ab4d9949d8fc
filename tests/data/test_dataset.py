"""Datasets built from a split: no phantom items, true time order, nothing held out within a model's reach."""

from pathlib import Path

import numpy as np
import pytest
from recbole.data.dataset import Dataset, SequentialDataset

from recbole_llm.config import build_config
from recbole_llm.data.dataset import load_data
from recbole_llm.data.split_spec import TEST, TRAIN, VALID
from recbole_llm.errors import ConfigError, DataError

INTER = "user_id:token\titem_id:token\trating:float\ttimestamp:float"


def write(root: Path, rows: list[tuple], header: str = INTER, items: list[str] = (), users: list[str] = ()) -> Path:
    folder = root / "toy"
    folder.mkdir()
    (folder / "toy.inter").write_text("\n".join([header, *("\t".join(map(str, row)) for row in rows)]) + "\n")
    if items:
        (folder / "toy.item").write_text(
            "\n".join(["item_id:token\tyear:token", *(f"{i}\t1990" for i in items)]) + "\n"
        )
    if users:
        (folder / "toy.user").write_text("\n".join(["user_id:token\tage:float", *(f"{u}\t30" for u in users)]) + "\n")
    return root


def load(root: Path, model: str = "SASRecAll", augment: bool = False, dataset: str = "toy", **settings):
    settings = {"data_path": str(root), "use_gpu": False, "MAX_ITEM_LIST_LENGTH": 3} | settings
    return load_data(build_config(model, dataset, (), settings, ()), augment)


def walk(user: str, items: str, start: int = 0) -> list[tuple]:
    return [(user, item, 4, start + t) for t, item in enumerate(items)]


def tokens(data, rows: np.ndarray) -> list[tuple[str, str]]:
    """(user, item) tokens of rows of the split."""
    user, item = (data.base.field2id_token[name] for name in ("user_id", "item_id"))
    return [(user[data.user_ids[r]], item[data.item_ids[r]]) for r in rows]


def dataset_tokens(dataset) -> list[tuple[str, str]]:
    user, item = (dataset.field2id_token[name] for name in ("user_id", "item_id"))
    inter = dataset.inter_feat
    return [(user[u], item[i]) for u, i in zip(inter["user_id"].tolist(), inter["item_id"].tolist(), strict=True)]


class TestPhantoms:
    def test_items_and_users_without_interaction_do_not_exist(self, tmp_path):
        write(tmp_path, walk("u", "abcd"), items=["z", "a", "b", "c", "d", "y"], users=["w", "u"])
        data = load(tmp_path, load_col={"inter": ["user_id", "item_id", "timestamp"], "item": ["item_id", "year"],
                                        "user": ["user_id", "age"]})  # fmt: skip
        assert sorted(data.base.field2id_token["item_id"]) == ["[PAD]", "a", "b", "c", "d"]
        assert sorted(data.base.field2id_token["user_id"]) == ["[PAD]", "u"]
        assert data.split.universe == ("a", "b", "c", "d") and data.n_items == 5
        assert len(data.train.get_item_feature()) == 5

    def test_recbole_alone_would_keep_them(self, tmp_path):
        """The reason for the rule above: a plain RecBole dataset has a [PAD], four items and two phantoms."""
        write(tmp_path, walk("u", "abcd"), items=["z", "a", "b", "c", "d", "y"])
        columns = {"inter": ["user_id", "item_id", "timestamp"], "item": ["item_id", "year"]}
        config = build_config("BPR", "toy", (), {"data_path": str(tmp_path), "load_col": columns}, ())
        assert Dataset(config).item_num == 7


class TestParts:
    @pytest.fixture
    def data(self, tiny_dataset, tmp_path):
        return load(tiny_dataset(tmp_path), dataset="tiny")

    def test_the_training_dataset_holds_the_training_rows_by_token(self, data):
        train, valid = tokens(data, data.split.train), tokens(data, data.split.valid)
        test = tokens(data, data.split.open_test())
        assert sorted(dataset_tokens(data.train)) == sorted(train)
        assert not set(dataset_tokens(data.train)) & (set(valid) | set(test))
        assert valid and test

    def test_augmented_rows_neither(self, tiny_dataset, tmp_path):
        data = load(tiny_dataset(tmp_path), "SASRec", augment=True, dataset="tiny")
        assert isinstance(data.train, SequentialDataset)
        user, item = (data.base.field2id_token[name] for name in ("user_id", "item_id"))
        held_out = set(tokens(data, np.concatenate([data.split.valid, data.split.open_test()])))
        inter = data.train.inter_feat
        seen = set()
        for row in range(len(inter)):
            listed = [i for i in inter["item_id_list"][row].tolist() if i]
            seen |= {(user[int(inter["user_id"][row])], item[i]) for i in [*listed, int(inter["item_id"][row])]}
        assert seen and not seen & held_out

    def test_counts_know_training_rows_only(self, data):
        expected = np.zeros(data.n_items, dtype=int)
        for r in data.split.train:
            expected[data.item_ids[r]] += 1
        np.testing.assert_array_equal(data.item_counts, expected)

    def test_the_last_is_test_and_the_one_before_validation(self, tmp_path):
        write(tmp_path, [*walk("u", "abcd"), *walk("v", "bca")][::-1])  # file order is not time order
        data = load(tmp_path)
        parts = {VALID: tokens(data, data.split.valid), TEST: tokens(data, data.split.open_test())}
        assert parts == {VALID: [("u", "c"), ("v", "c")], TEST: [("u", "d"), ("v", "a")]}
        assert sorted(tokens(data, data.split.train)) == [("u", "a"), ("u", "b"), ("v", "b")]
        assert TRAIN == 0

    def test_test_opens_once(self, data):
        data.split.open_test()
        with pytest.raises(DataError, match="already opened"):
            data.split.open_test()


class TestHistories:
    def histories(self, data, rows) -> dict[str, list[str]]:
        users = np.unique(data.user_ids)
        inputs = data.histories(users, rows)
        user, item = (data.base.field2id_token[name] for name in ("user_id", "item_id"))
        return {
            user[u]: [item[i] for i in items[:n].tolist()]
            for u, items, n in zip(
                inputs["user_id"].tolist(), inputs["item_id_list"], inputs["item_length"], strict=True
            )
        }

    def test_the_last_known_rows_in_time_order(self, tmp_path):
        write(tmp_path, [*walk("u", "abcdefg"), *walk("v", "gfed")][::-1])
        data = load(tmp_path)
        train, known = data.split.train, np.concatenate([data.split.valid, data.split.train])
        assert self.histories(data, train) == {"u": ["c", "d", "e"], "v": ["g", "f"]}
        assert self.histories(data, known) == {"u": ["d", "e", "f"], "v": ["g", "f", "e"]}

    def test_right_padded_with_zeros(self, tmp_path):
        write(tmp_path, [*walk("u", "abcde"), *walk("v", "abc")])
        inputs = load(tmp_path).histories(np.array([1, 2]), load(tmp_path).split.train)
        assert inputs["item_length"].tolist() == [3, 1]
        assert inputs["item_id_list"].tolist() == [[1, 2, 3], [1, 0, 0]]
        assert inputs["timestamp_list"].shape == (2, 3)

    def test_times_closer_than_float32_can_tell_keep_their_order(self, tmp_path):
        """Unix seconds as float32 are 64 s apart: the file's order would win over the time."""
        rows = [("u", item, 4, 880_000_000 + t) for t, item in enumerate("abcdef")]
        data = load(write(tmp_path, rows[::-1]))
        assert self.histories(data, data.split.train) == {"u": ["b", "c", "d"]}
        assert dataset_tokens(data.train) == [("u", item) for item in "abcd"]

    def test_equal_times_keep_file_order(self, tmp_path):
        data = load(write(tmp_path, [("u", item, 4, 7) for item in "cabfde"]))
        assert self.histories(data, data.split.train) == {"u": ["a", "b", "f"]}

    def test_a_user_without_known_rows_is_one_pad(self, tmp_path):
        data = load(write(tmp_path, [*walk("u", "abcd"), *walk("v", "abc")]))
        inputs = data.histories(np.array([2]), data.split.train[data.user_ids[data.split.train] == 1])
        assert inputs["item_id_list"].tolist() == [[0, 0, 0]] and inputs["item_length"].tolist() == [1]

    def test_of_users_in_any_order(self, tmp_path):
        data = load(write(tmp_path, [*walk("u", "abcd"), *walk("v", "dcba")]))
        inputs = data.histories(np.array([2, 1]), data.split.train)
        assert inputs["item_id_list"].tolist() == [[4, 3, 0], [1, 2, 0]]


class TestCandidates:
    def test_target_and_n_others(self, tiny_dataset, tmp_path):
        data = load(tiny_dataset(tmp_path), dataset="tiny")
        rows = data.split.valid
        drawn = data.candidates("valid", rows, 9, seed=1)
        assert list(drawn) == data.user_ids[rows].tolist()
        for row in rows:
            items = drawn[data.user_ids[row]]
            assert len(items) == 10 == len(set(items.tolist())) and items.min() >= 1
            assert data.item_ids[row] in items
        again, other = (data.candidates("valid", rows, 9, seed=s) for s in (1, 2))
        assert all((drawn[u] == again[u]).all() for u in drawn)
        assert any((drawn[u] != other[u]).any() for u in drawn)

    def test_several_targets_a_user_are_refused(self, tiny_dataset, tmp_path):
        data = load(tiny_dataset(tmp_path), dataset="tiny")
        with pytest.raises(ConfigError, match="n_candidates needs one target a user"):
            data.candidates("valid", data.split.train, 5, seed=1)


class TestMissingColumns:
    def test_time(self, tmp_path):
        write(tmp_path, [("u", item) for item in "abcd"], header="user_id:token\titem_id:token")
        with pytest.raises(DataError, match="orders by time, but dataset 'toy' has no column 'timestamp'.*order RO"):
            load(tmp_path)

    def test_without_time_a_random_split_works(self, tmp_path):
        rows = [(u, item) for u in "uvw" for item in "abcdefghij"]
        write(tmp_path, rows, header="user_id:token\titem_id:token")
        data = load(tmp_path, "BPR", protocol="rs-full")
        assert (len(data.split.train), len(data.split.valid), data.split.n_test) == (24, 3, 3)

    def test_rating(self, tmp_path):
        rows = [("u", item, t) for t, item in enumerate("abcd")]
        write(tmp_path, rows, header="user_id:token\titem_id:token\ttimestamp:float")
        with pytest.raises(DataError, match="min_rating needs the column 'rating' in dataset 'toy'"):
            load(tmp_path, min_rating=4)

    def test_a_folder_that_is_not_there_is_not_downloaded(self, tmp_path):
        with pytest.raises(DataError, match="'toy' not found"):
            load(tmp_path)

    def test_pre_split_files_are_refused(self, tmp_path):
        write(tmp_path, walk("u", "abcd"))
        (tmp_path / "toy" / "toy.train.inter").write_text((tmp_path / "toy" / "toy.inter").read_text())
        with pytest.raises(ConfigError, match="benchmark_filename is not supported"):
            load(tmp_path, benchmark_filename=["train"])


def test_dropped_rows_stay_in_the_universe_but_out_of_all_parts(tmp_path):
    """min_rating drops interactions, not items: P2 ranks among all items of the file."""
    rows = [("u", "a", 5, 0), ("u", "b", 2, 1), ("u", "c", 5, 2), ("u", "d", 5, 3), ("v", "b", 1, 0)]
    data = load(write(tmp_path, rows), min_rating=4)
    assert data.split.universe == ("a", "b", "c", "d")
    assert dataset_tokens(data.train) == [("u", "a")]
    assert tokens(data, data.split.valid) == [("u", "c")] and tokens(data, data.split.open_test()) == [("u", "d")]
