"""RecBole datasets under the protocol whose cold items warm up: what a model may know in which phase.

The base dataset holds the rows of all hot and cold items, so ids mean the same in every phase. A model is given the
dataset of the rows known so far, with labels, or, if it takes every row for a positive, without the negative ones.
"""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from recbole.data.dataset import Dataset
from recbole.utils import ModelType

from recbole_llm.data.dataset import dataset_class
from recbole_llm.data.labelled import LabelledData
from recbole_llm.data.phases import Phases, PhaseSpec, no_cold_item
from recbole_llm.errors import ConfigError, DataError

# what other protocols are made of, and this one is not
_OTHERS = ("min_rating", "min_user_inter", "cold_items", "n_candidates", "secondary_tasks")


class PhasedDatasetMixin:
    """Drops the items that are neither hot nor cold, before RecBole gives ids to what is left."""

    def _filter_by_inter_num(self) -> None:
        super()._filter_by_inter_num()
        spec = phase_spec(self.config)
        for role, name in (("the labels", self.config["RATING_FIELD"]), ("the order in time", self.time_field)):
            if name not in self.inter_feat:
                raise DataError(
                    f"protocol '{self.config['protocol']}' takes {role} from the column '{name}', which dataset "
                    f"'{self.dataset_name}' does not have; load it in load_col or choose another protocol"
                )
        n_rows = self.inter_feat.groupby(self.iid_field)[self.iid_field].transform("size")
        if not (n_rows >= spec.cold_from).any():
            raise DataError(no_cold_item(spec, int(n_rows.max() if len(n_rows) else 0)))
        self.inter_feat = self.inter_feat[n_rows >= spec.cold_from]


@dataclass
class PhasedData(LabelledData):
    """Data of which a model knows some rows.

    Attributes:
        known: rows that it may learn from; None: the training rows. [n] int64.
    """

    known: np.ndarray | None = None

    @cached_property
    def labels(self) -> np.ndarray:
        return self.base.raw.ratings >= self.split.spec.label_from

    @property
    def known_rows(self) -> np.ndarray:
        """Rows that the model may learn from, negative ones among them. [n] int64."""
        return self.split.train if self.known is None else self.known

    @cached_property
    def train(self) -> Dataset:
        return self.dataset(self.known_rows)

    def counts(self, id_field: str) -> np.ndarray:
        """Known interactions per id of a field of the interactions. [n] int64."""
        ids = self.base.inter_feat[id_field].to_numpy().astype(np.int64)[self.known_rows]
        return np.bincount(ids, minlength=self.base.num(id_field))

    def knowing(self, rows: np.ndarray) -> "PhasedData":
        """The same data for a model that may learn from these rows."""
        other = copy.copy(self)
        other.known = rows
        for made_of_rows in ("train", "item_counts"):
            other.__dict__.pop(made_of_rows, None)
        return other

    def dataset(self, rows: np.ndarray) -> Dataset:
        """RecBole dataset of what the model learns from the rows, with the aligned features, as a model takes it."""
        dataset = self.subset(rows)
        dataset.features, dataset.proposed_edges = self.features, self.proposed_edges
        dataset.split_fingerprint = self.split.fingerprint
        return dataset


def phase_spec(config) -> PhaseSpec:
    """The rules of a config.

    Raises:
        ConfigError: where they contradict, or a setting of other protocols is on.
    """
    threshold, rating = config["threshold"], config["RATING_FIELD"]
    if not isinstance(threshold, Mapping) or list(threshold) != [rating]:
        raise ConfigError(f"phases need labels: set threshold to {{{rating}: 4}} or the like, not {threshold!r}")
    if config["evaluator"] != "recbole_llm":
        raise ConfigError("phases are evaluated by the plugin: set evaluator to recbole_llm")
    if on := [key for key in _OTHERS if config[key]]:
        raise ConfigError(f"{on[0]} does not go together with phases; leave it at its default")
    return PhaseSpec.of(config["phases"], threshold[rating], config["split_seed"])


def load_phased_data(config, augment: bool, labelled: bool) -> PhasedData:
    """Load, filter and split the dataset of a config with ``phases``.

    Args:
        config: RecBole's Config made by ``recbole_llm.config.build_config``.
        augment: see ``dataset_class``.
        labelled: whether the model learns from labels, context-aware models of RecBole always do.
    Raises:
        ConfigError: for a model that cannot be run so, or rules that cannot be meant.
        DataError: if a column is missing or no item is cold.
    """
    name, family = config["model"], config["MODEL_TYPE"]
    if family in (ModelType.SEQUENTIAL, ModelType.DECISIONTREE):
        what = "a next item" if family == ModelType.SEQUENTIAL else "trees that cannot be trained further"
        raise ConfigError(
            f"{name} learns {what}; protocol '{config['protocol']}' takes general and context-aware models"
        )
    if config["benchmark_filename"]:
        raise ConfigError("benchmark_filename is not supported: the split is made by the protocol (see protocol)")
    labelled = labelled or family == ModelType.CONTEXT
    if labelled and config["train_neg_sample_args"]["distribution"] != "none":
        raise ConfigError(f"{name} learns from labelled rows and draws no negatives: set train_neg_sample_args to ~")
    spec, base_class = phase_spec(config), dataset_class(config, augment)
    base = type(f"Phased{base_class.__name__}", (PhasedDatasetMixin, base_class), {})(config)
    raw = base.raw
    split = Phases.from_interactions(raw.users, raw.items, spec, times=raw.times, ratings=raw.ratings)
    return PhasedData(config, base, split, labelled=labelled)
