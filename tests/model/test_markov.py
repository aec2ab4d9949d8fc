"""Decayed Markov chain: the contract, and transitions and history weights against naive loops."""

import numpy as np
import pytest
import torch
from contract import SequentialContract
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic import write_cycle

from recbole_llm.errors import ConfigError
from recbole_llm.model.sequential.markov import history_weights, transitions


class TestMarkov(SequentialContract):
    model = "Markov"
    config = {"markov_window": 5, "markov_decay": 0.5}
    trained = False

    def test_an_unknown_norm_is_named(self, tmp_path):
        with pytest.raises(ConfigError, match="markov_norm is 'colum'; choose row, cosine or none"):
            self.build(write_cycle(tmp_path), markov_norm="colum")

    def test_norms(self, folder):
        def transition(norm: str) -> np.ndarray:
            return self.build(folder, markov_norm=norm)[2].transition.numpy()

        counts, row, cosine = (transition(norm) for norm in ("none", "row", "cosine"))
        _, data, _ = self.build(folder)
        used = np.bincount(data.item_ids[data.split.train], minlength=data.n_items)
        for i in range(1, data.n_items):
            np.testing.assert_allclose(row[i], counts[i] / counts[i].sum(), rtol=1e-6)
            np.testing.assert_allclose(cosine[i, 1:], counts[i, 1:] / np.sqrt(used[i] * used[1:]), rtol=1e-6)


def naive_transitions(users, items, n_items: int, window: int, decay: float) -> np.ndarray:
    total = np.zeros((n_items, n_items))
    for user in set(users):
        history = [i for u, i in zip(users, items, strict=True) if u == user]
        for a in range(len(history)):
            for b in range(a + 1, min(a + window, len(history) - 1) + 1):
                total[history[a], history[b]] += decay ** (b - a - 1)
    return total


@settings(max_examples=50, deadline=None)
@given(
    rows=st.lists(st.tuples(st.integers(1, 4), st.integers(1, 6)), min_size=1, max_size=25),
    window=st.integers(1, 6),
    decay=st.floats(0.1, 1.0),
)
def test_transitions_equal_a_naive_loop(rows, window, decay):
    users, items = (np.array(column) for column in zip(*rows, strict=True))
    expected = naive_transitions(users.tolist(), items.tolist(), 7, window, decay)
    np.testing.assert_allclose(transitions(users, items, 7, window, decay).toarray(), expected, rtol=1e-12)


def test_transitions_of_interleaved_users_written_out():
    users, items = np.array([1, 2, 1, 2, 1]), np.array([1, 3, 2, 1, 3])  # user 1: 1 2 3; user 2: 3 1
    counts = transitions(users, items, 4, window=2, decay=0.5).toarray()
    assert counts.tolist() == [[0, 0, 0, 0], [0, 0, 1, 0.5], [0, 0, 0, 1], [0, 1, 0, 0]]


def test_history_weights_written_out():
    item_seq = torch.tensor([[1, 2, 1, 3], [4, 0, 0, 0], [1, 2, 3, 4]])
    lengths = torch.tensor([3, 1, 4])  # what stands behind the length (the 3) does not count
    weights = history_weights(item_seq, lengths, 5, window=3, decay=0.5)
    assert weights.tolist() == [[0, 1.25, 0.5, 0, 0], [0, 0, 0, 0, 1], [0, 0, 0.25, 0.5, 1]]
