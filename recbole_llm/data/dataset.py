"""RecBole datasets built from a :class:`~recbole_llm.data.split.Split`, with token-aligned features.

RecBole loads and filters the atomic files; the split is made from the token pairs that are left, before RecBole
renumbers, normalises or augments anything. Models receive the training rows only. Test rows stay inside the split
until :meth:`RecData.open_test`.
"""

import copy
from dataclasses import dataclass, field
from functools import cached_property
from importlib import import_module

import numpy as np
import torch
from recbole.data.dataset import Dataset, KnowledgeBasedDataset, SequentialDataset
from recbole.data.interaction import Interaction
from recbole.utils import ModelType

from recbole_llm.data.candidates import draw_candidates
from recbole_llm.data.feature_store import AlignedFeature
from recbole_llm.data.histories import last_before
from recbole_llm.data.knowledge import KnowledgeGraph
from recbole_llm.data.split import Split
from recbole_llm.data.split_spec import SplitSpec
from recbole_llm.errors import ConfigError, DataError


@dataclass(frozen=True)
class RawInteractions:
    """What a split needs, as it stands in the file: tokens, raw times and ratings, one row an interaction."""

    users: np.ndarray
    items: np.ndarray
    times: np.ndarray | None
    ratings: np.ndarray | None


class SplitDatasetMixin:
    """Keeps the raw interactions of RecBole's loader, drops phantom rows, never downloads."""

    def _data_filtering(self) -> None:
        super()._data_filtering()
        # RecBole keeps .item/.user rows that no interaction uses; remapping would turn each into a new candidate
        for feat_name, id_field in (("item_feat", self.iid_field), ("user_feat", self.uid_field)):
            feat = getattr(self, feat_name)
            if feat is not None:
                used = feat[id_field].isin(set(self.inter_feat[id_field]))
                setattr(self, feat_name, feat[used].reset_index(drop=True))
        rating_field = self.config["RATING_FIELD"]
        self.raw = RawInteractions(
            users=self.inter_feat[self.uid_field].to_numpy().astype(str),
            items=self.inter_feat[self.iid_field].to_numpy().astype(str),
            times=self._column(self.time_field),
            ratings=self._column(rating_field),
        )

    def _column(self, name: str | None) -> np.ndarray | None:
        return self.inter_feat[name].to_numpy() if name in self.inter_feat else None

    def _download(self) -> None:
        raise DataError(
            f"dataset folder {self.dataset_path} does not exist; put the atomic files of '{self.dataset_name}' "
            "there or set data_path to the folder that holds it"
        )


class _UnlinkedItemsMixin:
    """Keeps the interactions of items that no link leads from, which RecBole drops: all models rank the same items."""

    def _filter_link(self) -> None:
        kept = self.inter_feat
        self.inter_feat = kept.copy()
        super()._filter_link()  # from the copy, in place
        self.inter_feat = kept


def dataset_class(config, augment: bool) -> type[Dataset]:
    """RecBole's dataset class for the model, with :class:`SplitDatasetMixin`.

    Args:
        config: RecBole's Config.
        augment: False for models that read whole histories instead of RecBole's one-row-a-prefix augmentation.
    """
    module = import_module("recbole.data.dataset")
    by_type = {ModelType.SEQUENTIAL: SequentialDataset, ModelType.KNOWLEDGE: KnowledgeBasedDataset}
    base = getattr(module, f"{config['model']}Dataset", None) or by_type.get(config["MODEL_TYPE"], Dataset)
    if not augment:
        base = Dataset
    mixins = (
        (SplitDatasetMixin, _UnlinkedItemsMixin) if issubclass(base, KnowledgeBasedDataset) else (SplitDatasetMixin,)
    )
    return type(f"Split{base.__name__}", (*mixins, base), {})


@dataclass
class RecData:
    """A dataset, its split and its features; everything that training and evaluation read.

    Attributes:
        base: all rows that passed the filters, RecBole ids, not yet converted (no model sees it).
        train: RecBole dataset of the training rows; ``train.features`` holds the aligned features.
        split: who is train, valid, test.
        features: name -> aligned feature, row i belongs to internal id i.
        proposed_edges: (user, liked, disliked) that a language model proposed, where a file of them is named.
            [n, 3] int64.
        knowledge: the graph around the items, for models that use one.
    """

    config: object
    base: Dataset
    split: Split
    features: dict[str, AlignedFeature] = field(default_factory=dict)
    proposed_edges: np.ndarray | None = None
    knowledge: KnowledgeGraph | None = None

    def __post_init__(self) -> None:
        frame = self.base.inter_feat
        self.user_ids = frame[self.base.uid_field].to_numpy().astype(np.int64)
        self.item_ids = frame[self.base.iid_field].to_numpy().astype(np.int64)

    @cached_property
    def train(self) -> Dataset:
        train = self.subset(self.split.train)
        train.features, train.proposed_edges, train.knowledge = self.features, self.proposed_edges, self.knowledge
        train.split_fingerprint = self.split.fingerprint
        return train

    @property
    def n_items(self) -> int:
        return self.base.item_num

    @cached_property
    def item_counts(self) -> np.ndarray:
        """Training interactions per item id. [n_items] int64."""
        return self.counts(self.base.iid_field)

    def counts(self, id_field: str) -> np.ndarray:
        """Training interactions per id of a field of the interactions. [n] int64."""
        ids = self.base.inter_feat[id_field].to_numpy().astype(np.int64)[self.split.train]
        return np.bincount(ids, minlength=self.base.num(id_field))

    @cached_property
    def cold_items(self) -> dict[str, np.ndarray]:
        """part -> ids of the items that the protocol holds out whole, ascending. int64."""
        item_id = self.base.field2token_id[self.base.iid_field]
        return {
            part: np.sort(np.array([item_id[token] for token in tokens], dtype=np.int64))
            for part, tokens in self.split.cold_items.items()
        }

    def subset(self, rows: np.ndarray) -> Dataset:
        """RecBole dataset of the named rows, converted (and augmented, where its class does that)."""
        part = copy.copy(self.base)
        # rows come in true time order: RecBole sorts by float32 times (64 s apart for Unix seconds), stably
        part.inter_feat = self.base.inter_feat.iloc[self.by_time(rows)].reset_index(drop=True)
        part._change_feat_format()
        return part

    def by_time(self, rows: np.ndarray) -> np.ndarray:
        """The rows in time order; equal times, and rows without times, keep file order."""
        rows = np.sort(rows)
        times = self.base.raw.times
        return rows if times is None else rows[np.argsort(times[rows], kind="stable")]

    def histories(self, users: np.ndarray, rows: np.ndarray) -> Interaction:
        """Model inputs of the users at the end of their known rows, right-padded as in RecBole.

        Args:
            users: internal user ids. [n] int64.
            rows: known interactions, in any order. [m] int64.
        Returns:
            Interaction of user fields, ``<field>_list`` [n, L] for every interaction field, and the length [n]
            (at least 1: a user without history is one [PAD]).
        """
        inputs = {self.base.uid_field: torch.from_numpy(users)}
        if self.config["MODEL_TYPE"] == ModelType.SEQUENTIAL:
            length = int(self.config["MAX_ITEM_LIST_LENGTH"])
            rows = self.by_time(rows)
            index, lengths = last_before(
                self.user_ids[rows], None, users, None, length
            )  # [n, L] positions in rows, -1 padding
            inputs |= self.columns_of(rows, index)
            inputs[self.config["ITEM_LIST_LENGTH_FIELD"]] = torch.from_numpy(np.maximum(lengths, 1))
        return self.train.join(Interaction(inputs))

    def columns_of(self, rows: np.ndarray, index: np.ndarray) -> dict[str, torch.Tensor]:
        """``<field>_list`` of every interaction field but the user's, 0 where there is no entry.

        Args:
            rows: interactions [m] int64. index: places in ``rows``, -1 for none [n, L] int64.
        Returns:
            name -> [n, L] int64 or float32.
        """
        found, base, suffix = {}, self.base, self.config["LIST_SUFFIX"]
        real = index >= 0
        for name in base.inter_feat.columns:
            if name == base.uid_field:
                continue
            values = base.inter_feat[name].to_numpy()
            if values.dtype == object:  # token_seq / float_seq inside an interaction has no list form here
                continue
            column = values[rows][np.where(real, index, 0)] * real if len(rows) else np.zeros(index.shape)
            dtype = torch.int64 if np.issubdtype(values.dtype, np.integer) else torch.float32
            found[name + suffix] = torch.from_numpy(column).to(dtype)
        return found

    def candidates(self, part: str, rows: np.ndarray, n: int, seed: int) -> dict[int, np.ndarray]:
        """The fixed candidates of each row's target: ``n`` uniform items and the target itself, as item ids."""
        token_of_user, token_of_item = self._tokens(self.base.uid_field), self._tokens(self.base.iid_field)
        users = self.user_ids[rows]
        if len(np.unique(users)) != len(users):
            raise ConfigError("n_candidates needs one target a user: use it with a leave-one-out split")
        targets = [(token_of_user[u], token_of_item[i]) for u, i in zip(users, self.item_ids[rows], strict=True)]
        drawn = draw_candidates(targets, self.split.universe, n, seed, part)
        item_id = self.base.field2token_id[self.base.iid_field]
        ids = np.vectorize(item_id.__getitem__, otypes=[np.int64])(drawn)
        return {int(u): np.append(row, i) for u, row, i in zip(users, ids, self.item_ids[rows], strict=True)}

    def _tokens(self, id_field: str) -> np.ndarray:
        return self.base.field2id_token[id_field]


def load_data(config, augment: bool) -> RecData:
    """Load, filter and split the dataset of a config.

    Args:
        config: RecBole's Config made by ``recbole_llm.config.build_config``.
        augment: see :func:`dataset_class`.
    Raises:
        DataError: if a column that the protocol needs is missing.
    """
    if config["benchmark_filename"]:
        raise ConfigError("benchmark_filename is not supported: the split is made by the protocol (see protocol)")
    base = dataset_class(config, augment)(config)
    raw, eval_args = base.raw, config["eval_args"]
    spec = SplitSpec(
        split=eval_args["split"],
        order=eval_args["order"],
        group_by=eval_args["group_by"] or "none",
        seed=config["split_seed"],
        min_rating=config["min_rating"],
        min_user_inter=config["min_user_inter"],
        cold_items=config["cold_items"] or 0.0,
    )
    if spec.order == "TO" and raw.times is None:
        raise DataError(
            f"protocol '{config['protocol']}' orders by time, but dataset '{config['dataset']}' has no column "
            f"'{config['TIME_FIELD']}'; load it in load_col or choose a protocol with order RO"
        )
    if spec.min_rating is not None and raw.ratings is None:
        raise DataError(
            f"min_rating needs the column '{config['RATING_FIELD']}' in dataset '{config['dataset']}'; "
            "load it in load_col or set min_rating to null"
        )
    split = Split.from_interactions(raw.users, raw.items, spec, times=raw.times, ratings=raw.ratings)
    return RecData(config, base, split)
