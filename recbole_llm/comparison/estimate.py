"""How long a comparison will take: from records of the same rows, else from a few steps of every training stage."""

import itertools
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from recbole.utils import get_trainer, init_seed

from recbole_llm.comparison.choice import grid_points
from recbole_llm.comparison.plan import Job
from recbole_llm.comparison.record import OK, Record
from recbole_llm.comparison.worker import blank_record, settings_of
from recbole_llm.config import build_config
from recbole_llm.experiment.data import build_data, build_model, eval_data, train_loader
from recbole_llm.trainer.staged import StagedTraining

_BATCHES = 3


def from_records(job: Job, records: Sequence[Record], out: Path) -> float | None:
    """Mean seconds of the row's finished runs under the same settings, whatever their seed; None without any."""
    row = job.dataset, job.protocol, job.label
    done = [r for r in records if r.status == OK and r.key[:3] == row]
    same = [r for r in done if blank_record(replace(job, seed=r.seed), out).config_hash == r.config_hash]
    return sum(sum(r.result.seconds.values()) for r in same) / len(same) if same else None


def probe(job: Job, out: Path) -> float:
    """Seconds that a run takes at most, all epochs of all stages, by timing a few steps and one evaluation.

    A grid multiplies it by the points, in the first run alone; see :func:`recbole_llm.comparison.execute.estimate`.
    """
    point = next(iter(grid_points(job.grid)), {})
    config = build_config(job.model, job.dataset, (), settings_of(job, out) | point, ())
    start = time.perf_counter()
    init_seed(config["seed"], config["reproducibility"])
    data = build_data(config)
    valid, loader = eval_data(config, data, "valid"), train_loader(config, data)
    model = build_model(config, data)
    total = time.perf_counter() - start
    trainer_class = get_trainer(config["MODEL_TYPE"], config["model"])
    with tempfile.TemporaryDirectory() as folder:
        training = StagedTraining(config, model, trainer_class, Path(folder), {}, lambda line: None)
        for k, stage in enumerate(training.stages):
            trainer, step = training._trainer(k), 0.0
            if trainer.optimizer is not None:  # before the evaluation: some models score only what they have seen
                first = _FirstBatches(loader, _BATCHES)
                start = time.perf_counter()
                trainer._train_epoch(first, 0)
                step = (time.perf_counter() - start) / max(first.seen, 1)
            start = time.perf_counter()
            trainer._valid_epoch(valid)
            evaluation = time.perf_counter() - start
            if trainer.optimizer is None:
                return total + 2 * evaluation
            epochs = stage.epochs if config["stages"] else trainer.epochs
            total += epochs * (step * len(loader) + evaluation / trainer.eval_step)
    return total + evaluation


class _FirstBatches:
    """The first batches of a loader."""

    def __init__(self, loader, n: int) -> None:
        self._loader, self._n, self.seen = loader, n, 0

    def __getattr__(self, name: str):
        return getattr(self._loader, name)

    def __len__(self) -> int:
        return min(self._n, len(self._loader))

    def __iter__(self):
        for batch in itertools.islice(iter(self._loader), self._n):
            self.seen += 1
            yield batch
