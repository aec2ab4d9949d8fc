"""Settings found by a search of the committed space, against the default ones, five seeds each.

    python benchmarks/tuned.py [--model AGLRec] [--dataset ml-100k] [--trials 24] [--docs] [--json]

`recbole-llm tune` with the space of properties/tune/<model>.yaml; a search broken off goes on. What was tried, what was
chosen, and the runs of both configurations are kept in benchmarks/results/tuned-<model>/. The default of a record is
that of its day: where the search found better, it has become what was found.
"""

import argparse
import json
import os
import shutil
import sys
from pathlib import Path

import quality

from recbole_llm.comparison.record import ABOUT_FILE, per_user_file, read_about, read_records, write_records
from recbole_llm.data.files import atomic_writer
from recbole_llm.report import markdown
from recbole_llm.report.write import make_report, write_files
from recbole_llm.tuning.final import FINAL_FOLDER, RESULT_FILE
from recbole_llm.tuning.ledger import LIST_FILE


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="AGLRec")
    parser.add_argument("--dataset", default="ml-100k")
    parser.add_argument("--trials", type=int, default=24)
    parser.add_argument("--docs", action="store_true", help="also write docs/results.md anew")
    parser.add_argument("--json", action="store_true", help="end with one JSON line: the search's record")
    args = parser.parse_args()
    from recbole_llm.cli import main as command

    os.chdir(quality.ROOT)  # records hold paths relative to the working directory
    name = f"tuned-{args.model.lower()}"
    out, kept = Path("runs") / "tune" / name, quality.RESULTS / name
    options = ["--model", args.model, "--dataset", args.dataset, "--trials", str(args.trials), "--out", str(out)]
    code = command(["tune", *options, *(["--resume"] if (out / "sweep.json").is_file() else [])])
    if code:
        return code
    keep(out, kept)
    print(markdown.results(make_report([kept])))
    if args.docs:
        every = sorted(path.parent for path in quality.RESULTS.glob(f"*/{ABOUT_FILE}"))
        write_files(make_report(every), quality.DOCS, ["md"])
    if args.json:
        print(json.dumps(json.loads((kept / RESULT_FILE).read_text(encoding="utf-8"))))
    return 0


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
