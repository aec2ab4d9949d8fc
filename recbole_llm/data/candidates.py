"""Fixed candidates: the same sampled items a user for every model, see :func:`draw_candidates`."""

import hashlib
import json
from collections.abc import Sequence

import numpy as np

from recbole_llm.errors import DataError


def draw_candidates(
    targets: Sequence[tuple[str, str]], universe: Sequence[str], n: int, seed: int, part: str
) -> np.ndarray:
    """Draw the items every model ranks beside the target: uniform, without replacement, seen items included.

    A row depends on (seed, part, user token, target, universe) alone: not on the order of the targets, on the
    other users, on the model or on the numpy version. Columns carry no meaning.

    Args:
        targets: one (user token, item token) a row; a user may occur once.
        universe: item tokens to draw from; the row's target is excluded.
        n: candidates a row, below the size of the universe.
        seed: fixes the draw.
        part: "valid" or "test"; the two draws are independent.
    Returns:
        Item tokens, without the target. [len(targets), n] object (str).
    Raises:
        DataError: when n does not fit the universe, a target lies outside of it, or a user occurs twice.
    """
    vocabulary = sorted(set(universe))
    if not 0 < n < len(vocabulary):
        raise DataError(f"cannot draw {n} candidates from {len(vocabulary)} items beside the target; lower the number")
    index = {token: i for i, token in enumerate(vocabulary)}
    users = [user for user, _ in targets]
    if len(set(users)) != len(users):
        raise DataError("a user has more than one target; fixed candidates need one target a user (leave one out)")
    strangers = [item for _, item in targets if item not in index]
    if strangers:
        raise DataError(f"{len(strangers)} targets are not in the item universe (e.g. {strangers[0]!r})")

    target_index = np.array([index[item] for _, item in targets], dtype=np.int64).reshape(-1, 1)  # [rows, 1]
    keys = np.array([_user_key(seed, part, user) for user in users], dtype=np.uint64)  # [rows]
    drawn = np.empty((len(targets), n), dtype=np.int64)
    for column in range(n):
        # Floyd's sampling (Bentley & Floyd 1987): draw from 0..last; a repeat is replaced by last itself
        last = len(vocabulary) - 2 - (n - 1 - column)  # the target is not there, hence - 2
        pick = (_uniform(keys, column) * (last + 1)).astype(np.int64)
        repeated = (drawn[:, :column] == pick[:, None]).any(axis=1)
        drawn[:, column] = np.where(repeated, last, pick)
    drawn += drawn >= target_index  # close the gap that the target leaves in 0..len(universe) - 1
    return np.array(vocabulary, dtype=object)[drawn]


def _user_key(seed: int, part: str, user: str) -> int:
    text = json.dumps([seed, part, user]).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little")


def _uniform(keys: np.ndarray, counter: int) -> np.ndarray:
    """Number ``counter`` of the SplitMix64 stream of every key, in [0, 1). [n] uint64 -> [n] float64.

    Steele, Lea & Flood 2014, https://doi.org/10.1145/2660193.2660195. Counter-based, so all rows advance at once.
    """
    step = np.uint64((counter + 1) * 0x9E3779B97F4A7C15 % 2**64)
    z = keys + step  # uint64 arrays wrap around, as the algorithm wants
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    z ^= z >> np.uint64(31)
    return (z >> np.uint64(11)) * 2.0**-53
