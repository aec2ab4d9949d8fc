"""The same run again, from its record alone, and what came out differently and why."""

import contextlib
import itertools
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from recbole_llm.config import config_hash, restore_config
from recbole_llm.errors import ConfigError, DataError, FeatureError
from recbole_llm.experiment.data import build_data
from recbole_llm.experiment.find import Recorded
from recbole_llm.experiment.record import RunResult, code_hash, commit, machine, modules_of_run, versions
from recbole_llm.experiment.run import PER_USER_FILE, run_config, run_folder

Say = Callable[[str], None]


@dataclass(frozen=True)
class Reproduction:
    """A recorded run and the same run made again.

    Attributes:
        users: test users with another value in any metric, and test users in all; None without the recorded table.
    """

    recorded: RunResult
    now: RunResult
    users: tuple[int, int] | None = None

    @cached_property
    def metrics(self) -> dict[str, tuple[float | None, float | None]]:
        """ "valid/<metric>" and "test/<metric>" -> (recorded, now), None where one of the two has no such metric."""
        return {
            f"{part}/{name}": (before.get(name), after.get(name))
            for part in ("valid", "test")
            for before, after in [(getattr(self.recorded, part), getattr(self.now, part))]
            for name in [*before, *(new for new in after if new not in before)]
        }

    @property
    def differing(self) -> dict[str, tuple[float | None, float | None]]:
        """The metrics that are not equal to the last digit."""
        return {name: pair for name, pair in self.metrics.items() if pair[0] != pair[1]}

    @property
    def equal(self) -> bool:
        """Whether every metric, and every user's where the recorded table is there, is the same number."""
        return not self.differing and not (self.users and self.users[0])

    @property
    def explained_by(self) -> list[str]:
        """What else differs between the two runs; empty where the numbers are equal, or nothing explains them."""
        return [] if self.equal else differences(self.recorded, vars(self.now))

    def to_json(self) -> str:
        """One JSON object: equal, metrics, users, explained_by, run_folder."""
        return json.dumps(
            {
                "equal": self.equal,
                "metrics": {name: {"recorded": a, "now": b} for name, (a, b) in self.metrics.items()},
                "users": self.users and {"differ": self.users[0], "all": self.users[1]},
                "explained_by": self.explained_by,
                "run_folder": self.now.run_folder,
            }
        )

    def text(self) -> str:
        """Table of the metrics, what else differs, and a verdict in the last line."""
        width = max(map(len, self.metrics), default=6)
        lines = [f"{'metric':<{width}}  {'recorded':<20} {'now':<20} difference"]
        for name, (before, after) in self.metrics.items():
            shown = ["missing" if value is None else repr(value) for value in (before, after)]
            if before == after:
                difference = "0"
            else:
                difference = "" if None in (before, after) else f"{abs(after - before):.3g}"
            lines.append(f"{name:<{width}}  {shown[0]:<20} {shown[1]:<20} {difference}".rstrip())
        if self.users is None:
            lines.append("users: the recorded per-user metrics are not there to compare")
        else:
            lines.append(f"users: {self.users[0]} of {self.users[1]} differ in a metric")
        others = differences(self.recorded, vars(self.now))
        lines += [f"differs: {line}" for line in others] or ["code, settings, data, versions, machine: the same"]
        lines.append(f"run folder: {self.now.run_folder}")
        if self.equal:
            lines.append("reproduced exactly")
        elif others:
            lines.append(f"differs: {len(self.differing)} of {len(self.metrics)} metrics; see above what else does")
        else:
            lines.append(
                f"differs: {len(self.differing)} of {len(self.metrics)} metrics, and nothing that a record holds "
                "explains it: look at side files of the dataset, other libraries, kernels that are not deterministic"
            )
        return "\n".join(lines)


def reproduce(
    recorded: Recorded,
    *,
    run_dir: str | Path = "runs/reproduced",
    data_path: str | Path | None = None,
    threads: int | None = None,
    say: Say | None = None,
) -> Reproduction:
    """Make a recorded run again and compare.

    Args:
        recorded: from :func:`find_run`.
        run_dir: the new run folder goes below it; no existing one is written over.
        data_path: folder of dataset folders, where it is no longer the recorded one.
        threads: torch threads, of which the order of sums depends; None takes as many as recorded.
        say: called before the training with a line for each thing that already differs.
    Raises:
        RecBoleLLMError: before any training, when the data or the features are gone or have changed, or the record
            cannot be run.
    """
    import torch

    say, before = say or (lambda line: None), recorded.result
    config = _config(recorded, Path(run_dir), data_path)
    threads = threads or int(before.machine.get("threads", 0)) or torch.get_num_threads()
    with _torch_threads(threads):
        now = _check_data(config, before)
        for line in differences(before, now):
            say(f"differs from the record: {line}")
        after = run_config(config)
    return Reproduction(before, after, _users(recorded.per_user, Path(after.run_folder) / PER_USER_FILE))


def _config(recorded: Recorded, run_dir: Path, data_path: str | Path | None):
    before = recorded.result
    if not before.stages:
        raise ConfigError(
            f"the record of {recorded.label} holds no training, its lists were imported; import the file again"
        )
    settings = before.config | {"run_dir": str(run_dir)}
    if data_path is not None:
        settings["data_path"] = str(Path(data_path) / before.dataset)
    config = restore_config(settings)
    for k in itertools.count(2):  # a folder of its own: neither the recorded run nor another one is written over
        if not run_folder(config).exists():
            return config
        config["run_dir"] = str(run_dir / str(k))


def _check_data(config, before: RunResult) -> dict[str, Any]:
    """What is known of the new run before it starts, as fields of its record.

    Raises:
        DataError: when the split is another one.
        FeatureError: when a feature is.
    """
    data = build_data(config)
    split = data.split.fingerprint
    if split != before.split:
        raise DataError(
            f"the interactions of '{before.dataset}' in {config['data_path']} are not those of the record (split "
            f"{split[:12]}, recorded {before.split[:12]}); put the recorded files there or name their folder with "
            "--data-path"
        )
    for name, feature in before.features.items():
        if name not in data.features or data.features[name].fingerprint != feature["fingerprint"]:
            raise FeatureError(
                f"feature '{name}' of '{before.dataset}' is not that of the record; put the recorded file in place"
            )
    return {
        "config_hash": config_hash(config),
        "code_hash": code_hash(*modules_of_run(config)),
        "commit": commit(),
        "versions": versions(),
        "machine": machine(str(config["device"])),
    }


def differences(before: RunResult, now: Mapping[str, Any]) -> list[str]:
    """What a run's numbers depend on beside its data and is not as recorded, a line each.

    Args:
        now: fields of the other run's record.
    """
    lines = []
    if before.code_hash != now["code_hash"]:
        commits = f"; commit {before.commit[:12] or 'none'} recorded, {now['commit'][:12] or 'none'} now"
        lines.append(_line("code", before.code_hash[:12], now["code_hash"][:12]) + commits)
    if before.config_hash != now["config_hash"]:
        lines.append(_line("settings", before.config_hash[:12], now["config_hash"][:12]))
    for recorded, found in ((before.versions, now["versions"]), (before.machine, now["machine"])):
        for name in [*recorded, *(new for new in found if new not in recorded)]:
            if recorded.get(name) != found.get(name):
                lines.append(_line(name, recorded.get(name, "none"), found.get(name, "none")))
    return lines


def _line(what: str, recorded: object, now: object) -> str:
    return f"{what}: {recorded} recorded, {now} now"


@contextlib.contextmanager
def _torch_threads(n: int):
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _users(before: Path, after: Path) -> tuple[int, int] | None:
    """Users with another value in any metric that both tables have, and all users; None where a table is missing."""
    if not before.is_file() or not after.is_file():
        return None
    import pandas as pd

    a, b = (pd.read_parquet(path).set_index("user").sort_index() for path in (before, after))
    users, columns = a.index.union(b.index), a.columns.intersection(b.columns)
    a, b = (table.reindex(users)[columns].to_numpy(np.float64) for table in (a, b))
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    return int((~same).any(axis=1).sum()), len(users)
