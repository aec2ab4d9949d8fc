"""Checkpoints: exact round trips of tensors and plain data, weights_only, atomic writes, clear errors."""

import random
import zipfile

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recbole_llm.errors import CheckpointError
from recbole_llm.trainer import checkpoint


def same(a, b) -> bool:
    """Equal in type and in value, exactly."""
    if type(a) is not type(b):
        return False
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and a.shape == b.shape and bool((np.asarray(a) == np.asarray(b)).all())
    if sp.issparse(a):
        return a.format == b.format and a.dtype == b.dtype and a.shape == b.shape and (a != b).nnz == 0
    return a == b


DENSE = np.array([[0.0, 1.5, 0.0], [2.5, 0.0, 0.0]])
STATES = {
    "plain": {"a": 1, 2: "b", "none": None, "flag": True, "x": 0.1, "list": [1, [2.0]], "empty": {}},
    "tuples": {"t": (1, ("a", [2, (3,)]), ()), "inside": [(1, 2)]},
    "tensors": {
        "f": torch.randn(3),
        "i": torch.arange(3),
        "h": torch.ones(2, dtype=torch.bfloat16),
        "s": torch.tensor(2),
    },
    "arrays": {
        name: np.arange(6).reshape(2, 3).astype(name)
        for name in ("float32", "float64", "int32", "int64", "uint8", "uint32", "bool", "complex64")
    },
    "views": {
        "reversed": np.arange(5)[::-1],
        "column": DENSE[:, 1],
        "empty": np.zeros((0, 3)),
        "scalar": np.array(3.0),
    },
    "matrix": {"m": DENSE.view(np.matrix)},
    "csr": {"m": sp.csr_matrix(DENSE)},
    "csc": {"m": sp.csc_matrix(DENSE)},
    "lil": {"m": sp.lil_matrix(DENSE)},
    "coo": {"m": sp.coo_matrix(DENSE.astype(np.float32))},
    "empty sparse": {"m": sp.csr_matrix((3, 4))},
    "random states": checkpoint.rng_state(),
}


@pytest.mark.parametrize("name", STATES)
def test_round_trip(name, tmp_path):
    checkpoint.save(tmp_path / "c.pt", STATES[name])
    loaded = checkpoint.load(tmp_path / "c.pt")
    assert loaded.pop("format") == checkpoint.FORMAT
    assert same(loaded, STATES[name])


LEAVES = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5)
NESTED = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.text(max_size=3) | st.integers(), inner, max_size=3)
    ),
    max_leaves=10,
)


@settings(max_examples=100, deadline=None)
@given(NESTED)
def test_plain_data_of_any_nesting(value):
    assert same(checkpoint.from_plain(checkpoint.to_plain(value)), value)


def test_numpy_scalars_become_python_s(tmp_path):
    checkpoint.save(tmp_path / "c.pt", {"a": np.float64(0.1), "b": np.int64(3), "c": np.bool_(True)})
    loaded = checkpoint.load(tmp_path / "c.pt")
    assert (loaded["a"], loaded["b"], loaded["c"]) == (0.1, 3, True) and type(loaded["a"]) is float


def test_the_file_loads_with_weights_only(tmp_path):
    checkpoint.save(tmp_path / "c.pt", STATES["csr"] | STATES["tuples"] | STATES["arrays"])
    assert torch.load(tmp_path / "c.pt", weights_only=True)["format"] == checkpoint.FORMAT


@pytest.mark.parametrize("value", [object(), {1, 2}, np.array(["a"]), np.array([None]), lambda: 0])
def test_what_is_neither_tensor_nor_plain_is_refused(value, tmp_path):
    with pytest.raises(CheckpointError, match="a checkpoint cannot hold a"):
        checkpoint.save(tmp_path / "c.pt", {"x": [value]})
    assert not list(tmp_path.iterdir())


class TestBrokenFiles:
    def test_missing(self, tmp_path):
        with pytest.raises(CheckpointError, match=r"none\.pt does not exist; train first"):
            checkpoint.load(tmp_path / "none.pt")

    @pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.99])
    def test_truncated(self, share, tmp_path):
        path = tmp_path / "c.pt"
        checkpoint.save(path, {"a": torch.randn(1000)})
        content = path.read_bytes()
        path.write_bytes(content[: int(share * len(content))])
        with pytest.raises(CheckpointError, match=r"c\.pt is truncated or not a checkpoint"):
            checkpoint.load(path)

    def test_a_foreign_file(self, tmp_path):
        (tmp_path / "text.pt").write_text("hello")
        with zipfile.ZipFile(tmp_path / "zip.pt", "w") as file:
            file.writestr("a", "b")
        torch.save({"a": object}, tmp_path / "code.pt")  # weights_only refuses it
        for name in ("text.pt", "zip.pt", "code.pt"):
            with pytest.raises(CheckpointError, match="not a checkpoint of recbole_llm"):
                checkpoint.load(tmp_path / name)

    def test_another_version(self, tmp_path):
        torch.save({"format": 0}, tmp_path / "old.pt")
        torch.save([1], tmp_path / "list.pt")
        for name in ("old.pt", "list.pt"):
            with pytest.raises(CheckpointError, match="was not written by this version"):
                checkpoint.load(tmp_path / name)


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "c.pt"
    checkpoint.save(path, {"a": 1})

    def disk_full(state, file):
        file.write(b"half of it")
        raise OSError("no space left on device")

    monkeypatch.setattr(torch, "save", disk_full)
    with pytest.raises(OSError, match="no space left"):
        checkpoint.save(path, {"a": 2})
    monkeypatch.undo()
    assert checkpoint.load(path)["a"] == 1
    assert [p.name for p in tmp_path.iterdir()] == ["c.pt"]


def test_random_states_go_on_where_they_were(tmp_path):
    def draw() -> tuple:
        return random.random(), np.random.rand(), torch.rand(()).item()

    draw()
    checkpoint.save(tmp_path / "c.pt", checkpoint.rng_state())
    expected = draw(), draw()
    draw()
    checkpoint.set_rng_state(checkpoint.load(tmp_path / "c.pt"))
    assert (draw(), draw()) == expected
