"""The validation metrics of a configuration, for choices; nothing here opens the test split."""

import tempfile
from pathlib import Path

from recbole.utils import get_trainer, init_seed

from recbole_llm.experiment.data import build_data, build_model, eval_data, release_features, train_loader
from recbole_llm.experiment.record import PHASED_RUN
from recbole_llm.registry import import_attribute
from recbole_llm.trainer.staged import StagedTraining


def validate(config) -> dict[str, float]:
    """Train a configuration and return its best validation metrics; checkpoints and record are not kept."""
    init_seed(config["seed"], config["reproducibility"])
    data = build_data(config)
    valid, loader = eval_data(config, data, "valid"), train_loader(config, data)
    init_seed(config["seed"], config["reproducibility"])
    model = build_model(config, data)
    release_features(data)
    trainer = get_trainer(config["MODEL_TYPE"], config["model"])
    with tempfile.TemporaryDirectory(prefix="recbole_llm-") as folder:
        training = StagedTraining(config, model, trainer, Path(folder), {}, lambda line: None)
        training.fit(loader, valid, resume=False, show_progress=False)  # leaves the best weights in the model
    if config["phases"]:
        return import_attribute(PHASED_RUN)(config, data, model, "valid")[0]
    return dict(training.results[-1].valid)
