"""``recbole-llm diagnose``: what a trained model has learned, as pictures and lists."""

import argparse
import contextlib
import sys
from collections.abc import Sequence
from pathlib import Path

from recbole_llm.errors import ConfigError

_EPILOG = """\
examples:
  recbole-llm diagnose --checkpoint runs/<run>
  recbole-llm diagnose --checkpoint runs/<run> --items "50;Toy Story (1995)" --out graphs

For a run of EmerGLLMRec: the feature graph of each item, the edges that its content gives it between its fields.
Written are a page with all graphs, a PNG an item and their numbers as JSON."""


def main(argv: Sequence[str]) -> int:
    """Diagnose. Returns: 0.

    Raises:
        RecBoleLLMError: for a run that has no graphs, an unknown item, or a missing package.
    """
    parser = argparse.ArgumentParser(
        prog="recbole-llm diagnose",
        description="Draw what a trained model has learned.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--checkpoint", required=True, type=Path, metavar="RUN", help="run folder of the model")
    parser.add_argument(
        "--items",
        default="",
        metavar="NAMES",
        help="tokens or titles, between semicolons; default: the most used, and cold ones",
    )
    parser.add_argument("--strongest", type=int, default=5, metavar="N", help="edges listed an item (default 5)")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="default: feature_graphs/ in the run's folder")
    args = parser.parse_args(list(argv))
    items = [name.strip() for name in args.items.split(";") if name.strip()]
    if args.strongest < 1:
        raise ConfigError(f"--strongest must be at least 1, not {args.strongest}")

    from recbole_llm import compat
    from recbole_llm.report import svg

    svg.require()  # before a model is loaded for nothing
    compat.apply()
    from recbole_llm.diagnose.feature_graphs import item_graphs
    from recbole_llm.diagnose.page import write

    with contextlib.redirect_stdout(sys.stderr):  # RecBole prints here and there
        graphs = item_graphs(args.checkpoint, items)
    for graph in graphs:
        edges = ", ".join(f"{a} - {b} {weight:.2f}" for a, b, weight in graph.strongest(args.strongest))
        print(f"{graph.name}, {graph.n_interactions} training interactions: {edges or 'no edge'}")
    folder = args.out or args.checkpoint / "feature_graphs"
    for path in write(folder, graphs, args.checkpoint.resolve().name, args.strongest):
        print(f"wrote {path}")
    return 0
