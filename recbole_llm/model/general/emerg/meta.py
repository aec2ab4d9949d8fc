r"""EmerG's meta-learning: how an item that is new is scored by its content, and what some ratings of it change.

Wang et al. 2024 (EmerG), https://arxiv.org/abs/2407.10112, sect. 4.3: an item is a task. Its own parameters
:math:`\phi_i` are what is added to its graph and its identity; they start at nothing. An episode takes some of its rows
as support, adapts :math:`\phi_i` to them, and scores later rows, the query; the shared parameters are trained by
:math:`0.1 L_S + 0.9 L_Q`, through the adaptation.

Differs: gradients go through the step (the released code assigns ``.data``), step sizes are learned (Li et al. 2017,
Meta-SGD, https://arxiv.org/abs/1707.09835), and grow with the number of ratings as :math:`n / (n + \tau)`, as a
posterior mean does; an item has a bias beside its identity; at a phase it is adapted to all of its rows so far.

Shapes: I items, R rows, N items of the catalogue (row 0 = [PAD]), n fields, D embedding size.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recbole_llm.errors import ConfigError

SUPPORT_WEIGHT = 0.1  # of the loss before adaptation, EmerG's


class Fast(NamedTuple):
    """An item's own parameters: identity [I, D], bias [I], what is added to its raw graph [I, n, n]."""

    identity: Tensor
    bias: Tensor
    graph: Tensor


class LabelledRows(NamedTuple):
    """Rows of some items: place of each row's item among them [R] int64, users [R] int64, labels [R] float32."""

    place: Tensor
    users: Tensor
    labels: Tensor


class ItemAdaptation(nn.Module):
    """Adapts items to their rows, and samples the episodes that teach it.

    Args:
        users, items, labels: training rows in time order. [n] int64, int64, float32.
        n_items, width, n_fields: N, D, n.
        episode_items: items an episode. support_rows: how many rows support may be; an episode takes one of them.
        query_rows: rows that follow them. inner_steps: steps of an adaptation, >= 1.
    Raises:
        ConfigError: when no item has rows enough for an episode.
    """

    def __init__(
        self,
        users: Tensor,
        items: Tensor,
        labels: Tensor,
        n_items: int,
        width: int,
        n_fields: int,
        episode_items: int,
        support_rows: list[int],
        query_rows: int,
        inner_steps: int,
    ) -> None:
        super().__init__()
        order = torch.argsort(items, stable=True)  # by item, in time order
        counts = torch.bincount(items, minlength=n_items)
        self.episode_items, self.support_rows = episode_items, list(support_rows)
        self.query_rows, self.inner_steps = query_rows, inner_steps
        tasks = (counts >= max(self.support_rows) + query_rows).nonzero()[:, 0]
        if not len(tasks):
            raise ConfigError(
                f"an episode takes {max(self.support_rows) + query_rows} ratings of an item, and no item has so many; "
                "lower support_rows or query_rows"
            )
        tables = {
            "users": users[order], "labels": labels[order], "tasks": tasks,
            "counts": counts, "starts": counts.cumsum(0) - counts,
        }  # fmt: skip
        for name, table in tables.items():
            self.register_buffer(name, table, persistent=False)
        self.log_rates = nn.Parameter(torch.zeros(3))  # of identity, bias, graph
        self.log_tau = nn.Parameter(torch.tensor(10.0).log())
        # kept for scoring between phases; no gradient step of the training moves them
        shapes = {"identity": (n_items, width), "bias": (n_items,), "graph": (n_items, n_fields, n_fields)}
        self.fast = nn.ParameterDict(
            {name: nn.Parameter(torch.zeros(shape), requires_grad=False) for name, shape in shapes.items()}
        )

    def of(self, ids: Tensor) -> Fast:
        """What items have been adapted to so far. ids [I] int64."""
        return Fast(*(self.fast[name][ids] for name in Fast._fields))

    def nothing(self, n: int) -> Fast:
        """Own parameters of n items of which no rating is known."""
        zeros = (self.fast[name].new_zeros(n, *self.fast[name].shape[1:]).requires_grad_() for name in Fast._fields)
        return Fast(*zeros)

    def episode(self) -> tuple[Tensor, LabelledRows, LabelledRows]:
        """Some items, rows of theirs, and the rows that follow in time. ids [I] int64, support, query."""
        device = self.tasks.device
        ids = self.tasks[torch.randperm(len(self.tasks), device=device)[: self.episode_items]]
        size = self.support_rows[int(torch.randint(len(self.support_rows), ()))]
        room = self.counts[ids] - size - self.query_rows + 1
        first = self.starts[ids] + (torch.rand(len(ids), device=device) * room).long()
        return ids, self._window(first, size), self._window(first + size, self.query_rows)

    def _window(self, first: Tensor, size: int) -> LabelledRows:
        rows = (first[:, None] + torch.arange(size, device=first.device)).flatten()
        place = torch.arange(len(first), device=first.device).repeat_interleave(size)
        return LabelledRows(place, self.users[rows], self.labels[rows])

    def rows_of(self, ids: Tensor) -> LabelledRows:
        """All rows of items. ids [I] int64."""
        counts = self.counts[ids]
        place = torch.arange(len(ids), device=ids.device).repeat_interleave(counts)
        offset = torch.arange(len(place), device=ids.device) - (counts.cumsum(0) - counts)[place]
        rows = self.starts[ids][place] + offset
        return LabelledRows(place, self.users[rows], self.labels[rows])

    def adapted(self, loss_of_items, n_rows: Tensor, create_graph: bool) -> Fast:
        """Own parameters after ``inner_steps`` steps from nothing, each item by the mean loss of its own rows.

        Args:
            loss_of_items: from Fast to the mean loss of each item's rows [I]. n_rows: of each item [I].
            create_graph: whether gradients go through the steps.
        """
        fast = self.nothing(len(n_rows))
        trust = n_rows / (n_rows + self.log_tau.exp())
        for _ in range(self.inner_steps):
            grads = torch.autograd.grad(loss_of_items(fast).sum(), fast, create_graph=create_graph)
            step = [
                value - rate * trust.view(-1, *[1] * (value.dim() - 1)) * grad
                for value, grad, rate in zip(fast, grads, self.log_rates.exp(), strict=True)
            ]
            fast = Fast(*(step if create_graph else (value.detach().requires_grad_() for value in step)))
        return fast

    @torch.no_grad()
    def keep(self, ids: Tensor, fast: Fast) -> None:
        """Score items by these from now on."""
        for name, value in zip(Fast._fields, fast, strict=True):
            self.fast[name][ids] = value


def loss_by_item(scores: Tensor, rows: LabelledRows, n_items: int) -> Tensor:
    """Mean binary cross-entropy of each item's rows. scores [R] -> [I]."""
    losses = F.binary_cross_entropy_with_logits(scores, rows.labels, reduction="none")
    total = losses.new_zeros(n_items).index_add(0, rows.place, losses)
    return total / torch.bincount(rows.place, minlength=n_items).clamp(min=1)
