"""EmerGLLMRec: vectors, losses, graphs of named items."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recbole_llm.errors import ConfigError
from recbole_llm.model.content import joined_features
from recbole_llm.model.general.emerg.fields import as_if_cold, field_names, field_vectors, present_fields
from recbole_llm.model.general.emerg.graphs import graph_penalty
from recbole_llm.model.general.emerg.interaction import FieldInteraction
from recbole_llm.model.general.emerg.meta import SUPPORT_WEIGHT, Fast, ItemAdaptation, LabelledRows, loss_by_item
from recbole_llm.model.general.llmrec.batch import Nodes, Rows, Triples
from recbole_llm.model.general.llmrec.model import LLMRec
from recbole_llm.model.general.llmrec.restoration import product
from recbole_llm.model.losses import shared_negatives


class FieldNodes(NamedTuple):
    """Propagated identities of users [U, D] and items [N, D]; weighted sum of those of each item's users [N, D]."""

    users: Tensor
    items: Tensor
    neighbours: Tensor


class EmerGLLMRec(LLMRec):
    r"""LLMRec whose items also are what their fields are together, over a feature graph of the item's own.

    Wang et al. 2024 (EmerG), https://arxiv.org/abs/2407.10112. Fields of an item: identity, users, profile of its
    users, text, image, attributes. A hypernetwork makes the item's graph between them **from its content**, so an
    item that nobody has used has one; a GNN multiplies fields along it, a readout and attention over the orders give
    :math:`z_i`:

    .. math:: h_i = h_i^{LLMRec} + g \odot z_i

    g starts at zero, so at step 0 (and with ``use_enhanced_gnn: false`` for ever) scores are LLMRec's. Losses beside
    LLMRec's: BPR of z itself, sparsity and smoothness of the graphs, and the ranking loss of the items as if they were
    cold, against users that it does not move (Volkovs et al. 2017, DropoutNet, hides identities to the same end).

    Differs from EmerG: z is a vector that meets every user in one product, so the catalogue is ranked at once; users
    take part as the mean of an item's users, not as fields of a pair. Differs from the integration it is named after:
    every item has its own graph, gradient reaches the hypernetwork, and nothing falls back silently.
    Shapes: B batch, U users, N items (row 0 = [PAD]), D embedding size, n fields.
    """

    _step, _last_z = 0, None  # steps of the epoch, and what z was in the last of them that trained the branch

    def __init__(self, config, dataset) -> None:
        super().__init__(config, dataset)  # first, so that its parameters draw the same numbers as LLMRec's
        self.interaction = self.adaptation = None
        self.weights = {key: config[key] for key in ("graph_reg_weight", "feature_interaction_weight", "cold_weight")}
        self.graph_batch_size, self.cold_rows = config["graph_batch_size"], config["cold_rows"]
        self.interaction_every = config["interaction_every"]
        self.field_names = field_names(self.side_names)
        if config["meta"] and (not config["use_enhanced_gnn"] or config["graph"] == "none"):
            raise ConfigError(
                "meta: true adapts the items' graphs: set use_enhanced_gnn to true, and graph to item or shared"
            )
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
        self.adaptation = self._adaptation(config, dataset) if config["meta"] else None

    def _adaptation(self, config, dataset) -> ItemAdaptation:
        """Raises: ConfigError where rows have no labels."""
        if self.loss != "bce":
            raise ConfigError("meta: true learns from labels: set loss to bce, under a protocol such as emerg-phases")
        inter = dataset.inter_feat
        return ItemAdaptation(
            *(inter[name].long() for name in (self.USER_ID, self.ITEM_ID)),
            inter[self.label_field].float(),
            n_items=self.n_items,
            width=self.user_embedding.embedding_dim,
            n_fields=len(self.field_names),
            **{key: config[key] for key in ("episode_items", "support_rows", "query_rows", "inner_steps")},
        )

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """LLMRec's, and ``graph``, the hypernetwork, and ``interaction``, the layers over it with the gates."""
        groups = super().parameter_groups() | {"graph": [], "interaction": []}
        if self.interaction is not None:
            generator = self.interaction.generator
            groups["graph"] = list(generator.parameters()) if generator is not None else []
            known = {id(p) for p in groups["graph"]}
            rest = [p for p in self.interaction.parameters() if id(p) not in known]
            groups["interaction"] = [*rest, self.gates]
        if self.adaptation is not None:
            groups["interaction"] += [p for p in self.adaptation.parameters() if p.requires_grad]
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
        fields, present = self.fields(nodes, self.own_parts(parts, rows), rows)
        narrow, content = self.interaction.narrowed(fields), rows.of(self.content)
        if torch.is_grad_enabled():
            return self.interaction(narrow, present, self.interaction.graphs(content))
        pieces = zip(*(x.split(self.graph_batch_size) for x in (narrow, present, content)), strict=True)
        return torch.cat([self.interaction(f, p, self.interaction.graphs(c)) for f, p, c in pieces])

    def own_parts(self, parts: list[Tensor], rows: Rows) -> list[Tensor]:
        """Items' own features, and the profiles of their users. parts: of the branches, propagated -> [B, D] each."""
        pairs = zip(self.sides, parts, strict=True)
        return [part if branch.own is None else branch.of("own", rows.ids) for branch, part in pairs]

    def fields(self, nodes: FieldNodes, own: list[Tensor], rows: Rows) -> tuple[Tensor, Tensor]:
        """Fields of items and which they have, see field_vectors. own: see :meth:`own_parts`."""
        return field_vectors(nodes.items, nodes.neighbours, self.sides, own, self.used[:, 0], rows.ids)

    def forward(self) -> tuple[Tensor, Tensor]:
        """See LLMRec; under meta-learning items are what they have been adapted to, whatever their interactions."""
        if self.adaptation is None or self.stage == "warm_up":
            return super().forward()
        users = self._all_users()
        ids = torch.arange(self.n_items, device=users.device)
        pieces = ids.split(self.graph_batch_size)
        items = torch.cat([self.fast_vectors(some, self.adaptation.of(some)) for some in pieces])
        of_users = (self.biases.user + self.biases.all)[:, None]
        return (
            torch.cat([users, of_users, torch.ones_like(of_users)], 1),
            torch.cat([items, torch.ones_like(items[:, :1]), self.adaptation.fast["bias"][:, None]], 1),
        )

    def _all_users(self) -> Tensor:
        return self.with_sides(LLMRec.nodes(self).users, self.side_parts("users", None))

    def fast_vectors(self, ids: Tensor, fast: Fast) -> Tensor:
        """Items by their content and own parameters alone. ids [I] int64 -> [I, D]."""
        own = self.side_parts("own", ids)
        nothing = torch.zeros_like(fast.identity)
        present = present_fields(self.sides, torch.zeros_like(self.used[:, 0]), ids)
        present[:, 0] = True  # the identity, zero as long as nothing is known
        rows = [nothing if row is None else row for row in own]
        fields = torch.stack([fast.identity, nothing, *rows], 1) * present[:, :, None]
        fields[:, 1:] *= fields.shape[-1] ** 0.5
        graphs = self.interaction.graphs(self.content[ids], fast.graph)
        z = self.interaction(self.interaction.narrowed(fields), present, graphs)
        return self.with_sides(fast.identity, own) + self.gates[1] * z

    def _fast_scores(self, users: Tensor, ids: Tensor, fast: Fast, rows: LabelledRows) -> Tensor:
        """Of rows of some items. users: vectors of all [U, D], ids [I] int64 -> [R]."""
        items, bias = self.fast_vectors(ids, fast), self.biases.user[rows.users] + self.biases.all
        return (users[rows.users] * items[rows.place]).sum(-1) + bias + fast.bias[rows.place]

    def episode_losses(self) -> tuple[Tensor, ...]:
        """Losses of an episode before and after adaptation, weighted as EmerG's. Scalars."""
        ids, support, query = self.adaptation.episode()
        users, n = self._all_users(), len(ids)

        def loss(fast: Fast, rows: LabelledRows) -> Tensor:
            return loss_by_item(self._fast_scores(users, ids, fast, rows), rows, n)

        before = loss(self.adaptation.nothing(n), support).mean()
        n_rows = torch.bincount(support.place, minlength=n).to(users.dtype)
        fast = self.adaptation.adapted(lambda own: loss(own, support), n_rows, create_graph=True)
        return SUPPORT_WEIGHT * before, (1 - SUPPORT_WEIGHT) * loss(fast, query).mean()

    def update_phase(self, update) -> bool:
        """Learn from the ratings of a phase (PhaseUpdate): items' own parameters move, nothing shared does.

        Returns:
            False without meta-learning, where there are none: everything takes gradient steps, as in other models.
        """
        if self.adaptation is None:
            return False
        ids = update.rows[self.ITEM_ID].unique()
        rows = self.adaptation.rows_of(ids)
        users, n = self._all_users().detach(), len(ids)
        counts = torch.bincount(rows.place, minlength=n).to(users.dtype)
        self.adaptation.keep(
            ids,
            self.adaptation.adapted(
                lambda own: loss_by_item(self._fast_scores(users, ids, own, rows), rows, n), counts, create_graph=False
            ),
        )
        return True

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

    def calculate_loss(self, interaction) -> tuple[Tensor, ...]:
        """Losses of LLMRec and of the branch; under meta-learning, after the warm-up, of an episode a step."""
        if self.adaptation is not None and self.stage != "warm_up":
            return self.episode_losses()
        return super().calculate_loss(interaction)

    def train(self, mode: bool = True):
        self._step, self._last_z = 0, None  # of an epoch, so that a resumed run repeats it
        return super().train(mode)

    def main_losses(self, nodes, batch: Triples, queries: Tensor, parts: list, rows: Rows) -> list[Tensor]:
        """Ranking loss of h; BPR of z, penalty of the graphs, loss of cold vectors, 0 in steps that do not train z."""
        if self._plain:
            return super().main_losses(nodes, batch, queries, parts, rows)
        learns, self._step = self._step % self.interaction_every == 0, self._step + 1
        base, nothing = super().item_vectors(nodes, parts, rows), [queries.new_zeros(())] * 3
        if not learns and rows.ids is None and self._last_z is not None:
            return [self.ranking_loss(queries, base + self.gates[0] * self._last_z, rows, batch), *nothing]
        with torch.set_grad_enabled(learns):
            own = self.own_parts(parts, rows)
            fields, present = self.fields(nodes, own, rows)
            narrow, graphs = self.interaction.narrowed(fields), self.interaction.graphs(rows.of(self.content))
            z = self.interaction(narrow, present, graphs)
        ranking = self.ranking_loss(queries, base + self.gates[0] * z, rows, batch)
        if not learns:
            return [ranking, *nothing]
        if rows.ids is None:
            self._last_z = z.detach()
        weights = self.weights
        return [
            ranking,
            weights["feature_interaction_weight"] * self._branch_loss(queries, z, rows, batch),
            weights["graph_reg_weight"] * graph_penalty(graphs[0], fields, present),
            weights["cold_weight"]
            * self._cold_loss(queries, own, narrow, present, graphs, rows, batch.first(self.cold_rows))
            if weights["cold_weight"]
            else nothing[0],
        ]

    def _branch_loss(self, queries: Tensor, z: Tensor, rows: Rows, batch: Triples) -> Tensor:
        """BPR of z by itself, which does not move the users: at the start it would drag them to noise. []."""
        liked, queries = batch.liked(), queries.detach()
        queries = queries if batch.labels is None else queries[batch.labels > 0]
        difference = rows.look_up(z, liked.negatives) - rows.look_up(z, liked.items)
        return F.softplus((queries * difference).sum(-1)).sum() / max(len(difference), 1)

    def _cold_loss(self, queries, own, narrow, present, graphs, rows: Rows, batch: Triples) -> Tensor:
        """The ranking loss of some triples whose items are taken for cold, which does not move the users. []."""
        if self.loss == "softmax":
            shared = shared_negatives(self.n_items, self.cold_rows).to(queries.device)
            batch = batch._replace(shared=shared)
        ids = torch.cat([batch.items, batch.negatives if batch.shared is None else batch.shared]).unique()
        place = rows.position(ids)
        narrow, present = as_if_cold(narrow[place], present[place], self.field_names)
        z = self.interaction(narrow, present, [graph[place] for graph in graphs])
        pairs = zip(self.sides, own, strict=True)
        known = [None if branch.own is None else part[place] for branch, part in pairs]
        cold = self.with_sides(None, known) + self.gates[1] * z
        unused = torch.zeros_like(self.used)  # nor has a cold item a bias
        return self.ranking_loss(queries[: len(batch.users)].detach(), cold, Rows(ids), batch, unused)
