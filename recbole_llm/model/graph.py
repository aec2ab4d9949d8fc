"""The training graph: a sparse symmetric adjacency, and the LightGCN propagation over it.

RecBole multiplies a COO tensor with int64 indices and keeps every layer for the backward pass. Here the adjacency is
CSR with int32 indices, and because it is symmetric, a mean over its powers is its own transpose: the backward pass is
the forward pass on the gradient, and nothing is kept between them (benchmarks/propagation.py).

Shapes: U users, N items (row 0 of each = [PAD]), M = U + N nodes, users first, D embedding size.
"""

import hashlib
import warnings

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

_KEPT_GRAPHS = 4  # of a process, newest last: a run needs one, a test several
_graphs: dict[str, Tensor] = {}


def normalised_adjacency(users: np.ndarray, items: np.ndarray, n_users: int, n_items: int) -> sp.csr_matrix:
    r"""Symmetrically normalised adjacency :math:`D^{-1/2} A D^{-1/2}` of the bipartite graph of interactions.

    He et al. 2020, https://arxiv.org/abs/2002.02126, eq. 8. A repeated interaction is one edge.

    Args:
        users, items: ids of the training interactions. [n] int64 each.
        n_users, n_items: U and N.
    Returns:
        [M, M] float32, without self-loops; rows of nodes without an edge are empty.
    """
    r = sp.csr_matrix((np.ones(len(users), dtype=np.float32), (users, items)), shape=(n_users, n_items))
    r.data[:] = 1.0  # the constructor has summed repeated pairs
    scale_u, scale_i = (
        1.0 / np.sqrt(np.maximum(np.asarray(r.sum(axis=axis), dtype=np.float64).ravel(), 1.0)) for axis in (1, 0)
    )
    r = sp.diags(scale_u) @ r @ sp.diags(scale_i)
    return sp.bmat([[None, r], [r.T, None]], format="csr", dtype=np.float32)


def csr_tensor(matrix: sp.csr_matrix) -> Tensor:
    """Sparse tensor of a symmetric scipy matrix, in the fastest layout that this build of torch multiplies.

    CSR with int32 indices; where torch comes without MKL and there is no GPU, coalesced COO.

    Raises:
        ValueError: for 2^31 edges and more, which int32 cannot count.
    """
    if matrix.nnz >= 2**31:
        raise ValueError(f"the graph has {matrix.nnz} edges; int32 indices hold at most {2**31 - 1}")
    if not (torch.backends.mkl.is_available() or torch.cuda.is_available()):
        coo = matrix.tocoo()
        indices = torch.from_numpy(np.stack([coo.row, coo.col]).astype(np.int64))
        return torch.sparse_coo_tensor(indices, torch.from_numpy(coo.data), coo.shape, check_invariants=True).coalesce()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta state")
        return torch.sparse_csr_tensor(
            torch.from_numpy(matrix.indptr.astype(np.int32)),
            torch.from_numpy(matrix.indices.astype(np.int32)),
            torch.from_numpy(matrix.data),
            matrix.shape,
            check_invariants=True,
        )


def training_graph(dataset) -> Tensor:
    """Adjacency of a dataset's interactions, see :func:`adjacency_of`.

    Args:
        dataset: the RecBole dataset that a model is built from: it holds the training rows alone.
    """
    inter = dataset.inter_feat
    users, items = inter[dataset.uid_field].numpy(), inter[dataset.iid_field].numpy()
    return adjacency_of(users, items, dataset.user_num, dataset.item_num)


def adjacency_of(users: np.ndarray, items: np.ndarray, n_users: int, n_items: int) -> Tensor:
    """Normalised adjacency as a sparse tensor; built once a process for the same interactions.

    Args:
        users, items, n_users, n_items: see :func:`normalised_adjacency`.
    Returns:
        [M, M] float32 on the CPU, see :func:`csr_tensor`; the tensor is shared, so it must not be changed.
    """
    digest = hashlib.sha256(f"{n_users} {n_items} {np.result_type(users, items)} ".encode())
    digest.update(np.ascontiguousarray(users).tobytes() + np.ascontiguousarray(items).tobytes())
    key = digest.hexdigest()
    if key not in _graphs:
        _graphs[key] = csr_tensor(normalised_adjacency(users, items, n_users, n_items))
        while len(_graphs) > _KEPT_GRAPHS:
            del _graphs[next(iter(_graphs))]
    return _graphs[key]


class _LayerMean(torch.autograd.Function):
    """Mean of x, Ax, ..., A^L x for a symmetric A."""

    @staticmethod
    def forward(ctx, adjacency: Tensor, x: Tensor, n_layers: int) -> Tensor:
        ctx.adjacency, ctx.n_layers = adjacency, n_layers
        return _layer_mean(adjacency, x, n_layers)

    @staticmethod
    def backward(ctx, grad: Tensor):
        return None, _layer_mean(ctx.adjacency, grad.contiguous(), ctx.n_layers), None


def _layer_mean(adjacency: Tensor, x: Tensor, n_layers: int) -> Tensor:
    layer, total = x, x.clone()
    for _ in range(n_layers):
        layer = adjacency @ layer
        total += layer
    return total.div_(n_layers + 1)


def layer_mean(adjacency: Tensor, x: Tensor, n_layers: int) -> Tensor:
    r"""LightGCN's propagation: :math:`\frac{1}{L+1} \sum_{l=0}^{L} A^l x`.

    He et al. 2020, https://arxiv.org/abs/2002.02126, eq. 7 with equal weights.

    Args:
        adjacency: symmetric, of :func:`csr_tensor`. [M, M].
        x: node vectors. [M, D] float32.
        n_layers: L, >= 0.
    Returns:
        [M, D] float32.
    """
    return _LayerMean.apply(adjacency, x, n_layers)
