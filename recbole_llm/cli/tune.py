"""``recbole-llm tune``: the best settings of a model by validation, then run with several seeds and tested once."""

import argparse
import json
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from textwrap import fill

from recbole_llm.cli.options import parse_options
from recbole_llm.config.sources import parse_command_line
from recbole_llm.errors import ConfigError
from recbole_llm.paths import properties_dir

_EPILOG = """\
Other options, as --key=value, are settings of every trial, over the file's; what they set is not searched. Trials are
given no test row. The best configuration and the default one are then run with several seeds, and each run reads the
test split once.

keys of a sweep file beside model and dataset (default, meaning); FILE may also be in the syntax of RecBole's hyper.test
{keys}

The folder then holds best.yaml (ready for --config_files), tuned.json, trials.jsonl and a report; a search that was
broken off goes on with --resume. Spaces in properties/tune/:
{spaces}"""


def _keys() -> str:
    """Keys of a sweep with defaults and meanings, from the YAML that sets them."""
    text = (properties_dir() / "tune" / "default.yaml").read_text(encoding="utf-8")
    rows = re.findall(r"^(\w+):\s*(.*?)\s*#\s*(.*?)\s*$", text, flags=re.MULTILINE)
    width = max(len(f"{key}: {value}") for key, value, _ in rows) + 2
    return "\n".join(f"  {f'{key}: {value}':<{width}}{meaning}" for key, value, meaning in rows)


def _parser() -> argparse.ArgumentParser:
    from recbole_llm.tuning.sweep import SCHEDULERS, SEARCHES, spaces

    parser = argparse.ArgumentParser(
        prog="recbole-llm tune",
        description="Search the settings of a model by validation, on one machine or a Ray cluster.",
        epilog=_EPILOG.format(
            keys=_keys(),
            spaces=fill(", ".join(spaces()), 116, initial_indent="  ", subsequent_indent="  ", break_on_hyphens=False),
        ),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("file", nargs="?", metavar="FILE", help="YAML file of a sweep; options go over it")
    parser.add_argument("-m", "--model", metavar="NAME", help="model, over the file's")
    parser.add_argument("-d", "--dataset", metavar="NAME", help="dataset, over the file's")
    parser.add_argument("--space", metavar="FILE", help="what may be chosen (default properties/tune/<model>.yaml)")
    parser.add_argument("--trials", type=int, metavar="N", help="configurations tried")
    parser.add_argument("--time", metavar="TIME", help="the search ends after 90s, 30m, 2h")
    parser.add_argument("--search", choices=SEARCHES, help="how points are found")
    parser.add_argument("--scheduler", choices=SCHEDULERS, help="whether trials that lag behind are stopped")
    parser.add_argument("--seeds", type=int, metavar="N", help="runs of the best configuration, and of the default one")
    parser.add_argument(
        "-o", "--out", type=Path, help="folder; on a cluster one that all nodes see (default runs/tune/)"
    )
    parser.add_argument("--resume", action="store_true", help="go on with the search that the folder holds")
    parser.add_argument("--cpus-per-trial", type=float, default=1.0, metavar="N", help="cores a trial (default 1)")
    parser.add_argument("--gpus-per-trial", type=float, default=0.0, metavar="N", help="GPUs a trial, parts as well")
    parser.add_argument("--address", metavar="HOST:PORT", help="Ray cluster to join; auto for the one running here")
    parser.add_argument("--no-estimate", action="store_true", help="start at once")
    parser.add_argument("--dry-run", action="store_true", help="only say how long it takes at most")
    parser.add_argument("--json", action="store_true", help="end with one line of JSON: the search's record")
    return parser


def main(argv: Sequence[str]) -> int:
    """Search, run the best, report. Returns: 0, or 1 when a run of the best configuration failed.

    Raises:
        RecBoleLLMError: for whatever the user can mend, a search without any result among it.
    """
    args, rest = parse_options(_parser(), argv)
    from recbole_llm.tuning.search import Resources, connect, require, search

    require()
    resources = Resources(args.cpus_per_trial, args.gpus_per_trial, args.address or os.environ.get("RAY_ADDRESS"))
    sweep, config = _checked(args, rest)
    protocol, metric = config["protocol"], str(config["valid_metric"])
    name = Path(args.file).stem if args.file else f"{sweep.model}-{sweep.dataset}"
    out = args.out or Path("runs") / "tune" / name

    from recbole_llm.tuning.estimate import estimate
    from recbole_llm.tuning.final import retrain, write_best, write_result
    from recbole_llm.tuning.state import take

    at_once = connect(resources)
    if args.dry_run or not (args.no_estimate or args.resume):
        _say_estimate(estimate(sweep, protocol, out, at_once), sweep, at_once, out)
        if args.dry_run:
            return 0
    resume = take(sweep, protocol, out, args.resume)
    trials = search(sweep, out, resources, resume=resume, say=_say)
    best = write_best(sweep, trials, metric, out)
    _say(f"best configuration: {os.path.relpath(best)}; {sweep.seeds} runs of it, and of the default one, follow")
    records = retrain(sweep, trials, protocol, out, jobs=at_once, runner=_runner(resources, at_once), say=_say)
    found = write_result(sweep, trials, records, metric, out)

    from recbole_llm.tuning.report import write_report

    text, written = write_report(sweep, trials, records, metric, out)
    _say(found["verdict"])
    _say(f"report: {', '.join(os.path.relpath(path) for path in written)}")
    print(json.dumps(found | {"out": str(out)}) if args.json else text)
    return 1 if found["failed_runs"] else 0


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _checked(args: argparse.Namespace, rest: Sequence[str]):
    """The sweep of files and options, tried at the ends of its space, and the configuration without a point."""
    from recbole_llm import compat
    from recbole_llm.tuning.sweep import check_ends, find, make_sweep

    names = ("model", "dataset", "trials", "time", "search", "scheduler", "seeds")
    over = {name: getattr(args, name) for name in names}
    settings = parse_command_line(rest) if rest else {}
    file, space = (find(name) if name else None for name in (args.file, args.space))
    sweep = make_sweep(file, space, over, settings)
    compat.apply()
    from recbole_llm.config import build_config

    def build(settings: dict):
        return build_config(sweep.model, sweep.dataset, (), settings, ())

    config = build(sweep.settings_at({}))
    check_ends(sweep, build)
    if sweep.shared_stages:
        from recbole_llm.tuning.search import most_epochs

        most_epochs(sweep, config)
    return sweep, config


def _say_estimate(found: tuple[float, float] | None, sweep, at_once: int, out: Path) -> None:
    if found is None:
        raise ConfigError(f"the settings do not start without a point of the space; see {out / 'logs'}")
    one, everything = found
    _say(
        f"{sweep.n_trials} trials and {2 * sweep.seeds} runs of at most {one:.0f} s, {at_once} at a time: at most "
        f"about {everything / 60:.0f} min"
    )


def _runner(resources, at_once: int):
    """The cluster or the GPUs that trials had; None for processes of this machine."""
    if not resources.address and not resources.gpus:
        return None
    from recbole_llm.comparison.cluster import RayCluster

    return RayCluster(at_once, max(1, int(resources.cpus)), resources.gpus)
