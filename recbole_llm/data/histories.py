"""A user's last interactions before a moment, for many users and moments at once."""

import numpy as np


def last_before(
    owners: np.ndarray, times: np.ndarray | None, users: np.ndarray, before: np.ndarray | None, length: int
) -> tuple[np.ndarray, np.ndarray]:
    """Positions of a user's last entries strictly before a time, in their order; -1 where there are fewer.

    Args:
        owners, times: user and time of each entry, ascending in time; without times all entries are before. [m].
        users, before: of each query. [n]. length: L.
    Returns:
        index [n, L] int64; how many are real [n] int64.
    """
    order = np.argsort(owners, kind="stable")
    owners = owners[order]
    start, end = (np.searchsorted(owners, users, side=side) for side in ("left", "right"))
    if times is not None:
        # one key for (user, time): places of times among all of them
        known = np.unique(np.concatenate([times, before]))
        base = len(known) + 1
        keys = owners * base + np.searchsorted(known, times[order])
        end = np.searchsorted(keys, users * base + np.searchsorted(known, before), side="left")
    lengths = np.minimum(end - start, length)
    steps = np.arange(length)[None, :]
    real = steps < lengths[:, None]
    position = np.where(real, (end - lengths)[:, None] + steps, 0)
    index = np.where(real, order[position] if len(order) else 0, -1)
    return index, lengths
