"""Patches that let RecBole 1.2.1 run on today's numpy, scipy and torch (pandas stays below 3).

RecBole 1.2.1 is its last release and breaks on every current scientific stack. This package is the only place that
mends it. Each mend is a `Patch`; `apply` puts the needed ones in force, and nothing else here changes anything.
Importing this package imports neither torch nor recbole.

A patch never touches numpy, scipy or torch themselves: where a RecBole module looks up a name that is gone or has
changed, only that module's reference to the library is exchanged for a `ModuleView`, so other users of the library in
the same process see no difference.
"""

import importlib.metadata

from recbole_llm.compat.libraries import LIBRARY_PATCHES
from recbole_llm.compat.own_bugs import OWN_PATCHES
from recbole_llm.compat.patch import Patch, at_least
from recbole_llm.errors import MissingDependencyError

__all__ = ["RECBOLE_VERSION", "Patch", "apply", "patches", "require_recbole"]

RECBOLE_VERSION = "1.2.1"

_INSTALL = f"run: pip install --no-deps recbole=={RECBOLE_VERSION}"
_PATCHES = (*LIBRARY_PATCHES, *OWN_PATCHES)


def require_recbole() -> None:
    """Check that the RecBole this project is written for is installed, without importing it.

    Raises:
        MissingDependencyError: if RecBole is missing or not `RECBOLE_VERSION`, or pandas is 3 or newer: there RecBole
            loads wrong numbers without any error.
    """
    try:
        version = importlib.metadata.version("recbole")
    except importlib.metadata.PackageNotFoundError:
        raise MissingDependencyError(f"RecBole is not installed; {_INSTALL}") from None
    if version != RECBOLE_VERSION:
        raise MissingDependencyError(f"RecBole {version} is installed but {RECBOLE_VERSION} is needed; {_INSTALL}")
    if at_least("pandas", 3, 0):
        pandas = importlib.metadata.version("pandas")
        raise MissingDependencyError(
            f"pandas {pandas} is installed but RecBole {version} misreads data with it; run: pip install 'pandas<3'"
        )


def patches() -> list[Patch]:
    """Every known patch, needed on the installed versions or not, in the order of application."""
    return list(_PATCHES)


def apply() -> list[str]:
    """Put every patch that the installed versions need in force; calling it again changes nothing.

    Imports RecBole and torch. A process started afresh (spawn) is unpatched and has to call this itself.

    Returns:
        Names of the patches in force, in the order of `patches`.

    Raises:
        MissingDependencyError: from `require_recbole`.
    """
    require_recbole()
    for patch in _PATCHES:
        if patch.needed():
            patch.apply()
    return [patch.name for patch in _PATCHES if patch.in_force]
