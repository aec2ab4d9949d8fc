"""What items and users are about: the features of a dataset, joined and whitened, as frozen tables of a model."""

import ctypes
import sys
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from recbole_llm.errors import ConfigError
from recbole_llm.model.layers import whitened_forms


def feature_of(dataset, name: str) -> tuple[np.ndarray, np.ndarray]:
    """A loaded feature: rows by id [n, F] float32, and which of them exist [n] bool.

    Raises:
        ConfigError: if the dataset does not have it loaded.
    """
    if name not in dataset.features:
        raise ConfigError(
            f"feature '{name}' is not loaded; the dataset offers {', '.join(sorted(dataset.features)) or 'none'}: "
            "add it under features or change the features that the model names"
        )
    return dataset.features[name].matrix, dataset.features[name].present


def joined_features(dataset, names: Sequence[str], method: str, dim: int | None) -> tuple[Tensor, Tensor]:
    """Several features as one: rows of length 1 side by side, centred, whitened, of length 1 again.

    Args:
        names: features of one side, items or users. method, dim: see :func:`~recbole_llm.model.layers.whiten`.
    Returns:
        rows [n, F'] float32, zero where an id has none of the features; whether it has any [n] bool.
    Raises:
        ConfigError: if a feature is not loaded.
    """
    (rows,), present = joined_forms(dataset, names, [(method, dim)])
    return rows, present


def joined_forms(dataset, names: Sequence[str], forms: Sequence[tuple[str, int | None]]) -> tuple[list[Tensor], Tensor]:
    """:func:`joined_features` whitened in several ways at once: the rows of each form, and which ids have any."""
    parts = [feature_of(dataset, name) for name in names]
    present = np.any([p for _, p in parts], 0)
    joined = np.empty((len(present), sum(x.shape[1] for x, _ in parts)), dtype=np.float32)
    start = 0
    for x, _ in parts:
        length = np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
        np.divide(x, length, out=joined[:, start : (start := start + x.shape[1])])
    found = [torch.from_numpy(rows) for rows in whitened_forms(joined, present, forms)]
    del joined
    trim_heap()
    return found, torch.from_numpy(present)


def trim_heap() -> None:
    """Give freed memory back to the system: decompositions leave a heap of holes, beside which all else would lie."""
    if sys.platform == "linux" and (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)):  # glibc's alone
        trim(0)
