"""``recbole-llm compare`` and ``recbole-llm ablate``: many runs under one protocol, one table."""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from recbole_llm.cli.options import parse_options
from recbole_llm.comparison.plan import Plan, Row, make_plan, read_ablation, read_plan
from recbole_llm.config.sources import parse_command_line
from recbole_llm.errors import ConfigError

_COMPARE = """Run models under the same split, candidates, masking and seeds, and test the differences."""
_ABLATE = """Switch off, or exchange, one thing at a time in a model, and test what it cost."""
_EPILOG = """\
Other options, as --key=value, are settings of every row, over the file's. Finished runs are kept in the output folder
and not run again while their settings, code and data stay the same; a run that fails stays in the table with its reason
and is tried again next time. Validation chooses, the test split is read once a run."""


def _parser(ablation: bool) -> argparse.ArgumentParser:
    name = "ablate" if ablation else "compare"
    parser = argparse.ArgumentParser(
        prog=f"recbole-llm {name}",
        description=_ABLATE if ablation else _COMPARE,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    folder = "ablation" if ablation else "compare"
    parser.add_argument("file", nargs="?", help=f"YAML file; a bare name is looked up in properties/{folder}/ too")
    if not ablation:
        parser.add_argument("--models", help="comma-separated, in the place of a file; the last one is the reference")
        parser.add_argument(
            "--import",
            dest="imports",
            action="append",
            default=[],
            metavar="LABEL=FILE",
            help="add a row for another system's top lists: parquet, csv or tsv with user, item and rank or score",
        )
    parser.add_argument("--dataset", help="over the file's")
    parser.add_argument("--protocols", help="comma-separated, over the file's")
    parser.add_argument("--seeds", type=int, help="runs a trained model, over the file's (default 5)")
    parser.add_argument("-o", "--out", type=Path, help=f"folder of records and report (default runs/{name}/<name>)")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time; the cores are shared out (default 1)")
    parser.add_argument("--ray", action="store_true", help="run on the Ray cluster that RAY_ADDRESS names")
    parser.add_argument("--cpus", type=int, help="with --ray or --tuned: cores a run (default: all shared out)")
    parser.add_argument(
        "--gpus", type=float, default=0.0, help="with --ray or --tuned: GPUs a run, parts as well (default 0)"
    )
    parser.add_argument("--memory-gib", type=float, help="memory a run may take; more ends it, with its reason")
    if not ablation:
        parser.add_argument("--tuned", type=int, metavar="N", help="search every row's settings with N trials first")
    parser.add_argument("--no-estimate", action="store_true", help="start at once")
    parser.add_argument("--dry-run", action="store_true", help="only say what would run, and how long it takes")
    parser.add_argument("--json", action="store_true", help="end with one line of JSON")
    return parser


def main(argv: Sequence[str]) -> int:
    """Compare models. Returns: 0, or 1 when a row has no result."""
    return _main(argv, ablation=False)


def main_ablate(argv: Sequence[str]) -> int:
    """Ablate a model. Returns: see :func:`main`."""
    return _main(argv, ablation=True)


def _main(argv: Sequence[str], ablation: bool) -> int:
    parser = _parser(ablation)
    args, rest = parse_options(parser, argv)
    plan = _plan(args, rest, ablation)
    name = Path(args.file).stem if args.file else "-".join(row.label for row in plan.rows)[:60]
    out = args.out or Path("runs") / ("ablate" if ablation else "compare") / name
    if args.jobs < 1:
        raise ConfigError(f"--jobs must be at least 1, not {args.jobs}")
    if args.ray and args.memory_gib:
        raise ConfigError("--memory-gib bounds processes of this machine; with --ray, bound the memory of its nodes")
    imports = _imports(args, plan)

    from recbole_llm.comparison.execute import estimate, execute
    from recbole_llm.comparison.record import FAILED, About, write_about

    def say(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    if getattr(args, "tuned", None) is not None:
        plan = _tuned(args, plan, out, say)
    if not args.no_estimate or args.dry_run:
        seconds, bound = estimate(plan, out, args.jobs, say)
        most = f"in all {'at most ' if bound else ''}about {seconds / 60:.0f} min with {args.jobs} at a time"
        say(most if seconds else "nothing to run")
        if args.dry_run:
            return 0
    runner = None
    if args.ray:
        from recbole_llm.comparison.cluster import RayCluster

        runner = RayCluster(args.jobs, args.cpus, args.gpus)
    write_about(out, About(plan.title, plan.note, plan.reference, plan.tested, plan.sensitivity))
    imported = _imported(imports, plan, out, say)  # before hours of training, in case a file is not as it should be
    records = execute(plan, out, jobs=args.jobs, memory_gib=args.memory_gib, runner=runner, more=imported, say=say)
    records = imported + records

    from recbole_llm.report import markdown
    from recbole_llm.report.write import NO_PAGE, available_formats, make_report, write_files

    formats = available_formats()
    report = make_report([out])
    written = write_files(report, out, formats)
    say(f"report: {', '.join(os.path.relpath(path) for path in written)}")
    if "html" not in formats:
        say(NO_PAGE)
    failed = [record for record in records if record.status == FAILED]
    if args.json:
        rows = [
            {"label": r.label, "protocol": r.protocol, "seed": r.seed, "status": r.status, "reason": r.reason}
            | {"valid": r.result.valid if r.result else {}, "test": r.result.test if r.result else {}}
            for r in records
        ]
        print(json.dumps({"out": str(out), "rows": rows}))
    else:
        print(markdown.results(report))
    return 1 if failed else 0


def _tuned(args: argparse.Namespace, plan: Plan, out: Path, say) -> Plan:
    """The plan after a search of every row; the searches have the cores and GPUs of runs."""
    if args.tuned < 1:
        raise ConfigError(f"--tuned must be at least 1, not {args.tuned}")
    if args.dry_run:
        raise ConfigError("--dry-run cannot tell how long searches take; try 'recbole-llm tune --dry-run' with a row")
    from recbole_llm.tuning.budget import tuned
    from recbole_llm.tuning.search import Resources, require

    require()
    cpus = float(args.cpus or max(1, (os.cpu_count() or 1) // args.jobs))
    return tuned(plan, args.tuned, out, Resources(cpus, args.gpus, os.environ.get("RAY_ADDRESS")), say)


def _plan(args: argparse.Namespace, rest: list[str], ablation: bool) -> Plan:
    """The file's plan, or the command line's, with the command line over it."""
    settings = parse_command_line(rest) if rest else {}
    over = {"dataset": args.dataset, "seeds": args.seeds}
    over |= {"protocols": args.protocols.split(",") if args.protocols else None}
    models = None if ablation else args.models
    if bool(args.file) == bool(models):
        raise ConfigError(
            "name a YAML file" + ("" if ablation else ", or models as in --models Pop,EASE,SASRecAll --dataset ml-100k")
        )
    if models:
        rows = [Row(name, name) for name in models.split(",")]
        return replace(make_plan(over, rows, "the command line"), over=settings)
    plan = read_ablation(args.file) if ablation else read_plan(args.file)
    changes = {key: tuple(v) if isinstance(v, list) else v for key, v in over.items() if v is not None}
    if args.seeds is not None:  # a row's own number is a bound of its cost: it is not raised
        changes["rows"] = tuple(replace(row, seeds=row.seeds and min(row.seeds, args.seeds)) for row in plan.rows)
    return replace(plan, **changes, over=settings)


def _imports(args: argparse.Namespace, plan: Plan) -> dict[str, Path]:
    """Label -> file of the foreign systems.

    Raises:
        ConfigError: for an argument that is not LABEL=FILE, a label that is taken, or a file that is not there.
    """
    found: dict[str, Path] = {}
    for entry in getattr(args, "imports", []):
        label, equals, path = entry.partition("=")
        if not equals or not label:
            raise ConfigError(f"--import takes LABEL=FILE, not '{entry}'")
        if label in found or label in [row.label for row in plan.rows]:
            raise ConfigError(f"--import: there is a row '{label}' already; give the other system another label")
        if not Path(path).is_file():
            raise ConfigError(f"--import: there is no file {path}")
        found[label] = Path(path)
    return found


def _imported(imports: dict[str, Path], plan: Plan, out: Path, say) -> list:
    """Records of the foreign systems, under every protocol."""
    if not imports:
        return []
    from recbole_llm.comparison.foreign import import_recommendations

    settings = {**plan.settings, **plan.over}
    return [
        import_recommendations(
            path, label=label, dataset=plan.dataset, protocol=protocol, settings=settings, out=out, say=say
        )
        for label, path in imports.items()
        for protocol in plan.protocols
    ]
