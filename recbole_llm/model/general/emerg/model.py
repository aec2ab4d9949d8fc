"""EmerGLLMRec: vectors, losses, graphs of named items."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recbole_llm.model.content import joined_features
from recbole_llm.model.general.emerg.fields import as_if_cold, field_names, field_vectors, present_fields
from recbole_llm.model.general.emerg.graphs import graph_penalty
from recbole_llm.model.general.emerg.interaction import FieldInteraction
from recbole_llm.model.general.llmrec.model import LLMRec, Nodes, Rows, Triples
from recbole_llm.model.general.llmrec.restoration import product


class FieldNodes(NamedTuple):
    """Propagated identities of users [U, D] and items [N, D]; identities of each item's users, their mean [N, D]."""

    users: Tensor
    items: Tensor
    neighbours: Tensor


class EmerGLLMRec(LLMRec):
    r"""LLMRec whose items also are what their fields are together, over a feature graph of the item's own.

    Wang et al. 2024 (EmerG), https://arxiv.org/abs/2407.10112. Fields of an item: identity, users, profile of its
    users, text, image, attributes. A hypernetwork makes the item's graph between them **from its content**, so an
    item that nobody has used has one; a GNN multiplies fields along it, a readout and
    attention over the orders give :math:`z_i`:

    .. math:: h_i = h_i^{LLMRec} + g \odot z_i

    g starts at zero, so at step 0 (and with ``use_enhanced_gnn: false`` for ever) scores are LLMRec's. Losses beside
    LLMRec's: BPR of z itself, sparsity and smoothness of the graphs, and the ranking loss of the items as if they were
    cold, against users that it does not move (Volkovs et al. 2017, DropoutNet, hides identities to the same end).

    Differs from EmerG: z is a vector that meets every user in one product, so the catalogue is ranked at once; users
    take part as the mean of an item's users, not as fields of a pair. Differs from the integration it is named after:
    every item has its own graph, gradient reaches the hypernetwork, and nothing falls back silently.
    Shapes: B batch, U users, N items (row 0 = [PAD]), D embedding size, n fields.
    """

    def __init__(self, config, dataset) -> None:
        super().__init__(config, dataset)  # first, so that its parameters draw the same numbers as LLMRec's
        self.interaction = None
        self.weights = {key: config[key] for key in ("graph_reg_weight", "feature_interaction_weight", "cold_weight")}
        self.graph_batch_size = config["graph_batch_size"]
        self.field_names = field_names(self.side_names)
        if not config["use_enhanced_gnn"]:
            return
        width = config["embedding_size"]
        features = dict.fromkeys(
            name for key in ("item_features", "visual_facets", "item_facets") for name in config[key] or []
        )
        content, _ = joined_features(dataset, list(features), config["whiten"], config["graph_content_dim"])
        self.register_buffer("content", content, persistent=False)  # [N, C]
        self.interaction = FieldInteraction(
            width=width,
            field_dim=config["field_dim"],
            n_fields=len(self.field_names),
            content_size=content.shape[1],
            graph=config["graph"],
            gnn_layers=config["gnn_layers"],
            integration=config["integration"],
            attention_heads=config["attention_heads"] if config["use_attention"] else 0,
            dropout=config["attention_dropout"],
            hidden=config["graph_hidden"],
            checkpointing=config["gradient_checkpointing"],
        )
        self.gates = nn.Parameter(torch.zeros(2, width))  # of items with interactions, of cold ones

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """LLMRec's, and ``graph``, the hypernetwork, and ``interaction``, the layers over it with the gates."""
        groups = super().parameter_groups() | {"graph": [], "interaction": []}
        if self.interaction is not None:
            generator = self.interaction.generator
            groups["graph"] = list(generator.parameters()) if generator is not None else []
            known = {id(p) for p in groups["graph"]}
            rest = [p for p in self.interaction.parameters() if id(p) not in known]
            groups["interaction"] = [*rest, self.gates]
        return groups

    @property
    def _plain(self) -> bool:
        """Whether items are LLMRec's: without the branch, or while the backbone warms up."""
        return self.interaction is None or self.stage == "warm_up"

    # ------------------------------------------------------------------ vectors

    def nodes(self) -> Nodes | FieldNodes:
        """Propagated identities, and where the interaction branch takes part what it reads of an item's users."""
        nodes = super().nodes()
        if self._plain:
            return nodes
        ego = torch.cat([self.user_embedding.weight, torch.zeros_like(self.item_embedding.weight)])
        return FieldNodes(*nodes, product(self.graph, ego)[self.n_users :])

    def item_vectors(self, nodes, parts: list[Tensor | None], rows: Rows) -> Tensor:
        """h of items, cold ones by their content."""
        h = super().item_vectors(nodes, parts, rows)
        if self._plain:
            return h
        return h + torch.where(rows.of(self.used), *self.gates) * self.interacted(nodes, parts, rows)

    def interacted(self, nodes: FieldNodes, parts: list[Tensor], rows: Rows) -> Tensor:
        """z of items, in pieces of ``graph_batch_size`` where nothing is differentiated. -> [B, D]."""
        fields, present = self.fields(nodes, parts, rows)
        content = rows.of(self.content)
        if torch.is_grad_enabled():
            return self.interaction(fields, present, self.interaction.graphs(content))
        pieces = zip(*(x.split(self.graph_batch_size) for x in (fields, present, content)), strict=True)
        return torch.cat([self.interaction(f, p, self.interaction.graphs(c)) for f, p, c in pieces])

    def fields(self, nodes: FieldNodes, parts: list[Tensor], rows: Rows) -> tuple[Tensor, Tensor]:
        """Fields of items and which they have, see field_vectors. parts: of the branches, propagated."""
        own = [
            part if branch.own is None else branch.of("own", rows.ids)
            for branch, part in zip(self.sides, parts, strict=True)
        ]
        return field_vectors(nodes.items, nodes.neighbours, self.sides, own, self.used[:, 0], rows.ids)

    @torch.no_grad()
    def feature_graphs(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """First-layer graphs of items, rows and columns in the order of ``field_names``, and which fields they have.

        Args:
            ids: [B] int64.
        Returns:
            [B, n, n] float32 in [0, 1], [B, n] bool.
        """
        return self.interaction.graphs(self.content[ids])[0], present_fields(self.sides, self.used[:, 0], ids)

    # ------------------------------------------------------------------ losses

    def main_losses(self, nodes, batch: Triples, queries: Tensor, parts: list, rows: Rows) -> list[Tensor]:
        """Ranking loss of h, BPR of z, penalty of the graphs, ranking loss of cold vectors."""
        if self._plain:
            return super().main_losses(nodes, batch, queries, parts, rows)
        fields, present = self.fields(nodes, parts, rows)
        graphs = self.interaction.graphs(rows.of(self.content))
        z = self.interaction(fields, present, graphs)
        h = super().item_vectors(nodes, parts, rows) + self.gates[0] * z
        losses = [self.ranking_loss(queries, h, rows, batch)]
        if self.weights["feature_interaction_weight"]:
            difference = rows.look_up(z, batch.negatives) - rows.look_up(z, batch.items)
            bpr = F.softplus((queries * difference).sum(-1)).mean()
            losses.append(self.weights["feature_interaction_weight"] * bpr)
        if self.weights["graph_reg_weight"] and self.interaction.generator is not None:
            unit = fields / fields.shape[-1] ** 0.5
            losses.append(self.weights["graph_reg_weight"] * graph_penalty(graphs[0], unit, present))
        if self.weights["cold_weight"]:
            z = self.interaction(*as_if_cold(fields, present, self.field_names), graphs)
            own = [None if b.own is None else field for b, field in zip(self.sides, fields.unbind(1)[2:], strict=True)]
            own = [None if field is None else field / field.shape[-1] ** 0.5 for field in own]
            cold = self.with_sides(None, own) + self.gates[1] * z
            losses.append(self.weights["cold_weight"] * self.ranking_loss(queries.detach(), cold, rows, batch))
        return losses
