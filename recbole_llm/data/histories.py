"""A user's last interactions before a moment, for many users and moments at once."""

import numpy as np


class Histories:
    """Items by user and time.

    Args:
        owners, times: user and time of each entry, ascending in time. [m]. Without times all are before anything.
        items: of each entry. [m] int64.
    """

    def __init__(self, owners: np.ndarray, times: np.ndarray | None, items: np.ndarray) -> None:
        order = np.argsort(owners, kind="stable")
        self.order, self.owners, self.items = order, owners[order], items
        self.times = None if times is None else np.unique(times)
        self.keys = self.owners
        if self.times is not None:  # one key for (user, time): places of times among all of them
            self.keys = self.owners * (len(self.times) + 1) + np.searchsorted(self.times, times[order])

    def places(self, users: np.ndarray, before: np.ndarray | None, length: int) -> tuple[np.ndarray, np.ndarray]:
        """Which entries are a user's last ones strictly before a time, in their order; -1 where there are fewer.

        Args:
            users, before: of each query [n]; before is None where there are no times. length: L.
        Returns:
            places in the arrays given [n, L] int64; how many are real [n] int64.
        """
        start = np.searchsorted(self.owners, users, side="left")
        if self.times is None:
            end = np.searchsorted(self.owners, users, side="right")
        else:
            at = np.searchsorted(self.times, before, side="left")
            end = np.searchsorted(self.keys, users * (len(self.times) + 1) + at, side="left")
        lengths = np.minimum(end - start, length)
        steps = np.arange(length)[None, :]
        real = steps < lengths[:, None]
        position = np.where(real, (end - lengths)[:, None] + steps, 0)
        return np.where(real, self.order[position] if len(self.order) else 0, -1), lengths

    def last(self, users: np.ndarray, before: np.ndarray | None, length: int) -> tuple[np.ndarray, np.ndarray]:
        """The items of :meth:`places`, right-padded with 0 [n, L] int64; how many are real [n] int64."""
        places, lengths = self.places(users, before, length)
        return np.where(places >= 0, self.items[places] if len(self.items) else 0, 0), lengths


def last_before(
    owners: np.ndarray, times: np.ndarray | None, users: np.ndarray, before: np.ndarray | None, length: int
) -> tuple[np.ndarray, np.ndarray]:
    """See :meth:`Histories.places`."""
    return Histories(owners, times, owners).places(users, before, length)
