"""Ranking evaluation: tasks, one batched kernel, per-user metrics, significance tests. Arrays in, floats out.

The names below load on first use: a report that only compares records must not wait for torch.
"""

from importlib import import_module

_HOME = {
    "EvalTask": "task",
    "EvalResult": "kernel",
    "evaluate": "kernel",
    "PairedResult": "significance",
    "paired_tests": "significance",
    "seed_tests": "significance",
    "holm": "significance",
    "benjamini_hochberg": "significance",
    "slice_metrics": "slices",
}
__all__ = sorted(_HOME)


def __getattr__(name: str):
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
