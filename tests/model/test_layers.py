"""Shared layers: causality, whitening, causal means, the CPU dropout."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes
from torch import nn

from recbole_llm.errors import ConfigError
from recbole_llm.model.layers import (
    CausalBlock,
    CausalEncoder,
    Dropout,
    causal_mean,
    last_state,
    standardised,
    whiten,
    whitened_forms,
)


class TestCausalBlock:
    def test_a_change_of_the_future_leaves_the_past(self):
        torch.manual_seed(0)
        block = CausalBlock(8, 2, 16, 0.0, 0.0)
        x = torch.randn(3, 6, 8)
        y = x.clone()
        y[:, 4:] += 1.0
        before, after = block(x), block(y)
        torch.testing.assert_close(before[:, :4], after[:, :4])
        assert not torch.allclose(before[:, 4:], after[:, 4:])

    def test_every_earlier_position_reaches_a_later_one(self):
        torch.manual_seed(0)
        block, x = CausalBlock(8, 2, 16, 0.0, 0.0), torch.randn(1, 5, 8, requires_grad=True)
        block(x)[0, -1].sum().backward()
        assert (x.grad[0].abs().sum(-1) > 0).all()

    def test_equals_torch_s_pre_ln_layer(self):
        torch.manual_seed(0)
        block = CausalBlock(8, 2, 16, 0.0, 0.0).eval()
        oracle = nn.TransformerEncoderLayer(8, 2, 16, 0.0, "gelu", batch_first=True, norm_first=True).eval()
        pairs = {
            "self_attn.in_proj_weight": block.qkv.weight,
            "self_attn.in_proj_bias": block.qkv.bias,
            "self_attn.out_proj.weight": block.attn_out.weight,
            "self_attn.out_proj.bias": block.attn_out.bias,
            "linear1.weight": block.ffn[0].weight,
            "linear1.bias": block.ffn[0].bias,
            "linear2.weight": block.ffn[2].weight,
            "linear2.bias": block.ffn[2].bias,
            "norm1.weight": block.attn_norm.weight,
            "norm1.bias": block.attn_norm.bias,
            "norm2.weight": block.ffn_norm.weight,
            "norm2.bias": block.ffn_norm.bias,
        }
        oracle.load_state_dict(pairs)
        x = torch.randn(3, 6, 8)
        mask = nn.Transformer.generate_square_subsequent_mask(6)
        torch.testing.assert_close(block(x), oracle(x, src_mask=mask, is_causal=True), rtol=1e-5, atol=1e-5)


class TestCausalEncoder:
    def test_order_of_the_items_matters(self):
        torch.manual_seed(0)
        encoder, x = CausalEncoder(6, 8, 1, 2, 16, 0.0, 0.0), torch.randn(1, 6, 8)
        assert not torch.allclose(encoder(x)[:, -1], encoder(x[:, [1, 0, 2, 3, 4, 5]])[:, -1], atol=1e-4)

    def test_too_long_a_sequence_is_refused(self):
        with pytest.raises(ValueError, match="sequence length 7 exceeds max_seq_length 6"):
            CausalEncoder(6, 8, 1, 2, 16, 0.0, 0.0)(torch.zeros(1, 7, 8))

    def test_a_width_that_the_heads_do_not_divide_is_named(self):
        with pytest.raises(ConfigError, match="hidden size of 10 does not split into 4 heads"):
            CausalEncoder(6, 10, 1, 4, 16, 0.0, 0.0)


def test_last_state_reads_by_length():
    states = torch.arange(24.0).view(2, 4, 3)
    assert last_state(states, torch.tensor([1, 3])).tolist() == [[0, 1, 2], [18, 19, 20]]


def test_standardised_leaves_the_pad_column_out():
    scores = torch.tensor([[1e6, 1.0, 2.0, 3.0], [0.0, 5.0, 5.0, 5.0]])
    out = standardised(scores)
    assert out[0, 1:].tolist() == pytest.approx([-1.0, 0.0, 1.0]) and not out[1, 1:].any()


class TestWhiten:
    rng = np.random.default_rng(0)
    features = (rng.normal(size=(4000, 6)) @ rng.normal(size=(6, 6)) + 3).astype(np.float32)
    present = np.ones(4000, dtype=bool)

    def test_rows_are_unit_and_absent_rows_zero(self):
        present = self.present.copy()
        present[[0, 7]] = False
        for method, dim in (("none", None), ("pca", 3), ("zca", None)):
            out = whiten(self.features, present, method, dim)
            assert out.dtype == np.float32
            assert out.shape == (4000, 3 if method == "pca" else 6)
            np.testing.assert_allclose(np.linalg.norm(out[present], axis=1), 1.0, rtol=1e-5)
            assert not out[~present].any()

    def test_absent_rows_do_not_touch_the_fit(self):
        present = self.present.copy()
        present[:5] = False
        spoiled = self.features.copy()
        spoiled[:5] = 1e4
        np.testing.assert_array_equal(
            whiten(self.features, present, "pca", 4)[5:], whiten(spoiled, present, "pca", 4)[5:]
        )

    @pytest.mark.parametrize("method", ["pca", "zca"])
    def test_covariance_of_the_directions_is_round(self, method):
        """With n >> F the shrinkage weight F / (n + F) is small, so all directions have the same variance."""
        out = whiten(self.features, self.present, method, None).astype(np.float64)
        covariance = np.cov(out.T) * 6  # unit rows in 6 directions: 1/6 each
        np.testing.assert_allclose(covariance, np.eye(6), atol=0.06)
        plain = whiten(self.features, self.present, "none", None).astype(np.float64)
        assert np.abs(np.cov(plain.T) * 6 - np.eye(6)).max() > 0.3  # it was not round before

    def test_pca_before_normalisation_has_the_shrunk_variance(self):
        """Row norms removed again through a naive computation of the same formula."""
        x = self.features[:40].astype(np.float64)
        x -= x.mean(0)
        covariance = x.T @ x / 40
        variance, directions = np.linalg.eigh(covariance)
        weight = 6 / 46
        shrunk = (1 - weight) * variance + weight * np.trace(covariance) / 6
        z = (x @ directions / np.sqrt(shrunk))[:, ::-1]
        np.testing.assert_allclose((z**2).mean(0), (variance / shrunk)[::-1], rtol=1e-9)
        expected = z / np.linalg.norm(z, axis=1, keepdims=True)
        out = whiten(self.features[:40], self.present[:40], "pca", None)
        np.testing.assert_allclose(np.abs(out), np.abs(expected), rtol=1e-4, atol=1e-5)  # signs are a convention

    @pytest.mark.parametrize("n", [40, 5])  # more rows than directions, and fewer
    def test_several_forms_from_one_decomposition(self, n):
        forms = [("pca", 2), ("none", None), ("rotate", 4), ("zca", 0)]
        found = whitened_forms(self.features[:n], self.present[:n], forms)
        for form, rows in zip(forms, found, strict=True):
            np.testing.assert_allclose(rows, whiten(self.features[:n], self.present[:n], *form), atol=2e-5)

    def test_zca_stays_close_to_the_input_directions(self):
        """ZCA is the whitening nearest to the data: it has no free sign or rotation."""
        out = whiten(self.features, self.present, "zca", None)
        flipped = whiten(self.features * [-1, 1, 1, -1, 1, 1], self.present, "zca", None)
        np.testing.assert_allclose(out * [-1, 1, 1, -1, 1, 1], flipped, atol=1e-4)

    def test_the_sign_does_not_hang_on_the_order_of_rows(self):
        order = np.random.default_rng(1).permutation(4000)
        out = whiten(self.features, self.present, "pca", 4)
        np.testing.assert_allclose(whiten(self.features[order], self.present, "pca", 4), out[order], atol=1e-4)

    def test_fewer_rows_than_dimensions_stay_finite(self):
        features = np.random.default_rng(2).normal(size=(5, 40)).astype(np.float32)
        out = whiten(features, np.ones(5, dtype=bool), "pca", 16)
        assert out.shape == (5, 5) and np.isfinite(out).all()  # no more directions than rows
        cosine = out @ out.T
        assert np.abs(cosine - np.diag(cosine.diagonal())).max() < 0.5  # five random rows stay apart


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 1000), batch=st.integers(1, 3), length=st.integers(1, 6))
def test_causal_mean_equals_a_naive_loop(seed, batch, length):
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(batch, length, 2, 3, generator=generator)
    mask = torch.rand(batch, length, generator=generator) < 0.6
    out = causal_mean(values, mask)
    for b in range(batch):
        for t in range(length):
            seen = [values[b, s] for s in range(t + 1) if mask[b, s]]
            expected = torch.stack(seen).mean(0) if seen else torch.zeros(2, 3)
            torch.testing.assert_close(out[b, t], expected, rtol=1e-4, atol=1e-5)


class TestDropout:
    @pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
    def test_rate_and_expectation(self, p):
        torch.manual_seed(0)
        out = Dropout(p)(torch.ones(400, 500))
        rate = round(256 * p) / 256
        assert (out == 0).float().mean().item() == pytest.approx(rate, abs=0.005)
        assert out.mean().item() == pytest.approx(1.0, abs=0.02)
        assert out.unique().tolist() == pytest.approx([0.0, 1 / (1 - rate)], rel=1e-6)

    def test_every_element_is_drawn_for_itself(self):
        torch.manual_seed(0)
        dropped = (Dropout(0.5)(torch.ones(2000, 8)) == 0).double()
        correlation = np.corrcoef(dropped.T.numpy())
        assert np.abs(correlation - np.eye(8)).max() < 0.1

    def test_torch_s_seed_fixes_it(self):
        layer, x = Dropout(0.3), torch.ones(50, 50)

        def draw() -> torch.Tensor:
            torch.manual_seed(7)
            return layer(x)

        first, state = draw(), torch.get_rng_state()
        second = layer(x)
        assert torch.equal(draw(), first) and not torch.equal(second, first)
        torch.set_rng_state(state)
        assert torch.equal(layer(x), second)

    @settings(max_examples=30, deadline=None)
    @given(shape=array_shapes(min_dims=1, max_dims=4, max_side=5), p=st.sampled_from([0.0, 0.001, 0.25]))
    def test_shape_and_values_stay(self, shape, p):
        x = torch.rand(shape) + 1.0
        layer = Dropout(p)
        out = layer(x)
        assert out.shape == x.shape and out.dtype == x.dtype
        kept = out != 0
        torch.testing.assert_close(out[kept], x[kept] * (256 / (256 - round(256 * p))))
        assert torch.equal(layer.eval()(x), x)

    def test_gradient_passes_where_a_value_was_kept(self):
        torch.manual_seed(0)
        x = torch.ones(30, 30, requires_grad=True)
        out = Dropout(0.25)(x)
        out.sum().backward()
        assert torch.equal(x.grad, out.detach())

    def test_a_transposed_input_is_dropped_alike(self):
        torch.manual_seed(0)
        out = Dropout(0.5)(torch.ones(6, 4).T)
        assert out.shape == (4, 6) and 0 < (out == 0).sum() < 24
