"""How long a search and the runs after it will take, at most, from a few steps of every training stage."""

import math
from pathlib import Path

from recbole_llm.comparison.execute import Processes
from recbole_llm.tuning.state import job
from recbole_llm.tuning.sweep import Sweep


def estimate(sweep: Sweep, protocol: str, out: Path, at_once: int) -> tuple[float, float] | None:
    """Seconds of one run of all its epochs, and of everything; schedulers and early stopping make it less.

    Returns:
        None where the settings without a point do not even start; ``out/logs`` then says why.
    """
    with Processes(at_once) as processes:
        one = processes.estimate(job(sweep, protocol), out)
    if one is None:
        return None
    searching = math.ceil(sweep.n_trials / at_once) * one
    if sweep.time is not None:
        searching = min(searching, sweep.time)
    # the best configuration's runs, and the default one's
    return one, searching + math.ceil(2 * sweep.seeds / at_once) * one
