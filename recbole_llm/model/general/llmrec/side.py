"""Side information of LLMRec: frozen features, propagated once over the training graph, projected in every step.

A propagated feature is linear in the feature, so :math:`A (X W) = (A X) W`: the product with the graph is taken when
the model is built, and a step costs a small matrix product a branch.

Shapes: U users, N items (row 0 of each = [PAD]), F' whitened feature size, D embedding size.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recbole_llm.errors import ConfigError
from recbole_llm.model.content import joined_features
from recbole_llm.model.general.aglrec_text import user_text

KINDS = ("text", "image", "attribute", "profile")


@dataclass(frozen=True)
class Side:
    """One branch of side information.

    Attributes:
        name: of the feature or group of features. kind: one of KINDS.
        users, items: propagated rows [U, F' + 1] and [N, F' + 1] float32; the last column is the share of neighbours
            without the feature, which meets the vector learned for them.
        own: the items' features before propagation [N, F' + 1]; None for a profile, which is of users.
        present: which items have the feature themselves [N] bool; of a profile, which are used by a user who has one.
    """

    name: str
    kind: str
    users: Tensor
    items: Tensor
    own: Tensor | None
    present: Tensor


def sides_of(config, dataset, adjacency: Tensor) -> list[Side]:
    """The branches that a configuration asks for, in a fixed order: text, image, attributes, profile.

    ``item_features`` are one text together, ``visual_facets`` one image, each of ``item_facets`` is an attribute; the
    profile is what :func:`~recbole_llm.model.general.aglrec_text.user_text` makes of training rows or of a feature.

    Raises:
        ConfigError: when nothing is left.
    """
    how = config["whiten"], config["text_dim"]
    groups = [("text", "text", config["item_features"]), ("image", "image", config["visual_facets"])]
    groups += [(name, "attribute", [name]) for name in config["item_facets"] or []]
    sides, text = [], None
    for name, kind, features in groups:
        if not features:
            continue
        rows, present = joined_features(dataset, features, *how)
        text = (rows, present) if kind == "text" else text
        sides.append(_of_items(name, kind, rows, present, adjacency, dataset))
    if config["use_profile"]:
        if text is None and not (config["user_features"] or config["review_features"]):
            raise ConfigError(
                "profiles of users are made from item_features, but there are none: name some, or user_features, or "
                "set use_profile to false"
            )
        sides.append(_of_users(*user_text(config, dataset, text), adjacency, dataset))
    if not sides:
        raise ConfigError(
            "LLMRec reads side information: set item_features, visual_facets or item_facets to features of the dataset"
        )
    return sides


def _of_items(name: str, kind: str, rows: Tensor, present: Tensor, adjacency: Tensor, dataset) -> Side:
    """Item features at their users, and from there at the items again: :math:`A_{ui} X`, :math:`A_{iu} A_{ui} X`."""
    own = _with_missing(rows, present)
    n_users = dataset.user_num
    users = (adjacency @ torch.cat([own.new_zeros(n_users, own.shape[1]), own]))[:n_users]
    items = (adjacency @ torch.cat([users, torch.zeros_like(own)]))[n_users:]
    unused = items.abs().sum(1) == 0  # nobody's item: there is nothing to propagate, its own feature stands for it
    return Side(name, kind, users, torch.where(unused[:, None], own, items), own, present)


def _of_users(rows: Tensor, present: Tensor, adjacency: Tensor, dataset) -> Side:
    """User profiles at their items, and from there at the users again: :math:`A_{iu} P`, :math:`A_{ui} A_{iu} P`."""
    own = _with_missing(rows, present)
    n_users = dataset.user_num
    items = (adjacency @ torch.cat([own, own.new_zeros(dataset.item_num, own.shape[1])]))[n_users:]
    users = (adjacency @ torch.cat([torch.zeros_like(own), items]))[:n_users]
    return Side("profile", "profile", users, items, None, items.abs().sum(1) > 0)


def _with_missing(rows: Tensor, present: Tensor) -> Tensor:
    """A last column that is 1 where a row is missing, [PAD] apart; left out where none is. [n, F' + 1 or F']."""
    if present[1:].all():
        return rows
    missing = (~present).to(rows.dtype)
    missing[0] = 0.0
    return torch.cat([rows, missing[:, None]], 1)


class SideBranch(nn.Module):
    r"""A side projected to D: :math:`\mathrm{norm}(A X W)` of users and items, :math:`\mathrm{norm}(X W)` of items.

    Args:
        side: its tables. width: D.
    """

    def __init__(self, side: Side, width: int) -> None:
        super().__init__()
        self.kind = side.kind
        self.project = nn.Linear(side.users.shape[1], width, bias=False)
        nn.init.xavier_uniform_(self.project.weight)
        for name in ("users", "items", "own", "present"):
            self.register_buffer(name, getattr(side, name), persistent=False)

    def of(self, which: str, ids: Tensor | None) -> Tensor:
        """Rows of length 1, zero where nothing is known.

        Args:
            which: "users" | "items" (propagated) | "own" (items' features themselves).
            ids: [B] int64, or None for all.
        Returns:
            [B, D] float32.
        """
        rows = getattr(self, which)
        return F.normalize(self.project(rows if ids is None else rows[ids]), dim=-1)
