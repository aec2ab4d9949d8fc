"""Chunks of histories: every interaction but a user's first is a target once an epoch, right after its own past."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from recbole.data.interaction import Interaction

from recbole_llm.data.chunks import ChunkLoader


class Rows:
    """As much of a RecBole dataset as the loader reads: histories, interleaved by time."""

    uid_field, iid_field = "user_id", "item_id"

    def __init__(self, histories: dict[int, list[int]]) -> None:
        rows = [(t, u, i) for u, items in histories.items() for t, i in enumerate(items)]
        rows.sort(key=lambda row: row[0])
        users, items = ([row[k] for row in rows] for k in (1, 2))
        self.inter_feat = Interaction({"user_id": torch.tensor(users), "item_id": torch.tensor(items)})


def loader(histories: dict[int, list[int]], length: int, **changes) -> ChunkLoader:
    config = {
        "LIST_SUFFIX": "_list",
        "ITEM_LIST_LENGTH_FIELD": "item_length",
        "MAX_ITEM_LIST_LENGTH": length,
        "chunk_batch_size": 4,
        "seed": 1,
        "shuffle": True,
    } | changes
    return ChunkLoader(config, Rows(histories))


def pairs(batches) -> list[tuple[int, int, int]]:
    """(user, input item, target item) of every trained position."""
    found = []
    for batch in batches:
        for user, items, length, targets in zip(
            *(batch[name] for name in ("user_id", "item_id_list", "item_length", "target_list")), strict=True
        ):
            n = int(length)
            assert (items[:n] > 0).all() and not items[n:].any()
            assert (targets[:n] > 0).all() and not targets[n:].any()
            assert items[1:n].tolist() == targets[: n - 1].tolist()  # a chunk is a piece of one history
            found += [(int(user), a, b) for a, b in zip(items[:n].tolist(), targets[:n].tolist(), strict=True)]
    return found


HISTORIES = st.lists(st.integers(1, 23), min_size=1, max_size=5)


@settings(max_examples=80, deadline=None)
@given(sizes=HISTORIES, length=st.integers(1, 8), seed=st.integers(0, 50), epochs=st.integers(1, 3))
def test_every_interaction_but_the_first_is_a_target_once_an_epoch(sizes, length, seed, epochs):
    # items are unique over all users, so that a pair tells its place
    starts = np.cumsum([1, *sizes])
    histories = {u + 1: list(range(starts[u], starts[u + 1])) for u in range(len(sizes))}
    expected = sorted((u, a, b) for u, items in histories.items() for a, b in zip(items, items[1:], strict=False))
    batches = loader(histories, length, seed=seed)
    for _ in range(epochs):
        assert sorted(pairs(batches)) == expected


def test_a_repeated_item_keeps_its_place():
    assert sorted(pairs(loader({1: [5, 5, 7, 5]}, 2))) == [(1, 5, 5), (1, 5, 7), (1, 7, 5)]


def test_users_with_one_interaction_train_nothing():
    assert pairs(loader({1: [4], 2: [4, 6]}, 3)) == [(2, 4, 6)]
    assert list(loader({1: [4]}, 3)) == []


LONG = {1: list(range(1, 60)), 2: list(range(60, 90)), 3: [90, 91, 92]}


def chunk_starts(batches) -> set[int]:
    return {int(items[0]) for batch in batches for items in batch["item_id_list"]}


def test_cut_points_move_from_epoch_to_epoch():
    batches = loader(LONG, 10)
    epochs = [chunk_starts(batches) for _ in range(6)]
    assert len({frozenset(starts) for starts in epochs}) > 1
    # over many epochs every interaction of a long history opens a chunk at some time
    often = set().union(*(chunk_starts(batches) for _ in range(200)))
    assert often >= set(range(1, 50))
    assert all({1, 60, 90} <= starts for starts in epochs)  # a history's first chunk starts at its first item


def as_lists(batches) -> list[list]:
    return [[batch[name].tolist() for name in sorted(batch.columns)] for batch in batches]


def test_a_saved_generator_gives_the_same_epoch():
    batches = loader(LONG, 10)
    as_lists(batches)
    state = batches.generator.get_state()
    second = as_lists(batches)
    third = as_lists(batches)
    other = loader(LONG, 10, seed=99)
    other.generator.set_state(state)
    assert as_lists(other) == second and as_lists(other) == third
    assert second != third


def test_the_order_of_chunks_is_drawn_unless_told_otherwise():
    many = {u: [u, u + 1, u + 2] for u in range(1, 40)}
    users = [u for batch in loader(many, 5, shuffle=False) for u in batch["user_id"].tolist()]
    assert users == sorted(users)
    shuffled = [u for batch in loader(many, 5) for u in batch["user_id"].tolist()]
    assert shuffled != users and sorted(shuffled) == users


def test_batches_hold_chunk_batch_size_rows_and_len_is_about_right():
    batches = loader({u: list(range(1, 26)) for u in range(1, 60)}, 8, chunk_batch_size=16)
    sizes = [len(batch["user_id"]) for batch in batches]
    assert set(sizes[:-1]) == {16} and 0 < sizes[-1] <= 16
    assert abs(len(sizes) - len(batches)) <= 2


def test_torch_s_global_generator_is_not_touched():
    before = torch.get_rng_state()
    as_lists(loader(LONG, 10))
    assert torch.equal(torch.get_rng_state(), before)
