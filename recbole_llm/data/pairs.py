"""Training interactions as batches of pairs: one (user, item) a row, its label, no sampled negative beside it."""

import torch
from recbole.data.interaction import Interaction


class PairLoader:
    """Batches of (user, item), with the label where rows have one, for models whose loss draws its own negatives.

    RecBole's loader draws a negative a row in NumPy, on one core, for every batch; a loss that shares negatives, or
    ranks all items, needs none. Order comes from a generator of its own, so that a resumed run sees the same batches.

    Args:
        config: RecBole's Config; reads train_batch_size, seed, shuffle.
        dataset: training dataset.
    """

    def __init__(self, config, dataset) -> None:
        self.dataset = dataset  # RecBole's trainer reads its sizes for the beyond-accuracy metrics
        self.batch_size = int(config["train_batch_size"])
        self.shuffle = bool(config["shuffle"])
        self.generator = torch.Generator().manual_seed(int(config["seed"]))
        inter = dataset.inter_feat
        self.columns = {name: inter[name].long() for name in (dataset.uid_field, dataset.iid_field)}  # [n] each
        if config["LABEL_FIELD"] in inter:
            self.columns[config["LABEL_FIELD"]] = inter[config["LABEL_FIELD"]]

    def __len__(self) -> int:
        return -(-len(self.dataset.inter_feat) // self.batch_size)

    def __iter__(self):
        n = len(self.dataset.inter_feat)
        order = torch.randperm(n, generator=self.generator) if self.shuffle else torch.arange(n)
        for k in range(0, n, self.batch_size):
            rows = order[k : k + self.batch_size]
            yield Interaction({name: column[rows] for name, column in self.columns.items()})
