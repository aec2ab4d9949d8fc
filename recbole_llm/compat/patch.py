"""What a patch is, and how a RecBole module is shown a library with some names exchanged."""

import importlib
import importlib.metadata
import re
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

# (owner, attribute, value): the attribute that a patch sets, and to what
Change = tuple[Any, str, Any]

_ABSENT = object()

# patch name -> (owner, attribute, value before the patch or _ABSENT); its keys are the patches in force
_before: dict[str, list[Change]] = {}


@dataclass(frozen=True)
class Patch:
    """One break of RecBole 1.2.1 and its mend.

    Attributes:
        name: short key, unique in the table.
        breaks: what fails without the patch, in one sentence.
        since: the version that brought the break; "recbole 1.2.1" where it is RecBole's own bug.
        needed: whether the installed versions have the break. May import the dependency, never RecBole.
        changes: yields the attributes to set. Imports RecBole.
    """

    name: str
    breaks: str
    since: str
    needed: Callable[[], bool]
    changes: Callable[[], Iterator[Change]]

    @property
    def in_force(self) -> bool:
        """Whether the patch has been applied and not reverted."""
        return self.name in _before

    def apply(self) -> None:
        """Put the patch in force; a no-op when it already is."""
        if self.in_force:
            return
        changes = list(self.changes())
        _before[self.name] = [(owner, name, vars(owner).get(name, _ABSENT)) for owner, name, _ in changes]
        for owner, name, value in changes:
            setattr(owner, name, value)

    def revert(self) -> None:
        """Let RecBole behave as released again; a no-op when the patch is not in force."""
        for owner, name, value in _before.pop(self.name, []):
            if value is _ABSENT:
                delattr(owner, name)
            else:
                setattr(owner, name, value)


def at_least(package: str, *wanted: int) -> bool:
    """Whether ``package`` is installed in version ``wanted`` (major, minor) or newer."""
    return tuple(map(int, re.findall(r"\d+", importlib.metadata.version(package))[:2])) >= wanted


class ModuleView(types.ModuleType):
    """A library as one RecBole module sees it: the attributes set on the view, then the library's own, live."""

    def __init__(self, library: types.ModuleType, **names: Any) -> None:
        super().__init__(library.__name__, library.__doc__)
        self.__dict__.update(names, _library=library)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["_library"], name)


def models(package: str, names: str) -> list[str]:
    """Modules of the models ``names``, separated by spaces, in one of RecBole's packages."""
    return [f"model.{package}_recommender.{name}" for name in names.split()]


def seen_by(module_name: str, reference: str) -> ModuleView:
    """The view behind ``recbole.<module_name>``'s global ``reference`` (say ``np``), put there at the first call.

    Patches of the same reference share one view; a view without changed names is the library itself to the module.
    """
    module = importlib.import_module(f"recbole.{module_name}")
    library = getattr(module, reference)
    if not isinstance(library, ModuleView):
        library = ModuleView(library)
        setattr(module, reference, library)
    return library
