"""LLMRec: losses, scores, vectors."""

import copy
import math

import torch
import torch.nn.functional as F
from recbole.utils import InputType
from torch import Tensor, nn

from recbole_llm.errors import ConfigError
from recbole_llm.model.content import joined_features
from recbole_llm.model.general.inner_product import InnerProduct
from recbole_llm.model.general.llmrec.batch import Nodes, Rows, Triples
from recbole_llm.model.general.llmrec.edges import embedding_edges
from recbole_llm.model.general.llmrec.restoration import Restoration
from recbole_llm.model.general.llmrec.side import KINDS, SideBranch, sides_of
from recbole_llm.model.graph import layer_mean, training_graph
from recbole_llm.model.losses import full_cross_entropy, sampled_info_nce, shared_negatives
from recbole_llm.model.negatives import UnseenNegatives

LOSSES = ("bpr", "softmax", "bce")


class LabelBiases(nn.Module):
    """How readily users like, and items are liked: what labelled rows tell beside who fits whom."""

    def __init__(self, n_users: int, n_items: int) -> None:
        super().__init__()
        self.user = nn.Parameter(torch.zeros(n_users))
        self.item = nn.Parameter(torch.zeros(n_items))
        self.all = nn.Parameter(torch.zeros(()))

    def forward(self, batch: Triples, used: Tensor) -> Tensor:
        """Of a batch's pairs; items without training interactions have none. used [N, 1] -> [B]."""
        return self.all + self.user[batch.users] + (self.item * used[:, 0])[batch.items]

    def appended(self, users: Tensor, items: Tensor, used: Tensor) -> tuple[Tensor, Tensor]:
        """Vectors whose product has the biases added. [U, D], [N, D] -> [U, D + 2], [N, D + 2]."""
        of_users, of_items = (self.user + self.all)[:, None], self.item[:, None] * used
        return (
            torch.cat([users, of_users, torch.ones_like(of_users)], 1),
            torch.cat([items, torch.ones_like(of_items), of_items], 1),
        )


class LLMRec(InnerProduct):
    r"""Light graph convolution of identities plus propagated side information, trained on augmented edges.

    Wei et al. 2024, https://arxiv.org/abs/2311.00423:

    .. math::
        h = \frac{1}{L+1} \sum_{l=0}^{L} E^{(l)} + \sum_k w_k\, \mathrm{norm}(A^{(k)} X_k W_k)

    over the branches k of :mod:`~recbole_llm.model.general.llmrec.side`: texts and images of items, their attributes,
    profiles of users. Loss: BPR on :math:`h_u \cdot h_i`, or a cosine softmax, a share of the batch being edges that a
    language model proposed, or binary cross-entropy of labels, with biases; BPR of the branches themselves;
    masked-feature restoration.

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

        self.label_field = config["LABEL_FIELD"]
        dataset = self._liked(dataset)
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
        with torch.no_grad():  # who has no interaction yet starts from nothing when he has some, not from chance
            self.item_embedding.weight[~used] = 0.0
            self.user_embedding.weight[torch.bincount(users, minlength=self.n_users) == 0] = 0.0

        self.biases = LabelBiases(self.n_users, self.n_items) if self.loss == "bce" else None

        sides = sides_of(config, dataset, adjacency)
        self.side_names = [side.name for side in sides]
        self.sides = nn.ModuleList(SideBranch(side, width) for side in sides)
        self.register_buffer("edges", self._edges(config, dataset), persistent=False)
        self.restoration = Restoration(self.sides, config["mask_rate"], width) if config["mask_rate"] else None

    def _liked(self, dataset):
        """The dataset without the rows whose label is 0, where rows have labels.

        Raises:
            ConfigError: where they have none, but the loss needs them.
        """
        if self.label_field not in dataset.inter_feat:
            if self.loss == "bce":
                raise ConfigError(
                    "loss: bce learns from labels, and the data has none; take a protocol with labels, as emerg-phases"
                )
            return dataset
        liked = copy.copy(dataset)
        liked.inter_feat = dataset.inter_feat[dataset.inter_feat[self.label_field] > 0]
        return liked

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
        """Groups that stages train: ``backbone``, identities and biases, and ``side``, all that reads features."""
        side = [*self.sides.parameters(), *(self.restoration.parameters() if self.restoration else ())]
        biases = self.biases.parameters() if self.biases else ()
        return {"backbone": [self.user_embedding.weight, self.item_embedding.weight, *biases], "side": side}

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
        """Vectors of users [U, D] and items [N, D].

        Under the softmax loss of length 1, as its score is a cosine; under labels with the biases in two more columns.
        """
        nodes = self.nodes()
        users = self.with_sides(nodes.users, self.side_parts("users", None))
        items = self.item_vectors(nodes, self.side_parts("items", None), Rows(None))
        if self.loss == "softmax":
            return F.normalize(users, dim=-1), F.normalize(items, dim=-1)
        return (users, items) if self.biases is None else self.biases.appended(users, items, self.used)

    # ------------------------------------------------------------------ losses

    def calculate_loss(self, interaction) -> tuple[Tensor, ...]:
        """Ranking loss, losses of the branches with restoration, L2. Scalars."""
        batch = self._triples(interaction)
        nodes = self.nodes()
        user_rows = Rows.needed(batch.users, self.n_users)
        everything = self.loss == "softmax" and batch.shared is None
        wanted = (
            [batch.items, batch.negatives] if batch.shared is None else [batch.items, batch.negatives, batch.shared]
        )
        item_rows = Rows(None) if everything else Rows.needed(torch.cat(wanted), self.n_items)
        user_parts, item_parts = self.side_parts("users", user_rows.ids), self.side_parts("items", item_rows.ids)
        users = self.with_sides(user_rows.of(nodes.users), user_parts)
        queries = user_rows.look_up(users, batch.users)
        losses = self.main_losses(nodes, batch, queries, item_parts, item_rows)
        losses.append(
            self._side_loss(batch.first(self.side_loss_rows).liked(), user_parts, user_rows, item_parts, item_rows)
        )
        if self.reg_weight:
            tables = (self.user_embedding, self.item_embedding, self.item_embedding)
            ego = (table(ids) for table, ids in zip(tables, batch[:3], strict=True))
            losses.append(self.reg_weight * sum(e.square().sum() for e in ego) / (2 * max(len(batch.users), 1)))
        return tuple(losses)

    def _triples(self, interaction) -> Triples:
        """The batch with negatives and, where it has no labels, a share of proposed edges."""
        users, items = interaction[self.USER_ID], interaction[self.ITEM_ID]
        labels = interaction[self.label_field].float() if self.label_field in interaction else None
        if self.loss == "bce":
            return Triples(users, items, self.draw_negatives(users), None, labels)
        if labels is not None:  # a ranking loss takes every row for a liked one
            users, items = users[labels > 0], items[labels > 0]
        columns = users, items, self.draw_negatives(users)
        if len(self.edges):
            n = max(1, round(self.edge_share * len(users)))
            drawn = self.edges[torch.randint(len(self.edges), (n,), device=users.device)]
            columns = tuple(torch.cat(pair) for pair in zip(columns, drawn.T, strict=True))
        sampled = self.loss == "softmax" and self.num_negatives
        shared = shared_negatives(self.n_items, self.num_negatives).to(users.device) if sampled else None
        return Triples(*columns, shared, None)

    def main_losses(
        self, nodes: Nodes, batch: Triples, queries: Tensor, parts: list[Tensor | None], rows: Rows
    ) -> list[Tensor]:
        """The ranking loss of h. [].

        Args:
            queries: vectors of the batch's users [B, D]. parts, rows: see :meth:`item_vectors`.
        """
        return [self.ranking_loss(queries, self.item_vectors(nodes, parts, rows), rows, batch)]

    def ranking_loss(
        self, queries: Tensor, table: Tensor, rows: Rows, batch: Triples, used: Tensor | None = None
    ) -> Tensor:
        """The loss of a score, without its highest part. [].

        Args:
            queries: vectors of the batch's users [B, D]. table: of the rows [n, D].
            used: which items have a bias of their own [N, 1]; None: those that training interactions use.
        """
        if self.loss == "bce":
            biases = self.biases(batch, self.used if used is None else used)
            scores = (queries * rows.look_up(table, batch.items)).sum(-1) + biases
            return self.pruned_mean(F.binary_cross_entropy_with_logits(scores, batch.labels, reduction="none"))
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
        if not len(losses):  # a batch of disliked items alone
            return losses.sum()
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
