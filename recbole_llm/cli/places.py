"""Where the commands that make features and texts put them."""

from pathlib import Path

from recbole_llm.config.locate import PACKAGED
from recbole_llm.errors import ConfigError
from recbole_llm.paths import dataset_atomic_dir


def feature_folder(dataset: str, data_path: Path) -> Path:
    """Folder of a dataset's own files: ``data_path/<dataset>``, else that of the shipped ones, RecBole's own dataset's.

    Raises:
        ConfigError: when there is neither.
    """
    shipped = dataset_atomic_dir() / dataset
    places = [shipped] if dataset == PACKAGED else [data_path / dataset, shipped]
    for place in places:
        if place.is_dir():
            return place
    raise ConfigError(f"there is no folder {places[0]}; make it, correct --dataset, or name another folder with --out")
