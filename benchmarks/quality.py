"""Runs a shipped comparison in full and keeps its records with the project; a script a comparison calls this.

Runs lie in runs/compare/<plan>/, which may be deleted. What is kept is in results/<plan>/: every record, and of the
per-user metrics those that are tested. What has a valid record there or here is not run again.
"""

import argparse
import json
import os
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from recbole_llm.comparison.execute import execute  # noqa: E402
from recbole_llm.comparison.ledger import key_of  # noqa: E402
from recbole_llm.comparison.plan import Plan, read_plan  # noqa: E402
from recbole_llm.comparison.record import (  # noqa: E402
    ABOUT_FILE,
    OTHERS_FILE,
    About,
    Record,
    per_user_file,
    read_records,
    write_about,
    write_records,
)
from recbole_llm.data.files import atomic_writer  # noqa: E402
from recbole_llm.report import markdown  # noqa: E402
from recbole_llm.report.write import make_report, write_files  # noqa: E402

RESULTS, README, DOCS = ROOT / "benchmarks" / "results", ROOT / "README.md", ROOT / "docs"


def main(name: str, description: str, columns: Sequence[str], prepare: Callable[[], None] = lambda: None) -> None:
    """Run what ``properties/compare/<name>.yaml`` lacks, keep it, print its tables.

    Args:
        columns: metrics of the tables printed and of README's; docs/results.md has all.
        prepare: makes the dataset, where it is not there.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="runs at a time (default: all cores)")
    parser.add_argument("--rows", metavar="START", help="run only rows whose name starts so; the others stay")
    parser.add_argument("--kept-only", action="store_true", help="run nothing: tables of the records that are kept")
    parser.add_argument("--docs", action="store_true", help="also write docs/results.md and README's tables anew")
    parser.add_argument("--json", action="store_true", help="end with one JSON line")
    args = parser.parse_args()
    plan, out, kept = read_plan(name), ROOT / "runs" / "compare" / name, RESULTS / name
    os.chdir(ROOT)  # records hold paths relative to the working directory
    if not args.kept_only:
        prepare()
        take_up(kept, out)
        write_about(out, About(plan.title, plan.note, plan.reference, plan.tested, plan.sensitivity))
        try:  # what has ended is kept, whatever becomes of the rest
            todo = plan if args.rows is None else beginning_with(plan, args.rows)
            execute(todo, out, jobs=args.jobs, say=lambda line: print(line, file=sys.stderr, flush=True))
        finally:
            keep(out, kept, plan)
    report = make_report([kept], metrics=columns)
    text = markdown.results(report)
    print(text)
    if args.docs:
        write_results()
        write_block(README, name, text)
    if args.json:
        rows = [
            {"row": r.label, "model": r.model, "protocol": r.protocol, "seed": r.seed, "metrics": r.result.test}
            for r in read_records(kept)
            if r.result
        ]
        print(json.dumps({"rows": rows, "summary": [_summary(section.table) for section in report.sections]}))


def write_results() -> None:
    """docs/results.md of all comparisons that are kept."""
    write_files(make_report(sorted(path.parent for path in RESULTS.glob(f"*/{ABOUT_FILE}"))), DOCS, ["md"])


def write_block(document: Path, name: str, text: str) -> None:
    """Put a table where the document keeps a place of this name for it, if it does."""
    before, begin, rest = document.read_text(encoding="utf-8").partition(f"<!-- {name}:begin -->\n")
    _, end, after = rest.partition(f"<!-- {name}:end -->")
    if end:
        with atomic_writer(document) as file:
            file.write(f"{before}{begin}{text}\n{end}{after}".encode())


def beginning_with(plan: Plan, start: str) -> Plan:
    """The plan with the rows alone whose name starts so, case aside."""
    rows = [row for row in plan.rows if row.label.lower().startswith(start.lower())]
    if not rows:
        raise SystemExit(f"no row starts with '{start}'; there are {', '.join(row.label for row in plan.rows)}")
    return replace(plan, rows=rows, reference=rows[0].label)


def take_up(kept: Path, out: Path) -> None:
    """Bring kept results, and their users, to where the runs lie; which of two with one key holds is seen there."""
    known = [*read_records(out), *read_records(out, OTHERS_FILE)]
    missing = [record for record in filter(_has_result, read_records(kept)) if record not in known]
    for record in missing:
        target = per_user_file(out, record)
        target.parent.mkdir(parents=True, exist_ok=True)
        if not target.is_file():
            shutil.copyfile(per_user_file(kept, record), target)
    if missing:
        write_records(out, [*read_records(out, OTHERS_FILE), *missing], OTHERS_FILE)


def keep(out: Path, kept: Path, plan: Plan) -> None:
    """Copy records, what is said of them, and the tested metrics of every user; files of other runs are deleted.

    A run of the plan that failed, or has not been made yet, takes no kept result's place.
    """
    import pandas as pd

    new = {record.key: record for record in read_records(out)}
    wanted = {key_of(job) for job in plan.jobs()}
    old = {record.key: record for record in read_records(kept) if record.key in wanted}
    held = {key for key, record in old.items() if _has_result(record) and not _has_result(new.get(key))}
    records = [*(old[key] if key in held else record for key, record in new.items())]
    records += [old[key] for key in old if key in held and key not in new]
    files = {per_user_file(kept, old[key]) for key in held}
    for record in (record for record in records if _has_result(record) and record.key not in held):
        table = pd.read_parquet(per_user_file(out, record))
        target = per_user_file(kept, record)
        target.parent.mkdir(parents=True, exist_ok=True)
        with atomic_writer(target) as file:
            table[["user", *(m for m in plan.tested if m in table)]].to_parquet(file, index=False, compression="zstd")
        files.add(target)
    for old in set((kept / "per_user").glob("*.parquet")) - files:
        old.unlink()
    shutil.copyfile(out / ABOUT_FILE, kept / ABOUT_FILE)
    places = {row.label: k for k, row in enumerate(plan.rows)}
    write_records(kept, sorted(records, key=lambda record: places.get(record.label, len(places))))


def _has_result(record: Record | None) -> bool:
    return record is not None and record.result is not None


def _summary(table) -> dict:
    rows = [
        {
            "row": row.label,
            "seeds": len(row.seeds),
            "metrics": {name: {"mean": value.mean, "sd": value.sd} for name, value in row.values.items()},
            "tests": {
                name: {"difference": t.difference, "interval": [t.low, t.high], "p": dict(t.p), "holm": dict(t.holm)}
                for name, t in row.tests.items()
            },
        }
        for row in table.rows
    ]
    return {"dataset": table.dataset, "protocol": table.protocol, "reference": table.reference, "rows": rows}
