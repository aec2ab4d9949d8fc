"""What a step of LLMRec looks at: propagated identities, the batch, and which rows of the tables it needs.

Shapes: B batch, U users, N items (row 0 = [PAD]), D embedding size, K negatives.
"""

from typing import NamedTuple

import torch
from torch import Tensor


class Nodes(NamedTuple):
    """Propagated identities: users [U, D], items [N, D] float32."""

    users: Tensor
    items: Tensor


class Triples(NamedTuple):
    """What a step learns from.

    Attributes:
        users, items: of interactions [B] int64. negatives: an item that each user has not used [B] int64.
        shared: negatives of a sampled softmax [K] int64, or None.
        labels: 1 for a liked item, else 0 [B] float32; None where all are liked.
    """

    users: Tensor
    items: Tensor
    negatives: Tensor
    shared: Tensor | None
    labels: Tensor | None

    def first(self, n: int) -> "Triples":
        """The first n of them, for losses that a part of a (shuffled) batch will do for."""
        labels = None if self.labels is None else self.labels[:n]
        return Triples(self.users[:n], self.items[:n], self.negatives[:n], self.shared, labels)

    def liked(self) -> "Triples":
        """Those of the liked items alone."""
        if self.labels is None:
            return self
        rows = self.labels > 0
        return Triples(self.users[rows], self.items[rows], self.negatives[rows], self.shared, None)


class Rows:
    """Which rows of a table a step needs, and where they stand.

    Attributes:
        ids: ascending [n] int64; None: all of them.
    """

    def __init__(self, ids: Tensor | None) -> None:
        self.ids = ids

    @classmethod
    def needed(cls, wanted: Tensor, size: int) -> "Rows":
        """Rows of the ids wanted, repetitions allowed [n]; all of a table of ``size`` where most are wanted."""
        ids = wanted.unique()
        return cls(None if 2 * len(ids) > size else ids)

    def of(self, table: Tensor) -> Tensor:
        """The rows of a table of all ids."""
        return table if self.ids is None else table[self.ids]

    def position(self, ids: Tensor) -> Tensor:
        """Where ids stand among these rows. [n] int64."""
        return ids if self.ids is None else torch.searchsorted(self.ids, ids)

    def look_up(self, table: Tensor, ids: Tensor | None) -> Tensor:
        """Rows of a table of these rows by id; None: the table."""
        return table if ids is None else table[self.position(ids)]
