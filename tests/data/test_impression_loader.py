"""Training batches of what was shown: what is read as history, and what a click stands against."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from recbole.data.interaction import Interaction

from recbole_llm.data.impression_loader import NEGATIVES, ImpressionLoader

N_USERS, N_ITEMS, LENGTH = 6, 40, 4
CONFIG = {
    "LABEL_FIELD": "label", "LIST_SUFFIX": "_list", "ITEM_LIST_LENGTH_FIELD": "item_length", "loss": "listwise",
    "n_negatives": 3, "negative_pool": None, "balanced_sampling": False, "history_share": 0.5, "require_features": [],
    "MAX_ITEM_LIST_LENGTH": LENGTH, "train_batch_size": 16, "seed": 1, "shuffle": True,
}  # fmt: skip


def shown(times: bool = True, groups: bool = True, labels: bool = True, seed: int = 0):
    """40 impressions of 5 articles, one or two clicked, one a moment."""
    rng = np.random.default_rng(seed)
    moment = np.repeat(np.arange(40), 5)
    users = np.repeat(rng.integers(1, N_USERS, 40), 5)
    items = np.concatenate([rng.choice(np.arange(1, N_ITEMS), 5, replace=False) for _ in range(40)])
    clicked = np.tile(np.arange(5) < 1, 40) | (rng.random(200) < 0.1)
    rows = np.arange(200) if labels else np.flatnonzero(clicked)
    columns = {"user_id": users[rows], "item_id": items[rows]} | ({"label": clicked[rows] * 1.0} if labels else {})
    return SimpleNamespace(
        uid_field="user_id", iid_field="item_id", item_num=N_ITEMS, user_num=N_USERS, features={},
        inter_feat=Interaction({name: torch.from_numpy(column) for name, column in columns.items()}),
        shown_times=moment[rows].astype(float) if times else None, shown_groups=moment[rows] if groups else None,
    )  # fmt: skip


def loader(data=None, **changes) -> ImpressionLoader:
    return ImpressionLoader(CONFIG | changes, shown() if data is None else data)


def rows_of(made: ImpressionLoader) -> list[dict]:
    """An epoch's rows."""
    found = []
    for batch in made:
        assert len(batch) <= CONFIG["train_batch_size"] * (
            1 if made.labelled or made.listwise else 1 + made.n_negatives
        )
        found += [{name: batch[name][k].tolist() for name in batch.interaction} for k in range(len(batch))]
    return found


def test_a_click_stands_against_what_was_shown_with_it():
    made = loader()
    rows = rows_of(made)
    assert len(rows) == made.clicked.sum() and len(list(made)) == len(made)
    seen = set()
    for row in rows:
        candidates = [  # the same pair may have been shown in several impressions
            k for k in range(200)
            if made.clicked[k] and made.users[k] == row["user_id"] and made.items[k] == row["item_id"]
        ]  # fmt: skip
        together = [
            {made.items[j] for j in range(200) if made.groups[j] == made.groups[k] and not made.clicked[j]}
            for k in candidates
        ]
        assert any(set(row[NEGATIVES]) <= others for others in together)
        seen |= {tuple(sorted(row[NEGATIVES]))}
    assert len(seen) > 20


@pytest.mark.parametrize("labels", [True, False])
def test_without_impressions_it_stands_against_what_its_user_did_not_click(labels):
    made = loader(shown(groups=False, times=False, labels=labels))
    clicked = {(u, i) for u, i, c in zip(made.users, made.items, made.clicked, strict=True) if c}
    not_clicked = {(u, i) for u, i, c in zip(made.users, made.items, made.clicked, strict=True) if not c}
    for row in rows_of(made):
        for item in row[NEGATIVES]:
            pair = (row["user_id"], item)
            assert pair in not_clicked if labels else (pair not in clicked and item > 0)


@pytest.mark.parametrize("loss", ["listwise", "bce"])
def test_a_history_is_what_was_clicked_before(loss):
    made = loader(loss=loss)
    rows = rows_of(made)
    assert len(rows) == (made.clicked.sum() if loss == "listwise" else 200)
    possible: dict[tuple, list] = {}
    for k in range(200):
        before = [
            j
            for j in range(200)
            if made.users[j] == made.users[k] and made.clicked[j] and made.times[j] < made.times[k]
        ]
        history = sorted(made.items[before[-LENGTH:]].tolist())
        possible.setdefault((int(made.users[k]), int(made.items[k])), []).append(history)
    for row in rows:
        found = [item for item in row["item_id_list"] if item]
        assert sorted(found) in possible[row["user_id"], row["item_id"]]
        assert row["item_id_list"][len(found) :] == [0] * (LENGTH - len(found))
        assert row["item_length"] == max(len(found), 1)


def test_without_times_a_history_does_not_tell_the_label():
    made = loader(shown(times=False, groups=False), loss="bce", MAX_ITEM_LIST_LENGTH=60)
    epochs = [rows_of(made) for _ in range(3)]
    for rows in epochs:
        by_user: dict[int, set] = {}
        for row in rows:
            history = frozenset(item for item in row["item_id_list"] if item)
            by_user.setdefault(row["user_id"], set()).add(history)
            assert not row["label"] or row["item_id"] not in history or shown_twice(made, row)
        assert all(len(histories) == 1 for histories in by_user.values())  # the same for clicked and not clicked
        assert sum(row["label"] for row in rows) < made.clicked.sum()
        assert sum(not row["label"] for row in rows) == (~made.clicked).sum()
    # every click is learnt in one epoch or another
    learnt = {
        (r["user_id"], r["item_id"])
        for rows in [*epochs, *(rows_of(made) for _ in range(9))]
        for r in rows
        if r["label"]
    }
    assert learnt == {(u, i) for u, i, c in zip(made.users, made.items, made.clicked, strict=True) if c}


def shown_twice(made: ImpressionLoader, row: dict) -> bool:
    same = (made.users == row["user_id"]) & (made.items == row["item_id"]) & made.clicked
    return same.sum() > 1


def test_clicks_alone_come_with_random_articles_as_rows():
    made = loader(shown(labels=False), loss="bce")
    rows = rows_of(made)
    assert len(rows) == 4 * made.clicked.sum() and np.mean([r["label"] for r in rows]) == 0.25
    clicked = set(zip(made.users.tolist(), made.items.tolist(), strict=True))
    assert all(((r["user_id"], r["item_id"]) in clicked) == bool(r["label"]) for r in rows)


def test_a_catalogue_too_large_for_a_table_of_clicks_gives_the_same(monkeypatch):
    tabled = rows_of(loader(shown(labels=False)))
    monkeypatch.setattr("recbole_llm.data.impression_loader._DENSE", 0)
    made = loader(shown(labels=False))
    assert made.has_clicked is None and rows_of(made) == tabled


def test_balanced_rows():
    assert 0.4 < np.mean([row["label"] for row in rows_of(loader(loss="bce", balanced_sampling=True))]) < 0.6
    assert np.mean([row["label"] for row in rows_of(loader(loss="bce"))]) < 0.35


def test_a_pool_of_hard_negatives():
    assert len(rows_of(loader(negative_pool=8))[0][NEGATIVES]) == 8


def test_a_resumed_run_sees_the_same_batches():
    made = loader()
    rows_of(made)
    state = made.generator.get_state()
    second = rows_of(made)
    other = loader()
    other.generator.set_state(state)
    assert rows_of(other) == second != rows_of(loader())
