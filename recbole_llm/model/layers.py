"""Layers that two or more models share: tensors in, tensors out, hyper-parameters as plain numbers.

Shapes: B batch, L sequence length, D hidden size, F feature size, N items (row 0 = [PAD]).
"""

from collections.abc import Sequence

import numpy as np
import scipy.linalg
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recbole_llm.errors import ConfigError


class Dropout(nn.Module):
    """Dropout whose mask is cheap on a CPU, where torch draws one random number an element on one core.

    A byte decides an element, so the rate is rounded to a multiple of 1/256. The bytes come from a generator seeded by
    torch's, so seeds and saved generator states fix them as usual. Off the CPU it is torch's own dropout.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p, self.kept = p, 256 - round(256 * p)
        if not 0 < self.kept <= 256:
            raise ConfigError(f"dropout is {p}; it must be at least 0 and less than 1")

    def forward(self, x: Tensor) -> Tensor:
        """x: any shape -> the same shape, scaled so that the expectation stays."""
        if not self.training or self.kept == 256 or not x.numel():
            return x
        if x.device.type != "cpu":
            return F.dropout(x, self.p)
        seed = int(torch.randint(2**62, ()))
        draws = torch.frombuffer(
            bytearray(np.random.Generator(np.random.SFC64(seed)).bytes(x.numel())), dtype=torch.uint8
        )
        return x * (draws < self.kept).view(x.shape).to(x.dtype).mul_(256 / self.kept)


class CausalBlock(nn.Module):
    r"""Pre-LN transformer block with causal self-attention.

    :math:`x \leftarrow x + \mathrm{MHA}(\mathrm{LN}(x))`, then :math:`x \leftarrow x + \mathrm{FFN}(\mathrm{LN}(x))`.
    Xiong et al. 2020, https://arxiv.org/abs/2002.04745 (pre-LN). Sequences are right-padded, so the causal mask alone
    keeps padding out of every real position.
    """

    def __init__(self, hidden_size: int, n_heads: int, inner_size: int, dropout: float, attn_dropout: float) -> None:
        super().__init__()
        self.n_heads, self.attn_dropout = n_heads, attn_dropout
        self.attn_norm = nn.LayerNorm(hidden_size)
        self.qkv = nn.Linear(hidden_size, 3 * hidden_size)
        self.attn_out = nn.Linear(hidden_size, hidden_size)
        self.ffn_norm = nn.LayerNorm(hidden_size)
        self.ffn = nn.Sequential(nn.Linear(hidden_size, inner_size), nn.GELU(), nn.Linear(inner_size, hidden_size))
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """x: [B, L, D] float32 -> [B, L, D]."""
        batch, length, width = x.shape
        qkv = self.qkv(self.attn_norm(x)).view(batch, length, 3, self.n_heads, width // self.n_heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each [B, heads, L, D / heads]
        p = self.attn_dropout if self.training else 0.0
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True, dropout_p=p)
        x = x + self.dropout(self.attn_out(mixed.transpose(1, 2).reshape(batch, length, width)))
        return x + self.dropout(self.ffn(self.ffn_norm(x)))


class CausalEncoder(nn.Module):
    """Learned positions, dropout, causal blocks, final LayerNorm: the SASRec encoder over given item vectors.

    Raises:
        ConfigError: when the hidden size is no multiple of the number of heads.
    """

    def __init__(
        self,
        max_seq_length: int,
        hidden_size: int,
        n_layers: int,
        n_heads: int,
        inner_size: int,
        dropout: float,
        attn_dropout: float,
    ) -> None:
        super().__init__()
        if hidden_size % n_heads:
            raise ConfigError(f"a hidden size of {hidden_size} does not split into {n_heads} heads; take a multiple")
        self.positions = nn.Parameter(torch.empty(max_seq_length, hidden_size))
        self.dropout = Dropout(dropout)
        self.blocks = nn.ModuleList(
            CausalBlock(hidden_size, n_heads, inner_size, dropout, attn_dropout) for _ in range(n_layers)
        )
        self.norm = nn.LayerNorm(hidden_size)
        nn.init.normal_(self.positions, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        """Encode item vectors.

        Args:
            x: item vectors, right-padded. [B, L, D] float32.
        Returns:
            The state after each position; states at padding carry no meaning. [B, L, D] float32.
        Raises:
            ValueError: if L exceeds max_seq_length.
        """
        length = x.shape[1]
        if length > len(self.positions):
            raise ValueError(f"sequence length {length} exceeds max_seq_length {len(self.positions)}")
        x = self.dropout(x + self.positions[:length])
        for block in self.blocks:
            x = block(x)
        return self.norm(x)


def last_state(states: Tensor, lengths: Tensor) -> Tensor:
    """The state at the last real position. states [B, L, D], lengths [B] int64 (>= 1) -> [B, D]."""
    return states[torch.arange(len(states), device=states.device), lengths - 1]


def whiten(features: np.ndarray, present: np.ndarray, method: str, dim: int | None) -> np.ndarray:
    """Centre, optionally whiten on the catalogue, and L2-normalise feature rows.

    PCA keeps the ``dim`` leading directions scaled to unit variance; ZCA rotates back, so ``dim`` only bounds its
    rank; ``rotate`` keeps the leading directions with the variance they have. Where they are scaled, they are shrunk
    towards the mean variance (Ledoit-Wolf style, weight F / (n + F)) so that a catalogue smaller than F does not blow
    up its noise directions.

    Args:
        features: [N, F] float32; rows without a feature are ignored in the fit.
        present: [N] bool.
        method: "none" | "rotate" | "pca" | "zca".
        dim: directions kept; None or 0 keeps all.
    Returns:
        [N, F'] float32 with unit rows where present, zero rows elsewhere; F' = min(dim, F, rows) for pca and rotate,
        else F.
    """
    return whitened_forms(features, present, [(method, dim)])[0]


def whitened_forms(
    features: np.ndarray, present: np.ndarray, forms: Sequence[tuple[str, int | None]]
) -> list[np.ndarray]:
    """:func:`whiten` by several methods from one decomposition.

    Args:
        forms: method and dim of each.
    Returns:
        A table for each form, as of :func:`whiten`.
    """
    n, width = int(present.sum()), features.shape[1]
    by_rows, by_columns = _blocks(len(features)), _blocks(width)
    mean = sum(features[b][present[b]].sum(0, dtype=np.float64) for b in by_rows) / max(n, 1)

    def centred(rows: slice = slice(None), columns: slice = slice(None)) -> np.ndarray:
        """A part of the centred features in float64: the whole would be several times the features' own memory."""
        part = features[rows, columns] - mean[columns]
        part[~present[rows]] = 0.0
        return part

    kept = [min(dim or width, width, n) for method, dim in forms if method != "none"]
    if not kept:
        return [_unit_rows(centred()) for _ in forms]
    # the same directions follow from the Gram matrix of the columns and of the rows: take the smaller one
    size = width if width <= n else len(features)
    gram = np.zeros((size, size), order="F")
    for b in by_rows if width <= n else by_columns:  # summed in place, the lower half alone
        part = centred(rows=b).T if width <= n else centred(columns=b)
        gram = scipy.linalg.blas.dsyrk(1.0 / n, part, beta=1.0, c=gram, lower=True, overwrite_c=True)
    total = np.trace(gram)
    variance, directions = scipy.linalg.eigh(
        gram, subset_by_index=(size - max(kept), size - 1), lower=True, overwrite_a=True
    )
    del gram
    variance, directions = variance[::-1], directions[:, ::-1]  # eigh has them ascending
    if width > n:
        directions = np.concatenate([centred(columns=b).T @ directions for b in by_columns])
        directions /= np.sqrt(np.maximum(n * variance, 1e-12))
    shrink = width / (n + width)
    scale = 1.0 / np.sqrt((1 - shrink) * variance + shrink * total / width + 1e-12)
    # eigenvectors have a free sign: fix it, so that the same data gives the same features everywhere
    directions = directions * np.sign(directions[np.abs(directions).argmax(0), np.arange(max(kept))])

    def form(method: str, dim: int | None) -> np.ndarray:
        if method == "none":
            return _unit_rows(centred())
        axes, scales = (v[..., : min(dim or width, width, n)] for v in (directions, scale))
        x = np.concatenate([centred(rows=b) @ axes for b in by_rows]) * (1.0 if method == "rotate" else scales)
        return _unit_rows(x @ axes.T if method == "zca" else x)

    return [form(*one) for one in forms]


def _blocks(n: int, size: int = 512) -> list[slice]:
    return [slice(start, start + size) for start in range(0, n, size)]


def _unit_rows(x: np.ndarray) -> np.ndarray:
    """Rows of length 1, zero rows as they are. [N, F] float64 -> float32."""
    return (x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)).astype(np.float32)


def causal_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean of the masked-in values up to and including each position.

    Args:
        values: [B, L, ...] float32.
        mask: [B, L] float32 or bool; 0 leaves a position out.
    Returns:
        [B, L, ...]; zeros before the first position that counts.
    """
    weight = mask.to(values.dtype).view(*mask.shape, *([1] * (values.dim() - 2)))
    return (values * weight).cumsum(1) / weight.cumsum(1).clamp(min=1.0)


def standardised(scores: Tensor) -> Tensor:
    """Zero mean and unit variance over the real items of each row. [B, N] -> [B, N]."""
    real = scores[:, 1:]
    return (scores - real.mean(1, keepdim=True)) / real.std(1, keepdim=True).clamp(min=1e-8)
