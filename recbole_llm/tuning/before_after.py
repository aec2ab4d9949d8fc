"""The default configuration against the one that a search found, by validation over the seeds that both were run with.

The best of many trials of one seed owes part of its score to chance, so the score that it was chosen by says little
about which of the two is better.
"""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from recbole_llm.comparison.record import Record
from recbole_llm.report import cells

DEFAULT, TUNED = "default", "tuned"  # what a row's label ends with


@dataclass(frozen=True)
class BeforeAfter:
    """Runs of both configurations with the same seeds.

    Attributes:
        default, tuned: records with a result, by seed. metric: of validation, that chose; bigger: whether more is
            better.
    """

    default: tuple[Record, ...]
    tuned: tuple[Record, ...]
    metric: str
    bigger: bool

    def scores(self, name: str) -> list[float]:
        """Validation metric of each run of DEFAULT or TUNED."""
        records = self.default if name == DEFAULT else self.tuned
        return [record.result.valid[self.metric] for record in records]

    def mean_sd(self, name: str) -> str:
        """Of the scores of DEFAULT or TUNED."""
        return cells.over_runs(self.scores(name))

    @property
    def gained(self) -> bool:
        """Whether what the search found has the better mean."""
        before, after = (statistics.mean(self.scores(name)) for name in (DEFAULT, TUNED))
        return after > before if self.bigger else after < before

    def verdict(self) -> str:
        """One sentence: which of the two to keep."""
        n = len(self.default)
        over = f"over {n} seeds" if n > 1 else "with one seed"
        numbers = f"{self.metric} {self.mean_sd(TUNED)} against {self.mean_sd(DEFAULT)} of the default"
        if self.gained:
            return f"By validation {over} the best configuration is better: {numbers}."
        return f"By validation {over} the best configuration is not better: {numbers}; keep the default."


def before_after(records: Sequence[Record]) -> BeforeAfter | None:
    """The runs after a search, side by side.

    Args:
        records: of :func:`recbole_llm.tuning.final.retrain`.
    Returns:
        None where the default configuration is the best, or the two have no seed in common.
    """
    runs = {
        name: {r.seed: r for r in records if r.result and r.label == f"{r.model}, {name}"} for name in (DEFAULT, TUNED)
    }
    seeds = sorted(runs[DEFAULT].keys() & runs[TUNED].keys())
    if not seeds:
        return None
    config = runs[TUNED][seeds[0]].result.config
    default, tuned = (tuple(runs[name][seed] for seed in seeds) for name in (DEFAULT, TUNED))
    return BeforeAfter(default, tuned, str(config["valid_metric"]).lower(), bool(config["valid_metric_bigger"]))
