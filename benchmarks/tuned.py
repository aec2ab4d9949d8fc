"""Settings found by a search of the committed space, against the default ones, five seeds each.

    python benchmarks/tuned.py [--model AGLRec] [--dataset ml-100k] [--trials 24] [--kept-only] [--docs] [--json]

`recbole-llm tune` with the space of properties/tune/<model>.yaml; a search broken off goes on. What was tried, what was
chosen, and the runs of both configurations are kept in benchmarks/results/tuned-<model>/. The default of a record is
that of its day: where the search found better, it has become what was found.
"""

import argparse
import json
import os
import shutil
import statistics
import sys
from pathlib import Path

import quality

from recbole_llm.comparison.record import ABOUT_FILE, per_user_file, read_about, read_records, write_records
from recbole_llm.data.files import atomic_writer
from recbole_llm.report import cells, markdown
from recbole_llm.report.cells import Cell, Column, Grid
from recbole_llm.tuning.before_after import DEFAULT, TUNED, before_after
from recbole_llm.tuning.final import FINAL_FOLDER, RESULT_FILE
from recbole_llm.tuning.ledger import LIST_FILE

PREFIX = "tuned-"  # of the folders in benchmarks/results/


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="AGLRec")
    parser.add_argument("--dataset", default="ml-100k")
    parser.add_argument("--trials", type=int, default=24)
    parser.add_argument("--kept-only", action="store_true", help="run nothing: tables of the records that are kept")
    parser.add_argument("--docs", action="store_true", help="also write docs/results.md and docs/tune.md's table anew")
    parser.add_argument("--json", action="store_true", help="end with one JSON line: the search's record")
    args = parser.parse_args()

    os.chdir(quality.ROOT)  # records hold paths relative to the working directory
    kept = quality.RESULTS / f"{PREFIX}{args.model.lower()}"
    if not args.kept_only and (code := search(args, Path("runs") / "tune" / kept.name, kept)):
        return code
    print(markdown.table(before_and_after([kept])))
    if args.docs:
        quality.write_results()
        quality.write_block(quality.DOCS / "tune.md", "tuned", markdown.table(before_and_after(kept_searches())))
    if args.json:
        print(json.dumps(json.loads((kept / RESULT_FILE).read_text(encoding="utf-8"))))
    return 0


def search(args: argparse.Namespace, out: Path, kept: Path) -> int:
    """Run the search, or go on with it, and keep what it made. Returns: the command's exit code."""
    from recbole_llm.cli import main as command

    options = ["--model", args.model, "--dataset", args.dataset, "--trials", str(args.trials), "--out", str(out)]
    code = command(["tune", *options, *(["--resume"] if (out / "sweep.json").is_file() else [])])
    if not code:
        keep(out, kept)
    return code


def kept_searches() -> list[Path]:
    """Folders of all searches whose records are kept."""
    return sorted(path.parent for path in quality.RESULTS.glob(f"{PREFIX}*/{RESULT_FILE}"))


def before_and_after(folders: list[Path]) -> Grid:
    """Default and found configuration of each search, over the seeds of their runs."""
    rows = []
    for folder in folders:
        found, records = json.loads((folder / RESULT_FILE).read_text(encoding="utf-8")), read_records(folder)
        runs = before_after(records)
        for name in (DEFAULT, TUNED):
            label = f"{found['model']}, {name}"
            made = [record.result for record in records if record.result and record.label == label]
            if not made:  # the default is the best
                continue
            config, metric = made[0].config, str(made[0].config["valid_metric"]).lower()
            bold = runs is not None and runs.gained == (name == TUNED)
            rows.append((
                Cell(label), Cell(f"{found['dataset']}, {config['protocol']}, {metric}"),
                Cell(str(found["trials"]) if name == TUNED else cells.NOTHING),
                Cell(cells.over_runs([r.valid[metric] for r in made]), int(bold)),
                Cell(cells.over_runs([r.test[metric] for r in made])),
                Cell(cells.seconds(statistics.mean(r.seconds["train"] for r in made))),
                Cell(cells.settings({key: config[key] for key in found["best"]["settings"]})),
            ))  # fmt: skip
    titles = ("tried", "validation", "test", "train s")
    columns = (Column("configuration", text=True), Column("where", text=True), *map(Column, titles))
    return Grid("before-after", "", (*columns, Column("settings", text=True)), tuple(rows))


def keep(out: Path, kept: Path) -> None:
    """Copy the search's lists, the records of the runs after it, and of their per-user metrics the tested ones."""
    import pandas as pd

    final = out / FINAL_FOLDER
    records, tested = read_records(final), read_about(final).tested
    shutil.rmtree(kept, ignore_errors=True)
    (kept / "per_user").mkdir(parents=True)
    for record in records:
        table = pd.read_parquet(per_user_file(final, record))
        with atomic_writer(per_user_file(kept, record)) as file:
            table[["user", *(m for m in tested if m in table)]].to_parquet(file, index=False, compression="zstd")
    for path in (final / ABOUT_FILE, out / RESULT_FILE, out / LIST_FILE):
        shutil.copyfile(path, kept / path.name)
    write_records(kept, records)


if __name__ == "__main__":
    sys.exit(main())
