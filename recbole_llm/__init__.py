"""A plugin to RecBole for recommendation with language- and image-model knowledge.

``import recbole_llm`` costs milliseconds: torch and RecBole are loaded when :func:`run`, :func:`load` or
:func:`recommend` is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from recbole_llm.experiment import load, run
    from recbole_llm.serving.recommender import recommend

__version__ = "0.1.0"
__all__ = ["__version__", "load", "recommend", "run"]

_LAZY = {
    "run": "recbole_llm.experiment",
    "load": "recbole_llm.experiment",
    "recommend": "recbole_llm.serving.recommender",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_LAZY[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
