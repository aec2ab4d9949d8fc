"""The settings a search may choose and from what: read from YAML or from RecBole's ``hyper.test`` files."""

import itertools
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recbole_llm.config.sources import parse_yaml
from recbole_llm.errors import ConfigError
from recbole_llm.registry import did_you_mean

# kind -> how many numbers it takes, and what they are
NUMERIC = {
    "uniform": (2, "low, high"),
    "loguniform": (2, "low, high"),
    "quniform": (3, "low, high, step"),
    "int": (2, "low, high"),
    "logint": (2, "low, high"),
}
KINDS = ("choice", *NUMERIC)
_HYPER_TEST_KINDS = ("choice", "uniform", "quniform", "loguniform")


@dataclass(frozen=True)
class Domain:
    """What one setting may be.

    Attributes:
        kind: choice, uniform, loguniform, quniform (multiples of a step), int or logint (whole numbers).
        args: the values of a choice; else low and high, both included, and the step of quniform.
    """

    kind: str
    args: tuple

    def ray(self):
        """As Ray Tune has it; values of a choice that are lists or blocks as JSON, which Optuna can tell apart."""
        from ray import tune

        if self.kind == "choice":
            return tune.choice([encoded(value) for value in self.args])
        low, high, *step = self.args
        if self.kind == "int":
            return tune.randint(low, high + 1)
        if self.kind == "logint":
            return tune.lograndint(low, high + 1)
        return getattr(tune, self.kind)(low, high, *step)

    def optuna(self):
        """As Optuna has it, for the importance of settings."""
        from optuna import distributions

        if self.kind == "choice":
            return distributions.CategoricalDistribution([encoded(value) for value in self.args])
        low, high, *step = self.args
        if self.kind in ("int", "logint"):
            return distributions.IntDistribution(low, high, log=self.kind == "logint")
        return distributions.FloatDistribution(low, high, log=self.kind == "loguniform")

    def contains(self, value: Any) -> bool:
        """Whether a value, such as the default, may be chosen."""
        if self.kind == "choice":
            return any(encoded(value) == encoded(mine) for mine in self.args)
        if isinstance(value, bool) or not isinstance(value, int | float):
            return False
        whole = self.kind not in ("int", "logint") or isinstance(value, int)
        return whole and self.args[0] <= value <= self.args[1]

    def place(self, value: Any) -> float:
        """Where a value stands between the ends, on a logarithmic scale where the domain has one. 0 to 1."""
        if self.kind == "choice":
            known = [encoded(mine) for mine in self.args]
            return known.index(encoded(value)) / max(len(known) - 1, 1)
        low, high = self.args[:2]
        if self.kind in ("loguniform", "logint"):
            low, high, value = math.log(low), math.log(high), math.log(value)
        return (value - low) / (high - low)

    def ends(self) -> tuple:
        """Values that show whether all of it can be meant: both ends, or every choice."""
        return self.args if self.kind == "choice" else self.args[:2]

    def text(self) -> str:
        """As tables have it."""
        return f"{self.kind} {', '.join(map(str, self.args))}"


def encoded(value: Any) -> Any:
    """A value as searches have it: plain scalars as they are, all else as JSON."""
    return value if value is None or isinstance(value, bool | int | float | str) else json.dumps(value)


def settings_of(space: Mapping[str, Domain], point: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of a point: JSON decoded, dotted names as blocks. ``{"a.b": 1}`` -> ``{"a": {"b": 1}}``."""
    settings: dict[str, Any] = {}
    for key, value in point.items():
        domain = space[key]
        if domain.kind == "choice":  # a float that went through JSON is the number it was
            value = next(mine for mine in domain.args if encoded(mine) == value)
        target = settings
        *outer, last = key.split(".")
        for part in outer:
            target = target.setdefault(part, {})
        target[last] = value
    return settings


def default_point(space: Mapping[str, Domain], config) -> dict[str, Any] | None:
    """The point that a configuration stands for; None where one of its settings is not in its domain."""
    point = {}
    for key, domain in space.items():
        first, *inner = key.split(".")
        value = config[first]
        for part in inner:
            value = value.get(part) if isinstance(value, Mapping) else None
        if not domain.contains(value):
            return None
        point[key] = encoded(value)
    return point


def grid(space: Mapping[str, Domain]) -> list[dict[str, Any]]:
    """All points of a space of choices and whole numbers.

    Raises:
        ConfigError: for a setting that has no end of values.
    """
    values = []
    for key, domain in space.items():
        if domain.kind == "choice":
            values.append([encoded(value) for value in domain.args])
        elif domain.kind == "int":
            values.append(list(range(domain.args[0], domain.args[1] + 1)))
        else:
            raise ConfigError(f"search: grid needs a list of values for {key}, not {domain.kind}; or choose random")
    return [dict(zip(space, point, strict=True)) for point in itertools.product(*values)]


def read_space(block: object, where: str) -> dict[str, Domain]:
    """A space from its YAML block: a list of values, or one of the kinds with its numbers.

    Raises:
        ConfigError: for what is neither.
    """
    if not isinstance(block, Mapping):
        raise ConfigError(f"{where}: space must map settings to what they may be, not {block!r}")
    return {str(key): _domain(str(key), entry, where) for key, entry in block.items()}


def _domain(key: str, entry: object, where: str) -> Domain:
    if isinstance(entry, list):
        entry = {"choice": entry}
    if not isinstance(entry, Mapping) or len(entry) != 1:
        raise ConfigError(
            f"{where}: space.{key} must be a list of values or one of {', '.join(KINDS)}, as in "
            f"{{loguniform: [0.001, 0.1]}}, not {entry!r}"
        )
    ((kind, args),) = entry.items()
    if kind not in KINDS:
        hint = did_you_mean(str(kind), list(KINDS)) or f"; known are {', '.join(KINDS)}"
        raise ConfigError(f"{where}: space.{key} has an unknown kind '{kind}'{hint}")
    return _checked(key, str(kind), args, where)


def _checked(key: str, kind: str, args: object, where: str) -> Domain:
    if kind == "choice":
        if not isinstance(args, list) or not args:
            raise ConfigError(f"{where}: space.{key} must list at least one value, not {args!r}")
        return Domain(kind, tuple(args))
    n, what = NUMERIC[kind]
    whole = kind in ("int", "logint")
    numbers = isinstance(args, list) and all(isinstance(a, int if whole else int | float) for a in args)
    if not numbers or len(args) != n or any(isinstance(a, bool) for a in args):
        raise ConfigError(
            f"{where}: space.{key} needs {n} {'whole ' if whole else ''}numbers for {kind}: [{what}], not {args!r}"
        )
    if args[0] >= args[1] or (kind in ("loguniform", "logint") and args[0] <= 0) or (n == 3 and args[2] <= 0):
        positive = ", both above 0" if kind in ("loguniform", "logint") else ""
        raise ConfigError(f"{where}: space.{key}: low must be below high{positive}, not {args!r}")
    return Domain(kind, tuple(args) if whole else tuple(float(a) for a in args))


def read_hyper_test(path: Path) -> dict[str, Domain]:
    """A space from RecBole's own file: a line ``setting kind values`` each; loguniform gives exponents of e.

    Raises:
        ConfigError: for a line that is none.
    """
    space = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        where = f"{path}, line {number}"
        key, kind, text = (line.split(None, 2) + ["", ""])[:3]
        if kind not in _HYPER_TEST_KINDS or not text:
            raise ConfigError(
                f"{where}: must read 'setting kind values' with one of {', '.join(_HYPER_TEST_KINDS)}, as in "
                f"'learning_rate loguniform -8,0', not '{line}'"
            )
        if kind == "choice":
            values = parse_yaml(text, where)
            if isinstance(values, list):  # RecBole quotes lists so that hyperopt can tell them apart
                values = [parse_yaml(v, where) if isinstance(v, str) and v[:1] in "[{" else v for v in values]
            space[key] = _checked(key, kind, values, where)
        else:
            args = parse_yaml(f"[{text}]", where)
            if kind == "loguniform" and all(isinstance(a, int | float) for a in args):
                args = [math.exp(a) for a in args]
            space[key] = _checked(key, kind, args, where)
    return space
