"""EvalTask: what is ranked for whom, and what counts as right. The same object serves every model."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from recbole_llm.errors import DataError


@dataclass(frozen=True)
class EvalTask:
    """One ranking task: n rows (users or impressions), each with its positives, masked items and candidates.

    The two CSR pairs hold the items of row r at ``items[indptr[r]:indptr[r + 1]]``, sorted by id. Ids are the internal
    ones of the dataset the scores come from; 0 is [PAD].

    Attributes:
        name: for example "full" or "cand100".
        part: "valid" or "test".
        user_ids: one row a user, ascending. [n] int64.
        n_items: columns of a score row; column 0 is [PAD] and never recommended.
        pos_indptr: [n + 1] int64.
        pos_items: positives, at least one a row. [n_pos] int64.
        mask_indptr: [n + 1] int64.
        mask_items: items never recommended to the row: known history minus the positives. [n_masked] int64.
        candidates: items to rank, the positives among them, in a seed-fixed random column order, so that a scorer
            without opinion is at chance; 0 fills rows with fewer candidates. [n, C] int64, or None for all items.
        fingerprint: sha256 over the split's fingerprint and all of the above but the name. Being over ids, it compares
            models that share the dataset's numbering.
    """

    name: str
    part: str
    user_ids: np.ndarray
    n_items: int
    pos_indptr: np.ndarray
    pos_items: np.ndarray
    mask_indptr: np.ndarray
    mask_items: np.ndarray
    candidates: np.ndarray | None
    fingerprint: str

    def __len__(self) -> int:
        return len(self.user_ids)

    @property
    def n_pos(self) -> np.ndarray:
        """Positives per row, >= 1. [n] int64."""
        return np.diff(self.pos_indptr)

    @classmethod
    def build(
        cls,
        name: str,
        part: str,
        n_items: int,
        *,
        targets: tuple[np.ndarray, np.ndarray],
        split_fingerprint: str,
        known: tuple[np.ndarray, np.ndarray] | None = None,
        candidates: Mapping[int, np.ndarray] | np.ndarray | None = None,
        mask_history: bool = True,
        seed: int = 2020,
    ) -> "EvalTask":
        """Build a task from (user id, item id) pairs; repeated pairs count once.

        Args:
            name, part, n_items: see the class.
            targets: users and items of the held-out interactions. Two [m] int arrays.
            split_fingerprint: fingerprint of the split that the pairs come from.
            known: users and items known at prediction time, the validation items among them at test; users without a
                target are ignored. Two int arrays; required with ``mask_history``.
            candidates: what to rank: ``{user id: item ids}``, or [n, C'] aligned to the sorted target users with 0
                for "none". The positives are added where absent. None ranks all items.
            mask_history: exclude each row's known items, except its positives.
            seed: fixes the column order of the candidates.
        Raises:
            DataError: on arrays that do not fit together, ids out of range, repeated or missing candidates.
        """
        if part not in ("valid", "test"):
            raise DataError(f"task {name}: part must be valid or test, not {part!r}")
        target_users, target_items = _pairs(f"task {name}: targets", targets, n_items)
        if not len(target_users):
            raise DataError(f"task {name}: there is no {part} target to rank")
        user_ids, rows = np.unique(target_users, return_inverse=True)
        pos_keys = np.unique(rows * n_items + target_items)

        mask_keys = np.empty(0, dtype=np.int64)
        if mask_history:
            if known is None:
                raise DataError(
                    f"task {name}: mask_history needs the known history; give it or set mask_history: False"
                )
            known_users, known_items = _pairs(f"task {name}: known history", known, n_items)
            here = np.isin(known_users, user_ids)
            known_keys = np.searchsorted(user_ids, known_users[here]) * n_items + known_items[here]
            mask_keys = np.setdiff1d(known_keys, pos_keys)

        if candidates is not None:
            table = _candidate_table(name, candidates, user_ids, n_items)
            candidates = _shuffled_columns(_add_positives(name, table, pos_keys, n_items), seed)
        pos_indptr, pos_items = _csr(pos_keys, len(user_ids), n_items)
        mask_indptr, mask_items = _csr(mask_keys, len(user_ids), n_items)
        arrays = [user_ids, pos_indptr, pos_items, mask_indptr, mask_items]
        return cls(
            name=name,
            part=part,
            user_ids=user_ids,
            n_items=n_items,
            pos_indptr=pos_indptr,
            pos_items=pos_items,
            mask_indptr=mask_indptr,
            mask_items=mask_items,
            candidates=candidates,
            fingerprint=_fingerprint(split_fingerprint, part, n_items, [*arrays, candidates]),
        )


def _pairs(what: str, pairs: tuple[np.ndarray, np.ndarray], n_items: int) -> tuple[np.ndarray, np.ndarray]:
    """Checked (users, items). Two [m] int64."""
    users, items = (np.asarray(column) for column in pairs)
    if users.ndim != 1 or users.shape != items.shape:
        raise DataError(
            f"{what}: users and items must be two arrays of one length, not {users.shape} and {items.shape}"
        )
    if users.size and not (users.dtype.kind in "iu" and items.dtype.kind in "iu"):
        raise DataError(f"{what}: ids must be whole numbers, not {users.dtype} and {items.dtype}")
    _check_range(what, items, 1, n_items)
    if users.size and users.min() < 0:
        raise DataError(f"{what}: user id {users.min()} is negative")
    return users.astype(np.int64), items.astype(np.int64)


def _check_range(what: str, items: np.ndarray, lowest: int, n_items: int) -> None:
    outside = items[(items < lowest) | (items >= n_items)]
    if outside.size:
        raise DataError(f"{what}: item id {outside[0]} is not in {lowest}..{n_items - 1}; 0 is [PAD]")


def _csr(keys: np.ndarray, n_rows: int, n_items: int) -> tuple[np.ndarray, np.ndarray]:
    """Sorted keys ``row * n_items + item`` -> (indptr [n_rows + 1], items [len(keys)]), int64."""
    counts = np.bincount(keys // n_items, minlength=n_rows)
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64), keys % n_items


def _candidate_table(name: str, candidates, user_ids: np.ndarray, n_items: int) -> np.ndarray:
    """Candidates as one table, 0 where a row has fewer. [n, C'] int64."""
    if isinstance(candidates, Mapping):
        missing = [user for user in user_ids.tolist() if user not in candidates]
        if missing:
            raise DataError(f"task {name}: {len(missing)} users have no candidates (e.g. user id {missing[0]})")
        lists = [np.asarray(candidates[user]) for user in user_ids.tolist()]
        table = np.zeros((len(lists), max(map(len, lists))), dtype=np.int64)
        for row, items in zip(table, lists, strict=True):
            row[: len(items)] = items
    else:
        table = np.asarray(candidates)
        if table.ndim != 2 or len(table) != len(user_ids) or table.dtype.kind not in "iu":
            raise DataError(
                f"task {name}: candidates must be ids of shape [{len(user_ids)}, C], one row a target user, "
                f"not {table.dtype} of shape {table.shape}"
            )
    _check_range(f"task {name}: candidates", table, 0, n_items)
    return table.astype(np.int64)


def _add_positives(name: str, table: np.ndarray, pos_keys: np.ndarray, n_items: int) -> np.ndarray:
    """Candidates with every row's positives among them exactly once, ascending, 0 in front. [n, C] int64."""
    n_rows = len(table)
    ordered = np.sort(table, axis=1)
    repeated = (ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] > 0)
    if repeated.any():
        row, column = np.argwhere(repeated)[0]
        raise DataError(
            f"task {name}: {repeated.any(axis=1).sum()} rows name a candidate twice "
            f"(e.g. item id {ordered[row, column]})"
        )
    table = np.where(np.isin(np.arange(n_rows)[:, None] * n_items + table, pos_keys), 0, table)
    pos_rows = pos_keys // n_items
    starts = np.searchsorted(pos_rows, np.arange(n_rows))
    positives = np.zeros((n_rows, np.bincount(pos_rows).max()), dtype=np.int64)
    positives[pos_rows, np.arange(len(pos_keys)) - starts[pos_rows]] = pos_keys % n_items
    merged = np.sort(np.concatenate([table, positives], axis=1), axis=1)
    return merged[:, (merged == 0).all(axis=0).sum() :]


def _shuffled_columns(table: np.ndarray, seed: int) -> np.ndarray:
    # the raw stream of a bit generator is the same on every numpy version, Generator.permuted is not
    keys = np.random.PCG64(seed).random_raw(table.size).reshape(table.shape)
    return np.take_along_axis(table, keys.argsort(axis=1), axis=1)


def _fingerprint(split_fingerprint: str, part: str, n_items: int, arrays: list[np.ndarray | None]) -> str:
    digest = hashlib.sha256(f"recbole_llm task 1 {split_fingerprint} {part} {n_items}".encode())
    for array in arrays:
        digest.update(b"all items" if array is None else f"{array.shape}".encode() + array.astype("<i8").tobytes())
    return digest.hexdigest()
