"""The choice from a grid: validation alone decides, every point is kept, nothing opens the test split."""

import itertools
import json
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from recbole_llm.config import build_config, config_hash
from recbole_llm.data.files import atomic_writer
from recbole_llm.errors import TrainingError
from recbole_llm.experiment.validate import validate

VALID_FILE = "valid.json"


def grid_points(grid: Mapping[str, list]) -> list[dict]:
    """All combinations; none for an empty grid."""
    return [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())] if grid else []


@dataclass(frozen=True)
class Choice:
    """A grid point, how many of the others gave no result, and the seconds it all took."""

    point: dict
    failed: int = 0
    seconds: float = 0.0


def choose(job, base: dict, folder: Path, basis: str) -> Choice:
    """The grid point with the best score on validation, the first of equal ones; by choice_metric, where it is set.

    Points that an earlier, broken-off choice has finished on the same settings, code and data are not trained again. A
    point that cannot be trained, or whose score is not finite, is left out.

    Args:
        job: the run; base: its settings without the grid. folder: where points are kept.
        basis: hashes of the code and the data.
    Raises:
        TrainingError: when no point gives a score; with what the first one failed of.
    """
    best, best_score, seconds, reasons = {}, None, 0.0, []
    points = grid_points(job.grid)
    for point in points:
        found = _point(job, base | point, folder, basis)
        seconds += found["seconds"]
        score = found["score"]
        if score is None:
            reasons.append(found["reason"])
        elif best_score is None or score > best_score:
            best, best_score = point, score
    if points and best_score is None:
        raise TrainingError(f"none of the {len(points)} grid points gave a result; the first: {reasons[0]}")
    return Choice(best, len(reasons), seconds)


def _point(job, settings: dict, folder: Path, basis: str) -> dict:
    """Score (None where there is none), reason and seconds of a point; the greater the score the better."""
    start = time.perf_counter()
    try:
        config = build_config(job.model, job.dataset, (), settings, ())
        path = folder / f"{job.model}-{config_hash(config)[:12]}" / VALID_FILE
        if path.is_file():
            kept = json.loads(path.read_text(encoding="utf-8"))
            if kept["basis"] == basis:
                return kept
        found = validate(config)
        value = fmean(found[name.lower()] for name in config["choice_metric"] or [config["valid_metric"]])
        score = value if config["valid_metric_bigger"] else -value
        found = {"score": score if math.isfinite(score) else None, "reason": f"the score is {value}"}
    except MemoryError:
        raise
    except Exception as error:  # one bad point must not cost the row
        return {"score": None, "reason": " ".join(str(error).split())[:200], "seconds": time.perf_counter() - start}
    found |= {"seconds": time.perf_counter() - start, "basis": basis}
    with atomic_writer(path) as file:
        file.write(json.dumps(found).encode())
    return found
