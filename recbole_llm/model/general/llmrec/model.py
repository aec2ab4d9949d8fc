"""LLMRec: losses, scores, vectors."""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from recbole.utils import InputType
from torch import Tensor, nn

from recbole_llm.errors import ConfigError
from recbole_llm.model.content import joined_features
from recbole_llm.model.general.inner_product import InnerProduct
from recbole_llm.model.general.llmrec.edges import embedding_edges
from recbole_llm.model.general.llmrec.restoration import Restoration
from recbole_llm.model.general.llmrec.side import KINDS, SideBranch, sides_of
from recbole_llm.model.graph import layer_mean, training_graph
from recbole_llm.model.losses import full_cross_entropy, sampled_info_nce, shared_negatives
from recbole_llm.model.negatives import UnseenNegatives

LOSSES = ("bpr", "softmax")


class Nodes(NamedTuple):
    """Propagated identities: users [U, D], items [N, D] float32."""

    users: Tensor
    items: Tensor


class Triples(NamedTuple):
    """What a step ranks: users, items they like, others [B] int64; shared negatives of the softmax [K], or None."""

    users: Tensor
    items: Tensor
    negatives: Tensor
    shared: Tensor | None

    def first(self, n: int) -> "Triples":
        """The first n of them, for losses that a part of a (shuffled) batch will do for."""
        return Triples(self.users[:n], self.items[:n], self.negatives[:n], self.shared)


class Rows:
    """Which rows of a table a step needs, and where they stand: all of them where nearly all are named.

    Args:
        wanted: ids, with repetitions [n] int64; None: all. size: rows of the table.
    """

    def __init__(self, wanted: Tensor | None, size: int) -> None:
        self.ids = None if wanted is None else wanted.unique()
        if self.ids is not None and 2 * len(self.ids) > size:
            self.ids = None

    def of(self, table: Tensor) -> Tensor:
        """The rows of a table of all ids."""
        return table if self.ids is None else table[self.ids]

    def look_up(self, table: Tensor, ids: Tensor | None) -> Tensor:
        """Rows of a table of these rows by id; None: the table."""
        if ids is None:
            return table
        return table[ids if self.ids is None else torch.searchsorted(self.ids, ids)]


class LLMRec(InnerProduct):
    r"""Light graph convolution of identities plus propagated side information, trained on augmented edges.

    Wei et al. 2024, https://arxiv.org/abs/2311.00423:

    .. math::
        h = \frac{1}{L+1} \sum_{l=0}^{L} E^{(l)} + \sum_k w_k\, \mathrm{norm}(A^{(k)} X_k W_k)

    over the branches k of :mod:`~recbole_llm.model.general.llmrec.side`: texts and images of items, their attributes,
    profiles of users. Loss: BPR on :math:`h_u \cdot h_i` (or a cosine softmax), a share of the batch being edges that a
    language model proposed; BPR of the branches themselves; masked-feature restoration.

    Corrected against the released code: pruning drops the **highest** losses, after a warm-up; a copy of the features
    is masked, and its decoder trained; layers are stacked; the adjacency is symmetric, of training rows; the L2 penalty
    grows with the norm. An item that no training interaction uses has no identity (zero) and no users to propagate
    from: its own features stand in their place.
    Shapes: B batch, U users, N items (row 0 = [PAD]), D embedding size, L layers.
    """

    input_type = InputType.POINTWISE

    def __init__(self, config, dataset) -> None:
        super().__init__(config, dataset)
        if config["loss"] not in LOSSES:
            raise ConfigError(f"loss is '{config['loss']}'; choose {' or '.join(LOSSES)}")
        width = config["embedding_size"]
        self.n_layers, self.loss, self.temperature = config["n_layers"], config["loss"], config["temperature"]
        self.num_negatives, self.reg_weight = config["num_negatives"], config["reg_weight"]
        self.edge_share, self.prune_rate = config["edge_share"], config["prune_rate"]
        self.restoration_weight, self.side_loss_rows = config["restoration_weight"], config["side_loss_rows"]
        self.side_weights = {kind: config[f"{kind}_weight"] for kind in KINDS}
        self.side_loss_weights = {kind: config[f"{kind}_loss_weight"] for kind in KINDS if kind != "profile"}
        self.stage = "train"

        inter = dataset.inter_feat
        users, items = inter[self.USER_ID].long(), inter[self.ITEM_ID].long()
        adjacency = training_graph(dataset)
        self.register_buffer("graph", adjacency, persistent=False)
        used = torch.bincount(items, minlength=self.n_items) > 0
        self.register_buffer("used", used[:, None], persistent=False)  # [N, 1]
        self.draw_negatives = UnseenNegatives(users, items, self.n_items)
        self.user_embedding = nn.Embedding(self.n_users, width)
        self.item_embedding = nn.Embedding(self.n_items, width)
        nn.init.xavier_uniform_(self.user_embedding.weight)
        nn.init.xavier_uniform_(self.item_embedding.weight)

        sides = sides_of(config, dataset, adjacency)
        self.side_names = [side.name for side in sides]
        self.sides = nn.ModuleList(SideBranch(side, width) for side in sides)
        self.register_buffer("edges", self._edges(config, dataset), persistent=False)
        self.restoration = Restoration(self.sides, config["mask_rate"], width) if config["mask_rate"] else None

    def _edges(self, config, dataset) -> Tensor:
        """Proposed edges (user, liked, disliked). [E, 3] int64."""
        if config["edges"] is None or not self.edge_share:
            return torch.empty(0, 3, dtype=torch.long)
        if config["edges"] != "embedding":
            return torch.from_numpy(dataset.proposed_edges)
        if not config["item_features"]:
            raise ConfigError(
                "edges: embedding chooses by item_features, but there are none; name some or set edges to ~"
            )
        text, present = joined_features(dataset, config["item_features"], config["whiten"], config["text_dim"])
        ones = dataset.inter_matrix(form="csr").astype("float32")
        ones.sum_duplicates()
        ones.data[:] = 1.0
        return embedding_edges(ones, text, present, config["edge_candidates"])

    # ------------------------------------------------------------------ training stages

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """Groups that stages train: ``backbone``, the identities, and ``side``, all that reads features."""
        side = [*self.sides.parameters(), *(self.restoration.parameters() if self.restoration else ())]
        return {"backbone": [self.user_embedding.weight, self.item_embedding.weight], "side": side}

    def set_stage(self, stage: str) -> None:
        """Losses of the stage: in ``warm_up`` none is pruned, for what is noise shows only after it."""
        self.stage = stage

    # ------------------------------------------------------------------ vectors

    def nodes(self) -> Nodes:
        """Propagated identities; zero for items without training interactions."""
        ego = torch.cat([self.user_embedding.weight, self.item_embedding.weight * self.used])
        return Nodes(*torch.split(layer_mean(self.graph, ego, self.n_layers), [self.n_users, self.n_items]))

    def side_parts(self, which: str, ids: Tensor | None) -> list[Tensor | None]:
        """Rows of length 1 of every branch, see SideBranch.of; None for a branch that has none of the kind."""
        return [None if getattr(branch, which) is None else branch.of(which, ids) for branch in self.sides]

    def with_sides(self, h: Tensor | None, parts: list[Tensor | None]) -> Tensor:
        """Identities, where there are any, and the weighted branches. [B, D]."""
        for branch, part in zip(self.sides, parts, strict=True):
            if part is not None and self.side_weights[branch.kind]:
                part = self.side_weights[branch.kind] * part
                h = part if h is None else h + part
        return h

    def item_vectors(self, nodes: Nodes, parts: list[Tensor | None], rows: Rows) -> Tensor:
        """h of items. parts: of the branches, for the rows -> [B, D]."""
        return self.with_sides(rows.of(nodes.items), parts)

    def forward(self) -> tuple[Tensor, Tensor]:
        """Vectors of users [U, D] and items [N, D]; of length 1 under the softmax loss, whose score is a cosine."""
        nodes = self.nodes()
        users = self.with_sides(nodes.users, self.side_parts("users", None))
        items = self.item_vectors(nodes, self.side_parts("items", None), Rows(None, self.n_items))
        return (F.normalize(users, dim=-1), F.normalize(items, dim=-1)) if self.loss == "softmax" else (users, items)

    # ------------------------------------------------------------------ losses

    def calculate_loss(self, interaction) -> tuple[Tensor, ...]:
        """Ranking loss, losses of the branches with restoration, L2. Scalars."""
        batch = self._triples(interaction[self.USER_ID], interaction[self.ITEM_ID])
        nodes = self.nodes()
        user_rows = Rows(batch.users, self.n_users)
        everything = self.loss == "softmax" and batch.shared is None
        wanted = (
            [batch.items, batch.negatives] if batch.shared is None else [batch.items, batch.negatives, batch.shared]
        )
        item_rows = Rows(None if everything else torch.cat(wanted), self.n_items)
        user_parts, item_parts = self.side_parts("users", user_rows.ids), self.side_parts("items", item_rows.ids)
        users = self.with_sides(user_rows.of(nodes.users), user_parts)
        queries = user_rows.look_up(users, batch.users)
        losses = self.main_losses(nodes, batch, queries, item_parts, item_rows)
        losses.append(self._side_loss(batch.first(self.side_loss_rows), user_parts, user_rows, item_parts, item_rows))
        if self.reg_weight:
            tables = (self.user_embedding, self.item_embedding, self.item_embedding)
            ego = (table(ids) for table, ids in zip(tables, batch, strict=False))
            losses.append(self.reg_weight * sum(e.square().sum() for e in ego) / (2 * len(batch.users)))
        return tuple(losses)

    def _triples(self, users: Tensor, items: Tensor) -> Triples:
        """The batch with negatives and a share of proposed edges."""
        columns = users, items, self.draw_negatives(users)
        if len(self.edges):
            n = max(1, round(self.edge_share * len(users)))
            drawn = self.edges[torch.randint(len(self.edges), (n,), device=users.device)]
            columns = tuple(torch.cat(pair) for pair in zip(columns, drawn.T, strict=True))
        sampled = self.loss == "softmax" and self.num_negatives
        shared = shared_negatives(self.n_items, self.num_negatives).to(users.device) if sampled else None
        return Triples(*columns, shared)

    def main_losses(
        self, nodes: Nodes, batch: Triples, queries: Tensor, parts: list[Tensor | None], rows: Rows
    ) -> list[Tensor]:
        """The ranking loss of h. [].

        Args:
            queries: vectors of the batch's users [B, D]. parts, rows: see :meth:`item_vectors`.
        """
        return [self.ranking_loss(queries, self.item_vectors(nodes, parts, rows), rows, batch)]

    def ranking_loss(self, queries: Tensor, table: Tensor, rows: Rows, batch: Triples) -> Tensor:
        """The loss of a score, without its highest part. queries [B, D], table: of the rows [n, D] -> []."""
        if self.loss == "bpr":
            difference = rows.look_up(table, batch.negatives) - rows.look_up(table, batch.items)
            return self.pruned_mean(F.softplus((queries * difference).sum(-1)))
        queries, table = F.normalize(queries, dim=-1) / self.temperature, F.normalize(table, dim=-1)
        if batch.shared is None:
            return self.pruned_mean(full_cross_entropy(queries, table, batch.items, reduction="none"))
        wanted = (queries * rows.look_up(table, batch.items)).sum(-1)
        others = queries @ rows.look_up(table, batch.shared).T
        losses = sampled_info_nce(wanted, others, batch.items, batch.shared, self.n_items, reduction="none")
        return self.pruned_mean(losses)

    def pruned_mean(self, losses: Tensor) -> Tensor:
        """Mean without the share ``prune_rate`` of the highest, after the warm-up: these may be noise. [B] -> []."""
        if not self.prune_rate or self.stage == "warm_up":
            return losses.mean()
        kept = max(1, math.ceil(len(losses) * (1.0 - self.prune_rate)))
        return losses.topk(kept, largest=False).values.mean()

    def _side_loss(self, batch: Triples, user_parts, user_rows: Rows, item_parts, item_rows: Rows) -> Tensor:
        """BPR of each branch of items' features, attributes against profiles where there are any; restoration. []."""
        total = self.user_embedding.weight.new_zeros(())
        profile = next((k for k, branch in enumerate(self.sides) if branch.kind == "profile"), None)
        masked = None if self.restoration is None else self.restoration.mask(self.n_items, total.device)
        for k, branch in enumerate(self.sides):
            if branch.own is None:
                continue
            if masked is not None:
                items = branch.project(branch.items) + self.restoration.shift(branch, masked, self.graph, self.n_users)
                total = total + self.restoration_weight * self.restoration.loss(k, branch, items, masked)
            weight = self.side_loss_weights[branch.kind]
            if weight:
                of_users = user_parts[k if branch.kind != "attribute" or profile is None else profile]
                wanted, other = (item_rows.look_up(item_parts[k], ids) for ids in (batch.items, batch.negatives))
                scores = (user_rows.look_up(of_users, batch.users) * (other - wanted)).sum(-1)
                total = total + weight * self.pruned_mean(F.softplus(scores))
        return total
