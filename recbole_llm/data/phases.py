"""Cold items that warm up in phases: who is trained on, who warms up with which rows, who is evaluated on which.

EmerG's split, https://arxiv.org/abs/2407.10112, with validation items, which it lacks: items with many ratings are
hot, those with fewer are cold, the others are dropped. A cold item's rows in the order of time are those of warm-a,
then warm-b, then warm-c, and the rest, on which it is evaluated before the first of these phases and after each.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields

import numpy as np

from recbole_llm.errors import ConfigError, DataError

COLD, WARM = "cold", ("warm-a", "warm-b", "warm-c")
PHASES = (COLD, *WARM)
_TRAIN, _EVALUATION = "train", "evaluation"


@dataclass(frozen=True)
class PhaseSpec:
    """Rules of the split.

    Attributes:
        hot_above: items with more ratings are hot. [ratings]
        cold_from: items with at least so many, and not hot, are cold; those with fewer are dropped. [ratings]
        phase_rows: rows of a cold item a phase.
        valid_share: share of the hot items that play the cold items' part in validation, in (0, 1).
        label_from: rows rated so or better are positive.
        seed: split_seed, which draws the validation items.

    Raises:
        ConfigError: on a setting that cannot be meant.
    """

    hot_above: int
    cold_from: int
    phase_rows: int
    valid_share: float
    label_from: float
    seed: int

    def __post_init__(self):
        for name, least in (("hot_above", 1), ("cold_from", 1), ("phase_rows", 1), ("seed", 0)):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                where = "split_seed" if name == "seed" else f"phases.{name}"
                raise ConfigError(f"{where} must be a whole number of at least {least}, not {value!r}")
        for name in ("valid_share", "label_from"):
            value = getattr(self, name)
            if not isinstance(value, int | float) or isinstance(value, bool):
                where = "the value of threshold" if name == "label_from" else f"phases.{name}"
                raise ConfigError(f"{where} must be a number, not {value!r}")
            object.__setattr__(self, name, float(value))  # one spelling, because the fingerprint covers it
        if not 0 < self.valid_share < 1:
            raise ConfigError(
                f"phases.valid_share is a share of the hot items, between 0 and 1, not {self.valid_share}"
            )
        needed = len(WARM) * self.phase_rows
        if self.cold_from < needed:
            raise ConfigError(
                f"phases.cold_from is {self.cold_from}, but {len(WARM)} phases of phases.phase_rows: {self.phase_rows} "
                f"take {needed} rows of an item; raise the one or lower the other"
            )
        if self.hot_above < self.cold_from:
            raise ConfigError(
                f"phases.hot_above ({self.hot_above}) must be at least phases.cold_from ({self.cold_from})"
            )

    @classmethod
    def of(cls, block: object, label_from: float, seed: int) -> "PhaseSpec":
        """Of the YAML block ``phases``.

        Raises:
            ConfigError: for a key that is missing, unknown or wrong.
        """
        names = [f.name for f in fields(cls) if f.name not in ("label_from", "seed")]
        if not isinstance(block, Mapping) or set(block) != set(names):
            raise ConfigError(f"phases must be a block with the keys {', '.join(names)}, not {block!r}")
        return cls(**block, label_from=label_from, seed=seed)


@dataclass(frozen=True)
class PhasedRows:
    """Rows of the cold items of a part, by item token, then time, then place in the file.

    Attributes:
        warm: rows of warm-a, warm-b and warm-c. [m] int64 each.
        evaluation: rows that are scored in every phase and never learnt from. [n] int64.
    """

    warm: tuple[np.ndarray, ...]
    evaluation: np.ndarray

    @property
    def all(self) -> np.ndarray:
        """Rows of every phase. int64."""
        return np.concatenate([*self.warm, self.evaluation])


class Phases:
    """Who is train, valid and test under the protocol; what :class:`~recbole_llm.data.split.Split` is under others.

    Attributes:
        train: rows of the hot items that are no validation items, by (user token, time, file order). [n_train] int64.
        validation: rows of the validation items by phase; valid: all of them, [n_valid] int64.
        n_test: rows of the cold items. test_opened: whether :meth:`open_phases` or :meth:`open_test` was called.
        universe: hot and cold items, sorted tokens.
        cold_items: part -> sorted tokens of the items that are cold in it.
        fingerprint: sha256 over the spec, the universe and the sorted (user, item, time, label, part) token rows.
        spec: the rules.
    """

    def __init__(self, spec: PhaseSpec, universe, train, validation, test, cold_items, fingerprint) -> None:
        self.spec, self.universe, self.fingerprint = spec, universe, fingerprint
        self.train: np.ndarray = train
        self.validation: PhasedRows = validation
        self.valid = validation.all
        self.cold_items: dict[str, list[str]] = cold_items
        self._test: PhasedRows = test
        self.test_opened = False

    @property
    def n_test(self) -> int:
        return len(self._test.all)

    def open_phases(self) -> PhasedRows:
        """Rows of the cold items by phase.

        Raises:
            DataError: at the second call: a run reads them once, for the chosen configuration.
        """
        if self.test_opened:
            raise DataError("the test split was already opened in this run")
        self.test_opened = True
        return self._test

    def open_test(self) -> np.ndarray:
        """All rows of the cold items, as of another split's test part. [n_test] int64; see :meth:`open_phases`."""
        return self.open_phases().all

    @classmethod
    def from_interactions(
        cls, users: Sequence[str], items: Sequence[str], spec: PhaseSpec, *, times: np.ndarray, ratings: np.ndarray
    ) -> "Phases":
        """Split the rows of an interaction file.

        Args:
            users: user token of every row, in file order. [n] str.
            items: item token of every row. [n] str.
            spec: the rules.
            times: time of every row, any unit. [n] int or float, finite.
            ratings: rating of every row. [n] float, finite.
        Raises:
            DataError: when times or ratings are not finite, when no cold item is left, or too few hot ones.
        """
        for name, values in (("time", times), ("rating", ratings)):
            n_bad = int((~np.isfinite(values)).sum())
            if n_bad:
                raise DataError(f"{n_bad} of {len(items)} interactions have no finite {name}; fill or drop these rows")
        users, items = (np.asarray(tokens, dtype=str) for tokens in (users, items))
        labels = np.asarray(ratings) >= spec.label_from
        tokens, item_codes, counts = np.unique(items, return_inverse=True, return_counts=True)  # in token order
        hot = np.flatnonzero(counts > spec.hot_above)
        cold = np.flatnonzero((counts >= spec.cold_from) & (counts <= spec.hot_above))
        if not len(cold):
            raise DataError(no_cold_item(spec, int(counts.max(initial=0))))
        valid = _drawn(hot, spec)

        part = np.full(len(items), "", dtype="U10")  # "" is dropped, whatever else is told apart from the other parts
        part[np.isin(item_codes, np.setdiff1d(hot, valid))] = _TRAIN
        rows: dict[str, PhasedRows] = {}
        for name, codes in (("valid", valid), ("test", cold)):
            own = np.flatnonzero(np.isin(item_codes, codes))
            own = own[np.lexsort((times[own], item_codes[own]))]  # stable: equal times keep file order
            _, starts, n_rows = np.unique(item_codes[own], return_index=True, return_counts=True)
            position = np.arange(len(own)) - np.repeat(starts, n_rows)
            phase = np.minimum(position // spec.phase_rows, len(WARM))  # 0, 1, 2: the warm ones; 3: evaluation
            part[own] = np.char.add(f"{name[0]} ", np.array([*WARM, _EVALUATION])[phase]).astype("U10")
            warm = tuple(own[phase == k] for k in range(len(WARM)))
            rows[name] = PhasedRows(warm, own[phase == len(WARM)])
            if not labels[rows[name].evaluation].any() or labels[rows[name].evaluation].all():
                raise DataError(f"the {name} rows of emerg-phases have one label only; choose another threshold")
        train = np.flatnonzero(part == _TRAIN)
        return cls(
            spec,
            tuple(tokens[np.sort(np.concatenate([hot, cold]))].tolist()),
            train[np.lexsort((times[train], users[train]))],
            rows["valid"],
            rows["test"],
            {"valid": tokens[valid].tolist(), "test": tokens[cold].tolist()},
            _fingerprint(spec, users, items, times, labels, part),
        )


def no_cold_item(spec: PhaseSpec, most: int) -> str:
    """The sentence for a dataset without cold items."""
    return (
        f"no item has {spec.cold_from} to {spec.hot_above} ratings (the most that an item has is {most}), so none is "
        "cold; lower phases.cold_from, phases.hot_above and phases.phase_rows"
    )


def _drawn(hot: np.ndarray, spec: PhaseSpec) -> np.ndarray:
    """Codes of the validation items, ascending; ``hot`` in token order, so that nothing but tokens and seed matter."""
    n_valid = round(spec.valid_share * len(hot))
    if not 0 < n_valid < len(hot):
        raise DataError(
            f"{len(hot)} items have more than {spec.hot_above} ratings, of which phases.valid_share: "
            f"{spec.valid_share} leaves {n_valid} for validation and {len(hot) - n_valid} for training; lower "
            "phases.hot_above or change the share"
        )
    return np.sort(hot[np.random.PCG64([spec.seed, 2]).random_raw(len(hot)).argsort()][:n_valid])


def _fingerprint(spec: PhaseSpec, users, items, times, labels, part) -> str:
    """sha256 of the split as a set of token rows, those that are dropped left out."""
    digest = hashlib.sha256(b"recbole_llm phases 1")
    digest.update(json.dumps(asdict(spec), sort_keys=True).encode())
    kept = np.flatnonzero(part)
    order = kept[np.lexsort((part[kept], labels[kept], times[kept], items[kept], users[kept]))]
    digest.update(json.dumps([column[order].tolist() for column in (users, items, part)]).encode())
    digest.update((times[order].astype("<f8") + 0.0).tobytes() + labels[order].tobytes())  # + 0.0: no -0.0
    return digest.hexdigest()
