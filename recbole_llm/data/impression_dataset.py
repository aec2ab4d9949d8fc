"""RecBole datasets of what users were shown: labels, impressions, and the clicks that a row's user had made before it.

Histories are the user's last clicks strictly before the row's time. Without times nobody can tell what came before, so
at evaluation all known clicks are the history, and in training a model that reads histories splits a user's clicks
anew in every epoch (see :mod:`~recbole_llm.data.impression_loader`).
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from recbole.data.interaction import Interaction
from recbole.utils import ModelType

from recbole_llm.data.dataset import dataset_class
from recbole_llm.data.histories import last_before
from recbole_llm.data.impressions import Impressions, ImpressionSpec, ShownRows
from recbole_llm.data.labelled import LabelledData
from recbole_llm.errors import ConfigError, DataError

IMPRESSION_FIELD, PART_FIELD = "impression_id", "part"
# what other protocols are made of, and this one is not
_OTHERS = ("min_rating", "min_user_inter", "cold_items", "n_candidates", "secondary_tasks", "phases")


class ImpressionDatasetMixin:
    """Keeps what the split needs, and takes away what would tell a model which rows belong together or to the test."""

    def _data_filtering(self) -> None:
        super()._data_filtering()
        label = self.config["LABEL_FIELD"]
        if label not in self.inter_feat:
            raise DataError(
                f"protocol '{self.config['protocol']}' takes labels from the column '{label}', which dataset "
                f"'{self.dataset_name}' does not have; load it in load_col or choose another protocol"
            )
        labels = self.inter_feat[label].to_numpy()
        if not np.isin(labels, (0.0, 1.0)).all():
            raise DataError(f"column '{label}' must hold 0 and 1; set LABEL_FIELD to the column of clicks")
        self.shown = ShownRows(
            users=self.raw.users,
            items=self.raw.items,
            labels=labels == 1.0,
            times=self.raw.times,
            impressions=self._taken(IMPRESSION_FIELD),
            parts=self._taken(PART_FIELD),
        )

    def _taken(self, field: str) -> np.ndarray | None:
        """Tokens of a column, which no model sees."""
        if field not in self.inter_feat:
            return None
        tokens = self.inter_feat[field].fillna("").to_numpy().astype(str)
        self._del_col(self.inter_feat, field)
        self._rest_fields = self._rest_fields[self._rest_fields != field]  # RecBole would give ids to it
        return tokens


@dataclass
class ImpressionData(LabelledData):
    """Data of impressions; see the module."""

    @property
    def shown(self) -> ShownRows:
        return self.base.shown

    @property
    def labels(self) -> np.ndarray:
        return self.base.shown.labels

    @cached_property
    def groups(self) -> np.ndarray | None:
        """Impression of every row, -1 where it is unknown; None where all are. [rows] int64."""
        names = self.shown.impressions
        if names is None:
            return None
        return np.where(names == "", -1, np.unique(names, return_inverse=True)[1])

    @cached_property
    def train(self):
        train = super().train
        rows = self.by_time(self.learnt(self.split.train))  # the order of train.inter_feat
        train.shown_groups = None if self.groups is None else self.groups[rows]
        train.shown_times = None if self.shown.times is None else self.shown.times[rows]
        return train

    def inputs(self, rows: np.ndarray, known: np.ndarray) -> Interaction:
        """Model inputs of rows in their order; of sequential models with the user's clicks before each.

        Args:
            rows: [n] int64. known: rows whose clicks may be read [m] int64.
        """
        inputs = self.pairs(rows)
        if self.config["MODEL_TYPE"] != ModelType.SEQUENTIAL:
            return inputs
        clicks = self.by_time(known[self.labels[known]])
        times = self.shown.times
        index, lengths = last_before(
            self.user_ids[clicks],
            None if times is None else times[clicks],
            self.user_ids[rows],
            None if times is None else times[rows],
            int(self.config["MAX_ITEM_LIST_LENGTH"]),
        )
        inputs.update(Interaction(self.columns_of(clicks, index)))
        inputs.update(Interaction({self.config["ITEM_LIST_LENGTH_FIELD"]: torch.from_numpy(np.maximum(lengths, 1))}))
        return inputs


def load_impression_data(config, augment: bool, labelled: bool) -> ImpressionData:
    """Load, filter and split the dataset of a config with ``impressions``.

    Args:
        config: RecBole's Config made by ``recbole_llm.config.build_config``.
        augment: see ``dataset_class``.
        labelled: whether the model learns from labels; context-aware models of RecBole always do.
    Raises:
        ConfigError: for a model that cannot be run so, or rules that cannot be meant.
        DataError: if a column is missing or a part has one label only.
    """
    name, family = config["model"], config["MODEL_TYPE"]
    if family == ModelType.DECISIONTREE:
        raise ConfigError(f"{name} is not run under protocol '{config['protocol']}'; choose ctr-labeled")
    if config["benchmark_filename"]:
        raise ConfigError("benchmark_filename is not supported: the split is made by the protocol (see protocol)")
    if on := [key for key in _OTHERS if config[key]]:
        raise ConfigError(f"{on[0]} does not go together with impressions; leave it at its default")
    labelled = labelled or family == ModelType.CONTEXT
    if labelled and config["train_neg_sample_args"]["distribution"] != "none":
        raise ConfigError(f"{name} learns from labelled rows and draws no negatives: set train_neg_sample_args to ~")
    base_class = dataset_class(config, augment)
    base = type(f"Impression{base_class.__name__}", (ImpressionDatasetMixin, base_class), {})(config)
    if family == ModelType.SEQUENTIAL and base.shown.times is None and not labelled:
        raise ConfigError(
            f"{name} learns the order of clicks, but dataset '{config['dataset']}' has no column "
            f"'{config['TIME_FIELD']}'; choose a general or context-aware model"
        )
    spec = ImpressionSpec.of(config["impressions"], config["split_seed"])
    return ImpressionData(config, base, Impressions.from_rows(base.shown, spec), labelled=labelled)
