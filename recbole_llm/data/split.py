"""Who is train, valid and test: made once from tokens, fingerprinted, the test rows behind a one-shot handle.

Parts follow RecBole 1.2.1's rules (``Dataset.leave_one_out``, ``Dataset.split_by_ratio``), so sizes agree with a plain
RecBole run. Two things differ on purpose: random order comes from ``split_seed`` and the tokens, not from the model's
seed and the file's row order, and times are compared exactly, where RecBole compares them as float32.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict

import numpy as np

from recbole_llm.data.split_spec import TEST, TRAIN, VALID, SplitSpec
from recbole_llm.errors import DataError


class Split:
    """Row indices of train and valid, and a handle on test that opens once.

    Every part is sorted by (user token, time, file order), so the token rows come in the same sequence whatever the
    file's row order, as long as no two of a user's interactions share a time.

    Attributes:
        train: row indices into the arrays given. [n_train] int64.
        valid: row indices. [n_valid] int64.
        n_test: number of test rows, known without opening them.
        test_opened: whether :meth:`open_test` was called.
        universe: every item that may be recommended, sorted tokens.
        cold_items: part -> sorted tokens of the items that are held out whole, empty without ``spec.cold_items``.
        fingerprint: sha256 over the spec, the universe and the sorted (user, item, time, part) token rows.
        spec: the protocol.
    """

    def __init__(
        self,
        spec: SplitSpec,
        universe: tuple[str, ...],
        parts: Sequence[np.ndarray],
        fingerprint: str,
        cold_items: Mapping[str, Sequence[str]],
    ):
        self.spec = spec
        self.universe = universe
        self.train, self.valid, self._test = parts
        self.fingerprint = fingerprint
        self.cold_items = cold_items
        self._test_opened = False

    @property
    def n_test(self) -> int:
        return len(self._test)

    @property
    def test_opened(self) -> bool:
        return self._test_opened

    def open_test(self) -> np.ndarray:
        """Row indices of the test part. [n_test] int64.

        Raises:
            DataError: at the second call: a run reads its test rows once, for the chosen configuration.
        """
        if self._test_opened:
            raise DataError("the test split was already opened in this run")
        self._test_opened = True
        return self._test

    @classmethod
    def from_interactions(
        cls,
        users: Sequence[str],
        items: Sequence[str],
        spec: SplitSpec,
        *,
        times: np.ndarray | None = None,
        ratings: np.ndarray | None = None,
        universe: Sequence[str] | None = None,
    ) -> "Split":
        """Split the rows of an interaction file.

        Args:
            users: user token of every row, in file order. [n] str.
            items: item token of every row. [n] str.
            spec: the protocol.
            times: time of every row, any unit, finite; None only with order RO. [n] int or float.
            ratings: rating of every row, needed with ``spec.min_rating``. [n] float.
            universe: item tokens that may be recommended; the items of all given rows when None.
        Raises:
            DataError: on arrays of unequal length, tokens that are not str, missing or non-finite times or ratings,
                items outside the universe, or when no row is left.
        """
        user_codes, user_vocabulary = _encode("user", users)
        item_codes, item_vocabulary = _encode("item", items)
        times = _column("time", times, len(user_codes), needed_by="order TO" if spec.order == "TO" else None)
        ratings = _column(
            "rating", ratings, len(user_codes), needed_by="min_rating" if spec.min_rating is not None else None
        )
        if len(item_codes) != len(user_codes):
            raise DataError(f"the interactions have {len(user_codes)} user tokens but {len(item_codes)} item tokens")
        universe = tuple(item_vocabulary if universe is None else sorted(set(universe)))
        strangers = set(item_vocabulary).difference(universe)
        if strangers:
            raise DataError(
                f"{len(strangers)} items of the interactions are not in the item universe (e.g. {min(strangers)!r}); "
                "add them to the universe or drop their rows"
            )

        kept = np.ones(len(user_codes), dtype=bool)
        if spec.min_rating is not None:
            kept &= ratings >= spec.min_rating
        if spec.min_user_inter is not None:
            kept &= np.bincount(user_codes[kept], minlength=len(user_vocabulary))[user_codes] >= spec.min_user_inter
        rows = np.flatnonzero(kept)
        if not len(rows):
            raise DataError("no interaction is left to split; lower min_rating or min_user_inter")
        users_kept, items_kept, times_kept = user_codes[rows], item_codes[rows], times[rows]

        cold = _cold_items(spec, items_kept)
        part = np.full(len(rows), TRAIN, dtype=np.int8)
        warm = ~np.isin(items_kept, np.concatenate(list(cold.values())))
        if not warm.any():
            raise DataError(f"cold_items: {spec.cold_items} leaves no item to train on; lower it")
        part[warm] = _assign_parts(spec, users_kept[warm], items_kept[warm], times_kept[warm])
        for which, codes in cold.items():
            part[np.isin(items_kept, codes)] = which
        canonical = np.lexsort((times_kept, users_kept))  # stable: equal times keep file order
        parts = [rows[canonical[part[canonical] == which]] for which in (TRAIN, VALID, TEST)]
        fingerprint = _fingerprint(
            spec, universe, (user_vocabulary, users_kept), (item_vocabulary, items_kept), times_kept, part
        )
        names = {VALID: "valid", TEST: "test"}
        tokens = {names[which]: [item_vocabulary[code] for code in np.sort(codes)] for which, codes in cold.items()}
        return cls(spec, universe, parts, fingerprint, tokens)


def _cold_items(spec: SplitSpec, items: np.ndarray) -> dict[int, np.ndarray]:
    """Codes of the items held out whole: half of ``spec.cold_items`` for VALID, half for TEST."""
    used = np.unique(items)  # in token order, so that neither file order nor internal ids matter
    half = round(spec.cold_items * len(used) / 2)
    if spec.cold_items and not half:
        raise DataError(f"cold_items: {spec.cold_items} of {len(used)} items is not one a part; raise it")
    # a stream of its own: the keys of the random order below begin that of the bare seed
    drawn = used[np.random.PCG64([spec.seed, 1]).random_raw(len(used)).argsort()]
    return {VALID: drawn[:half], TEST: drawn[half : 2 * half]}


def _assign_parts(spec: SplitSpec, users: np.ndarray, items: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Part of every row: TRAIN, VALID or TEST. users, items: token codes in token order. [n] int64 each -> [n] int8."""
    groups = users if spec.group_by == "user" else np.zeros_like(users)
    if spec.order == "TO":
        keys = times
    else:
        # one random key a row, dealt out in token order: neither file order nor internal ids can matter.
        # random_raw, not Generator: only the raw stream of a bit generator is fixed for all numpy versions
        keys = np.empty(len(users), dtype=np.uint64)
        keys[np.lexsort((times, items, users))] = np.random.PCG64(spec.seed).random_raw(len(users))
    order = np.lexsort((keys, groups))
    _, starts, counts = np.unique(groups[order], return_index=True, return_counts=True)
    sizes = {total: spec.part_sizes(total) for total in set(counts.tolist())}
    per_group = np.array([sizes[total] for total in counts.tolist()])  # [groups, 3]
    position = np.arange(len(users)) - np.repeat(starts, counts)
    part = np.empty(len(users), dtype=np.int8)
    part[order] = (position >= np.repeat(per_group[:, TRAIN], counts)).astype(np.int8) + (
        position >= np.repeat(per_group[:, TRAIN] + per_group[:, VALID], counts)
    )
    return part


def _fingerprint(spec: SplitSpec, universe: tuple[str, ...], users, items, times: np.ndarray, part: np.ndarray) -> str:
    """sha256 of the split as a set of token rows; ``users`` and ``items`` are (vocabulary, codes of the kept rows)."""
    digest = hashlib.sha256(b"recbole_llm split 1")
    columns = []
    # a split without cold items is the split that it was before there were any
    texts = [{key: value for key, value in asdict(spec).items() if key != "cold_items" or value}, universe]
    for vocabulary, codes in (users, items):
        used, compact = np.unique(codes, return_inverse=True)  # tokens of dropped rows must not shift the codes
        texts.append([vocabulary[code] for code in used])
        columns.append(compact.astype("<i8"))
    columns += [times.astype("<f8") + 0.0, part.astype("<i8")]  # + 0.0: -0.0 and 0.0 are the same time
    for text in texts:
        encoded = json.dumps(text, sort_keys=True).encode()
        digest.update(len(encoded).to_bytes(8, "little") + encoded)
    order = np.lexsort(columns[::-1])
    for column in columns:
        digest.update(column[order].tobytes())
    return digest.hexdigest()


def _encode(name: str, tokens: Sequence[str]) -> tuple[np.ndarray, list[str]]:
    """Codes in token order, and the sorted tokens they index. [n] -> [n] int64, list of str."""
    values = np.asarray(tokens).tolist()
    distinct = set(values)
    wrong = [value for value in distinct if not isinstance(value, str) or not value]
    if wrong:
        raise DataError(f"{name} tokens must be non-empty strings, but {wrong[0]!r} was given; read the column as text")
    vocabulary = sorted(distinct)
    index = {token: code for code, token in enumerate(vocabulary)}
    return np.fromiter(map(index.__getitem__, values), dtype=np.int64, count=len(values)), vocabulary


def _column(name: str, values: np.ndarray | None, n_rows: int, needed_by: str | None) -> np.ndarray:
    """A checked numeric column; zeros when it is absent and nothing needs it. [n_rows]."""
    if values is None:
        if needed_by:
            raise DataError(f"{needed_by} needs the {name} column of the interactions, but there is none")
        return np.zeros(n_rows)
    values = np.asarray(values)
    if values.shape != (n_rows,) or values.dtype.kind not in "iuf":
        raise DataError(f"the {name} column must hold {n_rows} numbers, but is {values.dtype} of shape {values.shape}")
    n_bad = int((~np.isfinite(values)).sum())
    if n_bad:
        raise DataError(f"{n_bad} of {n_rows} interactions have no finite {name}; fill or drop these rows")
    return values
