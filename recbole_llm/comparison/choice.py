"""The choice from a grid: validation alone decides, every point is kept, nothing opens the test split."""

import itertools
import json
import time
from collections.abc import Mapping
from pathlib import Path

from recbole_llm.config import build_config, config_hash
from recbole_llm.data.files import atomic_writer
from recbole_llm.experiment.validate import validate

VALID_FILE = "valid.json"


def grid_points(grid: Mapping[str, list]) -> list[dict]:
    """All combinations; none for an empty grid."""
    return [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())] if grid else []


def choose(job, base: dict, folder: Path, code: str) -> tuple[dict, float]:
    """The grid point with the best score on validation, the first of equal ones, and the seconds it all took.

    Points that an earlier, broken-off choice has finished under the same settings and code are not trained again.

    Args:
        job: the run; base: its settings without the grid. folder: where points are kept. code: hash of the code.
    """
    best, best_score, seconds = {}, None, 0.0
    for point in grid_points(job.grid):
        config = build_config(job.model, job.dataset, (), base | point, ())
        metric, bigger = config["valid_metric"].lower(), config["valid_metric_bigger"]
        found = _point(config, folder / f"{job.model}-{config_hash(config)[:12]}", code)
        score = found["valid"][metric] if bigger else -found["valid"][metric]
        seconds += found["seconds"]
        if best_score is None or score > best_score:
            best, best_score = point, score
    return best, seconds


def _point(config, folder: Path, code: str) -> dict:
    path = folder / VALID_FILE
    if path.is_file():
        kept = json.loads(path.read_text(encoding="utf-8"))
        if kept["code_hash"] == code:
            return kept
    start = time.perf_counter()
    found = {"valid": validate(config), "seconds": time.perf_counter() - start, "code_hash": code}
    with atomic_writer(path) as file:
        file.write(json.dumps(found).encode())
    return found
