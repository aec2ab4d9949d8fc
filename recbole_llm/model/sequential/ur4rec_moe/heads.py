"""Closed-form score heads of UR4RecMoE: decayed Markov and EASE, standardised and added with fixed weights."""

import torch
from torch import Tensor, nn

from recbole_llm.errors import ConfigError
from recbole_llm.model.layers import standardised
from recbole_llm.model.sequential.ease_markov import ease_weights
from recbole_llm.model.sequential.markov import history_weights, normalise, transitions

HEADS = ("markov", "ease")


class ScoreHeads(nn.Module):
    r"""Adds :math:`\sum_k w_k\, z(s_k)` to a standardised score, z over the user's scores of all real items.

    Both heads are solved from the training rows alone and are not trained: fitted to those rows, a learned weight would
    trust them too much. The weights are chosen by validation. A head holds an [N, N] matrix; EASE inverts one.

    Args:
        weights: head name -> weight; no heads when empty.
        config: reads markov_window, markov_decay, markov_norm, reg_weight.
        dataset: training dataset, rows in time order.
        n_items: N, row 0 = [PAD].
    """

    def __init__(self, weights: dict[str, float], config, dataset, n_items: int) -> None:
        super().__init__()
        unknown = set(weights) - set(HEADS)
        if unknown:
            raise ConfigError(f"score_heads names '{min(unknown)}'; choose from {', '.join(HEADS)}")
        self.weights, self.n_items = dict(weights), n_items
        self.window, self.decay = config["markov_window"], config["markov_decay"]
        if not weights:
            return
        inter = dataset.inter_feat
        users, items = inter[dataset.uid_field].numpy(), inter[dataset.iid_field].numpy()
        if "markov" in weights:
            counts = transitions(users, items, n_items, self.window, self.decay)
            counts = normalise(counts, items, config["markov_norm"])
            self.register_buffer("transition", torch.from_numpy(counts), persistent=False)
        if "ease" in weights:
            similarity = torch.from_numpy(ease_weights(users, items, n_items, config["reg_weight"]))
            self.register_buffer("similarity", similarity, persistent=False)
            rows = torch.zeros(int(dataset.num(dataset.uid_field)), n_items, dtype=torch.bool)
            rows[torch.from_numpy(users), torch.from_numpy(items)] = True
            self.register_buffer("train_rows", rows, persistent=False)  # [U, N]

    def forward(self, item_seq: Tensor, lengths: Tensor, users: Tensor | None) -> Tensor | float:
        """Weighted sum of the heads' standardised scores.

        Args:
            item_seq: [B, L] int64, right-padded; lengths: [B] int64.
            users: [B] int64; their training items join the window as EASE's row. None: the window alone.
        Returns:
            [B, N] float32, 0.0 without heads.
        """
        total = 0.0
        if "markov" in self.weights:
            scores = history_weights(item_seq, lengths, self.n_items, self.window, self.decay) @ self.transition
            total = total + self.weights["markov"] * standardised(scores)
        if "ease" in self.weights:
            real = torch.arange(item_seq.shape[1], device=item_seq.device) < lengths[:, None]
            rows = torch.zeros(len(item_seq), self.n_items, device=item_seq.device)
            rows.scatter_(1, item_seq * real, 1.0)
            if users is not None:
                rows = torch.maximum(rows, self.train_rows[users].float())
            rows[:, 0] = 0.0
            total = total + self.weights["ease"] * standardised(rows @ self.similarity)
        return total
