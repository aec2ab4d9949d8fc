"""RecBole's LightGCN and SGL over the sparse products of model/graph.py (``fast_graph: true``).

Same parameters, same initial values, same scores to 1e-5; only how the graph is built and multiplied differs. RecBole
fills a dictionary with every edge and multiplies in COO.
"""

import torch
from recbole.model.general_recommender.lightgcn import LightGCN as RecBoleLightGCN
from recbole.model.general_recommender.sgl import SGL as RecBoleSGL
from torch import Tensor

from recbole_llm.model.graph import adjacency_of, csr_tensor, layer_mean


class LightGCN(RecBoleLightGCN):
    """He et al. 2020, https://arxiv.org/abs/2002.02126, as in RecBole."""

    def get_norm_adj_mat(self) -> Tensor:
        """Adjacency of the training interactions. [n_users + n_items, n_users + n_items] sparse."""
        matrix = self.interaction_matrix
        return adjacency_of(matrix.row, matrix.col, self.n_users, self.n_items)

    def forward(self) -> tuple[Tensor, Tensor]:
        """Vectors of users and items. [n_users, D], [n_items, D]."""
        mean = layer_mean(self.norm_adj_matrix, self.get_ego_embeddings(), self.n_layers)
        return torch.split(mean, [self.n_users, self.n_items])


class SGL(RecBoleSGL):
    """Wu et al. 2021, https://arxiv.org/abs/2010.10783, as in RecBole, of type ED or ND: one graph a view."""

    def csr2tensor(self, matrix) -> Tensor:
        """Adjacency of a view. [n_users + n_items, n_users + n_items] sparse."""
        return csr_tensor(matrix.tocsr().astype("float32")).to(self.device)

    def forward(self, graph: Tensor) -> tuple[Tensor, Tensor]:
        """Vectors of users and items over a view. [n_users, D], [n_items, D]."""
        ego = torch.cat([self.user_embedding.weight, self.item_embedding.weight])
        return torch.split(layer_mean(graph, ego, self.n_layers), [self.n_users, self.n_items])
