"""Patches for bugs that RecBole 1.2.1 has on every version of its dependencies."""

import importlib.util
from collections.abc import Iterator
from functools import wraps
from typing import Any

from recbole_llm.compat.patch import Change, Patch


def _always() -> bool:
    return True


def _collected_counts() -> Iterator[Change]:
    import torch
    from recbole.evaluator import Collector
    from recbole.evaluator.collector import DataStruct

    per_evaluation = ("rec.topk", "rec.meanrank", "rec.score", "rec.items", "data.label")

    def get_data_struct(self: Collector) -> DataStruct:
        """What the metrics need, tensors on the CPU; forgets what belongs to this evaluation alone."""
        collected = DataStruct()
        for name, value in self.data_struct._data_dict.items():
            collected.set(name, value.cpu() if isinstance(value, torch.Tensor) else value)
        for name in per_evaluation:
            if name in self.data_struct:
                del self.data_struct[name]
        return collected

    yield Collector, "get_data_struct", get_data_struct


class _ScoresOnCpu:
    """A model whose predictions come back on the CPU, where the negative candidates are indexed by them."""

    def __init__(self, model: Any) -> None:
        self._model = model

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def predict(self, interaction: Any) -> Any:
        return self._model.predict(interaction).cpu()


def _dynamic_negatives() -> Iterator[Change]:
    from recbole.data.dataloader.abstract_dataloader import NegSampleDataLoader

    sample = NegSampleDataLoader._neg_sampling

    @wraps(sample)
    def _neg_sampling(self: NegSampleDataLoader, inter_feat: Any) -> Any:
        model = self.model
        if model is not None:
            self.model = _ScoresOnCpu(model)
        try:
            return sample(self, inter_feat)
        finally:
            self.model = model

    yield NegSampleDataLoader, "_neg_sampling", _neg_sampling


def _no_faiss() -> bool:
    return importlib.util.find_spec("faiss") is None


def _ncl_clusters() -> Iterator[Change]:
    import numpy as np
    import torch
    from recbole.model.general_recommender import NCL
    from sklearn.cluster import KMeans

    def run_kmeans(self: NCL, x: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """Cluster embeddings with the settings of faiss.Kmeans: random rows as seeds, 25 iterations, seed 1234.

        Args:
            x: embeddings. [n, D] float32.
        Returns:
            Centroids of unit length, [num_clusters, D] float32, and the cluster of each row, [n] int64.
        """
        kmeans = KMeans(self.k, init="random", n_init=1, max_iter=25, tol=0.0, random_state=1234).fit(x)
        centroids = torch.from_numpy(kmeans.cluster_centers_).to(self.device)
        clusters = torch.from_numpy(kmeans.labels_).long().to(self.device)
        return torch.nn.functional.normalize(centroids, dim=1), clusters

    yield NCL, "run_kmeans", run_kmeans


def _ksr_relations() -> Iterator[Change]:
    from recbole.model.sequential_recommender import KSR

    init = KSR.__init__

    @wraps(init)
    def init_in_float32(self: KSR, config: Any, dataset: Any) -> None:
        init(self, config, dataset)
        self.relation_Matrix = self.relation_Matrix.float()

    yield KSR, "__init__", init_in_float32


def _no_anomaly_mode() -> Iterator[Change]:
    import recbole.model.sequential_recommender.sine  # noqa: F401  # importing any sequential model imports it
    import torch

    torch.autograd.set_detect_anomaly(False)
    return iter(())


def _null_tensorboard() -> Iterator[Change]:
    from recbole.trainer import trainer

    class NullWriter:
        """Takes what RecBole's trainer would write to TensorBoard; the run record holds it already."""

        def add_scalar(self, *args: Any, **kwargs: Any) -> None: ...

        def add_hparams(self, *args: Any, **kwargs: Any) -> None: ...

        def close(self) -> None: ...

    yield trainer, "get_tensorboard", lambda logger: NullWriter()


def _pop_counts() -> Iterator[Change]:
    import torch
    from recbole.model.general_recommender import Pop

    def calculate_loss(self: Pop, interaction: Any) -> torch.nn.Parameter:
        """Count every interaction of the batch. Returns RecBole's fake loss."""
        item = interaction[self.ITEM_ID]
        ones = torch.ones(len(item), 1, dtype=self.item_cnt.dtype, device=self.item_cnt.device)
        self.item_cnt.index_add_(0, item.to(self.item_cnt.device), ones)
        self.max_cnt = torch.max(self.item_cnt, dim=0)[0]
        return torch.nn.Parameter(torch.zeros(1)).to(self.device)

    yield Pop, "calculate_loss", calculate_loss


OWN_PATCHES = (
    Patch(
        "anomaly-mode",
        "every sequential model trains with torch's anomaly detection on, several times slower: sine.py switches it on",
        "recbole 1.2.1",
        _always,
        _no_anomaly_mode,
    ),
    Patch(
        "tensorboard-folder",
        "the trainer writes TensorBoard files to the working folder",
        "recbole 1.2.1",
        _always,
        _null_tensorboard,
    ),
    Patch(
        "pop-counts",
        "Pop counts an item once a batch, however often it occurs in it, so it ranks by the wrong popularity",
        "recbole 1.2.1",
        _always,
        _pop_counts,
    ),
    Patch(
        "metric-counts",
        "ItemCoverage, AveragePopularity, GiniIndex and TailPercentage: the collector calls .cpu() on plain counts",
        "recbole 1.2.1",
        _always,
        _collected_counts,
    ),
    Patch(
        "dynamic-negatives",
        "dynamic negative sampling on a GPU: candidates on the CPU are indexed by a GPU tensor",
        "recbole 1.2.1",
        _always,
        _dynamic_negatives,
    ),
    Patch(
        "ncl-clusters",
        "NCL: its clustering imports faiss, which RecBole does not declare; scikit-learn clusters where it is missing",
        "recbole 1.2.1",
        _no_faiss,
        _ncl_clusters,
    ),
    Patch(
        "ksr-relations",
        "KSR: its relation vectors are float64 and are multiplied with float32 states",
        "recbole 1.2.1",
        _always,
        _ksr_relations,
    ),
)
