"""Patches for what numpy, pandas, torch and scipy changed after RecBole 1.2.1."""

import warnings
from collections.abc import Callable, Iterator
from functools import partial, wraps
from typing import Any

from recbole_llm.compat.patch import Change, ModuleView, Patch, at_least, models, seen_by

# numpy ----------------------------------------------------------------------------------------------------------------

# modules that read np.float or np.str, gone since numpy 1.24; RecBole's Config puts them back into numpy for everybody,
# from np.float_ and the like, which are gone since numpy 2.0
NUMPY_ALIASES = {
    "data.dataset.dataset": "float",
    "data.interaction": "float",
    "evaluator.metrics": "float",
    "trainer.hyper_tuning": "str",
}


def _numpy_2() -> bool:
    return at_least("numpy", 2, 0)


def _numpy_aliases() -> Iterator[Change]:
    import numpy as np
    from recbole.config import Config

    aliases = {"float": np.float64, "str": np.str_}
    for module, alias in NUMPY_ALIASES.items():
        yield seen_by(module, "np"), alias, aliases[alias]
    yield Config, "compatibility_settings", lambda self: None


def _tensors_to_numpy() -> Iterator[Change]:
    import numpy as np
    import torch

    def argsort(tensor: torch.Tensor, kind: str) -> torch.Tensor:
        return torch.from_numpy(np.argsort(tensor.numpy(), kind=kind))

    def array(values: Any, **kwargs: Any) -> np.ndarray:
        return np.array(values.numpy() if isinstance(values, torch.Tensor) else values, **kwargs)

    yield seen_by("data.interaction", "np"), "argsort", argsort
    yield seen_by("model.general_recommender.line", "np"), "array", array


# pandas ---------------------------------------------------------------------------------------------------------------


def _dataset_warnings() -> Iterator[Change]:
    from recbole.data.dataset import Dataset, SequentialDataset

    def quiet(method: Callable) -> Callable:
        @wraps(method)
        def call(*args: Any, **kwargs: Any) -> Any:
            # below pandas 3, which `require_recbole` demands, both do what RecBole means by them
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "A value is trying to be set on a copy", FutureWarning)
                warnings.filterwarnings("ignore", "using <built-in function len> in Series.agg", FutureWarning)
                return method(*args, **kwargs)

        return call

    yield Dataset, "_from_scratch", quiet(Dataset._from_scratch)
    yield SequentialDataset, "_benchmark_presets", quiet(SequentialDataset._benchmark_presets)


# torch ----------------------------------------------------------------------------------------------------------------

TORCH_LOAD = (
    "trainer.trainer",
    *models("general", "convncf nais neumf ract"),
    *models("context_aware", "kd_dagfm"),
    *models("sequential", "s3rec"),
)

SPARSE_TENSORS = (
    "model.layers",
    *models("general", "dgcf dmf gcmc lightgcn ncl ngcf sgl spectralcf"),
    *models("knowledge_aware", "kgat kgin mcclk"),
)


def _torch_load() -> Iterator[Change]:
    import torch

    def load(*args: Any, **kwargs: Any) -> Any:
        # RecBole pickles its Config object into every checkpoint, which the safe loader refuses. Unpickling runs code,
        # so a RecBole checkpoint is to be trusted like a program; files of this project never come through here.
        return torch.load(*args, **{"weights_only": False, **kwargs})

    for module in TORCH_LOAD:
        yield seen_by(module, "torch"), "load", load


def _sparse_tensors() -> Iterator[Change]:
    import torch

    # the old constructor checked nothing either; saying so keeps torch from warning that it does not
    sparse = ModuleView(torch.sparse, FloatTensor=partial(torch.sparse_coo_tensor, check_invariants=False))
    for module in SPARSE_TENSORS:
        yield seen_by(module, "torch"), "sparse", sparse


def _mixed_precision() -> Iterator[Change]:
    import torch

    for name in ("GradScaler", "autocast"):
        yield seen_by("trainer.trainer", "amp"), name, partial(getattr(torch.amp, name), "cuda")


# scipy ----------------------------------------------------------------------------------------------------------------

GRAPH_MODELS = (
    *models("general", "gcmc lightgcn ncl ngcf spectralcf"),
    *models("knowledge_aware", "kgin mcclk"),
)


def _dok_lacks_update() -> bool:
    from scipy.sparse import dok_matrix

    return not hasattr(dok_matrix, "_update")


def _graph_matrix() -> Iterator[Change]:
    import numpy as np
    import scipy.sparse as sp

    class GraphMatrix(sp.csr_matrix):
        """An empty matrix that RecBole's graph models fill once by ``_update`` and then only read.

        CSR instead of the dictionary of keys: the public ``dok_matrix.update`` checks every key (18 s for a million
        edges against 0.8 s), and each later sum or product would convert the dictionary again.
        """

        def _update(self, edges: dict[tuple[int, int], int]) -> None:
            ends = np.fromiter((end for edge in edges for end in edge), np.int64, 2 * len(edges)).reshape(-1, 2)
            values = np.fromiter(edges.values(), self.dtype, len(edges))
            graph = sp.csr_matrix((values, (ends[:, 0], ends[:, 1])), shape=self.shape)
            self.data, self.indices, self.indptr = graph.data, graph.indices, graph.indptr

    for module in GRAPH_MODELS:
        yield seen_by(module, "sp"), "dok_matrix", GraphMatrix


LIBRARY_PATCHES = (
    Patch(
        "numpy-aliases",
        "every run: Config sets np.float = np.float_ and the like, which numpy no longer has",
        "numpy 2.0",
        _numpy_2,
        _numpy_aliases,
    ),
    Patch(
        "numpy-of-tensors",
        "sorting an Interaction and LINE's sampler hand tensors to numpy in a deprecated way (DeprecationWarning)",
        "numpy 2.0",
        _numpy_2,
        _tensors_to_numpy,
    ),
    Patch(
        "pandas-warnings",
        "loading any dataset: chained fillna(inplace=True) and Series.agg(len) raise FutureWarning",
        "pandas 2.1",
        partial(at_least, "pandas", 2, 1),
        _dataset_warnings,
    ),
    Patch(
        "torch-load",
        "evaluating the best checkpoint, resuming, and every model that loads pretrained weights: torch.load refuses "
        "RecBole's checkpoints",
        "torch 2.6",
        partial(at_least, "torch", 2, 6),
        _torch_load,
    ),
    Patch(
        "torch-sparse-tensors",
        "graph models: the constructor torch.sparse.FloatTensor is deprecated (UserWarning)",
        "torch 2.1",
        partial(at_least, "torch", 2, 1),
        _sparse_tensors,
    ),
    Patch(
        "torch-amp",
        "every training epoch: torch.cuda.amp.GradScaler, and in NCL autocast, raise FutureWarning",
        "torch 2.4",
        partial(at_least, "torch", 2, 4),
        _mixed_precision,
    ),
    Patch(
        "scipy-dok-update",
        "LightGCN, NGCF, NCL, GCMC, SpectralCF, KGIN and MCCLK: dok_matrix._update is gone",
        "scipy 1.13",
        _dok_lacks_update,
        _graph_matrix,
    ),
)
