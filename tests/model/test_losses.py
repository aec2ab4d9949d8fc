"""Losses against explicit logits, naive loops and their limits."""

import math

import pytest
import torch
import torch.nn.functional as F

from recbole_llm.model.losses import (
    full_cross_entropy,
    in_batch_info_nce,
    load_balance,
    sampled_info_nce,
    shared_negatives,
)

N, D, M = 30, 5, 12


@pytest.fixture
def tensors() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    queries = torch.randn(M, D, generator=generator, dtype=torch.float64)
    items = torch.randn(N, D, generator=generator, dtype=torch.float64)
    return queries, items, torch.randint(1, N, (M,), generator=generator)


def sampled(queries, items, targets, negatives) -> torch.Tensor:
    positives = (queries * items[targets]).sum(-1)
    return sampled_info_nce(positives, queries @ items[negatives].T, targets, negatives, len(items))


def test_full_cross_entropy_equals_explicit_logits(tensors):
    queries, items, targets = tensors
    logits = queries @ items.T
    logits[:, 0] = -torch.inf
    torch.testing.assert_close(full_cross_entropy(queries, items, targets), F.cross_entropy(logits, targets))


class TestSharedNegatives:
    def test_distinct_and_never_pad(self):
        for n in (1, 7, N - 1, 10 * N):
            ids = shared_negatives(N, n)
            assert len(ids) == min(n, N - 1) == len(set(ids.tolist()))
            assert 1 <= ids.min() and ids.max() <= N - 1

    def test_uniform(self):
        torch.manual_seed(0)
        counts = torch.bincount(torch.cat([shared_negatives(N, 6) for _ in range(3000)]), minlength=N)[1:]
        expected = 3000 * 6 / (N - 1)
        assert (counts - expected).abs().max() < 5 * math.sqrt(expected)


class TestSampledInfoNCE:
    def test_all_items_as_negatives_give_the_full_softmax(self, tensors):
        queries, items, targets = tensors
        everything = torch.randperm(N - 1) + 1
        torch.testing.assert_close(
            sampled(queries, items, targets, everything), full_cross_entropy(queries, items, targets)
        )

    def test_a_false_negative_is_masked_before_the_exponential(self, tensors):
        queries, items, targets = tensors
        row = (queries[:1], items, targets[:1])
        others = torch.tensor([i for i in range(1, N) if i != targets[0]][:5])
        with_target = torch.cat([others, targets[:1]])
        torch.testing.assert_close(sampled(*row, with_target), sampled(*row, others))
        positive = (queries[:1] * items[targets[:1]]).sum(-1)
        log_q = math.log(5 / (N - 2))
        negatives = (queries[:1] @ items[others].T - log_q).exp().sum(1)  # nothing added for the masked one
        torch.testing.assert_close(
            sampled(*row, with_target), (-torch.log(positive.exp() / (positive.exp() + negatives))).mean()
        )

    def test_the_correction_makes_the_denominator_that_of_the_full_softmax_on_average(self, tensors):
        queries, items, targets = tensors
        query, target = queries[:1] * 0.5, targets[:1]
        full = (query @ items[1:].T).exp().sum().item()
        positive = (query * items[target]).sum(-1)
        torch.manual_seed(0)
        sums = [
            (positive.exp() * torch.exp(sampled(query, items, target, shared_negatives(N, 8)))).item()  # = denominator
            for _ in range(4000)
        ]
        sums = torch.tensor(sums)
        assert sums.mean().item() == pytest.approx(full, abs=4 * sums.std().item() / math.sqrt(4000))
        assert sums.std() / full < 0.5  # the interval above is narrow enough to mean something

    def test_only_the_target_drawn_gives_zero(self, tensors):
        queries, items, targets = tensors
        assert sampled(queries[:1], items, targets[:1], targets[:1]).item() == 0.0


class TestInBatchInfoNCE:
    ids = torch.tensor([4, 9, 4, 2, 9, 1])

    def test_equals_a_naive_loop(self):
        generator = torch.Generator().manual_seed(0)
        anchors, positives = (torch.randn(6, D, generator=generator) for _ in range(2))
        losses = []
        for i in range(6):
            cosine = [F.cosine_similarity(anchors[i], positives[j], dim=0) / 0.2 for j in range(6)]
            kept = [cosine[j] for j in range(6) if j == i or self.ids[j] != self.ids[i]]
            losses.append(torch.logsumexp(torch.stack(kept), 0) - cosine[i])
        torch.testing.assert_close(in_batch_info_nce(anchors, positives, self.ids, 0.2), torch.stack(losses).mean())

    def test_rows_of_one_thing_repel_nobody(self):
        anchors, positives = torch.randn(4, D), torch.randn(4, D)
        assert in_batch_info_nce(anchors, positives, torch.full((4,), 3), 0.1).item() == 0.0

    def test_scale_of_the_vectors_does_not_matter(self):
        anchors, positives = torch.randn(6, D), torch.randn(6, D)
        torch.testing.assert_close(
            in_batch_info_nce(3 * anchors, 0.5 * positives, self.ids, 0.1),
            in_batch_info_nce(anchors, positives, self.ids, 0.1),
        )


class TestLoadBalance:
    def test_zero_when_experts_are_used_alike(self):
        assert load_balance(torch.full((6, 4), 0.25)).item() == pytest.approx(0.0, abs=1e-6)
        # alike on average, however decided each row is
        assert load_balance(torch.eye(4).repeat(3, 1)).item() == pytest.approx(0.0, abs=1e-6)

    def test_one_expert_alone_costs_the_most(self):
        gates = torch.zeros(5, 4)
        gates[:, 2] = 1.0
        assert load_balance(gates).item() == pytest.approx(3.0)

    def test_written_out(self):
        gates = torch.tensor([[0.5, 0.5], [1.0, 0.0]])  # usage 3/4, 1/4
        assert load_balance(gates).item() == pytest.approx(2 * (9 / 16 + 1 / 16) - 1)
