"""Who is train, valid and test where rows are what users were shown, clicked or not, as in news.

Test rows are those that the data's own column ``part`` names, else the latest impressions. Validation rows are drawn
from the others as the test differs from them: the latest impressions where there are times, else all rows of some
items, so that a validated item is as unseen as a tested one.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields

import numpy as np

from recbole_llm.errors import ConfigError, DataError

PARTS = TRAIN, VALID, TEST = "train", "valid", "test"
HISTORY = "history"  # clicks from before the first impressions: known always, never scored


@dataclass(frozen=True)
class ImpressionSpec:
    """Rules of the split.

    Attributes:
        valid_share: share of the impressions, or of the items where there are no times, that validate, in (0, 1).
        test_share: the same for the test, where the data does not say which rows are its; in (0, 1).
        seed: split_seed, which draws items.

    Raises:
        ConfigError: on a setting that cannot be meant.
    """

    valid_share: float
    test_share: float
    seed: int

    def __post_init__(self) -> None:
        for name in ("valid_share", "test_share"):
            value = getattr(self, name)
            if not isinstance(value, float) or not 0 < value < 1:
                raise ConfigError(f"impressions.{name} is a share between 0 and 1, not {value!r}")

    @classmethod
    def of(cls, block: object, seed: int) -> "ImpressionSpec":
        """Of the YAML block ``impressions``.

        Raises:
            ConfigError: for a key that is missing, unknown or wrong.
        """
        names = [f.name for f in fields(cls) if f.name != "seed"]
        if not isinstance(block, Mapping) or set(block) != set(names):
            raise ConfigError(f"impressions must be a block with the keys {', '.join(names)}, not {block!r}")
        return cls(**block, seed=seed)


@dataclass(frozen=True)
class ShownRows:
    """What the split needs to know of each row, as it stands in the file.

    Attributes:
        users, items: tokens. labels: clicked or not [n] bool. times: any unit, or None.
        impressions: what was shown together; "" for a row whose impression is unknown; None where none is known.
        parts: train, test or history; None where the data does not say.
    """

    users: np.ndarray
    items: np.ndarray
    labels: np.ndarray
    times: np.ndarray | None
    impressions: np.ndarray | None
    parts: np.ndarray | None

    def __post_init__(self) -> None:
        if self.times is not None and not np.isfinite(self.times).all():
            n_bad = int((~np.isfinite(self.times)).sum())
            raise DataError(f"{n_bad} of {len(self.times)} rows have no finite time; fill or drop these rows")
        if self.parts is not None and (wrong := set(self.parts.tolist()) - {TRAIN, TEST, HISTORY}):
            raise DataError(f"column 'part' holds '{min(wrong)}'; it may hold train, test and history")


class Impressions:
    """Row indices of the parts; what :class:`~recbole_llm.data.split.Split` is under other protocols.

    Attributes:
        train, valid: rows, those of history among train, in file order. [n] int64.
        n_test: number of test rows. test_opened: whether :meth:`open_test` was called.
        universe: every item, sorted tokens. cold_items: empty: no item is held out by design.
        fingerprint: sha256 over the spec and the sorted (user, item, time, impression, label, part) token rows.
        spec: the rules.
    """

    def __init__(self, spec: ImpressionSpec, universe: tuple[str, ...], part: np.ndarray, fingerprint: str) -> None:
        self.spec, self.universe, self.fingerprint = spec, universe, fingerprint
        self.train, self.valid, self._test = (np.flatnonzero(part == name) for name in PARTS)
        self.cold_items: dict[str, Sequence[str]] = {}
        self.test_opened = False

    @property
    def n_test(self) -> int:
        return len(self._test)

    def open_test(self) -> np.ndarray:
        """Test rows. [n_test] int64.

        Raises:
            DataError: at the second call: a run reads them once, for the chosen configuration.
        """
        if self.test_opened:
            raise DataError("the test split was already opened in this run")
        self.test_opened = True
        return self._test

    @classmethod
    def from_rows(cls, rows: ShownRows, spec: ImpressionSpec) -> "Impressions":
        """Split the rows of an interaction file.

        Raises:
            DataError: where a part has no row, or the rows to score have one label only.
        """
        part = np.full(len(rows.users), TRAIN, dtype="U5")
        free = np.ones(len(part), dtype=bool)  # may still be drawn
        if rows.parts is not None:
            free = rows.parts == TRAIN
            part[rows.parts == TEST] = TEST
        if not (part == TEST).any():
            part[_drawn(rows, np.flatnonzero(free), spec.test_share, [spec.seed, 3])] = TEST
        free &= part == TRAIN
        part[_drawn(rows, np.flatnonzero(free), spec.valid_share, [spec.seed, 4])] = VALID
        for name in PARTS:
            labels = rows.labels[part == name]
            if labels.all() or not labels.any():
                raise DataError(
                    f"the {name} part has {len(labels)} rows, all of one label; change impressions.valid_share, "
                    "impressions.test_share or the data's labels"
                )
        universe = tuple(np.unique(rows.items).tolist())
        return cls(spec, universe, part, _fingerprint(spec, rows, part))


def _drawn(rows: ShownRows, free: np.ndarray, share: float, seed: list[int]) -> np.ndarray:
    """The latest of some rows by whole impressions, or without times all rows of random items. [m] int64."""
    if rows.times is None:
        codes = np.unique(rows.items[free], return_inverse=True)[1]  # in token order
        order = np.random.PCG64(seed).random_raw(int(codes.max(initial=-1)) + 1).argsort()
    else:
        codes = _shown_together(rows, free)
        first = np.full(int(codes.max(initial=-1)) + 1, np.inf)
        np.minimum.at(first, codes, rows.times[free])
        order = np.argsort(-first, kind="stable")
    n_drawn = round(share * len(order))
    if not 0 < n_drawn < len(order):
        raise DataError(
            f"{share} of {len(order)} {'items' if rows.times is None else 'impressions'} are {n_drawn}: too few rows "
            "to split; change impressions.valid_share or impressions.test_share"
        )
    return free[np.isin(codes, order[:n_drawn])]


def _shown_together(rows: ShownRows, free: np.ndarray) -> np.ndarray:
    """Codes of the impressions; rows of an unknown one belong to what the user saw at that time. [m] int64."""
    users, times = (np.unique(column[free], return_inverse=True) for column in (rows.users, rows.times))
    keys = users[1] * len(times[0]) + times[1]
    if rows.impressions is not None:
        names = rows.impressions[free]
        keys = np.where(names == "", keys, -1 - np.unique(names, return_inverse=True)[1])
    return np.unique(keys, return_inverse=True)[1]


def _fingerprint(spec: ImpressionSpec, rows: ShownRows, part: np.ndarray) -> str:
    """sha256 of the split as a set of token rows."""
    digest = hashlib.sha256(b"recbole_llm impressions 1")
    digest.update(json.dumps(asdict(spec), sort_keys=True).encode())
    n = len(part)
    times = np.zeros(n) if rows.times is None else rows.times.astype("<f8") + 0.0  # no -0.0
    shown = np.full(n, "") if rows.impressions is None else rows.impressions
    order = np.lexsort((part, rows.labels, shown, times, rows.items, rows.users))
    for column in (rows.users, rows.items, shown, part):
        digest.update(json.dumps(column[order].tolist()).encode())
    digest.update(times[order].tobytes() + rows.labels[order].tobytes())
    return digest.hexdigest()
