"""LLMKGNews: vectors, scores, loss."""

import numpy as np
import torch
import torch.nn.functional as F
from recbole.model.abstract_recommender import SequentialRecommender
from recbole.utils import InputType
from torch import Tensor, nn

from recbole_llm.errors import ConfigError
from recbole_llm.model.content import feature_of, joined_features
from recbole_llm.model.sequential.llmkg_news.fusion import Branch, ClickAttention, Fusion
from recbole_llm.model.sequential.llmkg_news.graph import EntityGraph
from recbole_llm.model.sequential.llmkg_news.losses import agreement, check_loss, listwise, pointwise

_NEGATIVES = "negatives"  # field of the articles not clicked, as the loader calls it


class LLMKGNews(SequentialRecommender):
    r"""Articles by identity, text and knowledge graph; users by identity and the articles that they clicked.

    .. math::
        r_i = \mathrm{fuse}(r^{id}_i, r^{text}_i, r^{graph}_i), \quad
        h_u = \mathrm{ReLU}(W e_u) + \sum_t \alpha_t r_t, \quad
        s(u, i) = a \cos(h_u, r_i) + b

    with a and b learned: a cosine under a fixed scale of 2 cannot give a click a probability below .12, and one under a
    scale of 10 over ReLU outputs gives nearly all more than .99. Losses: ``listwise`` over a click and articles not
    clicked with it (NRMS, Wu et al. 2019), ``bce`` or ``focal`` of labels; beside them, where weighted, agreement of
    text and graph, and the article's category.

    Corrected against the system it is named after: rows are aligned by token, the graph network is trained, an article
    unseen in training has no identity (instead of a random one), a missing text is a learned vector.
    Shapes: B batch, L length of histories, N n_items (row 0 = [PAD]), d branch size, M articles not clicked.
    """

    input_type = InputType.POINTWISE
    _kept: Tensor | None = None

    def __init__(self, config, dataset) -> None:
        super().__init__(config, dataset)
        self.USER_ID, self.label_field = config["USER_ID_FIELD"], config["LABEL_FIELD"]
        self.loss, self.n_negatives = check_loss(config["loss"]), config["n_negatives"]
        self.gamma, self.score_batch_size = config["focal_gamma"], config["score_batch_size"]
        self.contrastive_weight, self.category_weight = config["contrastive_weight"], config["category_weight"]
        self.contrastive_temperature = config["contrastive_temperature"]
        width, dropout = config["branch_size"], config["dropout"]
        inter = dataset.inter_feat
        users, items = inter[self.USER_ID].long(), inter[self.ITEM_ID].long()
        self.pos_weight = self._pos_weight(config["pos_weight"], inter)
        self.register_buffer("known_users", torch.bincount(users, minlength=dataset.user_num) > 0, persistent=False)
        used = torch.bincount(items, minlength=self.n_items) > 0
        present: dict[str, Tensor] = {}
        sizes: dict[str, int] = {}
        if config["use_id"]:
            self.item_embedding = nn.Embedding(self.n_items, config["id_size"])
            nn.init.zeros_(self.item_embedding.weight)  # nothing is known of an article before its clicks
            present["id"], sizes["id"] = used, config["id_size"]
        text = text_present = None
        if config["item_features"]:
            text, text_present = joined_features(dataset, config["item_features"], config["whiten"], config["text_dim"])
        if config["use_text"]:
            if text is None:
                raise ConfigError(
                    "use_text reads item_features, but there are none: name some, or set use_text to false"
                )
            self.register_buffer("text", text, persistent=False)  # [N, F]
            self.register_buffer("text_present", text_present, persistent=False)
            lacking = not text_present[1:].all()
            self.missing_text = nn.Parameter(torch.zeros(text.shape[1])) if lacking else None
            present["text"], sizes["text"] = torch.arange(self.n_items) > 0, text.shape[1]
        self.graph = None
        if config["use_kg"]:
            indptr, indices = (torch.from_numpy(x) for x in dataset.knowledge.neighbours())
            self.graph = EntityGraph(
                indptr,
                indices,
                self.n_items,
                text if config["use_text"] else None,
                self._entities(config, dataset),
                kind=config["gnn"],
                n_layers=config["gnn_layers"],
                size=config["gnn_size"],
                width=width,
                dropout=dropout,
                fanout=config["fanout"],
                whole_below=config["whole_graph_below"],
            )
            present["graph"], sizes["graph"] = indptr.diff()[: self.n_items] > 0, width
        if not present:
            raise ConfigError("an article has no branch: set use_id, use_text or use_kg to true")
        self.names = list(present)
        self.register_buffer("present", torch.stack([present[name] for name in self.names], 1), persistent=False)
        self.branches = nn.ModuleDict({name: Branch(sizes[name], width, dropout) for name in self.names})
        self.fusion = Fusion(config["fusion"], width, len(self.names), 2 * width, dropout)
        self.user_embedding = nn.Embedding(dataset.user_num, config["id_size"]) if config["use_user_id"] else None
        if self.user_embedding is not None:
            nn.init.normal_(self.user_embedding.weight, std=0.01)
            self.user_map = nn.Linear(config["id_size"], width)
        self.clicks = ClickAttention(width, config["attention_size"])
        self.log_scale = nn.Parameter(torch.tensor(float(config["initial_scale"])).log())
        if self.predicts_probabilities:
            self.bias = nn.Parameter(torch.tensor(self._log_odds(inter)))
        else:  # it would cancel out
            self.register_buffer("bias", torch.zeros(()), persistent=False)
        self.category_head = None
        if self.category_weight:
            self._add_categories(config["category_field"], dataset, width)

    @property
    def predicts_probabilities(self) -> bool:
        """Whether ``predict`` gives the probability of a click; under ``listwise`` the bias is not learned."""
        return self.loss != "listwise"

    def _pos_weight(self, setting, inter) -> float:
        """The setting, or under "balanced" what makes clicked rows weigh as much as the others together."""
        if setting != "balanced":
            return float(setting)
        if self.label_field not in inter:
            return float(self.n_negatives)
        n_clicked = float((inter[self.label_field] > 0).sum())
        return max(len(inter) - n_clicked, 1.0) / max(n_clicked, 1.0)

    def _log_odds(self, inter) -> float:
        """Of a click among what the model is trained on, where the bias starts: b is what a constant would predict."""
        rate = 1.0 / (1.0 + self.n_negatives)
        if self.label_field in inter:
            rate = float((inter[self.label_field] > 0).float().mean().clamp(1e-4, 1 - 1e-4))
        return float(np.log(rate / (1.0 - rate)))

    @staticmethod
    def _entities(config, dataset) -> Tensor | None:
        """Given vectors of the entities, of length 1, zero where there is none. [V - N, F'] or None."""
        if not config["entity_features"]:
            return None
        parts = [feature_of(dataset, name)[0][1:] for name in config["entity_features"]]
        return F.normalize(torch.from_numpy(np.concatenate(parts, 1)), dim=-1)

    def _add_categories(self, field: str, dataset, width: int) -> None:
        items = dataset.get_item_feature()
        if field not in items or items[field].dim() != 1 or items[field].is_floating_point():
            raise ConfigError(
                f"category_weight needs the column '{field}', one token an item, in the dataset's .item; load it in "
                "load_col, name another in category_field, or set category_weight to 0"
            )
        self.register_buffer("categories", items[field].long(), persistent=False)  # [N]
        self.category_head = nn.Linear(width, dataset.num(field))

    # ------------------------------------------------------------------ vectors

    def parts(self, ids: Tensor, convolved: Tensor | None = None) -> Tensor:
        """Vectors of each branch, zero where an article lacks it.

        Args:
            ids: distinct articles [n] int64. convolved: all items' vectors of the graph, where they are made already.
        Returns:
            [n, m, d].
        """
        x = {}
        if "id" in self.branches:
            x["id"] = self.item_embedding(ids)
        if "text" in self.branches:
            x["text"] = self.text[ids]
            if self.missing_text is not None:
                x["text"] = torch.where(self.text_present[ids][:, None], x["text"], self.missing_text)
        if self.graph is not None:
            x["graph"] = self.graph(ids) if convolved is None else convolved[ids]
        present = self.present[ids]
        return torch.stack([self.branches[n](x[n], present[:, k]) for k, n in enumerate(self.names)], 1)

    def fused(self, ids: Tensor, parts: Tensor) -> Tensor:
        """Articles of the branches' vectors; [PAD] is zero. [n], [n, m, d] -> [n, d]."""
        return self.fusion(parts, self.present[ids]) * (ids > 0)[:, None]

    def user_vectors(self, users: Tensor, articles: Tensor, clicks: Tensor, real: Tensor) -> Tensor:
        """Users by identity and clicks. users [B] int64; articles, clicks, real as in ClickAttention -> [B, d]."""
        pooled = self.clicks(articles, clicks, real)
        if self.user_embedding is None:
            return pooled
        known = self.known_users[users][:, None]
        return pooled + torch.relu(self.user_map(self.user_embedding(users))) * known

    def score(self, users: Tensor, items: Tensor) -> Tensor:
        """Logits of pairs. users [B, d], items [B, d] -> [B]."""
        cosine = (F.normalize(users, dim=-1) * F.normalize(items, dim=-1)).sum(-1)
        return self.log_scale.exp() * cosine + self.bias

    def score_all(self, users: Tensor, items: Tensor) -> Tensor:
        """Logits of everybody with everything. users [B, d], items [n, d] -> [B, n]."""
        return self.log_scale.exp() * F.normalize(users, dim=-1) @ F.normalize(items, dim=-1).T + self.bias

    def describe(self) -> str:
        """One line on what the scores' scale and bias have become."""
        low, high = ((s * self.log_scale.exp() + self.bias).sigmoid().item() for s in (-1, 1))
        scale, bias = self.log_scale.exp().item(), self.bias.item()
        return f"score: scale {scale:.2f}, bias {bias:.2f}" + (
            f", so p in [{low:.3f}, {high:.3f}]" if self.predicts_probabilities else ""
        )

    # ------------------------------------------------------------------ loss

    def calculate_loss(self, interaction) -> tuple[Tensor, ...]:
        """Loss of the clicks; agreement of text and graph and loss of the category, where they have a weight. []."""
        users, items, history = interaction[self.USER_ID], interaction[self.ITEM_ID], interaction[self.ITEM_SEQ]
        others = interaction[_NEGATIVES] if self.loss == "listwise" else items[:, None][:, :0]
        ids, place = torch.cat([items[:, None], others, history], 1).unique(return_inverse=True)
        parts = self.parts(ids)
        r = self.fused(ids, parts)
        at_item, at_others, at_history = place.split([1, others.shape[1], history.shape[1]], 1)
        user = self.user_vectors(users, r, at_history, history > 0)
        if self.loss == "listwise":  # an article is shown in many rows: one product instead of a vector a row and place
            scores = self.score_all(user, r)
            losses = [listwise(scores.gather(1, at_item)[:, 0], scores.gather(1, at_others), self.n_negatives)]
        else:
            scores, labels = self.score(user, r[at_item[:, 0]]), interaction[self.label_field]
            losses = [pointwise(scores, labels, self.loss, self.pos_weight, self.gamma)]
        shown = torch.cat([at_item, at_others], 1).unique()
        if self.contrastive_weight and {"text", "graph"} <= set(self.names):
            both = shown[self.present[ids[shown]][:, [self.names.index(n) for n in ("text", "graph")]].all(1)]
            views = (parts[both, self.names.index(name)] for name in ("text", "graph"))
            losses.append(self.contrastive_weight * agreement(*views, self.contrastive_temperature))
        if self.category_head is not None:
            wanted = self.categories[ids[shown]]
            logits = self.category_head(r[shown])
            losses.append(self.category_weight * F.cross_entropy(logits, wanted, ignore_index=0))
        return tuple(losses)

    # ------------------------------------------------------------------ scores

    def train(self, mode: bool = True):
        self._kept = None
        return super().train(mode)

    def load_state_dict(self, *args, **kwargs):
        self._kept = None
        return super().load_state_dict(*args, **kwargs)

    @torch.no_grad()
    def item_vectors(self) -> Tensor:
        """r of all items, made once in eval mode and kept until a weight can have changed. [N, d]."""
        if self._kept is None:
            pieces = torch.arange(self.n_items, device=self.present.device).split(self.score_batch_size)
            convolved = None if self.graph is None or self.training else self.graph.items()
            kept = torch.cat([self.fused(ids, self.parts(ids, convolved)) for ids in pieces])
            if self.training:
                return kept
            self._kept = kept
        return self._kept

    def forward(self, interaction) -> Tensor:
        """Vectors of users with their histories. [B, d]."""
        history = interaction[self.ITEM_SEQ]
        return self.user_vectors(interaction[self.USER_ID], self.item_vectors(), history, history > 0)

    def predict(self, interaction) -> Tensor:
        """Probability of a click, or under ``listwise`` the score, of (user, history, item). [B] float32."""
        scores = self.score(self(interaction), self.item_vectors()[interaction[self.ITEM_ID]])
        return scores.sigmoid() if self.predicts_probabilities else scores

    def full_sort_predict(self, interaction) -> Tensor:
        """The same for all items. [B, N] float32."""
        scores = self.score_all(self(interaction), self.item_vectors())
        return scores.sigmoid() if self.predicts_probabilities else scores
