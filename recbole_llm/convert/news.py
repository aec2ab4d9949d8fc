"""What the formats of news share: rows of impressions, and the graph of articles and the entities that they name.

Columns of ``.inter``:

| column | |
|---|---|
| user_id, item_id | |
| label | 1 clicked, 0 shown and not clicked |
| timestamp | where the source has times |
| impression_id | rows shown together, where the source knows; empty for a click whose impression is unknown |
| part | train, test or history (clicks from before, see the format), where the source tells them apart |

In the graph every article is an entity of its own, ``item_id`` also being its ``entity_id``.
"""

from collections.abc import Iterable

import pandas as pd

TYPES = {"label": "float", "timestamp": "float", "entities": "token_seq"}
Triple = tuple[str, str, str]  # head, relation, tail


def graph(items: Iterable[str], triples: Iterable[Triple]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """``.kg`` and ``.link`` of articles and triples, each triple once."""
    kg = pd.DataFrame(list(dict.fromkeys(triples)), columns=["head_id", "relation_id", "tail_id"], dtype=object)
    tokens = list(items)
    return kg, pd.DataFrame({"item_id": tokens, "entity_id": tokens}, dtype=object)
