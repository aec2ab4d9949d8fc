"""Split and candidates: RecBole's rules as the oracle, independence from row order, the one-shot test handle."""

import copy
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recbole_llm import compat
from recbole_llm.data.split import Split
from recbole_llm.data.split_spec import SplitSpec
from recbole_llm.errors import ConfigError, DataError

LOO = SplitSpec({"LS": "valid_and_test"})
RATIO = SplitSpec({"RS": [0.8, 0.1, 0.1]}, order="RO")
P2 = SplitSpec({"LS": "valid_and_test"}, min_rating=4, min_user_inter=5)

# user, item, time: u1 has a tie at the end (i3 stands before i1 in the file), u2 has two rows, u3 one
ROWS = [
    ("u1", "i2", 5),
    ("u2", "i1", 9),
    ("u1", "i3", 8),
    ("u3", "i4", 1),
    ("u1", "i1", 8),
    ("u2", "i3", 2),
    ("u1", "i4", 1),
]


def columns(rows):
    users, items, times = zip(*rows, strict=True)
    return np.array(users, dtype=object), np.array(items, dtype=object), np.array(times)


def split_rows(rows, spec, **more):
    users, items, times = columns(rows)
    return Split.from_interactions(users, items, spec, times=times, **more)


def token_parts(rows, split):
    parts = split.train, split.valid, split.open_test()
    return [[rows[index] for index in part] for part in parts]


@st.composite
def interactions(draw, ties=True):
    rows = draw(
        st.lists(
            st.tuples(st.sampled_from(["a", "b", "B", "ä"]), st.sampled_from("pqrstuv"), st.integers(0, 6)),
            min_size=1,
            max_size=40,
        )
    )
    return rows if ties else [(user, item, 10 * place) for place, (user, item, _) in enumerate(rows)]


specs = st.sampled_from(
    [SplitSpec({"LS": mode}) for mode in ("valid_and_test", "valid_only", "test_only")]
    + [
        SplitSpec({"RS": [0.8, 0.1, 0.1]}, order=order, group_by=by)
        for order in ("TO", "RO")
        for by in ("user", "none")
    ]
    + [SplitSpec({"LS": "valid_and_test"}, order="RO", min_user_inter=2)]
)


def test_leave_one_out_written_out():
    train, valid, test = token_parts(ROWS, split_rows(ROWS, LOO))
    # u2 has two rows: the later one is its test row, none is left for validation; u3 has one: it stays in train
    assert train == [("u1", "i4", 1), ("u1", "i2", 5), ("u2", "i3", 2), ("u3", "i4", 1)]
    assert valid == [("u1", "i3", 8)]  # the tie keeps file order: i3 before i1
    assert test == [("u1", "i1", 8), ("u2", "i1", 9)]


def test_tie_follows_the_file():
    swapped = [ROWS[i] for i in (0, 1, 4, 3, 2, 5, 6)]
    _, valid, test = token_parts(swapped, split_rows(swapped, LOO))
    assert valid == [("u1", "i1", 8)]
    assert test[0] == ("u1", "i3", 8)


@settings(deadline=None)
@given(interactions(), specs)
def test_parts_are_disjoint_and_cover_the_kept_rows(rows, spec):
    counts = Counter(user for user, _, _ in rows)
    kept = [i for i, (user, _, _) in enumerate(rows) if counts[user] >= (spec.min_user_inter or 0)]
    if not kept:
        return
    split = split_rows(rows, spec)
    assert split.n_test + len(split.train) + len(split.valid) == len(kept)
    assert sorted([*split.train, *split.valid, *split.open_test()]) == kept


@settings(deadline=None)
@given(interactions())
def test_leave_one_out_targets_are_the_last_two_by_time(rows):
    split = split_rows(rows, LOO)
    expected_valid, expected_test = [], []
    for user in sorted({user for user, _, _ in rows}):
        own = sorted((i for i, row in enumerate(rows) if row[0] == user), key=lambda i: rows[i][2])  # stable
        expected_test += own[-1:] if len(own) > 1 else []
        expected_valid += own[-2:-1] if len(own) > 2 else []
    assert split.valid.tolist() == expected_valid
    assert split.open_test().tolist() == expected_test


@settings(deadline=None)
@given(interactions(ties=False), specs, st.randoms(use_true_random=False))
def test_row_order_changes_nothing_without_ties(rows, spec, random):
    counts = Counter(user for user, _, _ in rows)
    if max(counts.values()) < (spec.min_user_inter or 0):
        return
    shuffled = random.sample(rows, len(rows))
    split, again = split_rows(rows, spec), split_rows(shuffled, spec)
    assert split.fingerprint == again.fingerprint
    assert token_parts(rows, split) == token_parts(shuffled, again)


def test_random_order_depends_on_the_seed_alone():
    rows = [(f"u{i % 7}", f"i{i}", i) for i in range(140)]
    by_seed = {seed: SplitSpec(RATIO.split, order="RO", seed=seed) for seed in (1, 2)}
    first = token_parts(rows, split_rows(rows, by_seed[1]))
    state = np.random.get_state()[1].copy()
    assert token_parts(rows, split_rows(rows, by_seed[1])) == first
    assert (np.random.get_state()[1] == state).all()  # the model's random numbers are untouched
    assert token_parts(rows, split_rows(rows, by_seed[2])) != first
    assert [len(part) for part in first] == [112, 14, 14]


def test_random_order_is_uniform_over_a_users_rows():
    rows = [(f"u{user}", f"i{item}", item) for user in range(400) for item in range(10)]
    test = token_parts(rows, split_rows(rows, RATIO))[2]
    counts = Counter(item for _, item, _ in test)
    assert sum(counts.values()) == 400
    # 40 +- 6 expected per item; 4 standard deviations
    assert all(16 < counts[f"i{item}"] < 64 for item in range(10))


def test_test_part_opens_once():
    split = split_rows(ROWS, LOO)
    assert not split.test_opened
    assert split.n_test == 2
    assert len(split.open_test()) == 2
    assert split.test_opened
    with pytest.raises(DataError, match="the test split was already opened in this run"):
        split.open_test()


def test_filters_come_first_and_in_order():
    rows = [("u1", f"i{i}", i) for i in range(6)] + [("u2", f"i{i}", i) for i in range(6)]
    ratings = np.array([5, 4, 4, 4.5, 5, 1] + [5, 4, 3, 4, 4, 1])  # u1 keeps five, u2 four
    split = split_rows(rows, P2, ratings=ratings)
    assert split.train.tolist() == [0, 1, 2]
    assert split.valid.tolist() == [3]
    assert split.open_test().tolist() == [4]  # not the row rated 1, though it is later
    assert split.universe == tuple(f"i{i}" for i in range(6))  # i5 can be recommended though no kept row has it


class TestFingerprint:
    base = split_rows(ROWS, LOO).fingerprint

    def test_is_stable_across_versions(self):
        # as it was when the format was set: another value makes all earlier records incomparable
        assert self.base == "af51711f44fab16d03f32783ac2ea96ba15e86b1d3c07a90bf5ef232ac7f7416"

    @pytest.mark.parametrize(
        "spec",
        [
            SplitSpec({"LS": "valid_and_test"}, seed=1),
            SplitSpec({"LS": "test_only"}),
            SplitSpec({"LS": "valid_and_test"}, order="RO"),
            SplitSpec({"LS": "valid_and_test"}, min_user_inter=1),
        ],
    )
    def test_changes_with_the_spec(self, spec):
        assert split_rows(ROWS, spec).fingerprint != self.base

    def test_changes_with_the_universe(self):
        wider = split_rows(ROWS, LOO, universe=["i1", "i2", "i3", "i4", "i5"])
        assert wider.fingerprint != self.base
        assert split_rows(ROWS, LOO, universe=["i4", "i3", "i2", "i1"]).fingerprint == self.base

    @pytest.mark.parametrize("changed", [("u9", "i2", 5), ("u1", "i4", 5), ("u1", "i2", 4)])
    def test_changes_with_every_column(self, changed):
        rows = [changed, *ROWS[1:]]
        universe = ["i1", "i2", "i3", "i4"]
        assert split_rows(rows, LOO, universe=universe).fingerprint != self.base

    def test_changes_when_only_the_part_does(self):
        swapped = [ROWS[i] for i in (0, 1, 4, 3, 2, 5, 6)]  # the tie of u1 the other way round
        assert split_rows(swapped, LOO).fingerprint != self.base

    def test_ignores_rows_and_users_that_are_dropped(self):
        spec = SplitSpec({"LS": "valid_and_test"}, min_user_inter=2)
        universe = ["i1", "i2", "i3", "i4"]
        without = [row for row in ROWS if row[0] != "u3"]
        assert (
            split_rows(ROWS, spec, universe=universe).fingerprint
            == split_rows(without, spec, universe=universe).fingerprint
        )

    def test_reads_equal_settings_alike(self):
        one = SplitSpec({"RS": [8, 1, 1]}, min_rating=1)
        two = SplitSpec({"RS": (8.0, 1.0, 1.0)}, min_rating=1.0)
        ratings = np.ones(len(ROWS))
        fingerprints = {split_rows(ROWS, spec, ratings=ratings).fingerprint for spec in (one, two)}
        assert len(fingerprints) == 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"split": {"LS": "valid_and_tset"}}, "valid_and_tset.*did you mean valid_and_test"),
        ({"split": {"TS": [0.8, 0.1, 0.1]}}, "'TS'; choose one of LS, RS"),
        ({"split": {}}, "exactly one of LS and RS"),
        ({"split": {"RS": [0.8, 0.2]}}, "three numbers"),
        ({"split": {"RS": [0, 0.5, 0.5]}}, "the first above 0"),
        ({"split": {"RS": [0.8, -0.1, 0.3]}}, "three numbers >= 0"),
        ({"split": {"LS": "test_only"}, "order": "T0"}, "order is 'T0'; choose one of TO, RO"),
        ({"split": {"LS": "test_only"}, "group_by": "none"}, "leaves out by user"),
        ({"split": {"RS": [8, 1, 1]}, "group_by": "item"}, "group_by is 'item'"),
        ({"split": {"RS": [8, 1, 1]}, "seed": -1}, "split_seed"),
        ({"split": {"RS": [8, 1, 1]}, "min_user_inter": 2.5}, "min_user_inter must be a number"),
    ],
)
def test_spec_errors(settings, message):
    with pytest.raises(ConfigError, match=message):
        SplitSpec(**settings)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"users": ["u"]}, "1 user tokens but 2 item tokens"),
        ({"users": ["u", 7]}, "user tokens must be non-empty strings, but 7"),
        ({"items": ["i", ""]}, "item tokens must be non-empty strings"),
        ({"times": None}, "order TO needs the time column"),
        ({"times": np.array([1.0, np.nan])}, "1 of 2 interactions have no finite time"),
        ({"times": np.array(["1", "2"])}, "time column must hold 2 numbers"),
        ({"universe": ["i"]}, r"1 items of the interactions are not in the item universe \(e.g. 'j'\)"),
        ({"spec": SplitSpec({"LS": "test_only"}, min_rating=4)}, "min_rating needs the rating column"),
        ({"spec": SplitSpec({"LS": "test_only"}, min_user_inter=3)}, "no interaction is left"),
    ],
)
def test_data_errors(arguments, message):
    given_ = {"users": ["u", "u"], "items": ["i", "j"], "times": np.array([1, 2]), "spec": LOO} | arguments
    users = np.array(given_["users"], dtype=object)
    if "users" in arguments and len(users) == 1:
        given_["times"] = np.array([1])
    with pytest.raises(DataError, match=message):
        Split.from_interactions(
            users, given_["items"], given_["spec"], times=given_["times"], universe=given_.get("universe")
        )


@pytest.fixture(scope="module")
def recbole_data():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["pytest"])  # RecBole's Config reads the command line
        compat.apply()
        from recbole.config import Config
        from recbole.data.dataset import Dataset

        config = Config(model="BPR", dataset="ml-100k", config_dict={"gpu_id": "", "state": "ERROR"})
        return Dataset(config)


@pytest.fixture(scope="module")
def ml_100k(recbole_data):
    lines = (Path(recbole_data.dataset_path) / "ml-100k.inter").read_text().splitlines()[1:]
    users, items, ratings, times = zip(*(line.split("\t") for line in lines), strict=True)
    tokens = np.array(users, dtype=object), np.array(items, dtype=object)
    return *tokens, np.array(ratings, dtype=float), np.array(times, dtype=np.int64)


class TestAgainstRecBole:
    """RecBole's own functions and its packaged ml-100k as oracle."""

    @given(
        st.integers(1, 5000),
        st.lists(st.floats(0, 10), min_size=2, max_size=2),
        st.floats(0.1, 10),
    )
    @settings(max_examples=300, deadline=None)
    def test_ratio_sizes(self, total, others, first):
        from recbole.data.dataset import Dataset

        ratios = [first, *others]
        cuts = Dataset._calcu_split_ids(None, tot=total, ratios=[ratio / sum(ratios) for ratio in ratios])
        sizes = np.diff([0, *cuts, total]).tolist()
        assert list(SplitSpec({"RS": ratios}).part_sizes(total)) == sizes

    @settings(deadline=None)
    @given(st.integers(1, 6), st.sampled_from([("valid_and_test", 2), ("valid_only", 1), ("test_only", 1)]))
    def test_leave_one_out_sizes(self, total, mode):
        from recbole.data.dataset import Dataset

        name, n_left_out = mode
        parts = [len(part) for part in Dataset._split_index_by_leave_one_out(None, [range(total)], n_left_out)]
        if name == "valid_only":
            parts = [*parts, 0]
        elif name == "test_only":
            parts = [parts[0], 0, parts[1]]
        assert list(SplitSpec({"LS": name}).part_sizes(total)) == parts

    @staticmethod
    def recbole_parts(dataset, split, order):
        """Token pairs of RecBole's train, valid and test."""
        dataset = copy.copy(dataset)  # build() turns the table into tensors in place
        dataset.config["eval_args"] = {"split": split, "order": order, "group_by": "user"}
        parts = []
        for part in dataset.build():
            users = part.id2token("user_id", part.inter_feat["user_id"].numpy())
            items = part.id2token("item_id", part.inter_feat["item_id"].numpy())
            parts.append(set(zip(users.tolist(), items.tolist(), strict=True)))
        return parts

    @staticmethod
    def own_parts(ml_100k, spec, times):
        users, items, _, _ = ml_100k
        split = Split.from_interactions(users, items, spec, times=times)
        return [
            set(zip(users[part].tolist(), items[part].tolist(), strict=True))
            for part in (split.train, split.valid, split.open_test())
        ]

    @pytest.mark.parametrize("split", [{"LS": "valid_and_test"}, {"RS": [0.8, 0.1, 0.1]}])
    def test_time_order_gives_the_same_tokens(self, recbole_data, ml_100k, split):
        # RecBole sorts float32 times (here scaled to 0..1), so that some unequal timestamps become ties for it
        recbole_times = recbole_data.inter_feat["timestamp"].to_numpy().astype(np.float32)
        theirs = self.recbole_parts(recbole_data, split, "TO")
        assert self.own_parts(ml_100k, SplitSpec(split), recbole_times) == theirs
        if "LS" in split:
            exact = self.own_parts(ml_100k, SplitSpec(split), ml_100k[3])
            assert [len(mine - yours) for mine, yours in zip(exact, theirs, strict=True)][1:] == [5, 4]

    def test_random_order_gives_the_same_sizes_per_user(self, recbole_data, ml_100k):
        theirs = self.recbole_parts(recbole_data, {"RS": [0.8, 0.1, 0.1]}, "RO")
        for mine, yours in zip(self.own_parts(ml_100k, RATIO, ml_100k[3]), theirs, strict=True):
            assert Counter(user for user, _ in mine) == Counter(user for user, _ in yours)

    def test_protocol_sizes(self, ml_100k):
        users, items, ratings, times = ml_100k
        p1 = Split.from_interactions(users, items, LOO, times=times)
        assert (len(p1.train), len(p1.valid), p1.n_test, len(p1.universe)) == (98_114, 943, 943, 1_682)
        p2 = Split.from_interactions(users, items, P2, times=times, ratings=ratings)
        assert (len(p2.valid), p2.n_test, len(p2.universe)) == (938, 938, 1_682)
