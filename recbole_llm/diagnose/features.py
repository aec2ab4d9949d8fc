"""Features: numbers that are no numbers, rows that tell nothing apart, rows that are not there."""

from collections.abc import Mapping

import numpy as np

from recbole_llm.diagnose.findings import Histogram, Part

COVERAGE_ERROR, COVERAGE_WARNING = 0.10, 0.50  # of the training interactions: too few to matter; half go without
CONSTANT = 1e-6  # standard deviation of a column over the feature's scale; float32 keeps seven digits
CONSTANT_COLUMNS = 0.50  # share of constant columns, from which most of the width carries nothing
CONSTANT_COLUMNS_NOTE = 0.01  # MiniLM's rows have 3 such columns of 384
REPEATED = 0.20  # share of one and the same row among rows that else are unique: a default text
MANY_ROWS = 5  # equal rows, below which two of a handful would be a share
UNIQUE = 0.50  # share of the other rows that have no twin; categories, such as languages, stay below it
DUPLICATES = 0.10  # share of rows that have a twin; genres and countries have many by nature, so it is a note
ZERO_ROWS = 0.10  # share of rows that are there but zero: an encoder that was given an empty text
_SAMPLE = 1000  # rows whose pairwise cosines are looked at


def statistics(matrix: np.ndarray, present: np.ndarray) -> dict[str, float | int]:
    """Numbers about the rows that are there.

    Args:
        matrix: [n, F] float32. present: which rows are there. [n] bool.
    Returns:
        ``rows``, ``width``; ``not finite``: values; ``mean norm``, ``sd of the norm``; ``constant columns``: count;
        ``distinct rows``; ``rows with a twin``, ``commonest row``, ``zero rows``: shares in [0, 1]; ``constant``.
    """
    rows = np.ascontiguousarray(matrix[present], dtype=np.float32)
    found = {"rows": len(rows), "width": matrix.shape[1], "not finite": int((~np.isfinite(rows)).sum())}
    if not rows.size or found["not finite"]:
        return found
    norms = np.linalg.norm(rows.astype(np.float64), axis=1)
    scale = max(float(np.abs(rows).mean(dtype=np.float64)), np.finfo(np.float32).tiny)
    constant = rows.std(axis=0, dtype=np.float64) <= CONSTANT * scale
    as_bytes = rows.view(np.dtype((np.void, rows.dtype.itemsize * rows.shape[1]))).ravel()  # one comparison a row
    _, counts = np.unique(as_bytes, return_counts=True)
    return found | {
        "mean norm": float(norms.mean()),
        "sd of the norm": float(norms.std()),
        "constant columns": int(constant.sum()),
        "distinct rows": len(counts),
        "rows with a twin": float(counts[counts > 1].sum() / len(rows)),
        "commonest row": float(counts.max() / len(rows)),
        "zero rows": float((norms == 0).mean()),
        "constant": bool(constant.all()),
    }


def covered(present: np.ndarray, counts: np.ndarray) -> float:
    """Share of the interactions whose id has a row. present: [n] bool, counts: interactions an id [n]. In [0, 1]."""
    return float(counts[present].sum() / max(counts.sum(), 1))


def cosines(rows: np.ndarray, seed: int = 0) -> np.ndarray:
    """Cosines between pairs of a sample of the rows, zero rows left out. [n, F] -> [m] float32, in [-1, 1]."""
    rows = rows[np.linalg.norm(rows, axis=1) > 0]
    if len(rows) > _SAMPLE:
        rows = rows[np.random.default_rng(seed).choice(len(rows), _SAMPLE, replace=False)]
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return (unit @ unit.T)[np.triu_indices(len(unit), k=1)]


def cosine_histogram(values: np.ndarray, title: str) -> Histogram:
    """Histogram of cosines. values: [m] in [-1, 1]."""
    counts, edges = np.histogram(values.clip(-1, 1), bins=40, range=(-1.0, 1.0))
    return Histogram(title, "cosine of two rows", edges.tolist(), counts.tolist())


def check_features(features: Mapping[str, object], counts: Mapping[str, np.ndarray]) -> Part:
    """Statistics and coverage of every feature.

    Args:
        features: name -> AlignedFeature.
        counts: id field -> training interactions an id, [n] int64.
    """
    part = Part("features", "Features")
    rows = part.tables["statistics of the rows that are there, and the share that has one"] = []
    for name, feature in features.items():
        found = statistics(feature.matrix, feature.present)
        of_interactions = covered(feature.present, counts[feature.id_field])
        rows.append(
            {"feature": name, "side": feature.side}
            | {"coverage of ids": feature.coverage, "coverage of interactions": of_interactions}
            | {key: found.get(key) for key in _COLUMNS}
        )
        _judge_rows(part, name, found)
        if of_interactions < COVERAGE_WARNING:
            part.find(
                "low-coverage", "error" if of_interactions < COVERAGE_ERROR else "warning", name,
                f"{of_interactions:.1%} of the training interactions have a row ({feature.coverage:.1%} of the "
                "ids)",
                "encode what is missing, or take the feature out: a gain over a model without it can hardly come from "
                "it",
            )  # fmt: skip
        usable = feature.matrix[feature.present]
        if found["not finite"] == 0 and len(usable) > 1 and not found["constant"]:
            part.charts.append(cosine_histogram(cosines(usable), f"{name}: cosines between rows"))
    if not rows:
        part.tables.clear()
        part.facts["features"] = "none: the model reads ids alone"
    return part


_COLUMNS = (
    "rows", "width", "not finite", "mean norm", "sd of the norm", "constant columns", "distinct rows",
    "rows with a twin", "commonest row", "zero rows",
)  # fmt: skip


def _judge_rows(part: Part, name: str, found: Mapping[str, float]) -> None:
    """Findings from the statistics of one feature; what a constant feature is besides goes without saying."""
    if not found["rows"]:
        return
    if found["not finite"]:
        part.find(
            "not-finite", "error", name,
            f"{found['not finite']} values are NaN or infinite",
            "encode the feature again, one such value spoils every score that reads it",
        )  # fmt: skip
        return
    if found["constant"] and found["rows"] > 1:
        part.find(
            "constant-feature", "error", name,
            f"all {found['rows']} rows are equal",
            "look at the texts or images that it was encoded from, it tells no two of them apart",
        )  # fmt: skip
        return
    share = found["constant columns"] / found["width"]
    if share > CONSTANT_COLUMNS_NOTE:
        part.find(
            "constant-columns", "warning" if share > CONSTANT_COLUMNS else "note", name,
            f"{found['constant columns']} of {found['width']} columns are the same in every row",
            "drop them, or reduce the width, they only cost memory",
        )  # fmt: skip
    others = 1.0 - found["commonest row"]
    unique = 1.0 - found["rows with a twin"]
    repeated = round(found["commonest row"] * found["rows"])
    if repeated >= MANY_ROWS and found["commonest row"] > REPEATED and unique > UNIQUE * others:
        part.find(
            "duplicate-rows", "warning", name,
            f"{found['commonest row']:.1%} of the rows are one and the same, most others are unique",
            "see whether they come from an empty or a default text, and leave such rows out of the file",
        )  # fmt: skip
    elif found["rows with a twin"] > DUPLICATES:
        part.find(
            "duplicate-rows", "note", name,
            f"{found['rows with a twin']:.1%} of the rows have an exact twin",
            "expect it of categories such as genres, but not of descriptions",
        )  # fmt: skip
    if found["zero rows"] > ZERO_ROWS:
        part.find(
            "zero-rows", "warning", name,
            f"{found['zero rows']:.1%} of the rows that are there are zero",
            "leave them out of the file, so that they count as missing",
        )  # fmt: skip
