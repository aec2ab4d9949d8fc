"""AGLRec: LightGCN over identity and language embeddings."""

import torch
import torch.nn.functional as F
from recbole.utils import InputType
from torch import Tensor, nn

from recbole_llm.errors import ConfigError
from recbole_llm.model.general.aglrec_text import (
    ContentPath,
    Fusion,
    item_texts,
    principal_rows,
    user_text,
    weighted_sums,
)
from recbole_llm.model.general.inner_product import InnerProduct
from recbole_llm.model.graph import layer_mean, training_graph
from recbole_llm.model.losses import full_cross_entropy, sampled_info_nce, shared_negatives
from recbole_llm.model.negatives import UnseenNegatives

_CHOICES = {"loss": ("softmax", "bpr"), "fusion_mode": ("sum", "concat")}


class AGLRec(InnerProduct):
    r"""LightGCN whose nodes are an identity embedding fused with the projected embedding of a text.

    With :math:`e` the identity embedding of a node and :math:`t` the frozen embedding of its text, whitened:

    - ``sum``: :math:`z = e + P t`; ``concat``: :math:`z = W [e; P t]`;
    - propagation: :math:`h = \frac{1}{L+1} \sum_{l=0}^{L} A^l z`, A the normalised **training** graph (He et al. 2020,
      https://arxiv.org/abs/2002.02126, eq. 7-8);
    - score: :math:`s(u, i) = \cos(h_u, h_i) / \tau`;
    - loss: softmax cross-entropy of s over all items or K shared negatives, or BPR on s with one negative (Rendle et
      al. 2009, https://arxiv.org/abs/1205.2618, eq. 5), plus L2 on the identity embeddings of the batch.

    P starts at zero (``sum``), or W at [I, 0] (``concat``), so that at step 0 the model ranks as without texts. An item
    that no training interaction uses has no identity worth the name: it is scored by its text alone, see
    :class:`~recbole_llm.model.general.aglrec_text.ContentPath`.

    Differs from the system it is named after: the graph and the users' texts come from training rows alone, rows are
    matched by token, cosines are scaled, texts are projected in ``sum`` too.
    Shapes: B batch, U users, N items (row 0 = [PAD]), F text size, D embedding size, K negatives.
    """

    input_type = InputType.POINTWISE

    def __init__(self, config, dataset) -> None:
        super().__init__(config, dataset)
        for key, allowed in _CHOICES.items():
            if config[key] not in allowed:
                raise ConfigError(f"{key} is '{config[key]}'; choose {' or '.join(allowed)}")
        width = config["embedding_size"]
        self.n_layers, self.temperature, self.loss = config["n_layers"], config["temperature"], config["loss"]
        self.num_negatives, self.reg_weight = config["num_negatives"], config["reg_weight"]
        inter = dataset.inter_feat
        users, items = inter[self.USER_ID].long(), inter[self.ITEM_ID].long()
        self.register_buffer("graph", training_graph(dataset), persistent=False)
        self.draw_negatives = UnseenNegatives(users, items, self.n_items)
        self.user_embedding = nn.Embedding(self.n_users, width)
        self.item_embedding = nn.Embedding(self.n_items, width)
        nn.init.normal_(self.user_embedding.weight, std=config["initializer_range"])
        nn.init.normal_(self.item_embedding.weight, std=config["initializer_range"])

        fused, cold, present = item_texts(config, dataset)
        text, make = (fused, present), (config["fusion_mode"], width, config["fusion_dim"])
        of_users = user_text(config, dataset, text) if config["use_user_llm"] else None
        self.item_fusion = Fusion(text if config["use_item_llm"] else None, *make)
        self.user_fusion = Fusion(of_users, *make)
        if config["text_init"]:
            self._start_from(text, users, items, config["initializer_range"])
        self.content = None
        if cold is not None:
            counts = torch.bincount(items, minlength=self.n_items)
            how = (config[f"cold_{name}"] for name in ("reg_weight", "gamma", "scale"))
            self.content = ContentPath(cold, present, counts, *how)

    @torch.no_grad()
    def _start_from(self, text: tuple[Tensor, Tensor], users: Tensor, items: Tensor, std: float) -> None:
        """Initial identities: an item's text in D dimensions, a user's the mean of his items', scaled to ``std``."""
        rows, present = principal_rows(*text, self.item_embedding.embedding_dim)
        totals = weighted_sums(users, items, torch.ones(len(users)), rows, self.n_users)
        for table, start, known in (
            (self.item_embedding, rows, present),
            (self.user_embedding, totals, totals.abs().sum(1) > 0),
        ):
            start = F.normalize(start, dim=-1) * std * table.embedding_dim**0.5
            table.weight[known] = start[known].to(table.weight.device)

    def propagated(self) -> tuple[Tensor, Tensor]:
        """Fused nodes after propagation. users [U, D], items [N, D] float32, of any length."""
        users, items = self.user_fusion(self.user_embedding.weight), self.item_fusion(self.item_embedding.weight)
        h = layer_mean(self.graph, torch.cat([users, items]), self.n_layers)  # [U + N, D]
        return torch.split(h, [self.n_users, self.n_items])

    def forward(self) -> tuple[Tensor, Tensor]:
        """Unit vectors of users [U, D] and items [N, D]; cold items' by their texts alone, of other lengths."""
        users, items = (F.normalize(h, dim=-1) for h in self.propagated())
        return users, items if self.content is None else self.content(items)

    def calculate_loss(self, interaction) -> tuple[Tensor, ...]:
        """Ranking loss and L2. Scalars."""
        users, items = interaction[self.USER_ID], interaction[self.ITEM_ID]
        h_users, h_items = self.propagated()
        queries = F.normalize(h_users[users], dim=-1) / self.temperature  # [B, D]
        losses = [self._ranking_loss(queries, F.normalize(h_items, dim=-1), users, items)]
        if self.reg_weight:
            ego = (self.user_embedding(users), self.item_embedding(items))
            losses.append(self.reg_weight * sum(e.square().sum() for e in ego) / (2 * len(users)))
        return tuple(losses)

    def _ranking_loss(self, queries: Tensor, table: Tensor, users: Tensor, items: Tensor) -> Tensor:
        """queries [B, D] hold 1 / tau, table [N, D] unit rows; users, items [B] int64."""
        if self.loss == "bpr":
            negatives = self.draw_negatives(users)
            return F.softplus((queries * (table[negatives] - table[items])).sum(-1)).mean()
        if not self.num_negatives:
            return full_cross_entropy(queries, table, items)
        negatives = shared_negatives(self.n_items, self.num_negatives).to(items.device)
        wanted = (queries * table[items]).sum(-1)
        return sampled_info_nce(wanted, queries @ table[negatives].T, items, negatives, self.n_items)
