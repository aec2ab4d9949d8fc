"""A trial as Ray runs it: takes its point, the shared data and its folder, and reports to the search."""

import shutil
import tempfile
import traceback
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recbole_llm.tuning.ledger import ENDED, FAILED, Trial, read_trial, trial_folder, write_trial
from recbole_llm.tuning.sweep import Sweep

ORDER, COMPARED = "order", "compared_epochs"  # what trials report: a score, the greater the better; epochs compared
POINT = "point"  # key of a point that is given as a whole, in a grid
FIRST_FOLDER = "first_stages"


@dataclass(frozen=True)
class Task:
    """What all trials of a search are given beside the data.

    Attributes:
        out: the search's folder, the same disk on every node. settings: over the point's.
        cpus: threads of a trial. gpus: share of GPUs; the ones that Ray gives are the only ones it sees.
        default: the point of the default configuration, where the space has it.
        start: folder of the first stages that trials start from; None: each trains its own.
    """

    sweep: Sweep
    out: Path
    settings: dict[str, Any]
    cpus: float = 1.0
    gpus: float = 0.0
    default: dict[str, Any] | None = None
    start: Path | None = None

    def config(self, point: dict[str, Any]):
        """Configuration of a point, on the device that this process was given."""
        from recbole_llm.config import build_config

        device = {"gpu_id": "0", "use_gpu": self.gpus > 0}  # CUDA counts what CUDA_VISIBLE_DEVICES shows from 0
        settings = self.sweep.settings_at(point) | self.settings | device
        return build_config(self.sweep.model, self.sweep.dataset, (), settings, ())


def prepare_process(task: Task) -> None:
    """Patches, threads, and no warning that arrays of the object store are read-only: nothing writes to them."""
    import torch

    from recbole_llm import compat

    compat.apply()
    torch.set_num_threads(max(1, int(task.cpus)))
    warnings.filterwarnings("ignore", message="The given NumPy array is not writable")


def train(config: dict[str, Any], task: Task, shared) -> None:
    """Ray's trainable. A trial that cannot be trained ends with the reason in its record, and costs nothing else.

    A process that dies is started again by Ray, perhaps on another node, and goes on from the trial's folder.
    """
    from ray import tune

    prepare_process(task)
    from recbole_llm.tuning.trial import run_trial

    point = config.get(POINT, config)
    trial_id = tune.get_context().get_trial_id()
    folder = trial_folder(task.out, trial_id)
    population = task.sweep.search == "pbt"
    if population and (checkpoint := tune.get_checkpoint()):
        with checkpoint.as_directory() as source:  # of this trial, or of a better one whose place it takes
            shutil.copytree(source, folder, dirs_exist_ok=True)
    trial = read_trial(folder)
    if trial is not None and trial.status in ENDED:  # it ended after the search was last saved
        tune.report(_told(trial))
        return
    trial = (trial or Trial(trial_id, point)).now(id=trial_id, point=point, default=point == task.default)

    def report(now: Trial) -> None:
        if not population:
            return tune.report(_told(now))
        with tempfile.TemporaryDirectory() as copy:
            for path in [*folder.glob("*.pt"), *folder.glob("*.json")]:
                shutil.copyfile(path, Path(copy) / path.name)
            tune.report(_told(now), checkpoint=tune.Checkpoint.from_directory(copy))

    try:
        settings = task.config(point)
        done = run_trial(
            trial,
            settings,
            shared.of(settings),
            folder,
            report,
            n_first=task.sweep.shared_stages,
            start=task.start,
            new_rates=population,
        )
    except Exception as error:  # one bad point must not cost the search
        traceback.print_exc()
        text = " ".join(str(error).split())[:300]
        folder.mkdir(parents=True, exist_ok=True)
        trial = read_trial(folder) or trial
        write_trial(folder, trial.now(status=FAILED, error=f"{type(error).__name__}: {text}"))
        return
    tune.report(_told(done))


def _told(trial: Trial) -> dict[str, float]:
    if trial.order is None:
        return {}
    return {ORDER: trial.order, COMPARED: trial.compared_epochs}


def train_first_stages(task: Task, shared, point: dict[str, Any]) -> None:
    """The stages that all trials start from, in the folder :attr:`Task.start`."""
    prepare_process(task)
    from recbole_llm.tuning.trial import first_stages

    config = task.config(point)
    first_stages(config, shared.of(config), task.out / FIRST_FOLDER, task.sweep.shared_stages)
