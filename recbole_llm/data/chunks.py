"""Whole training histories cut into chunks of L: every interaction is a target once an epoch.

RecBole's own augmentation makes one row of length L for each prefix, so an epoch encodes every interaction about L
times; here one causal pass over a chunk trains all its positions.
"""

import numpy as np
import torch
from recbole.data.interaction import Interaction


class ChunkLoader:
    """Batches of history chunks for models trained at all positions.

    A batch is an Interaction of ``user_id`` [B], ``item_id_list`` [B, L] (right-padded with 0), ``item_length`` [B]
    and ``target_list`` [B, L]: the next item at each real position, 0 at padding. The cut points of histories longer
    than L move at random from epoch to epoch, so that no interaction always sits behind the same short context.

    Args:
        config: RecBole's Config; reads MAX_ITEM_LIST_LENGTH, chunk_batch_size, seed, shuffle.
        dataset: training dataset, not augmented, rows in time order.
    """

    def __init__(self, config, dataset) -> None:
        self.dataset = dataset  # RecBole's trainer reads its sizes for the beyond-accuracy metrics
        self._fields = (dataset.uid_field, dataset.iid_field + config["LIST_SUFFIX"], config["ITEM_LIST_LENGTH_FIELD"])
        self.length = int(config["MAX_ITEM_LIST_LENGTH"])
        self.batch_size = int(config["chunk_batch_size"])
        self.shuffle = bool(config["shuffle"])
        self.generator = torch.Generator().manual_seed(int(config["seed"]))
        inter = dataset.inter_feat
        users, items = inter[dataset.uid_field].numpy(), inter[dataset.iid_field].numpy()
        order = np.argsort(users, kind="stable")  # rows stand in time order already, see RecData.subset
        self.items = items[order].astype(np.int64)  # [n]
        self.users, self.start, self.count = np.unique(users[order], return_index=True, return_counts=True)

    def __len__(self) -> int:
        n_targets = self.count - 1
        # the number of chunks varies with the cut points; report the expected number of batches
        chunks = np.where(n_targets <= self.length, n_targets > 0, 1 + np.ceil((n_targets - 1) / self.length))
        return max(1, int(np.ceil(chunks.sum() / self.batch_size)))

    def __iter__(self):
        batch = self._cut()
        n = len(batch[self._fields[0]])
        order = torch.randperm(n, generator=self.generator) if self.shuffle else torch.arange(n)
        for k in range(0, n, self.batch_size):
            yield batch[order[k : k + self.batch_size]]

    def _cut(self) -> Interaction:
        """All chunks of one epoch."""
        length, n_targets = self.length, self.count - 1
        first = torch.randint(1, length + 1, (len(self.users),), generator=self.generator).numpy()
        first = np.where(n_targets <= length, n_targets, first)  # targets in the first chunk of each user
        n_chunks = np.where(n_targets > 0, 1 + np.ceil((n_targets - first) / length), 0).astype(np.int64)
        owner = np.repeat(np.arange(len(self.users)), n_chunks)
        nth = np.arange(len(owner)) - np.repeat(np.cumsum(n_chunks) - n_chunks, n_chunks)
        begin = np.where(nth == 0, 0, first[owner] + (nth - 1) * length)  # position of the chunk's first input
        size = np.where(nth == 0, first[owner], np.minimum(n_targets[owner] - begin, length))
        steps = np.arange(length)[None, :]
        real = steps < size[:, None]  # [chunks, L]
        index = np.where(real, (self.start[owner] + begin)[:, None] + steps, 0)
        uid, item_list, item_length = self._fields
        return Interaction(
            {
                uid: torch.from_numpy(self.users[owner].astype(np.int64)),
                item_list: torch.from_numpy(self.items[index] * real),
                item_length: torch.from_numpy(size.astype(np.int64)),
                "target_list": torch.from_numpy(self.items[np.where(real, index + 1, 0)] * real),
            }
        )
