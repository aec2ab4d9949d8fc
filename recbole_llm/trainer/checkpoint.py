"""Checkpoints of tensors and plain data: written atomically, loaded with ``weights_only=True``."""

import os
import random
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch

from recbole_llm.errors import CheckpointError

FORMAT = 2  # raised when what a checkpoint holds changes, so that an older one is named as such


def to_plain(value: Any) -> Any:
    """Tensors and plain containers that stand for ``value``; arrays and scipy matrices become tagged tensors."""
    if isinstance(value, dict):
        return {key: to_plain(v) for key, v in value.items()}
    if isinstance(value, (list, tuple)):
        plain = [to_plain(v) for v in value]
        return plain if isinstance(value, list) else {"__kind__": "tuple", "items": plain}
    if sp.issparse(value):
        csr = value.tocsr()
        return {
            "__kind__": "sparse",
            "format": value.format,
            "shape": list(csr.shape),
            "data": torch.from_numpy(csr.data.copy()),
            "indices": torch.from_numpy(csr.indices.copy()),
            "indptr": torch.from_numpy(csr.indptr.copy()),
        }
    if isinstance(value, np.matrix):
        return {"__kind__": "matrix", "data": torch.from_numpy(np.asarray(value).copy())}
    if isinstance(value, np.ndarray) and value.dtype.kind in "biufc":
        return {"__kind__": "array", "data": torch.from_numpy(value.copy())}
    if isinstance(value, np.generic):
        return value.item()
    if value is None or isinstance(value, (torch.Tensor, str, int, float, bool)):
        return value
    what = f"{type(value).__name__}{f' of {value.dtype}' if isinstance(value, np.ndarray) else ''}"
    raise CheckpointError(f"a checkpoint cannot hold a {what}; make it a tensor or plain data")


def from_plain(value: Any) -> Any:
    """The inverse of :func:`to_plain`."""
    if isinstance(value, list):
        return [from_plain(v) for v in value]
    if not isinstance(value, dict):
        return value
    kind = value.get("__kind__")
    if kind is None:
        return {key: from_plain(v) for key, v in value.items()}
    if kind == "tuple":
        return tuple(from_plain(v) for v in value["items"])
    if kind == "sparse":
        parts = tuple(value[k].cpu().numpy() for k in ("data", "indices", "indptr"))
        return sp.csr_matrix(parts, shape=tuple(value["shape"])).asformat(value["format"])
    array = value["data"].cpu().numpy()
    return array.view(np.matrix) if kind == "matrix" else array


def save(path: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint so that a reader sees the old file or the new one, never a part of it."""
    plain = {"format": FORMAT, **to_plain(state)}
    temporary = path.with_name(path.name + ".tmp")
    try:
        with open(temporary, "wb") as file:
            torch.save(plain, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def load(path: Path, device: torch.device | str = "cpu") -> dict[str, Any]:
    """Read a checkpoint.

    Raises:
        CheckpointError: if the file is missing, truncated, or not a checkpoint of this plugin.
    """
    if not Path(path).is_file():
        raise CheckpointError(f"checkpoint {path} does not exist; train first, or name the run folder that holds it")
    try:
        state = torch.load(path, map_location=device, weights_only=True)
    except Exception as error:  # torch raises RuntimeError, UnpicklingError, EOFError, ... for broken files
        raise CheckpointError(
            f"checkpoint {path} is truncated or not a checkpoint of recbole_llm; delete it and train again"
        ) from error
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise CheckpointError(f"checkpoint {path} was not written by this version of recbole_llm; train again")
    return from_plain(state)


def rng_state() -> dict[str, Any]:
    """State of every global random generator that training draws from."""
    state = {"python": random.getstate(), "numpy": np.random.get_state(), "torch": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state_all()
    return state


def set_rng_state(state: dict[str, Any]) -> None:
    """Restore what :func:`rng_state` returned."""
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])
    torch.set_rng_state(state["torch"].cpu())
    if "cuda" in state:
        torch.cuda.set_rng_state_all([s.cpu() for s in state["cuda"]])
