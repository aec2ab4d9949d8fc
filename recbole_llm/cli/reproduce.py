"""``recbole-llm reproduce``: a recorded run once more, and whether its numbers come out again."""

import argparse
import contextlib
import sys
from collections.abc import Sequence
from pathlib import Path


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="recbole-llm reproduce",
        description="Make a recorded run again from its record alone, and compare every metric to the last digit.",
        epilog="Exit code: 0 when all numbers are equal, 1 when one differs (what else differs is listed), 2 when the "
        "run cannot be made again, for example because its data have changed; that is said before any training.",
    )
    parser.add_argument(
        "run", type=Path, metavar="RUN", help="run folder, result.json, folder of a comparison, or file of records"
    )
    parser.add_argument("--label", help="row of the comparison, where there are several")
    parser.add_argument("--seed", type=int, help="seed of the run, where there are several")
    parser.add_argument("--protocol", help="protocol of the run, where there are several")
    parser.add_argument("--dataset", help="dataset of the run, where there are several")
    parser.add_argument(
        "--run-dir",
        "--run_dir",
        type=Path,
        default=Path("runs", "reproduced"),
        help="folder for the new run; default: runs/reproduced",
    )
    parser.add_argument("--data-path", "--data_path", type=Path, help="folder of dataset folders, if it has moved")
    parser.add_argument("--threads", type=int, help="torch threads; default: as many as recorded")
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    return parser


def main(argv: Sequence[str]) -> int:
    """Make the run again and print the comparison.

    Returns:
        Exit code: 0 when equal, 1 when not.
    Raises:
        RecBoleLLMError: no such record, or it cannot be run here.
    """
    parser = _parser()
    args = parser.parse_args(list(argv))
    if args.threads is not None and args.threads < 1:
        parser.error("--threads must be at least 1")

    from recbole_llm.experiment.find import find_run
    from recbole_llm.experiment.reproduce import reproduce

    recorded = find_run(args.run, label=args.label, seed=args.seed, protocol=args.protocol, dataset=args.dataset)

    def say(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    say(f"again: {recorded.label}, {recorded.result.dataset}, {recorded.result.protocol}, seed {recorded.result.seed}")
    # RecBole prints here and there; stdout is for the result alone
    with contextlib.redirect_stdout(sys.stderr):
        done = reproduce(recorded, run_dir=args.run_dir, data_path=args.data_path, threads=args.threads, say=say)
    print(done.to_json() if args.json else done.text())
    return 0 if done.equal else 1
