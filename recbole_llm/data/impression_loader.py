"""Training batches of what users were shown: a click among what was not clicked with it, or rows with labels.

The history of a row is what its user had clicked before it. Without times nobody can tell, and to leave only the row's
own click out of the history would tell the label: a clicked article would be the one that is missing. So in every epoch
a share of a user's clicks, drawn anew, is the history of all of his rows, and the other clicks are what is learnt.

Data without labels has only clicks, each in its place in time; what was not clicked are then random articles.
"""

import numpy as np
import torch
from recbole.data.interaction import Interaction

from recbole_llm.data.histories import Histories
from recbole_llm.errors import ConfigError

NEGATIVES = "negatives"  # field of the articles that were not clicked
_DENSE = 2**28  # bytes up to which a table of all (user, article) says what was clicked, faster than a search


class ImpressionLoader:
    """Batches for a model of impressions.

    Under ``loss: listwise`` a batch has a click a row: user, history, ``item_id`` and ``negatives`` [B, M], articles of
    the same impression, else not clicked by the user at all, else random ones. Otherwise a batch has a row a row, with
    its label. Histories are right-padded with 0.

    Args:
        config: reads loss, n_negatives, negative_pool, balanced_sampling, history_share, require_features,
            MAX_ITEM_LIST_LENGTH, train_batch_size, seed, shuffle.
        dataset: training dataset, rows in time order, not augmented.
    """

    def __init__(self, config, dataset) -> None:
        self.dataset = dataset  # RecBole's trainer reads its sizes for the beyond-accuracy metrics
        self.fields = dataset.uid_field, dataset.iid_field, config["LABEL_FIELD"]
        self.list_fields = dataset.iid_field + config["LIST_SUFFIX"], config["ITEM_LIST_LENGTH_FIELD"]
        self.batch_size, self.shuffle = int(config["train_batch_size"]), bool(config["shuffle"])
        self.length, self.n_items = int(config["MAX_ITEM_LIST_LENGTH"]), dataset.item_num
        self.listwise = config["loss"] == "listwise"
        self.n_negatives = max(int(config["n_negatives"]), int(config["negative_pool"] or 0))
        self.balanced, self.history_share = bool(config["balanced_sampling"]), float(config["history_share"])
        self.generator = torch.Generator().manual_seed(int(config["seed"]))
        inter = dataset.inter_feat
        self.users, self.items = (inter[name].numpy().astype(np.int64) for name in self.fields[:2])
        self.labelled = self.fields[2] in inter
        n = len(self.users)
        self.clicked = inter[self.fields[2]].numpy() > 0 if self.labelled else np.ones(n, dtype=bool)
        times = getattr(dataset, "shown_times", None) if self.labelled else np.arange(n, dtype=np.float64)
        self.times = times
        keep = np.ones(n, dtype=bool)
        for name in config["require_features"] or []:
            if name not in dataset.features:
                raise ConfigError(
                    f"require_features names '{name}', which the model does not load; add it to item_features"
                )
            keep &= dataset.features[name].present[self.items]
        if not (keep & self.clicked).any():
            raise ConfigError("no click is left to learn from: every article lacks one of require_features")
        self.kept = np.flatnonzero(keep)
        groups = getattr(dataset, "shown_groups", None)
        # rows of an unknown impression belong to what else the user did not click
        own = np.full(n, -1) if groups is None else groups
        self.groups = np.where(own >= 0, own + dataset.user_num, self.users)
        negatives = self.kept[~self.clicked[self.kept]]
        self.negatives = negatives[np.argsort(self.groups[negatives], kind="stable")]
        self.negative_groups = self.groups[self.negatives]
        # of (user, item), to draw articles that a user has not clicked
        self.pairs = np.unique(self.users[self.clicked] * self.n_items + self.items[self.clicked])
        self.has_clicked = None
        if dataset.user_num * self.n_items <= _DENSE:
            self.has_clicked = np.zeros(dataset.user_num * self.n_items, dtype=bool)
            self.has_clicked[self.pairs] = True
        self.histories = None if times is None else self._histories(np.flatnonzero(self.clicked))

    def _histories(self, clicks: np.ndarray) -> Histories:
        times = None if self.times is None else self.times[clicks]
        return Histories(self.users[clicks], times, self.items[clicks])

    def __len__(self) -> int:
        n = int(self.clicked[self.kept].sum()) if self.listwise or not self.labelled else len(self.kept)
        if self.times is None:  # as many as an epoch has in the mean
            n -= round(self.history_share * self.clicked[self.kept].sum())
        return max(1, -(-n // self.batch_size))

    def __iter__(self):
        # a state of torch's is what a resumed run takes up, so every epoch's stream is drawn from one
        seed = int(torch.randint(2**62, (), generator=self.generator))
        self.random = np.random.Generator(np.random.PCG64(seed))
        histories, rows = self.histories, self.kept
        if self.times is None:
            clicks = np.flatnonzero(self.clicked)
            known = clicks[self.random.random(len(clicks)) < self.history_share]
            histories, rows = self._histories(known), np.setdiff1d(rows, known)
        if self.listwise or not self.labelled:
            rows = rows[self.clicked[rows]]
        if self.balanced and not self.listwise and self.labelled:
            rows = self._balanced(rows)
        elif self.shuffle:
            rows = self.random.permutation(rows)
        for k in range(0, len(rows), self.batch_size):
            yield self._batch(rows[k : k + self.batch_size], histories)

    def _balanced(self, rows: np.ndarray) -> np.ndarray:
        """As many rows, drawn so that both labels come equally often."""
        clicked = self.clicked[rows]
        weight = np.where(clicked, 0.5 / max(clicked.sum(), 1), 0.5 / max((~clicked).sum(), 1))
        return rows[self.random.choice(len(rows), size=len(rows), p=weight / weight.sum())]

    def _batch(self, rows: np.ndarray, histories: Histories) -> Interaction:
        users, items = self.users[rows], self.items[rows]
        found, lengths = histories.last(users, None if self.times is None else self.times[rows], self.length)
        negatives = None
        if self.listwise or not self.labelled:
            negatives = self._negatives(rows)
        uid, iid, label = self.fields
        columns = {uid: users, iid: items, self.list_fields[0]: found, self.list_fields[1]: np.maximum(lengths, 1)}
        if self.listwise:
            columns[NEGATIVES] = negatives
        elif negatives is None:
            columns[label] = self.clicked[rows].astype(np.float32)
        else:  # clicks alone: every one with random articles, as rows
            times = 1 + self.n_negatives
            columns = {name: np.repeat(column, times, axis=0) for name, column in columns.items()}
            columns[iid] = np.concatenate([items[:, None], negatives], 1).ravel()
            columns[label] = np.tile(np.arange(times) == 0, len(rows)).astype(np.float32)
        return Interaction({name: torch.from_numpy(column) for name, column in columns.items()})

    def _negatives(self, rows: np.ndarray) -> np.ndarray:
        """Articles that the users of some clicks did not click, of the same impression where there are any. [n, M]."""
        start, end = (np.searchsorted(self.negative_groups, self.groups[rows], side=s) for s in ("left", "right"))
        drawn = self.random.random((len(rows), self.n_negatives))
        place = start[:, None] + (drawn * (end - start)[:, None]).astype(np.int64)
        shown = (end > start)[:, None]
        found = np.zeros(place.shape, dtype=np.int64)
        if len(self.negatives):
            found = self.items[self.negatives[np.where(shown, place, 0)]]
        users = np.repeat(self.users[rows], self.n_negatives)
        found = np.where(shown, found, 0).ravel()
        for _ in range(20):
            missing = np.flatnonzero(found == 0)
            if not len(missing):
                break
            other = self.random.integers(1, self.n_items, len(missing))
            found[missing] = np.where(self._are_clicks(users[missing] * self.n_items + other), 0, other)
        found[found == 0] = 1  # who has clicked on nearly everything
        return found.reshape(len(rows), self.n_negatives)

    def _are_clicks(self, keys: np.ndarray) -> np.ndarray:
        """Whether user * n_items + article is a click. [n] int64 -> [n] bool."""
        if self.has_clicked is not None:
            return self.has_clicked[keys]
        return self.pairs[np.minimum(np.searchsorted(self.pairs, keys), len(self.pairs) - 1)] == keys
