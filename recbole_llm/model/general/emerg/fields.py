"""The fields of an item that interact: what it is, who uses it, what it is about.

Shapes: B items, n fields, D embedding size, U users, N items (row 0 = [PAD]).
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from recbole_llm.model.general.llmrec.side import SideBranch

COLLABORATIVE = ("id", "user", "profile")  # known of items with training interactions alone


def field_names(side_names: list[str]) -> list[str]:
    """Names of the fields, in their order: identity, users, then the branches of LLMRec."""
    return ["id", "user", *side_names]


def field_vectors(
    identities: Tensor,
    neighbours: Tensor,
    branches: list[SideBranch],
    parts: list[Tensor],
    used: Tensor,
    ids: Tensor | None,
) -> tuple[Tensor, Tensor]:
    r"""Embeddings of items' fields, of length :math:`\sqrt D` so that products of coordinates keep their size.

    Args:
        identities, neighbours: propagated identities of the items, and the mean of their users' [N, D].
        branches: of LLMRec. parts: of length 1, a branch's own rows of the items, the profile's propagated ones [B, D].
        used: which items training interactions use [N] bool.
        ids: [B] int64, or None for all.
    Returns:
        fields [B, n, D], zero where an item does not have one; which it has [B, n] bool.
    """

    tables = (identities, neighbours)
    rows = [F.normalize(table if ids is None else table[ids], dim=-1) for table in tables] + parts
    present = present_fields(branches, used, ids)
    size = present.T[:, :, None] * identities.shape[1] ** 0.5
    return (torch.stack(rows) * size).transpose(0, 1), present  # field by field, as matrices of fields then read it


def present_fields(branches: list[SideBranch], used: Tensor, ids: Tensor | None) -> Tensor:
    """Which fields items have; see field_vectors. [B, n] bool."""
    present = [used, used] + [b.present & used if b.own is None else b.present for b in branches]
    return torch.stack([column if ids is None else column[ids] for column in present], 1)


def as_if_cold(fields: Tensor, present: Tensor, names: list[str]) -> tuple[Tensor, Tensor]:
    """The same without what only interactions tell: identity, users and profile are not there."""
    of_content = torch.tensor([name not in COLLABORATIVE for name in names], device=fields.device)
    present = present & of_content
    return fields * of_content[:, None], present
