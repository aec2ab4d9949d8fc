"""SASRec trained at all positions in one pass."""

import torch
from recbole.model.abstract_recommender import SequentialRecommender
from recbole.utils import InputType
from torch import Tensor, nn

from recbole_llm.model.layers import CausalEncoder, last_state
from recbole_llm.model.losses import full_cross_entropy, sampled_info_nce, shared_negatives


class SASRecAll(SequentialRecommender):
    r"""SASRec over item ids, every position of a history chunk a training target.

    Kang & McAuley 2018, https://arxiv.org/abs/1808.09781, eq. 1-6 (attention, FFN, tied item embeddings).
    Differs from the paper: pre-LN, GELU, softmax cross-entropy over all items (or K shared negatives), an item bias.
    Differs from RecBole's SASRec: one causal pass trains all L positions of a chunk.
    Shapes: B batch, L max_seq_length, N n_items (row 0 = [PAD]), D hidden_size.
    """

    input_type = InputType.POINTWISE

    def __init__(self, config, dataset) -> None:
        super().__init__(config, dataset)
        hidden_size = config["hidden_size"]
        self.num_negatives = config["num_negatives"]
        self.item_embedding = nn.Embedding(self.n_items, hidden_size, padding_idx=0)
        self.item_bias = nn.Parameter(torch.zeros(self.n_items))
        self.encoder = CausalEncoder(
            self.max_seq_length,
            hidden_size,
            config["n_layers"],
            config["n_heads"],
            config["inner_size"],
            config["hidden_dropout_prob"],
            config["attn_dropout_prob"],
        )
        nn.init.normal_(self.item_embedding.weight, std=config["initializer_range"])
        with torch.no_grad():
            self.item_embedding.weight[0].zero_()

    def item_table(self) -> Tensor:
        """Item vectors with the bias as last column. [N, D + 1] float32."""
        return torch.cat([self.item_embedding.weight, self.item_bias[:, None]], 1)

    def forward(self, item_seq: Tensor) -> Tensor:
        """States after each position, with a constant 1 that meets the item bias.

        Args:
            item_seq: item ids, right-padded with 0. [B, L] int64.
        Returns:
            [B, L, D + 1] float32.
        """
        states = self.encoder(self.item_embedding(item_seq))
        return torch.cat([states, torch.ones_like(states[..., :1])], -1)

    def calculate_loss(self, interaction) -> Tensor:
        """Next-item loss over all real positions of the batch's chunks (``target_list`` [B, L], 0 = none)."""
        targets = interaction["target_list"]
        real = targets > 0
        queries, targets, items = self.forward(interaction[self.ITEM_SEQ])[real], targets[real], self.item_table()
        if not self.num_negatives:
            return full_cross_entropy(queries, items, targets)
        negatives = shared_negatives(self.n_items, self.num_negatives).to(targets.device)
        pos_logits = (queries * items[targets]).sum(-1)
        return sampled_info_nce(pos_logits, queries @ items[negatives].T, targets, negatives, self.n_items)

    def user_vector(self, interaction) -> Tensor:
        """State at the end of each history. [B, D + 1] float32."""
        return last_state(self.forward(interaction[self.ITEM_SEQ]), interaction[self.ITEM_SEQ_LEN])

    def predict(self, interaction) -> Tensor:
        """Scores of the given (history, item) pairs. [B] float32."""
        return (self.user_vector(interaction) * self.item_table()[interaction[self.ITEM_ID]]).sum(-1)

    def full_sort_predict(self, interaction) -> Tensor:
        """Scores of all items. [B, N] float32."""
        return self.user_vector(interaction) @ self.item_table().T
