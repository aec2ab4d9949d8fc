"""Feature graphs as files: a heat map an item (PNG), a page with all of them (HTML), and their numbers (JSON)."""

import io
import json
import re
from collections.abc import Sequence
from pathlib import Path

from recbole_llm.data.files import atomic_writer
from recbole_llm.diagnose.feature_graphs import ItemGraph
from recbole_llm.report import svg
from recbole_llm.report.html import environment

TEMPLATE = "feature_graphs.html.j2"
PAGE, NUMBERS = "feature_graphs.html", "feature_graphs.json"
_DPI = 200


def write(folder: Path, graphs: Sequence[ItemGraph], run: str, n_strongest: int) -> list[Path]:
    """All files of some items' graphs, each written atomically.

    Args:
        folder: made where it is not there. graphs: one an item. run: name of the run, for the page.
        n_strongest: edges listed an item.
    Returns:
        The files: page, numbers, one picture an item.
    Raises:
        MissingDependencyError: without jinja2 or matplotlib.
    """
    template = environment(Path(__file__).parent).get_template(TEMPLATE)
    folder.mkdir(parents=True, exist_ok=True)
    pictures, files = [], []
    with svg.style():
        for k, graph in enumerate(graphs):
            figure = heat_map(graph)
            pictures.append(svg.render(figure, f"g{k}-", f"feature graph of {graph.name}"))
            buffer = io.BytesIO()  # the page's placeholders of colours are black enough on paper
            figure.savefig(buffer, format="png", dpi=_DPI, facecolor="white", metadata={"Software": None})
            files.append(folder / f"{_file_name(graph, k)}.png")
            with atomic_writer(files[-1]) as file:
                file.write(buffer.getvalue())
    page = template.render(graphs=graphs, pictures=pictures, run=run, n_strongest=n_strongest)
    numbers = [
        {
            "item": graph.item,
            "title": graph.title,
            "n_interactions": graph.n_interactions,
            "fields": list(graph.fields),
            "present": graph.present.tolist(),
            "weights": [[float(w) for w in row] for row in graph.weights],
            "strongest": graph.strongest(n_strongest),
        }
        for graph in graphs
    ]
    for name, text in ((PAGE, page), (NUMBERS, json.dumps(numbers, indent=1) + "\n")):
        with atomic_writer(folder / name) as file:
            file.write(text.encode())
    return [folder / PAGE, folder / NUMBERS, *files]


def heat_map(graph: ItemGraph):
    """Weights by colour, the fields that the item does not have crossed out. A matplotlib figure."""
    n = len(graph.fields)
    longest = max(map(len, graph.fields))
    figure = svg.figure(svg.WIDTH)
    axes = svg.axes(figure, left=14 + 4.2 * longest, bottom=14 + 4.2 * longest, right=8, top=20)
    axes.pcolormesh(graph.weights, cmap="Blues", vmin=0.0, vmax=1.0, edgecolors="white", linewidth=0.8)
    for m in range(n):
        for k in range(n):
            if not (graph.present[m] and graph.present[k]):
                axes.plot([k + 0.2, k + 0.8], [m + 0.2, m + 0.8], color=svg.MUTED, linewidth=0.7)
            elif graph.weights[m, k] > 0:
                dark = graph.weights[m, k] > 0.6
                axes.text(
                    k + 0.5, m + 0.5, f"{graph.weights[m, k]:.1f}".lstrip("0"), ha="center", va="center",
                    fontsize=6, color="#ffffff" if dark else "#1b1f24",
                )  # fmt: skip
    axes.set_xticks([k + 0.5 for k in range(n)], graph.fields, rotation=90)
    axes.set_yticks([k + 0.5 for k in range(n)], graph.fields)
    axes.tick_params(length=0)
    axes.invert_yaxis()
    axes.set_aspect("equal")
    for spine in axes.spines.values():
        spine.set_visible(False)
    title = graph.name if len(graph.name) < 48 else f"{graph.name[:45]}..."
    axes.set_title(title)
    return figure


def _file_name(graph: ItemGraph, k: int) -> str:
    """Of the item's token, what file systems allow; numbered, so that no two items share a name."""
    return f"{k + 1:02d}-{re.sub(r'[^A-Za-z0-9_-]+', '_', graph.item)[:60]}"
