"""What a search is told: model, dataset, space, budget. Read from YAML and options, checked before anything runs."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from recbole_llm.config.checks import check_keys
from recbole_llm.config.merge import merge
from recbole_llm.config.sources import load_yaml
from recbole_llm.errors import ConfigError
from recbole_llm.paths import properties_dir
from recbole_llm.registry import check_model_name, did_you_mean
from recbole_llm.tuning.space import Domain, encoded, grid, read_hyper_test, read_space, settings_of

FOLDER, DEFAULTS = "tune", "default.yaml"
SEARCHES, SCHEDULERS = ("tpe", "random", "grid", "pbt"), ("asha", "fifo")
_SECONDS = {"s": 1, "m": 60, "h": 3600}
_LEAST = {"trials": 1, "seeds": 1, "first_seed": 0, "reduction_factor": 2, "shared_stages": 0}


@dataclass(frozen=True)
class Sweep:
    """A search; the keys of properties/tune/default.yaml, which says what each means.

    Attributes:
        space: setting, nested ones dotted -> what it may be. settings: of every trial, below the point.
        time: seconds, None for no bound. grace_epochs: None for a ninth of the most that a trial may take.
    """

    model: str
    dataset: str
    space: Mapping[str, Domain]
    search: str
    scheduler: str
    trials: int
    seeds: int
    first_seed: int
    reduction_factor: int
    shared_stages: int
    time: float | None = None
    grace_epochs: int | None = None
    later_settings: tuple[str, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_model_name(self.model)
        for name, known in (("search", SEARCHES), ("scheduler", SCHEDULERS)):
            value = getattr(self, name)
            if value not in known:
                hint = did_you_mean(str(value), list(known)) or f"; choose from {', '.join(known)}"
                raise ConfigError(f"{name}: '{value}' is not known{hint}")
        for name, least in _LEAST.items():
            _check_whole(name, getattr(self, name), least)
        if self.grace_epochs is not None:
            _check_whole("grace_epochs", self.grace_epochs, 1)
        if not isinstance(self.settings, Mapping):
            raise ConfigError(f"settings must be a block of 'key: value' lines, not {self.settings!r}")
        check_keys([("settings", self.settings)], set())
        check_keys([("space", {key.split(".")[0]: None for key in self.space})], set())
        if "seed" in {**self.settings, **self.space}:
            raise ConfigError("seed is not searched nor set: trials run with first_seed; give that")
        if strange := [key for key in self.later_settings if key not in self.space]:
            raise ConfigError(f"later_settings names '{strange[0]}', which is not in the space; leave it out")
        if self.search == "grid" and (n := len(grid(self.space))) > self.trials:
            raise ConfigError(f"the grid has {n} points, more than trials: {self.trials}; raise trials or shorten it")
        if self.search == "pbt" and self.trials < 4:
            raise ConfigError(f"search: pbt needs a population of at least 4 trials, not {self.trials}")

    @property
    def n_trials(self) -> int:
        """How many configurations are tried at most."""
        return len(grid(self.space)) if self.search == "grid" else self.trials

    def settings_at(self, point: Mapping[str, Any]) -> dict[str, Any]:
        """Settings of a trial: the sweep's, the point's over them, quiet, with the first seed."""
        own, _ = merge([("sweep", self.settings), ("point", settings_of(self.space, point))])
        return own | {"seed": self.first_seed, "show_progress": False, "state": "WARNING"}


def _check_whole(name: str, value: object, least: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ConfigError(f"{name} must be a whole number of at least {least}, not {value!r}")


def seconds(text: object) -> float | None:
    """Seconds of ``90s``, ``30m``, ``2h`` or a number of seconds; None for None.

    Raises:
        ConfigError: for anything else.
    """
    if text is None:
        return None
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smh]?)", str(text).strip())
    if not match or not float(match[1]):
        raise ConfigError(f"time must be above 0 and read like 90s, 30m or 2h, not '{text}'")
    return float(match[1]) * _SECONDS[match[2] or "s"]


def spaces() -> list[str]:
    """Models that have a space of their own in properties/tune/."""
    return sorted(path.stem for path in (properties_dir() / FOLDER).glob("*.yaml") if path.name != DEFAULTS)


def find(name: str | Path) -> Path:
    """A sweep file, space file or ``hyper.test`` file; a bare name is also looked up in properties/tune/.

    Raises:
        ConfigError: where there is none.
    """
    own = properties_dir() / FOLDER
    for place in (Path(name), own / Path(name).name, own / f"{Path(name).name}.yaml"):
        if place.is_file():
            return place
    raise ConfigError(f"there is no file {name}; shipped spaces: {', '.join(spaces())}")


def read_file(path: Path) -> dict[str, Any]:
    """Keys of a sweep file, its space read; a file that is no YAML by its name is in RecBole's ``hyper.test`` syntax.

    Raises:
        ConfigError: for an unknown key or a space that cannot be meant.
    """
    if path.suffix not in (".yaml", ".yml"):
        return {"space": read_hyper_test(path)}
    content = load_yaml(path)
    known = [f.name for f in fields(Sweep)]
    if unknown := [key for key in content if key not in known]:
        hint = did_you_mean(unknown[0], known) or f"; known are {', '.join(known)}"
        raise ConfigError(f"{path}: unknown key '{unknown[0]}'{hint}")
    return content | ({"space": read_space(content["space"], str(path))} if "space" in content else {})


def make_sweep(file: Path | None, space_file: Path | None, over: Mapping[str, Any], settings: Mapping) -> Sweep:
    """A sweep of files and options: defaults < space file < sweep file < options.

    A sweep without a space takes that of its model in properties/tune/, with what the file there says besides.

    Args:
        over: keys given as options; None for those that were not.
        settings: of the command line, over the file's. A setting that is given is not searched.
    Raises:
        ConfigError: for keys, models, settings or a space that cannot be meant.
    """
    content = read_file(file) if file else {}
    given = {key: value for key, value in over.items() if value is not None}
    model = given.get("model") or content.get("model")
    if space_file is None and "space" not in {**content, **given}:
        if not model:
            raise ConfigError("no model given: name a sweep file, or a model as in --model AGLRec --dataset ml-100k")
        check_model_name(model)
        if model not in spaces():
            raise ConfigError(
                f"there is no space for {model} in {properties_dir() / FOLDER} (only for {', '.join(spaces())}); name "
                "one with --space FILE"
            )
        space_file = find(model)
    layers = [read_file(properties_dir() / FOLDER / DEFAULTS), read_file(space_file) if space_file else {}, content]
    merged = {key: value for layer in layers for key, value in layer.items()} | given
    for name in ("model", "dataset"):
        if not merged.get(name):
            raise ConfigError(f"no {name} given: add {name} to the sweep file, or --{name}")
    merged["settings"], _ = merge([("space file", layers[1].get("settings") or {}),
                                   ("sweep file", content.get("settings") or {}), ("options", settings)])  # fmt: skip
    fixed = {key for key in merged["space"] if key.split(".")[0] in settings}
    merged["space"] = {key: domain for key, domain in merged["space"].items() if key not in fixed}
    merged["later_settings"] = tuple(k for k in merged["later_settings"] or () if k not in fixed)
    merged["time"] = seconds(merged.get("time"))
    if not merged["space"]:
        raise ConfigError("the space is empty, so there is nothing to search; give settings something to choose from")
    return Sweep(**merged)


def check_ends(sweep: Sweep, build) -> None:
    """Build a configuration at every end of the space, so that what cannot be meant shows before anything runs.

    Args:
        build: settings -> config, raising ConfigError.
    """
    for key, domain in sweep.space.items():
        for value in domain.ends():
            build(sweep.settings_at({key: encoded(value)}))
