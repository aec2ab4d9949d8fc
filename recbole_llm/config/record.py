"""Plain and hashed forms of a configuration, for run records. Imports neither torch nor RecBole."""

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from enum import Enum
from typing import Any

# where things lie, what they run on and how much they say: no two runs differ by these in what they learn
NOT_RUN_RELEVANT = frozenset(
    """
    data_path run_dir checkpoint_dir dataset_save_path dataloaders_save_path save_dataset save_dataloaders config_files
    gpu_id use_gpu device worker local_rank single_spec show_progress state verbose log_wandb wandb_project resume
    """.split()
)


def resolved(config: Any) -> dict[str, Any]:
    """Final settings as plain data that JSON can hold: enums by name, devices and paths as text, tuples as lists.

    Args:
        config: an object from `build_config`, or any RecBole Config.
    """
    return {
        str(key): _plain(value) for key, value in sorted(config.final_config_dict.items(), key=lambda kv: str(kv[0]))
    }


def config_hash(config: Any, ignore: Iterable[str] = ()) -> str:
    """sha256 over the settings that a run depends on; paths, device and verbosity are left out.

    Args:
        config: an object from `build_config`.
        ignore: further keys to leave out; ``("seed",)`` gives the seeds of one setting the same hash.

    Returns:
        64 hexadecimal digits, the same in every process.
    """
    left_out = NOT_RUN_RELEVANT | set(ignore)
    relevant = {key: value for key, value in resolved(config).items() if key not in left_out}
    return hashlib.sha256(json.dumps(relevant, sort_keys=True, allow_nan=False).encode()).hexdigest()


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, Enum):
        return value.name
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(inner) for inner in value]
    if isinstance(value, (set, frozenset)):
        return sorted((_plain(inner) for inner in value), key=str)
    if hasattr(value, "item") and getattr(value, "ndim", None) == 0:
        return _plain(value.item())  # NumPy scalar
    return str(value)
