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
    trust them too much. The weights are chosen by validation. A head says how well an item goes with a history. The
    history's own items go with it best of all; with ``heads_on_history`` off a head says nothing about them (0, the
    mean), so that they do not crowd out new items where a protocol ranks both. A head holds an [N, N] matrix; EASE
    inverts one.

    Args:
        weights: head name -> weight; no heads when empty.
        config: reads markov_window, markov_decay, markov_norm, reg_weight, heads_on_history.
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
        self.on_history = config["heads_on_history"]
        if not weights:
            return
        inter = dataset.inter_feat
        users, items = inter[dataset.uid_field].numpy(), inter[dataset.iid_field].numpy()
        rows = torch.zeros(int(dataset.num(dataset.uid_field)), n_items, dtype=torch.bool)
        rows[torch.from_numpy(users), torch.from_numpy(items)] = True
        self.register_buffer("train_rows", rows, persistent=False)  # [U, N]
        if "markov" in weights:
            counts = transitions(users, items, n_items, self.window, self.decay)
            counts = normalise(counts, items, config["markov_norm"])
            self.register_buffer("transition", torch.from_numpy(counts), persistent=False)
        if "ease" in weights:
            similarity = torch.from_numpy(ease_weights(users, items, n_items, config["reg_weight"]))
            self.register_buffer("similarity", similarity, persistent=False)

    def forward(self, item_seq: Tensor, lengths: Tensor, users: Tensor | None) -> Tensor | float:
        """Weighted sum of the heads' standardised scores.

        Args:
            item_seq: [B, L] int64, right-padded; lengths: [B] int64.
            users: [B] int64; their training items join the window in the history. None: the window alone.
        Returns:
            [B, N] float32, 0.0 without heads.
        """
        if not self.weights:
            return 0.0
        history = self._history(item_seq, lengths, users)
        total = 0.0
        if "markov" in self.weights:
            scores = history_weights(item_seq, lengths, self.n_items, self.window, self.decay) @ self.transition
            total = total + self.weights["markov"] * standardised(scores)
        if "ease" in self.weights:
            total = total + self.weights["ease"] * standardised(history.float() @ self.similarity)
        return total if self.on_history else total.masked_fill(history, 0.0)

    def _history(self, item_seq: Tensor, lengths: Tensor, users: Tensor | None) -> Tensor:
        """Items of the window, and of the users' training rows. [B, N] bool."""
        real = torch.arange(item_seq.shape[1], device=item_seq.device) < lengths[:, None]
        rows = torch.zeros(len(item_seq), self.n_items, dtype=torch.bool, device=item_seq.device)
        rows.scatter_(1, item_seq * real, True)
        if users is not None:
            rows |= self.train_rows[users]
        rows[:, 0] = False
        return rows
