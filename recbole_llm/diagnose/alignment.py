"""Whether a feature's rows belong to their ids: what is used together should look alike, oftener than by chance.

Of every item (or user) the nearest others are found by the training interactions alone: cosine of their columns. Their
cosines in the feature are then averaged, and compared with the same average after the feature's rows have changed
places. The distance in standard deviations is z. Rows in the order of another file have z near 0.

A z near 0 means little where the interactions themselves repeat nothing. So the same is asked of the interactions: the
users are halved, one half tells the neighbours, the other takes the feature's part. Only where that z is high is a
feature's low one a finding.
"""

from dataclasses import dataclass

import numpy as np
from scipy import sparse

from recbole_llm.diagnose.findings import Part

# z of the interactions against themselves, from which a feature's z can be judged; ml-100k has 70 to 130, and its
# hundred most rated films 16 to 23, where true but coarse features (country, language) have a z of 1 to 3
ENOUGH = 30.0
SIGNIFICANT = 3.0  # z from which a feature is aligned: chance reaches it once in 700 features
MIN_ROWS = 50  # compared rows: fewer have too few permutations that differ
N_NEIGHBOURS = 10
N_PERMUTATIONS = 30  # the deviation is known to 13 % then, small beside the two thresholds
MIN_INTERACTIONS = 2  # of a row, or it has no neighbours
_SAMPLE = 1500  # rows compared, so that their cosines are 9 MB


@dataclass(frozen=True)
class Aligned:
    """Outcome for one feature: compared rows, z of the feature, z of the interactions against themselves."""

    rows: int
    z: float | None
    z_of_interactions: float | None

    @property
    def judged(self) -> bool:
        """Whether the data is enough to tell."""
        return self.z is not None and (self.z_of_interactions or 0.0) > ENOUGH

    @property
    def verdict(self) -> str:
        """For the table; what shows is aligned, however little data there is."""
        if self.z is not None and self.z >= SIGNIFICANT:
            return "aligned"
        return "not aligned" if self.judged else "too little data to tell"


def alignment(features: np.ndarray, present: np.ndarray, used: sparse.csr_matrix, seed: int = 0) -> Aligned:
    """Whether rows that are used together look alike.

    Args:
        features: row i belongs to id i. [n, F] float32.
        present: which ids have a row. [n] bool.
        used: training interactions, ids by partners (items by users, or users by items). [n, m].
    """
    rng = np.random.default_rng(seed)
    counts = np.asarray((used != 0).sum(1)).ravel()
    rows = np.flatnonzero(present & (counts >= MIN_INTERACTIONS))
    if len(rows) < MIN_ROWS:
        return Aligned(len(rows), None, None)
    if len(rows) > _SAMPLE:
        rows = np.sort(rng.choice(rows, _SAMPLE, replace=False))
    used = used[rows].astype(np.float64)
    halves = rng.permutation(used.shape[1]) % 2 == 0
    first, second = used[:, halves], used[:, ~halves]
    z = _z(_cosine(used), _cosine(np.asarray(features[rows], dtype=np.float64), centre=True), rng)
    return Aligned(len(rows), z, _z(_cosine(first), _cosine(second), rng))


def _cosine(rows, centre: bool = False) -> np.ndarray:
    """Cosines of all pairs of rows; 0 with a zero row. [n, m] -> [n, n] float64."""
    if sparse.issparse(rows):
        products = np.asarray((rows @ rows.T).todense())
    else:
        rows = rows - rows.mean(0) if centre else rows  # what all texts have in common would drown the differences
        products = rows @ rows.T
    lengths = np.sqrt(np.diag(products).clip(0))
    lengths[lengths == 0] = np.inf
    return products / np.outer(lengths, lengths)


def _z(near: np.ndarray, alike: np.ndarray, rng: np.random.Generator) -> float | None:
    """Mean of ``alike`` over the nearest pairs, in deviations of its means under permutations; None without spread.

    Args:
        near, alike: cosines of all pairs by the one and the other. [n, n].
    """
    near = near.copy()
    np.fill_diagonal(near, -np.inf)
    k = min(N_NEIGHBOURS, len(near) - 1)
    columns = np.argpartition(-near, k - 1, axis=1)[:, :k]
    rows = np.repeat(np.arange(len(near)), k)
    columns = columns.ravel()
    real = near[rows, columns] > 0  # a row with fewer neighbours than k has strangers among them
    rows, columns = rows[real], columns[real]
    if not len(rows):
        return None
    means = []
    for _ in range(N_PERMUTATIONS):
        order = rng.permutation(len(near))
        means.append(alike[order[rows], order[columns]].mean())
    deviation = float(np.std(means, ddof=1))
    return float((alike[rows, columns].mean() - np.mean(means)) / deviation) if deviation > 1e-12 else None


def check_alignment(found: dict[str, Aligned], sides: dict[str, str]) -> Part:
    """Findings from the outcomes by feature. sides: feature -> item or user."""
    part = Part("alignment", "Do rows belong to their ids?")
    if not found:
        part.facts["alignment"] = "no feature of items or users to look at"
        return part
    part.tables["likeness of what is used together, in standard deviations over permuted rows"] = [
        {
            "feature": name,
            "rows compared": one.rows,
            "z of the feature": one.z,
            "z of the interactions": one.z_of_interactions,
            "verdict": one.verdict,
        }
        for name, one in found.items()
    ]
    for name, one in found.items():
        if one.judged and one.z < SIGNIFICANT:
            side = sides[name]
            part.find(
                "alignment", "error", name,
                f"{side}s that are used together look no more alike than after a shuffle of the rows (z {one.z:.1f}, "
                f"the interactions among themselves have {one.z_of_interactions:.0f})",
                f"see whether row and {side} are matched by token; if they are, the feature says nothing about taste",
            )  # fmt: skip
    return part
