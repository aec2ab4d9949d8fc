"""UR4RecMoE: all-position SASRec, a mixture-of-experts retriever, and their fused score."""

import torch
import torch.nn.functional as F
from recbole.model.abstract_recommender import SequentialRecommender
from recbole.utils import InputType
from torch import Tensor, nn

from recbole_llm.errors import ConfigError
from recbole_llm.model.layers import CausalEncoder, last_state, standardised
from recbole_llm.model.losses import (
    full_cross_entropy,
    in_batch_info_nce,
    load_balance,
    sampled_info_nce,
    shared_negatives,
)
from recbole_llm.model.sequential.ur4rec_moe.augment import augment, similar_items
from recbole_llm.model.sequential.ur4rec_moe.facets import item_text, modalities
from recbole_llm.model.sequential.ur4rec_moe.fusion import ScoreFusion, standardise
from recbole_llm.model.sequential.ur4rec_moe.heads import ScoreHeads
from recbole_llm.model.sequential.ur4rec_moe.rerank import rerank, rerank_loss
from recbole_llm.model.sequential.ur4rec_moe.retriever import Retriever


class UR4RecMoE(SequentialRecommender):
    r"""Hierarchical mixture of experts over user-preference, description and visual facets.

    The retriever follows UR4Rec (user-preference retriever with learned proxies over LLM knowledge); experts, gates,
    score fusion and the four training stages are this design's own, see docs/models/UR4RecMoE.md.

    .. math::
        f_i = \sum_m w_m o_m(e_i), \quad r_u = \mathrm{LN}(h_u + \mathrm{MHA}(h_u, [o_{user}; P])), \quad
        s(u, i) = (1 - g)\, z(h_u \cdot e_i) + g\, z(\cos(r_u, f_i))

    User and item side factorise, so a full ranking is one matrix product. User facets are causal means over the
    history that the model is given, hence never see the target or anything after it.

    Shapes: B batch, L max_seq_length, N n_items (row 0 = [PAD]), D sasrec_hidden_dim, M = real positions of a batch.
    """

    input_type = InputType.POINTWISE

    def __init__(self, config, dataset) -> None:
        super().__init__(config, dataset)
        width = config["sasrec_hidden_dim"]
        self.num_negatives, self.temperature = config["num_negatives"], config["temperature"]
        self.loss_weights = {
            name: config[f"{name}_weight"] for name in ("contrastive", "alignment", "load_balance", "fused", "rerank")
        }
        if config["sasrec_loss"] not in ("ce", "infonce"):
            raise ConfigError(f"sasrec_loss is '{config['sasrec_loss']}'; choose ce or infonce")
        self.full_softmax = config["sasrec_loss"] == "ce"
        self.rates = tuple(config[f"{name}_rate"] for name in ("mask", "reorder", "substitute"))
        self.rerank_topk = config["rerank_topk"]
        self.retriever_chunks = config["retriever_chunks"]
        self.stage = "end_to_end"

        self.item_embedding = nn.Embedding(self.n_items, width, padding_idx=0)
        self.item_bias = nn.Parameter(torch.zeros(self.n_items))
        nn.init.normal_(self.item_embedding.weight, std=config["initializer_range"])
        with torch.no_grad():
            self.item_embedding.weight[0].zero_()
        self.encoder = CausalEncoder(
            self.max_seq_length,
            width,
            config["sasrec_num_blocks"],
            config["sasrec_num_heads"],
            config["sasrec_inner_dim"],
            config["sasrec_dropout"],
            config["sasrec_attn_dropout"],
        )

        facets, self.expert_names = modalities(config, dataset)
        text, present = item_text(config, dataset)
        self.text_projection = None
        if config["item_text_dim"]:
            # rows have unit norm; the scale brings a coordinate to unit variance
            self.register_buffer("item_text", text * text.shape[1] ** 0.5, persistent=False)  # [N, F']
            self.text_projection = nn.Linear(text.shape[1], width, bias=False)
            nn.init.zeros_(self.text_projection.weight)
        similar = similar_items(text, present, config["n_substitutes"]) if self.rates[2] else None
        self.register_buffer("similar", similar, persistent=False)
        self.retriever = Retriever(
            facets,
            hidden_size=width,
            n_heads=config["retriever_num_heads"],
            expert_inner_size=config["expert_inner_dim"],
            gate_size=config["gate_dim"],
            num_proxies=config["num_proxies"],
            n_tokens=config["tokens_per_facet"],
            dropout=config["retriever_dropout"],
            top_k=config["expert_top_k"],
        )
        self.heads = ScoreHeads(config["score_heads"] or {}, config, dataset, self.n_items)
        self.fusion = ScoreFusion(config["fusion"], width, config["gate_dim"], config["retriever_weight"])
        self._frozen: tuple[int, dict] | None = None  # item side of the current weights, kept between eval batches
        self._usage: dict[str, tuple[Tensor, int]] = {}  # modality -> summed gates, rows

    # ------------------------------------------------------------------ training stages

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """Groups that stages train: ``sasrec`` (backbone, text projection), ``retriever`` (with the fusion gate)."""
        retriever = [*self.retriever.parameters(), *self.fusion.parameters()]
        ids = {id(p) for p in retriever}
        return {"sasrec": [p for p in self.parameters() if id(p) not in ids], "retriever": retriever}

    def set_stage(self, name: str) -> None:
        """Choose what the losses and the score are made of; any name but the first three means end to end."""
        self.stage = name

    # ------------------------------------------------------------------ forward

    def item_vectors(self) -> Tensor:
        """Backbone item vectors: id embedding plus projected text. [N, D] float32."""
        vectors = self.item_embedding.weight
        return vectors if self.text_projection is None else vectors + self.text_projection(self.item_text)

    def _with_bias(self, vectors: Tensor) -> Tensor:
        return torch.cat([vectors, self.item_bias[:, None]], 1)

    def forward(self, item_seq: Tensor, vectors: Tensor) -> Tensor:
        """Backbone states. item_seq [B, L] int64, vectors [N, D] -> [B, L, D] float32."""
        return self.encoder(F.embedding(item_seq, vectors))

    def calculate_loss(self, interaction) -> Tensor | tuple[Tensor, ...]:
        """Losses of the stage over all real positions of the batch's chunks (``target_list`` [B, L], 0 = none)."""
        item_seq, targets = interaction[self.ITEM_SEQ], interaction["target_list"]
        real = targets > 0
        if any(self.rates):
            item_seq, keep = augment(item_seq, self.similar, *self.rates)
            real = real & keep
        targets = targets[real]  # [M]
        vectors = self.item_vectors()
        states = self.forward(item_seq, vectors)[real]  # [M, D]
        queries = _append_one(states)
        losses = []
        if self.stage != "pretrain_retriever":
            losses.append(self._softmax_loss(queries, self._with_bias(vectors), targets))
        if self.stage == "pretrain_sasrec":
            return losses[0]
        # the retriever's losses look at the first chunks of the (shuffled) batch: its experts cost most of a step
        rows = slice(self.retriever_chunks)
        m = int(real[rows].sum())
        states, queries, targets = states[:m], queries[:m], targets[:m]
        if self.stage != "end_to_end":  # the retriever reads the backbone, but does not train it
            vectors, states, queries = vectors.detach(), states.detach(), queries.detach()
        return tuple(losses + self._retriever_losses(item_seq[rows], real[rows], targets, vectors, states, queries))

    def _retriever_losses(self, item_seq, real, targets, vectors, states, queries) -> list[Tensor]:
        """InfoNCE of the retriever's and of the fused score, contrastive, alignment and load-balance losses.

        The item side is computed for the step's targets and negatives only; the fused score's standardisation of the
        retriever is estimated on the negatives, a uniform sample of the catalogue.
        """
        negatives = shared_negatives(self.n_items, self.num_negatives).to(targets.device)
        ids, place = torch.cat([negatives, targets]).unique(return_inverse=True)
        neg, pos = place[: len(negatives)], place[len(negatives) :]  # rows of the negatives and of the targets in ids
        item_side = self.retriever.items(F.embedding(ids, vectors), ids)
        tokens = present = None
        if "user" in self.expert_names:
            tokens, present = self.retriever.user_tokens(item_seq)
            flat = real.flatten()
            tokens, present = tokens[:, flat], present[flat]
        r_u, o_u, user_gates = self.retriever.users(states, tokens, present)
        user, items = F.normalize(r_u, dim=-1) / self.temperature, F.normalize(item_side["f"], dim=-1)
        table = self._with_bias(vectors)
        if self.stage != "end_to_end":
            table = table.detach()

        def sampled(query: Tensor, rows: Tensor) -> Tensor:
            positives = (query * F.embedding(pos, rows)).sum(-1)
            return sampled_info_nce(positives, query @ rows[neg].T, targets, negatives, self.n_items)

        losses = [sampled(user, items)]
        weight = self.fusion.weight(states, r_u)
        backbone, retriever = standardise(queries, table[1:]), standardise(user, items[neg])
        fused_user, fused_items = self.fusion(
            [(queries, F.embedding(ids, table), 1 - weight, backbone), (user, items, weight, retriever)]
        )
        losses.append(self.loss_weights["fused"] * sampled(fused_user * self.fusion.log_scale.exp(), fused_items))
        if o_u is not None and self.loss_weights["contrastive"]:
            some = torch.randperm(len(targets), device=targets.device)[: self.num_negatives]
            contrast = in_batch_info_nce(o_u[some], F.embedding(pos[some], items), targets[some], self.temperature)
            losses.append(self.loss_weights["contrastive"] * contrast)
        if {"description", "visual"} <= set(item_side["outputs"]) and self.loss_weights["alignment"]:
            both = item_side["present"].all(1).nonzero()[:, 0]
            some = both[torch.randperm(len(both), device=both.device)[: self.num_negatives]]
            text, visual = item_side["outputs"]["description"][some], item_side["outputs"]["visual"][some]
            losses.append(self.loss_weights["alignment"] * in_batch_info_nce(text, visual, ids[some], self.temperature))
        if self.rerank_topk:
            loss = rerank_loss(self.retriever.memory, item_side["f"], pos, neg, r_u, o_u, self.temperature)
            losses.append(self.loss_weights["rerank"] * loss)
        gates = [*item_side["gates"].values()] + ([] if user_gates is None else [user_gates])
        losses.append(self.loss_weights["load_balance"] * sum(load_balance(g) for g in gates))
        return losses

    def _softmax_loss(self, queries: Tensor, items: Tensor, targets: Tensor) -> Tensor:
        if self.full_softmax:
            return full_cross_entropy(queries, items, targets)
        negatives = shared_negatives(self.n_items, self.num_negatives).to(targets.device)
        positives = (queries * F.embedding(targets, items)).sum(-1)
        return sampled_info_nce(positives, queries @ items[negatives].T, targets, negatives, self.n_items)

    # ------------------------------------------------------------------ scores

    def train(self, mode: bool = True):
        self._frozen = None
        return super().train(mode)

    def _item_side(self) -> tuple[Tensor, dict]:
        """Item vectors and item side; made once between two calls of train() when nothing is differentiated."""
        if self._frozen is None or self.training or torch.is_grad_enabled():
            vectors = self.item_vectors()
            self._frozen = vectors, self.retriever.items(vectors)
        return self._frozen

    def score_vectors(self, interaction) -> tuple[Tensor, Tensor, dict]:
        """User and item vectors whose inner product is the score, and what re-ranking needs.

        Returns:
            user [B, D'], items [N, D'], {"vectors", "f", "r_u", "o_u"}.
        """
        item_seq, lengths = interaction[self.ITEM_SEQ], interaction[self.ITEM_SEQ_LEN]
        vectors, item_side = self._item_side()
        state = last_state(self.forward(item_seq, vectors), lengths)
        queries, table = _append_one(state), self._with_bias(vectors)
        if self.stage == "pretrain_sasrec":
            return queries, table, {}
        tokens = present = None
        if "user" in self.expert_names:
            tokens, present = self.retriever.last_user_tokens(item_seq, lengths)
        r_u, o_u, gates = self.retriever.users(state, tokens, present)
        self._count_usage(item_side["gates"], gates)
        weight = self.fusion.weight(state, r_u)
        user, items = F.normalize(r_u, dim=-1) / self.temperature, F.normalize(item_side["f"], dim=-1)
        fused = self.fusion(
            [
                (queries, table, 1 - weight, standardise(queries, table[1:])),
                (user, items, weight, standardise(user, items[1:])),
            ]
        )
        return *fused, {"f": item_side["f"], "r_u": r_u, "o_u": o_u, "weight": weight, "user": user, "items": items}

    def full_sort_predict(self, interaction) -> Tensor:
        """Fused scores of all items. [B, N] float32."""
        user, items, parts = self.score_vectors(interaction)
        scores = user @ items.T
        if self.heads.weights:
            fields = interaction.interaction if hasattr(interaction, "interaction") else interaction
            item_seq, lengths = fields[self.ITEM_SEQ], fields[self.ITEM_SEQ_LEN]
            scores = standardised(scores) + self.heads(item_seq, lengths, fields.get(self.USER_ID))
        return rerank(self.retriever.memory, scores, parts, self.rerank_topk) if self.rerank_topk and parts else scores

    def predict(self, interaction) -> Tensor:
        """Fused scores of the given (history, item) pairs. [B] float32."""
        item = interaction[self.ITEM_ID]
        if self.heads.weights or self.rerank_topk:  # both depend on the scores of all items
            return self.full_sort_predict(interaction).gather(1, item[:, None])[:, 0]
        user, items, _ = self.score_vectors(interaction)
        return (user * items[item]).sum(-1)

    # ------------------------------------------------------------------ expert usage

    def _count_usage(self, item_gates: dict[str, Tensor], user_gates: Tensor | None) -> None:
        if torch.is_grad_enabled():
            return
        for name, gates in item_gates.items():
            self._usage[name] = gates[1:].sum(0), len(gates) - 1
        if user_gates is not None:
            total, n = self._usage.get("user", (0.0, 0))
            self._usage["user"] = total + user_gates.sum(0), n + len(user_gates)

    def expert_usage(self) -> dict[str, dict[str, float]]:
        """Mean gate of each expert in its modality since the last call: items over the catalogue, users evaluated.

        Returns:
            {modality: {expert: share}}, shares of a modality sum to 1; "item" holds the cross-modal weights. Empty
            before the retriever has scored anything.
        """
        names = self.expert_names | {"item": self.retriever.item_names}
        usage = {
            modality: dict(zip(names[modality], (total / max(n, 1)).tolist(), strict=True))
            for modality, (total, n) in self._usage.items()
        }
        self._usage = {}
        return usage


def _append_one(x: Tensor) -> Tensor:
    """A constant 1 as last column, which meets the item bias. [..., D] -> [..., D + 1]."""
    return torch.cat([x, torch.ones_like(x[..., :1])], -1)
