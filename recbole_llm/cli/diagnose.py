"""``recbole-llm diagnose``: what is wrong with a model or its data, and the feature graphs that a run has learned."""

import argparse
import contextlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from recbole_llm.cli.options import parse_options
from recbole_llm.errors import ConfigError

_EPILOG = """\
examples:
  recbole-llm diagnose --checkpoint runs/<run>                            a trained run
  recbole-llm diagnose --model BPR --dataset ml-100k                      before training: data, features, first steps
  recbole-llm diagnose --model AGLRec --dataset ml-100k --placebo=shuffle --strict
  recbole-llm diagnose --checkpoint runs/<run> --graphs                   feature graphs of the most used items
  recbole-llm diagnose --checkpoint runs/<run> --items "50;Toy Story (1995)" --out graphs

Checked are labels, features, their coverage and alignment, leaks, scores, item vectors, gradients, dead units and
experts. Every finding has a severity (error, warning, note) and an advice; health.html shows all measurements,
health.json has them as numbers. Test rows are never read. Without --checkpoint, any other --key=value is a setting of
the run, as in training. --graphs (or --items) is for runs of EmerGLLMRec: the edges that an item's content gives it
between its fields, as a page, a PNG an item and JSON.

exit code: 0, also with findings; with --strict 1 when one of them is an error; 2 for what you can mend."""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="recbole-llm diagnose",
        description="Look for faults in a model, its features and its data.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--checkpoint", type=Path, metavar="RUN", help="run folder of a trained model")
    parser.add_argument("-m", "--model", metavar="NAME", help="a model to look at untrained, with --dataset")
    parser.add_argument("-d", "--dataset", metavar="NAME", help="its dataset")
    parser.add_argument("--config_files", default="", metavar='"A B"', help="YAML files, as in training")
    parser.add_argument("--steps", type=int, metavar="N", help="training steps looked at (default 20); 0 for none")
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FOLDER",
        help="default: health/ or feature_graphs/ in the run's folder, or <run_dir>/health/<model>-<dataset>/",
    )
    parser.add_argument("--strict", action="store_true", help="exit code 1 when a finding is an error")
    parser.add_argument("--json", action="store_true", help="end with one line of JSON: the findings")
    parser.add_argument("--graphs", action="store_true", help="draw feature graphs of items instead")
    parser.add_argument(
        "--items", default="", metavar="NAMES", help="of these: tokens or titles, between semicolons; implies --graphs"
    )
    parser.add_argument("--strongest", type=int, metavar="N", help="edges listed a graph (default 5); with --graphs")
    return parser


def main(argv: Sequence[str]) -> int:
    """Diagnose. Returns: 0, or under ``--strict`` 1 when a finding is an error.

    Raises:
        RecBoleLLMError: for a run, model or dataset that is not there, options that do not fit, a missing package.
    """
    args, rest = parse_options(_parser(), argv)
    if bool(args.checkpoint) == bool(args.model or args.dataset or args.config_files):
        raise ConfigError("name either a run with --checkpoint, or a model and a dataset with --model and --dataset")
    if args.checkpoint and rest:
        raise ConfigError(f"a run brings its settings along, so {rest[0]} cannot be given beside --checkpoint")
    if args.steps is not None and args.steps < 0:
        raise ConfigError(f"--steps must be at least 0, not {args.steps}")
    if args.graphs or args.items:
        return _graphs(args)
    if args.strongest is not None:
        raise ConfigError("--strongest is about feature graphs; give --graphs with it")
    return _health(args, rest)


def _health(args: argparse.Namespace, rest: Sequence[str]) -> int:
    """Checks, page and JSON."""
    from recbole_llm import compat
    from recbole_llm.report import svg

    svg.require()  # before a model is loaded for nothing
    config = None if args.checkpoint else _config(args, rest)
    compat.apply()
    from recbole_llm.diagnose.health import N_STEPS, health_of_model, health_of_run
    from recbole_llm.diagnose.health_page import write

    n_steps = N_STEPS if args.steps is None else args.steps
    with contextlib.redirect_stdout(sys.stderr):  # RecBole prints here and there
        if config is None:
            found, folder = health_of_run(args.checkpoint, n_steps), args.checkpoint / "health"
        else:
            found = health_of_model(config, n_steps)
            folder = Path(config["run_dir"]) / "health" / f"{config['model']}-{config['dataset']}"
    for finding in found.findings:
        print(finding.text())
    if not found.findings:
        print("no finding")
    for path in write(args.out or folder, found):
        print(f"wrote {path}")
    if args.json:
        plain = found.plain()
        print(json.dumps({key: value for key, value in plain.items() if key != "parts"}))
    return 1 if args.strict and any(finding.severity == "error" for finding in found.findings) else 0


def _config(args: argparse.Namespace, rest: Sequence[str]):
    """Configuration of a model to be built, as in training."""
    from recbole_llm.cli.train import parse
    from recbole_llm.config.checks import check_keys
    from recbole_llm.config.sources import model_and_dataset, user_layers
    from recbole_llm.registry import check_model_name

    settings, files = parse(rest).settings, args.config_files.split()
    names = model_and_dataset(args.model, args.dataset, files, None, settings)
    check_model_name(names[0])
    check_keys(*user_layers(files, None, settings))

    from recbole_llm import compat

    compat.apply()
    from recbole_llm.config import build_config

    return build_config(*names, files, None, settings)


def _graphs(args: argparse.Namespace) -> int:
    """Feature graphs of items."""
    if not args.checkpoint:
        raise ConfigError("feature graphs are learned; name a trained run of EmerGLLMRec with --checkpoint")
    if args.steps is not None or args.strict or args.json:
        raise ConfigError("--steps, --strict and --json do not go together with --graphs; leave them out")
    strongest = 5 if args.strongest is None else args.strongest
    if strongest < 1:
        raise ConfigError(f"--strongest must be at least 1, not {strongest}")
    items = [name.strip() for name in args.items.split(";") if name.strip()]

    from recbole_llm import compat
    from recbole_llm.report import svg

    svg.require()  # before a model is loaded for nothing
    compat.apply()
    from recbole_llm.diagnose.feature_graphs import item_graphs
    from recbole_llm.diagnose.page import write

    with contextlib.redirect_stdout(sys.stderr):  # RecBole prints here and there
        graphs = item_graphs(args.checkpoint, items)
    for graph in graphs:
        edges = ", ".join(f"{a} - {b} {weight:.2f}" for a, b, weight in graph.strongest(strongest))
        print(f"{graph.name}, {graph.n_interactions} training interactions: {edges or 'no edge'}")
    folder = args.out or args.checkpoint / "feature_graphs"
    for path in write(folder, graphs, args.checkpoint.resolve().name, strongest):
        print(f"wrote {path}")
    return 0
