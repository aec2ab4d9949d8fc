"""Lays settings over each other and remembers which layer set what."""

from collections.abc import Iterable, Mapping
from copy import deepcopy
from typing import Any

# nested settings whose parts make no sense apart: a split by ratio and one by leave-one-out cannot be mixed
WHOLE = ("eval_args.split", "eval_args.mode")
# blocks in which an entry set to null is an entry left out
REMOVABLE = ("features", "load_col")

Layer = tuple[str, Mapping[str, Any]]


def merge(layers: Iterable[Layer]) -> tuple[dict[str, Any], dict[str, str]]:
    """Merge layers of settings; a later one wins, nested blocks merge entry by entry save those in `WHOLE`
    and empty ones, which replace.

    Args:
        layers: pairs of a layer's name and its settings, which stay as they are.

    Returns:
        The merged settings, and for each of them (nested ones dotted) the name of the layer that set it.
    """
    merged: dict[str, Any] = {}
    sources: dict[str, str] = {}
    for name, settings in layers:
        _lay_over(merged, settings, name, sources, "")
    return merged, sources


def without_removed(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings less the entries that are null in a block of `REMOVABLE`."""
    blocks = {block: settings[block] for block in REMOVABLE if isinstance(settings.get(block), dict)}
    kept = {block: {k: v for k, v in entries.items() if v is not None} for block, entries in blocks.items()}
    return {**settings, **kept}


def _lay_over(
    target: dict[str, Any], settings: Mapping[str, Any], name: str, sources: dict[str, str], path: str
) -> None:
    for key, value in settings.items():
        dotted = f"{path}{key}"
        nested = isinstance(value, Mapping) and isinstance(target.get(key), dict) and dotted not in WHOLE
        if nested and value:  # an empty block empties: nothing else could be meant by it
            _lay_over(target[key], value, name, sources, f"{dotted}.")
            continue
        if isinstance(target.get(key), dict):
            for stale in [known for known in sources if known.startswith(f"{dotted}.")]:
                del sources[stale]
        sources.pop(dotted, None)
        target[key] = deepcopy(value)
        _record(value, name, sources, dotted)


def _record(value: Any, name: str, sources: dict[str, str], dotted: str) -> None:
    if isinstance(value, Mapping) and value and dotted not in WHOLE:
        for key, inner in value.items():
            _record(inner, name, sources, f"{dotted}.{key}")
    else:
        sources[dotted] = name
