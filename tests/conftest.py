"""Fixtures shared by all tests: patches in force, a clean command line, a tiny dataset, the optional real data."""

import os
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from recbole_llm import compat


@pytest.fixture(scope="session", autouse=True)
def _patched_recbole() -> None:
    compat.apply()


@pytest.fixture(autouse=True)
def _clean_command_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """RecBole's own Config reads sys.argv, which under pytest holds pytest's options."""
    monkeypatch.setattr(sys, "argv", ["test"])


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of the real data that lies outside the repository; skips where it is absent."""
    beside = Path(__file__).resolve().parents[2] / "shared"
    folder = Path(os.environ.get("RECBOLE_LLM_SHARED", beside)) / "data"
    if not folder.is_dir():
        pytest.skip(f"no shared data in {folder}; set RECBOLE_LLM_SHARED to the folder that holds data/")
    return folder


@pytest.fixture(scope="session")
def tiny_dataset() -> Callable[..., Path]:
    """Writer of the dataset ``tiny``: ``data_path = tiny_dataset(tmp_path)``."""
    return write_tiny_dataset


def write_tiny_dataset(root: Path, n_users: int = 40, n_items: int = 30, seed: int = 0) -> Path:
    """Write ``root/tiny/tiny.inter|.item|.user``.

    Tokens are ``u1..`` and ``i1..``, no ids, so that mixing the two up shows. Each user rates 6 to 14 different items,
    neighbours on a circle being likelier, so that there is something to learn; ratings are 1 to 5, some timestamps of a
    user are equal.

    Args:
        root: folder of dataset folders.
        n_users: users, all with interactions.
        n_items: items, of which a few may have none.
        seed: of the generator; the same seed gives the same bytes.
    Returns:
        ``root``, to be used as ``data_path``.
    """
    rng = np.random.default_rng(seed)
    folder = root / "tiny"
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for user in range(1, n_users + 1):
        start, n = rng.integers(n_items), int(rng.integers(6, 15))
        near = np.exp(-np.minimum((np.arange(n_items) - start) % n_items, (start - np.arange(n_items)) % n_items) / 5)
        items = rng.choice(n_items, size=n, replace=False, p=near / near.sum()) + 1
        times = 880_000_000 + np.cumsum(rng.integers(0, 4, size=n) * 600)  # a step of 0 is a tie
        rows += [f"u{user}\ti{item}\t{rng.integers(1, 6)}\t{time}" for item, time in zip(items, times, strict=True)]
    order = rng.permutation(len(rows))  # file order is not time order, as in ml-100k
    _write(
        folder / "tiny.inter", "user_id:token\titem_id:token\trating:float\ttimestamp:float", [rows[k] for k in order]
    )
    genres = ["drama", "comedy", "war"]
    _write(
        folder / "tiny.item",
        "item_id:token\trelease_year:token\tclass:token_seq",
        [f"i{i}\t{1990 + i % 7}\t{' '.join(sorted({genres[i % 3], genres[i % 2]}))}" for i in range(1, n_items + 1)],
    )
    _write(
        folder / "tiny.user",
        "user_id:token\tage:float\tgender:token",
        [f"u{u}\t{18 + u % 50}\t{'FM'[u % 2]}" for u in range(1, n_users + 1)],
    )
    return root


def _write(path: Path, header: str, rows: list[str]) -> None:
    path.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
