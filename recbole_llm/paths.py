"""Where the plugin's own YAML and data files lie: the top level in a checkout, inside the package in a wheel."""

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent


def _shipped(name: str) -> Path:
    installed = _PACKAGE / f"_{name}"  # a wheel carries the folder as package data
    return installed if installed.is_dir() else _PACKAGE.parent / name


def properties_dir() -> Path:
    """Folder of the plugin's YAML files (overall.yaml, model/, dataset/, protocol/, ...)."""
    return _shipped("properties")


def dataset_atomic_dir() -> Path:
    """Folder of the feature files shipped with the plugin, one subfolder a dataset."""
    return _shipped("dataset_atomic")
