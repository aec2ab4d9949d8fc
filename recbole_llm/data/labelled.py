"""Data whose rows have labels: what models that learn from labels are given, and what others are."""

from dataclasses import dataclass

import numpy as np
from recbole.data.dataset import Dataset
from recbole.data.interaction import Interaction

from recbole_llm.data.dataset import RecData


@dataclass
class LabelledData(RecData):
    """Data with a label a row; a subclass says which.

    Attributes:
        labelled: whether the model learns from labels; else it is given the positive rows alone.
    """

    labelled: bool = False

    @property
    def labels(self) -> np.ndarray:
        """Whether each row of the base dataset is positive. [rows] bool."""
        raise NotImplementedError

    def learnt(self, rows: np.ndarray) -> np.ndarray:
        """Those of the rows that the model learns from: the positive ones, or all where it learns from labels."""
        return rows if self.labelled else rows[self.labels[rows]]

    def subset(self, rows: np.ndarray) -> Dataset:
        """RecBole dataset of what a model learns from the rows, converted."""
        return super().subset(self.learnt(rows))

    def pairs(self, rows: np.ndarray) -> Interaction:
        """Model inputs of the rows in their order: all columns but the label, user and item columns joined. [n]."""
        label = self.config["LABEL_FIELD"]
        frame = self.base.inter_feat.iloc[rows].drop(columns=[label], errors="ignore")
        return self.train.join(self.base._dataframe_to_interaction(frame))
