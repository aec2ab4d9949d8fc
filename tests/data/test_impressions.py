"""What users were shown: who is train, valid and test, and what a model may know of a row's user."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recbole_llm.data.histories import last_before
from recbole_llm.data.impressions import Impressions, ImpressionSpec, ShownRows
from recbole_llm.errors import ConfigError, DataError

SPEC = ImpressionSpec(0.25, 0.25, 2020)


def shown(n_impressions: int = 16, times=True, impressions=True, parts=None, size: int = 3) -> ShownRows:
    """Impression k at time 10 k, by user k mod 3; its first article is clicked, and each article comes up again."""
    k = np.repeat(np.arange(n_impressions), size)
    within = np.tile(np.arange(size), n_impressions)
    return ShownRows(
        users=np.array([f"u{x % 3}" for x in k]),
        items=np.array([f"n{(x + 2 * w) % 10}" for x, w in zip(k, within, strict=True)]),
        labels=within == 0,
        times=10.0 * k if times else None,
        impressions=np.array([f"i{x}" for x in k]) if impressions else None,
        parts=parts,
    )


def tokens(rows: ShownRows, part: np.ndarray) -> set:
    return {(rows.users[r], rows.items[r], bool(rows.labels[r])) for r in part}


@pytest.mark.parametrize("impressions", [True, False])  # without them what a user saw at a time belongs together
def test_the_latest_impressions_are_held_out_whole(impressions):
    rows = shown(impressions=impressions)
    split = Impressions.from_rows(rows, SPEC)
    parts = [split.train, split.valid, split.open_test()]
    assert sorted(np.concatenate(parts).tolist()) == list(range(48))
    assert [sorted(set((rows.times[p] / 10).astype(int))) for p in parts] == [
        list(range(9)), [9, 10, 11], [12, 13, 14, 15]
    ]  # fmt: skip
    with pytest.raises(DataError, match="already opened"):
        split.open_test()


def test_rows_of_an_unknown_impression_are_told_apart_by_user_and_time():
    rows = shown()
    rows.impressions[:] = np.where(np.arange(48) >= 42, "", rows.impressions)  # the last two
    split = Impressions.from_rows(rows, SPEC)
    assert split.n_test == 12 and len(split.valid) == 9


def test_without_times_a_held_out_item_is_held_out_whole():
    rows = shown(times=False)
    split = Impressions.from_rows(rows, SPEC)
    parts = [set(rows.items[p]) for p in (split.train, split.valid, split.open_test())]
    assert parts[0] | parts[1] | parts[2] == set(rows.items)
    assert not parts[0] & parts[1] and not parts[0] & parts[2] and not parts[1] & parts[2]
    assert len(parts[2]) == 2  # .25 of ten, to the nearest even number as Python rounds


def test_what_the_data_says_of_its_parts_holds():
    parts = np.where(np.arange(48) < 6, "history", np.where(np.arange(48) % 16 < 3, "test", "train"))
    rows = shown(parts=parts)
    split = Impressions.from_rows(rows, SPEC)
    assert set(range(6)) <= set(split.train) and split.n_test == (parts == "test").sum()
    assert (parts[split.open_test()] == "test").all() and (parts[split.valid] == "train").all()


@pytest.mark.parametrize("times", [True, False])
def test_neither_file_order_nor_the_other_parts_labels_matter(times):
    rows, order = shown(times=times), np.random.default_rng(0).permutation(48)
    other = ShownRows(**{k: None if v is None else v[order] for k, v in vars(rows).items()})
    a, b = Impressions.from_rows(rows, SPEC), Impressions.from_rows(other, SPEC)
    assert a.fingerprint == b.fingerprint
    for x, y in ((a.train, b.train), (a.valid, b.valid), (a.open_test(), b.open_test())):
        assert tokens(rows, x) == tokens(other, y)
    rows.labels[1] = True
    assert Impressions.from_rows(rows, SPEC).fingerprint != a.fingerprint


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": np.zeros(48, dtype=bool)}, "part has .* rows, all of one label"),
        ({"times": np.full(48, np.nan)}, "48 of 48 rows have no finite time"),
        ({"parts": np.full(48, "dev")}, "column 'part' holds 'dev'"),
        ({"impressions": np.full(48, "i")}, "0.25 of 1 impressions are 0: too few"),
    ],
)
def test_what_cannot_be_split_is_said(change, message):
    with pytest.raises(DataError, match=message):
        Impressions.from_rows(ShownRows(**vars(shown()) | change), SPEC)


@pytest.mark.parametrize(
    ("block", "message"),
    [
        ({"valid_share": 0.1}, "must be a block with the keys valid_share, test_share"),
        ({"valid_share": 0.1, "test_share": 1.0}, "impressions.test_share is a share between 0 and 1, not 1.0"),
        ({"valid_share": True, "test_share": 0.1}, "impressions.valid_share is a share"),
        ("news", "must be a block"),
    ],
)
def test_rules_that_cannot_be_meant(block, message):
    with pytest.raises(ConfigError, match=message):
        ImpressionSpec.of(block, 2020)


@settings(max_examples=60, deadline=None)
@given(
    entries=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 5)), max_size=25),
    queries=st.lists(st.tuples(st.integers(0, 4), st.integers(-1, 7)), min_size=1, max_size=8),
    length=st.integers(1, 4),
    timed=st.booleans(),
)
def test_histories_by_a_loop(entries, queries, length, timed):
    entries = sorted(entries, key=lambda e: e[1])
    owners, times = (np.array([e[k] for e in entries], dtype=np.int64) for k in (0, 1))
    users, before = (np.array([q[k] for q in queries], dtype=np.int64) for k in (0, 1))
    index, lengths = last_before(owners, times if timed else None, users, before if timed else None, length)
    for row, n, (user, moment) in zip(index, lengths, queries, strict=True):
        wanted = [k for k, (u, t) in enumerate(entries) if u == user and (t < moment or not timed)][-length:]
        assert row[:n].tolist() == wanted and (row[n:] == -1).all()
