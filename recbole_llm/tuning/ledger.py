"""What became of the trials of a search: one file a trial, written by the trial, and by the search when it ends it."""

import json
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from recbole_llm.data.files import atomic_writer

TRIAL_FILE, TRIALS_FOLDER, LIST_FILE = "trial.json", "trials", "trials.jsonl"
RUNNING, FINISHED, STOPPED, FAILED = "running", "finished", "stopped", "failed"
ENDED = (FINISHED, STOPPED, FAILED)


@dataclass(frozen=True)
class Trial:
    """One trial; plain data.

    Attributes:
        id: Ray's. number: by start, from 1; 0 while the search goes on.
        point: setting -> value, as the search has it.
        status: running, finished, stopped (by the scheduler, or the end of the time) or failed; error: of what.
        default: whether the point is the default configuration.
        score: best validation metric of its last stage so far. order: the same, the greater the better.
        epochs: trained, those of shared stages too. compared_epochs: those of stages in which trials are compared.
        valid: validation metrics of the best epoch, of a finished trial.
        history: [epochs trained, validation metric] of every validation.
        resumed: epochs trained when it was taken up again, each time; also of the trial whose place it took.
        started, ended: Unix times; 0 for a trial that has not ended.
        seconds: that it trained and validated, those of broken-off parts included, without its reports to the search.
    """

    id: str
    point: Mapping[str, Any]
    status: str = RUNNING
    number: int = 0
    default: bool = False
    score: float | None = None
    order: float | None = None
    epochs: int = 0
    compared_epochs: int = 0
    valid: Mapping[str, float] = field(default_factory=dict)
    history: list[list[float]] = field(default_factory=list)
    resumed: list[int] = field(default_factory=list)
    error: str = ""
    started: float = field(default_factory=time.time)
    ended: float = 0.0
    seconds: float = 0.0

    def now(self, **changes) -> "Trial":
        """The trial with changes."""
        return replace(self, **changes)


def trial_folder(out: Path, trial_id: str) -> Path:
    """Where a trial's record and, until it ends, its checkpoints lie."""
    return out / TRIALS_FOLDER / trial_id


def write_trial(folder: Path, trial: Trial) -> Trial:
    """Keep a trial, atomically; what has ended needs its checkpoints no more. Returns: the trial as it is kept."""
    if trial.status in ENDED:
        trial = trial.now(ended=time.time())
    with atomic_writer(folder / TRIAL_FILE) as file:
        file.write(json.dumps(asdict(trial)).encode())
    if trial.status in ENDED:
        for path in folder.glob("*.pt"):
            path.unlink(missing_ok=True)
    return trial


def read_trial(folder: Path) -> Trial | None:
    """The trial of a folder; None where it has not yet been written."""
    path = folder / TRIAL_FILE
    return Trial(**json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else None


def read_trials(out: Path, ids: Iterable[str] | None = None) -> list[Trial]:
    """Trials of a search by the time they started, numbered.

    Args:
        ids: of the trials that count; None for all.
    """
    folders = sorted((out / TRIALS_FOLDER).glob("*")) if ids is None else [trial_folder(out, name) for name in ids]
    found = [trial for folder in folders if (trial := read_trial(folder))]
    found.sort(key=lambda trial: (trial.started, trial.id))
    return [trial.now(number=k) for k, trial in enumerate(found, start=1)]


def write_list(out: Path, trials: Iterable[Trial]) -> None:
    """Keep the trials as one file, a line a trial: all that tables and figures are made from."""
    with atomic_writer(out / LIST_FILE) as file:
        file.write("".join(json.dumps(asdict(trial)) + "\n" for trial in trials).encode())


def read_list(out: Path) -> list[Trial]:
    """What :func:`write_list` kept of a search that has ended."""
    lines = (out / LIST_FILE).read_text(encoding="utf-8").splitlines()
    return [Trial(**json.loads(line)) for line in lines]


def ranked(trials: Iterable[Trial]) -> list[Trial]:
    """Trials with a score, the best first, the first started of equal ones."""
    scored = [trial for trial in trials if trial.order is not None and trial.status != FAILED]
    return sorted(scored, key=lambda trial: -trial.order)
