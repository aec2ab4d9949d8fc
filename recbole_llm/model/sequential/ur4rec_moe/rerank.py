r"""Re-ranking of UR4RecMoE: the best candidates look at the user's memory themselves.

A candidate's score is :math:`\cos(\mathrm{LN}(f_i + \mathrm{MHA}(f_i, [o_u; P])), r_u)`: the retriever's attention,
with the item in the place of the history state. It does not factorise, hence it is for the top K alone.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from recbole_llm.model.sequential.ur4rec_moe.moe import PreferenceMemory

# positions and negatives of a step that the re-ranking loss looks at
_POSITIONS, _NEGATIVES = 128, 32


def memory_cosine(memory: PreferenceMemory, candidates: Tensor, r_u: Tensor, o_u: Tensor | None) -> Tensor:
    """Scores of candidates [M, K, D] for user vectors r_u [M, D] and preference outputs o_u [M, D]. [M, K] float32."""
    seen = memory(candidates, o_u)
    return (F.normalize(seen, dim=-1) * F.normalize(r_u, dim=-1)[:, None]).sum(-1)


def rerank_loss(
    memory: PreferenceMemory,
    f: Tensor,
    pos: Tensor,
    neg: Tensor,
    r_u: Tensor,
    o_u: Tensor | None,
    temperature: float,
) -> Tensor:
    """Softmax over the re-ranker's score of the target and some negatives, on some of the positions.

    Args:
        f: item vectors of the step. [n, D]; pos: rows of the targets in it. [M]; neg: rows of the negatives. [K].
        r_u, o_u: user side at the positions. [M, D].
    Returns:
        Scalar.
    """
    some = torch.randperm(len(pos), device=pos.device)[:_POSITIONS]
    candidates = torch.cat([pos[some, None], neg[:_NEGATIVES].expand(len(some), -1)], 1)  # [m, 1 + K]
    cosine = memory_cosine(memory, F.embedding(candidates, f), r_u[some], None if o_u is None else o_u[some])
    same = candidates[:, 1:] == pos[some, None]
    logits = torch.cat([cosine[:, :1], cosine[:, 1:].masked_fill(same, -torch.inf)], 1) / temperature
    return F.cross_entropy(logits, torch.zeros(len(some), dtype=torch.long, device=logits.device))


def rerank(memory: PreferenceMemory, scores: Tensor, parts: dict, top_k: int) -> Tensor:
    """Re-score the top K with the item as the query over the user's memory; the others stay below them.

    Args:
        scores: [B, N]; parts: "f" [N, D], "r_u" and "o_u" [B, D], "weight" [B, 1], see ``UR4RecMoE.score_vectors``.
    Returns:
        [B, N] float32.
    """
    real = scores[:, 1:]
    top, ids = real.topk(min(top_k, real.shape[1]), dim=1)
    cosine = memory_cosine(memory, parts["f"][ids + 1], parts["r_u"], parts["o_u"])
    z = (cosine - cosine.mean(1, keepdim=True)) / cosine.std(1, keepdim=True).clamp(min=1e-6)
    spread = top.std(1, keepdim=True).clamp(min=1e-6)
    mixed = top + parts["weight"] * spread * z
    # keep the K candidates as a block above the rest
    lift = (top[:, -1:] - mixed.min(1, keepdim=True).values).clamp(min=0.0)
    return scores.scatter(1, ids + 1, mixed + lift)
