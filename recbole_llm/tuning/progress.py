"""Tells how a search is getting on, and keeps in the records of trials what only the search knows of their end."""

import time
from collections.abc import Callable
from pathlib import Path

from ray.tune import Callback

from recbole_llm.tuning.ledger import ENDED, FAILED, STOPPED, Trial, read_trial, trial_folder, write_trial


class Progress(Callback):
    """A line a trial that has ended.

    Args:
        out: folder of the search. total: trials at most. metric: that they are compared by. say: receives the line.
    """

    def __init__(self, out: Path, total: int, metric: str, say: Callable[[str], None]) -> None:
        self._out, self._total, self._metric, self._say = out, total, metric.lower(), say
        self.setup()

    def setup(self, **info) -> None:
        """Ray calls it when a search begins or goes on."""
        self._start, self._ended = time.monotonic(), 0

    def on_trial_complete(self, iteration, trials, trial, **info) -> None:
        self._tell(trials, trial, STOPPED, "")

    def on_trial_error(self, iteration, trials, trial, **info) -> None:
        self._tell(trials, trial, FAILED, "its process or its node died again and again; see Ray's logs")

    def _tell(self, trials, trial, status: str, error: str) -> None:
        folder = trial_folder(self._out, trial.trial_id)
        found = read_trial(folder)
        if found is None:  # it died before it could write
            folder.mkdir(parents=True, exist_ok=True)
            found = Trial(trial.trial_id, dict(trial.config))
        if found.status not in ENDED:
            found = found.now(status=status, error=error)
            write_trial(folder, found)
        self._ended += 1
        known = [read_trial(trial_folder(self._out, other.trial_id)) for other in trials]
        known = [other for other in known if other]
        done = sum(other.status in ENDED for other in known)
        left = (time.monotonic() - self._start) / self._ended * (self._total - done)
        best = max((t for t in known if t.order is not None), key=lambda t: t.order, default=None)
        self._say(f"[{done}/{self._total}] {self._outcome(found, best)}; {_about(left)} left")

    def _outcome(self, trial: Trial, best: Trial | None) -> str:
        point = ", ".join(f"{k}={v:.4g}" if isinstance(v, float) else f"{k}={v}" for k, v in trial.point.items())
        if trial.status == FAILED:
            return f"{point}: failed, {trial.error}"
        score = "no validation" if trial.score is None else f"{self._metric} {trial.score:.4f}"
        best_score = f" (best {best.score:.4f})" if best else ""
        return f"{point}: {score}{best_score}, {trial.status} after {trial.epochs} epochs, {trial.seconds:.0f} s"


def _about(seconds: float) -> str:
    return f"about {seconds:.0f} s" if seconds < 100 else f"about {seconds / 60:.0f} min"
