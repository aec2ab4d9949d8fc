"""How much of a dataset's interactions some tokens cover; reads one column, without pandas."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from recbole_llm.errors import DataError


def coverage(file: Path, id_field: str, tokens: Sequence[str]) -> str:
    """A line such as ``1659/1682 items, 98.6 %, 99.3 % of interactions``.

    Args:
        file: ``<dataset>.inter``. id_field: item_id, user_id or review_id, empty where an interaction has no review.
    Raises:
        DataError: when the file has no such column.
    """
    counts: Counter[str] = Counter()
    with file.open(encoding="utf-8-sig") as lines:
        fields = [column.split(":")[0] for column in next(lines, "").rstrip("\r\n").split("\t")]
        if id_field not in fields:
            raise DataError(f"{file} has no column '{id_field}', which the texts go by (columns: {', '.join(fields)})")
        place = fields.index(id_field)
        counts.update(line.rstrip("\r\n").split("\t")[place] for line in lines if line.strip())
    n_interactions = counts.total()
    counts.pop("", None)
    covered = [token for token in tokens if token in counts]
    share, weight = len(covered) / max(len(counts), 1), sum(counts[t] for t in covered) / max(n_interactions, 1)
    extra = len(tokens) - len(covered)
    others = f"; {extra} rows of {id_field}s that nobody has used" if extra else ""
    return f"{len(covered)}/{len(counts)} {id_field[:-3]}s, {share:.1%}, {weight:.1%} of interactions{others}"
