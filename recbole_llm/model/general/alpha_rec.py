"""AlphaRec: light graph convolution over vectors that are made from frozen item text alone."""

import torch
import torch.nn.functional as F
from recbole.utils import InputType
from torch import Tensor, nn

from recbole_llm.model.content import joined_features
from recbole_llm.model.general.inner_product import InnerProduct
from recbole_llm.model.graph import layer_mean, training_graph
from recbole_llm.model.losses import full_cross_entropy, sampled_info_nce, shared_negatives


class AlphaRec(InnerProduct):
    r"""Score :math:`s(u, i) = \cos(e_u, e_i)`, e = mean over l = 0..L of :math:`A^l f(z)`.

    Sheng et al. 2024, https://arxiv.org/abs/2407.05441: :math:`z_i` the frozen text of item i, :math:`z_u` the
    mean of the texts of the user's training items, f an MLP with one hidden layer and LeakyReLU, A the symmetrically
    normalised training graph, InfoNCE with sampled negatives. There are no ids: items without interactions are scored
    by their text. Differs: text joined from several features and whitened; negatives shared by a batch, uniform, with
    the logQ correction that makes the loss estimate the softmax over all items.

    An item without text, or a user none of whose items has any, starts from zero instead of f(0): what it is, its
    neighbours in the graph tell.
    Config: ``embedding_size``, ``hidden_size``, ``n_layers``, ``temperature``, ``num_negatives``, ``item_features``,
    ``whiten``, ``text_dim``.
    Shapes: B batch, U n_users, N n_items (row 0 of each = [PAD]), M = U + N nodes, F' text_dim, D embedding_size, K
    num_negatives.
    """

    input_type = InputType.POINTWISE

    def __init__(self, config, dataset) -> None:
        super().__init__(config, dataset)
        self.n_layers, self.temperature = config["n_layers"], config["temperature"]
        self.num_negatives = config["num_negatives"]
        text, present = joined_features(dataset, config["item_features"], config["whiten"], config["text_dim"])
        x = dataset.inter_matrix(form="csr")  # [U, N]
        n_texts = torch.from_numpy(x @ present.numpy().astype("float32"))[:, None]  # [U, 1] the user's items with text
        user_text = torch.from_numpy(x @ text.numpy()) / n_texts.clamp(min=1)  # [U, F']
        known = torch.cat([n_texts > 0, present[:, None]]).float()  # [M, 1]
        self.register_buffer("graph", training_graph(dataset), persistent=False)
        self.register_buffer("text", torch.cat([user_text, text]).float(), persistent=False)  # [M, F']
        self.register_buffer("known", known, persistent=False)
        self.mlp = nn.Sequential(
            nn.Linear(text.shape[1], config["hidden_size"]),
            nn.LeakyReLU(),
            nn.Linear(config["hidden_size"], config["embedding_size"]),
        )

    def forward(self) -> tuple[Tensor, Tensor]:
        """Unit vectors of users [U, D] and items [N, D]."""
        start = self.mlp(self.text) * self.known  # [M, D]
        nodes = F.normalize(layer_mean(self.graph, start, self.n_layers), dim=1)  # [M, D]
        return nodes[: self.n_users], nodes[self.n_users :]

    def calculate_loss(self, interaction) -> Tensor:
        """InfoNCE of the batch's interactions against K negatives or all items, nats."""
        users, items = self()
        targets = interaction[self.ITEM_ID]  # [B]
        queries = users[interaction[self.USER_ID]] / self.temperature  # [B, D]
        if not self.num_negatives:
            return full_cross_entropy(queries, items, targets)
        negatives = shared_negatives(self.n_items, self.num_negatives).to(targets.device)  # [K]
        pos_logits = (queries * items[targets]).sum(1)  # [B]
        return sampled_info_nce(pos_logits, queries @ items[negatives].T, targets, negatives, self.n_items)
