"""Data that all trials share, made once and without the test rows.

A trial gets it from Ray's object store, where numpy arrays are mapped, not copied. Which settings it depends on is
found by watching what is read while it is made; a trial that changes one of them makes data of its own.
"""

import copy
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from recbole_llm.config import resolved
from recbole_llm.data.dataset import RecData
from recbole_llm.data.phases import PhasedRows
from recbole_llm.errors import DataError
from recbole_llm.experiment.data import build_data


class ValidationOnly:
    """A split whose test part is gone; all else is the split's own."""

    def __init__(self, split) -> None:
        split = copy.copy(split)
        split._test = None
        self._split = split

    def __getattr__(self, name: str) -> Any:
        if name == "_split":  # before __init__, as when it is unpickled
            raise AttributeError(name)
        return getattr(self._split, name)

    def open_test(self) -> np.ndarray:
        """Raises: DataError: always."""
        raise DataError(
            "a trial of a search asked for the test rows, which it is not given: validation chooses, the test split is "
            "read once, for the configuration chosen"
        )

    open_phases = open_test


def seal(data: RecData) -> None:
    """Take the test rows out of data: out of the split, and, as [PAD], out of the interactions they were read from."""
    rows, base = _test_rows(data.split), data.base
    base.inter_feat = base.inter_feat.assign(
        **{name: _blank(column.to_numpy(), rows) for name, column in base.inter_feat.items()}
    )
    data.user_ids, data.item_ids = _blank(data.user_ids, rows), _blank(data.item_ids, rows)
    base.raw = _without(base.raw, rows)
    if hasattr(base, "shown"):
        base.shown = _without(base.shown, rows)
    data.split = ValidationOnly(data.split)
    for made_of_rows in ("train", "labels", "groups", "item_counts"):
        data.__dict__.pop(made_of_rows, None)


def _test_rows(split) -> np.ndarray:
    hidden = split._test
    return hidden.all if isinstance(hidden, PhasedRows) else hidden


def _without(columns, rows: np.ndarray):
    """A dataclass of columns with some rows blank; which part a row belongs to stays."""
    values = {f.name: getattr(columns, f.name) for f in fields(columns) if f.name != "parts"}
    return replace(columns, **{name: v if v is None else _blank(v, rows) for name, v in values.items()})


def _blank(column: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """A column with 0, "" or False in some rows; lists of tokens, which tell nothing without their ids, stay."""
    if column.dtype == object:
        return column
    column = column.copy()
    column[rows] = np.zeros((), dtype=column.dtype)
    return column


class _Watched:
    """A config that notes which settings are read."""

    def __init__(self, config) -> None:
        self._config, self.read = config, set()

    def __getitem__(self, key: str) -> Any:
        self.read.add(key)
        return self._config[key]

    def __contains__(self, key: str) -> bool:
        self.read.add(key)
        return key in self._config

    def __getattr__(self, name: str) -> Any:
        return getattr(self._config, name)


@dataclass
class SharedData:
    """Sealed data, and the settings it was made with."""

    data: RecData
    settings: Mapping[str, Any]

    @classmethod
    def prepare(cls, config) -> "SharedData":
        """Make the data of a configuration.

        Raises:
            RecBoleLLMError: for data that is not as it should be.
        """
        watched = _Watched(config)
        data = build_data(watched)
        seal(data)
        _give(data, config)
        plain = resolved(config)
        return cls(data, {key: plain.get(key) for key in watched.read if key not in _PLACES})

    def of(self, config) -> RecData:
        """The data of a trial: these, or data of its own where its settings make others."""
        plain = resolved(config)
        if any(plain.get(key) != value for key, value in self.settings.items()):
            data = build_data(config)
            seal(data)
            return data
        data = copy.copy(self.data)
        data.base, data.features = copy.copy(data.base), dict(data.features)
        _give(data, config)
        return data


# where things lie and what they run on: another node's may differ
_PLACES = frozenset("data_path run_dir checkpoint_dir device gpu_id use_gpu worker".split())


def _give(data: RecData, config) -> None:
    data.config = data.base.config = config
