"""The parts of UR4RecMoE that take tensors alone: gates, experts, memory, fusion, augmentation."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from recbole_llm.model.sequential.ur4rec_moe.augment import augment, similar_items
from recbole_llm.model.sequential.ur4rec_moe.fusion import ScoreFusion, standardise
from recbole_llm.model.sequential.ur4rec_moe.moe import (
    CrossModalGate,
    ModalityMoE,
    PreferenceMemory,
    SubExperts,
    masked_gates,
)


class TestMaskedGates:
    def test_written_out(self):
        logits = torch.tensor([[0.0, 0.0, 9.0], [1.0, 2.0, 3.0], [5.0, 5.0, 5.0]])
        present = torch.tensor([[True, True, False], [False, True, False], [False, False, False]])
        assert masked_gates(logits, present).tolist() == [[0.5, 0.5, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 0.0]]

    def test_top_k_keeps_the_largest_of_the_present(self):
        logits, present = torch.tensor([[3.0, 2.0, 1.0, 9.0]]), torch.tensor([[True, True, True, False]])
        expected = torch.tensor([[3.0, 2.0]]).softmax(-1)[0].tolist()
        assert masked_gates(logits, present, 2).tolist() == [pytest.approx([*expected, 0.0, 0.0])]

    def test_gradient_of_an_empty_row_is_finite(self):
        logits = torch.zeros(2, 3, requires_grad=True)
        present = torch.tensor([[False] * 3, [True] * 3])
        (masked_gates(logits, present) * torch.arange(3.0)).sum().backward()
        assert torch.isfinite(logits.grad).all() and not logits.grad[0].any() and logits.grad[1].any()


def test_sub_experts_equal_one_multi_head_attention_each():
    torch.manual_seed(0)
    n_experts, n_rows, n_tokens, width, heads = 3, 5, 4, 8, 2
    experts = SubExperts(n_experts, width, heads, 16, dropout=0.0)
    nn.init.normal_(experts.norm_weight)
    nn.init.normal_(experts.norm_bias)
    query, tokens = torch.randn(n_rows, width), torch.randn(n_experts, n_rows, n_tokens, width)
    out = experts(query, tokens)
    for e in range(n_experts):
        oracle = nn.MultiheadAttention(width, heads, batch_first=True)
        kv_weight, kv_bias = experts.key_value.weight[e].T, experts.key_value.bias[e, 0]
        with torch.no_grad():
            oracle.in_proj_weight.copy_(torch.cat([experts.query.weight[e].T, kv_weight]))
            oracle.in_proj_bias.copy_(torch.cat([experts.query.bias[e, 0], kv_bias]))
            oracle.out_proj.weight.copy_(experts.attn_out.weight[e].T)
            oracle.out_proj.bias.copy_(experts.attn_out.bias[e, 0])
        x = query + oracle(query[:, None], tokens[e], tokens[e])[0][:, 0]
        x = F.layer_norm(x, (width,), experts.norm_weight[e, 0], experts.norm_bias[e, 0])
        x = F.gelu(x @ experts.ffn_in.weight[e] + experts.ffn_in.bias[e]) @ experts.ffn_out.weight[e]
        torch.testing.assert_close(out[e], x + experts.ffn_out.bias[e], rtol=1e-4, atol=1e-5)


def test_memory_equals_multi_head_attention_over_output_and_proxies():
    torch.manual_seed(0)
    memory = PreferenceMemory(8, 2, num_proxies=3, dropout=0.0)
    query, output = torch.randn(5, 2, 8), torch.randn(5, 8)
    oracle = nn.MultiheadAttention(8, 2, batch_first=True)
    with torch.no_grad():
        oracle.in_proj_weight.copy_(torch.cat([memory.query.weight, memory.key_value.weight]))
        oracle.in_proj_bias.copy_(torch.cat([memory.query.bias, memory.key_value.bias]))
        oracle.out_proj.load_state_dict(memory.attn_out.state_dict())
    proxies = memory.proxies.expand(5, -1, -1)
    for given_output, keys in ((output, torch.cat([proxies, output[:, None]], 1)), (None, proxies)):
        expected = memory.norm(query + oracle(query, keys, keys)[0])
        torch.testing.assert_close(memory(query, given_output), expected, rtol=1e-4, atol=1e-5)


class TestModality:
    def test_a_missing_facet_s_tokens_do_not_reach_the_output(self):
        torch.manual_seed(0)
        moe = ModalityMoE(3, 8, 2, 16, 4, 0.0, None)
        query, tokens = torch.randn(4, 8), torch.randn(3, 4, 5, 8)
        present = torch.ones(4, 3, dtype=torch.bool)
        present[2, 1] = False
        out, gates = moe(query, tokens, present)
        tokens[1, 2] += 50.0
        other, _ = moe(query, tokens, present)
        torch.testing.assert_close(out, other)
        assert gates[2, 1] == 0.0
        tokens[1, 0] += 50.0  # a present one does
        assert not torch.allclose(moe(query, tokens, present)[0][0], out[0])

    def test_a_missing_modality_does_not_reach_the_sum(self):
        torch.manual_seed(0)
        gate = CrossModalGate(2, 8, 4)
        query, outputs = torch.randn(3, 8), [torch.randn(3, 8), torch.randn(3, 8)]
        present = torch.tensor([[True, True], [True, False], [False, False]])
        fused, weights = gate(query, outputs, present)
        torch.testing.assert_close(fused[0], weights[0, 0] * outputs[0][0] + weights[0, 1] * outputs[1][0])
        torch.testing.assert_close(fused[1], outputs[0][1])
        assert not fused[2].any() and weights[1].tolist() == [1.0, 0.0]
        outputs[1][1] = 1e3
        torch.testing.assert_close(gate(query, outputs, present)[0][1], fused[1])


class TestFusionOfScores:
    def test_standardise_is_mean_and_deviation_of_the_scores(self):
        generator = torch.Generator().manual_seed(0)
        user, items = torch.randn(4, 6, generator=generator), torch.randn(30, 6, generator=generator) + 1.0
        scores = user @ items.T
        mean, std = standardise(user, items)
        torch.testing.assert_close(mean[:, 0], scores.mean(1), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(std[:, 0], scores.std(1, correction=0), rtol=1e-5, atol=1e-5)

    def test_constant_scores_stay_finite(self):
        mean, std = standardise(torch.randn(2, 3), torch.ones(10, 3))
        assert (std > 0).all() and torch.isfinite(1 / std).all()

    def test_any_number_of_scores(self):
        generator = torch.Generator().manual_seed(1)
        parts, expected = [], 0.0
        for width, weight in ((3, 0.2), (5, torch.tensor([[0.5], [-1.0]])), (2, 0.3)):
            user, items = (torch.randn(n, width, generator=generator, dtype=torch.float64) for n in (2, 9))
            parts.append((user, items, weight, standardise(user, items[1:])))
            scores = user @ items.T
            real = scores[:, 1:]
            z = (scores - real.mean(1, keepdim=True)) / real.std(1, keepdim=True, correction=0)
            expected = expected + weight * z
        user, items = ScoreFusion("fixed", 4, 4, 0.6)(parts)
        torch.testing.assert_close(user @ items.T, expected)


def walk(lengths: list[int], width: int) -> torch.Tensor:
    """Histories of distinct items 1, 2, 3, ..., right-padded."""
    seq = torch.zeros(len(lengths), width, dtype=torch.int64)
    for row, n in enumerate(lengths):
        seq[row, :n] = torch.arange(1, n + 1)
    return seq


LENGTHS = st.lists(st.integers(1, 9), min_size=1, max_size=4)
RATES = st.sampled_from([0.0, 0.3, 1.0])
SIMILAR = torch.arange(11)[:, None] + torch.tensor([[100, 200]])  # substitutes of item i are 100 + i and 200 + i


class TestAugment:
    @settings(max_examples=60, deadline=None)
    @given(lengths=LENGTHS, mask=RATES, reorder=RATES, substitute=RATES, seed=st.integers(0, 99))
    def test_no_kept_position_has_seen_its_target(self, lengths, mask, reorder, substitute, seed):
        torch.manual_seed(seed)
        item_seq = walk(lengths, 9)
        seq, keep = augment(item_seq, SIMILAR, mask, reorder, substitute)
        original = seq % 100  # a substitute tells as much as the item itself
        for row, n in enumerate(lengths):
            assert not seq[row, n:].any()  # padding stays padding
            for t in range(n):
                target = t + 2
                if keep[row, t]:
                    assert target not in original[row, : t + 1].tolist()
                else:
                    assert original[row, t] in (0, target)  # dropped for this reason alone

    def test_rates_of_zero_change_nothing(self):
        item_seq = walk([3, 9], 9)
        seq, keep = augment(item_seq, SIMILAR, 0.0, 0.0, 0.0)
        assert torch.equal(seq, item_seq) and keep.all()

    def test_the_first_item_is_never_masked(self):
        seq, keep = augment(walk([3, 9], 9), None, 1.0, 0.0, 0.0)
        assert seq[:, 0].tolist() == [1, 1] and not seq[:, 1:].any() and keep.all()

    def test_all_pairs_swapped(self):
        seq, keep = augment(walk([5], 8), None, 0.0, 1.0, 0.0)
        assert seq.tolist() == [[2, 1, 4, 3, 5, 0, 0, 0]]
        assert keep.tolist() == [[False, True, False, True, True, True, True, True]]

    def test_substitutes_are_neighbours_of_their_item(self):
        torch.manual_seed(0)
        seq, _ = augment(walk([9] * 50, 9), SIMILAR, 0.0, 0.0, 1.0)
        assert torch.equal(seq % 100, walk([9] * 50, 9))
        assert set((seq // 100).unique().tolist()) == {1, 2}

    def test_shares_follow_the_rates(self):
        torch.manual_seed(0)
        item_seq = torch.randint(1, 10, (400, 50))
        substituted = (augment(item_seq, SIMILAR, 0.0, 0.0, 0.2)[0] != item_seq).float().mean()
        masked = (augment(item_seq, None, 0.2, 0.0, 0.0)[0][:, 1:] == 0).float().mean()
        assert substituted.item() == pytest.approx(0.2, abs=0.02) and masked.item() == pytest.approx(0.2, abs=0.02)
        swapped = ~augment(item_seq, None, 0.0, 0.2, 0.0)[1]
        assert swapped[:, ::2].float().mean().item() == pytest.approx(0.2, abs=0.02)

    def test_the_input_is_left_alone(self):
        item_seq = walk([9], 9)
        augment(item_seq, SIMILAR, 0.5, 0.5, 0.5)
        assert torch.equal(item_seq, walk([9], 9))


def test_similar_items_are_the_nearest_by_cosine():
    features = F.normalize(torch.tensor([[0, 0], [1, 0], [1, 0.1], [0, 1], [0.2, 1], [1, 1]]).float(), dim=1)
    present = torch.tensor([False, True, True, True, True, False])
    neighbours = similar_items(features, present, 1)
    assert neighbours[1:, 0].tolist() == [2, 1, 4, 3, 5]  # item 5 has no text: its own substitute, and nobody else's
