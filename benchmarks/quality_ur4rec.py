"""Quality of UR4RecMoE against its backbone, its controls and cheap baselines, on ml-100k under P1 and P2.

    python benchmarks/quality_ur4rec.py [--seeds 5] [--protocols loo-full,loo-cand100] [--jobs 2] [--readme] [--json]

Every row sees the same split, candidates and masking. Closed-form models are chosen from a grid by validation;
trained models run their YAML's configuration with each seed. The test split is read once a run, after that choice.
Records go to benchmarks/results/quality_ur4rec.jsonl as they end: a run is skipped while the record's configuration and
code hashes are the current ones, so a broken-off benchmark goes on where it stopped. The summary (mean and standard
deviation over seeds, paired tests over users with Holm's correction) goes to benchmarks/results/quality_ur4rec.json.
"""

import argparse
import itertools
import json
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from subprocess import run as run_process
from threading import Lock

ROOT = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT.parent))

from recbole_llm.data.files import atomic_writer  # noqa: E402

RECORDS, SUMMARY = ROOT / "results" / "quality_ur4rec.jsonl", ROOT / "results" / "quality_ur4rec.json"
README, MARKS = ROOT.parent / "README.md", ("<!-- results:begin -->", "<!-- results:end -->")
PROTOCOLS = {"loo-full": "P1 `loo-full`", "loo-cand100": "P2 `loo-cand100`"}
SHOWN = ("hit@10", "ndcg@10", "mrr@10")

# label -> (model, settings); trained with every seed
TRAINED = {
    "SASRecAll": ("SASRecAll", {}),
    "UR4RecMoE, backbone and heads alone (no text, no experts)": (
        "UR4RecMoE",
        {
            "item_text_dim": 0,
            "stages": [{"name": "pretrain_sasrec", "groups": {"sasrec": "sasrec_lr"}}],
            "epochs_per_stage": [16],
        },
    ),
    "UR4RecMoE, placebo (feature rows shuffled)": ("UR4RecMoE", {"placebo": "shuffle"}),
    "UR4RecMoE, fame only (popularity as feature)": ("UR4RecMoE", {"placebo": "popularity"}),
    "UR4RecMoE": ("UR4RecMoE", {}),
}
MARKOV_GRID = {"markov_decay": [0.8, 0.9], "markov_window": [5, 20, 50], "markov_norm": ["row", "cosine"]}
# label -> (model, grid); one seed
CLOSED = {
    "Pop": ("Pop", {}),
    "ItemKNN": ("ItemKNN", {"k": [50, 100, 200], "shrink": [0.0, 10.0, 50.0]}),
    "EASE": ("EASE", {"reg_weight": [100.0, 200.0, 400.0, 800.0]}),
    "Markov": ("Markov", MARKOV_GRID),
    "EASEMarkov": (
        "EASEMarkov",
        {"reg_weight": [100.0, 200.0], "ease_weight": [0.3, 0.5]}
        | {"markov_decay": [0.8, 0.9], "markov_window": [20, 50], "markov_norm": ["row", "cosine"]},
    ),
}
SEED = 2020
# controls that only say where a gain comes from
FEW_SEEDS = {label: 2 for label in TRAINED if "fame only" in label or "alone" in label}
REFERENCE = "UR4RecMoE"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5, help="seeds of the trained models (default 5)")
    parser.add_argument("--protocols", default=",".join(PROTOCOLS))
    parser.add_argument("--only", default="", help="rows whose label starts with this")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="runs at a time, one thread each")
    parser.add_argument("--summary-only", action="store_true", help="make the summary from the records that are there")
    parser.add_argument("--readme", action="store_true", help="also write the table into README.md")
    parser.add_argument("--json", action="store_true", help="end with one JSON line")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        print(json.dumps(_work(json.loads(args.worker))))
        return
    protocols = args.protocols.split(",")
    if not args.summary_only:
        measure(protocols, args.seeds, args.only, args.jobs)
    summary = summarise(protocols, args.seeds)
    text = table(summary)
    print(text)
    _write(SUMMARY, json.dumps(summary, indent=1) + "\n")
    if args.readme:
        before, rest = README.read_text(encoding="utf-8").split(MARKS[0])
        after = rest.split(MARKS[1])[1]
        _write(README, f"{before}{MARKS[0]}\n{text}\n{MARKS[1]}{after}")
    if args.json:
        print(json.dumps(summary))


def jobs_of(protocol: str, seeds: int, only: str) -> list[dict]:
    """The runs of a protocol by seed, closed-form models first."""
    jobs = [
        {"label": label, "model": model, "protocol": protocol, "grid": grid, "seed": SEED}
        for label, (model, grid) in CLOSED.items()
    ]
    for k in range(seeds):
        for label, (model, settings) in TRAINED.items():
            if label not in FEW_SEEDS or k < FEW_SEEDS[label]:
                job = {"label": label, "model": model, "protocol": protocol, "settings": settings, "seed": SEED + k}
                jobs.append(job)
    return [job for job in jobs if job["label"].startswith(only)]


def measure(protocols: list[str], seeds: int, only: str, at_once: int) -> None:
    """Run what has no valid record yet; a finished run's record is appended at once."""
    todo = [job for protocol in protocols for job in jobs_of(protocol, seeds, only)]
    todo.sort(key=lambda job: job["seed"])  # so that a benchmark broken off has the same seeds of all rows
    print(f"{len(todo)} runs, {at_once} at a time", file=sys.stderr)
    lock = Lock()

    def start(job: dict) -> None:
        env = os.environ | {"OMP_NUM_THREADS": "1"}
        command = [sys.executable, __file__, "--worker", json.dumps(job)]
        done = run_process(command, env=env, capture_output=True, text=True, check=False)
        name = f"{job['label']}, {job['protocol']}, seed {job['seed']}"
        if done.returncode:
            print(f"{name}: failed\n{done.stderr[-3000:]}", file=sys.stderr, flush=True)
            return
        record = json.loads(done.stdout.splitlines()[-1])
        if record.pop("new"):
            with lock:
                _append(record)
        metrics = record["test"]
        print(f"{name}: test ndcg@10 {metrics['ndcg@10']:.4f}, {record['train_s']:.0f} s", file=sys.stderr, flush=True)

    with ThreadPoolExecutor(at_once) as pool:
        list(pool.map(start, todo))


def _work(job: dict) -> dict:
    """One run in this process: the grid's best by validation, or the configuration itself; then the test, once."""
    from recbole_llm import compat
    from recbole_llm.config import build_config, config_hash
    from recbole_llm.experiment.record import code_hash
    from recbole_llm.registry import modules_of

    compat.apply()
    base = {"protocol": job["protocol"], "seed": job["seed"], "show_progress": False, "use_gpu": False}
    base |= {"run_dir": str(ROOT / ".runs"), "state": "WARNING"} | job.get("settings", {})
    key = [job["label"], job["protocol"], job["seed"]]
    config = build_config(job["model"], "ml-100k", (), base, ())
    hashes = {"config_hash": config_hash(config), "code_hash": code_hash(*modules_of(job["model"]))}
    for record in records():
        if record["key"] == key and all(record[name] == value for name, value in hashes.items()):
            return record | {"new": False}
    chosen, tried = best_of_grid(job["model"], base, job.get("grid") or {})
    return _run(job, base | chosen, key, hashes, chosen, tried) | {"new": True}


def best_of_grid(model: str, base: dict, grid: dict) -> tuple[dict, int]:
    """The grid point with the best validation score, and how many there were; no test row is touched."""
    if not grid:
        return {}, 0
    from recbole_llm.config import build_config
    from recbole_llm.experiment import validate

    points = [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]
    scores = [validate(build_config(model, "ml-100k", (), base | point, ()))["ndcg@10"] for point in points]
    return points[max(range(len(points)), key=scores.__getitem__)], len(points)


def _run(job: dict, settings: dict, key: list, hashes: dict, chosen: dict, tried: int) -> dict:
    import pandas as pd

    from recbole_llm.experiment import run

    result = run(job["model"], "ml-100k", settings)
    users = pd.read_parquet(Path(result.run_folder) / "per_user.parquet")
    ndcg = {c: dict(zip(users["user"], users[c].round(6), strict=True)) for c in users if c.endswith("ndcg@10")}
    return {
        "key": key,
        "label": job["label"],
        "model": job["model"],
        "protocol": job["protocol"],
        "seed": job["seed"],
        "chosen": chosen,
        "grid_points": tried,
        **hashes,
        "commit": result.commit,
        "split": result.split,
        "versions": result.versions,
        "machine": result.machine,
        "valid": result.valid,
        "test": result.test,
        "train_s": result.seconds["train"] + result.seconds["valid"],
        "peak_bytes": result.peak_bytes,
        "n_parameters": result.n_parameters,
        "stages": [
            {k: s[k] for k in ("name", "epochs", "best_epoch", "start_valid", "best_valid", "seconds_per_epoch")}
            for s in result.stages
        ],
        "experts": result.experts,
        "per_user": ndcg,
    }


def records() -> list[dict]:
    """All records; of two with one key the later counts."""
    lines = RECORDS.read_text(encoding="utf-8").splitlines() if RECORDS.is_file() else []
    return list({tuple(r["key"]): r for r in map(json.loads, lines)}.values())


def _append(record: dict) -> None:
    kept = [r for r in records() if r["key"] != record["key"]]
    _write(RECORDS, "".join(json.dumps(r) + "\n" for r in [*kept, record]))


def _write(path: Path, text: str) -> None:
    with atomic_writer(path) as file:
        file.write(text.encode())


def summarise(protocols: list[str], seeds: int) -> dict:
    """Rows of mean and standard deviation over seeds, and paired tests of the reference against each other row."""
    import numpy as np

    from recbole_llm.evaluation.significance import holm, paired_tests

    rows, tests = [], {}
    for protocol in protocols:
        found = {}
        for record in records():
            if record["protocol"] == protocol and record["seed"] < SEED + seeds:
                found.setdefault(record["label"], []).append(record)
        order = [label for label in [*CLOSED, *TRAINED] if label in found]
        if len({r["split"] for rs in found.values() for r in rs}) > 1:
            raise SystemExit(f"the records of {protocol} belong to different splits; delete {RECORDS} and run again")
        for label in order:
            runs = found[label]
            metrics = {
                m: {"mean": float(np.mean(v)), "sd": float(np.std(v, ddof=1)) if len(v) > 1 else None}
                for m in runs[0]["test"]
                for v in [[r["test"][m] for r in runs]]
            }
            row = {"label": label, "model": runs[0]["model"], "protocol": protocol, "seeds": len(runs)}
            row |= {"metrics": metrics, "chosen": runs[0]["chosen"], "grid_points": runs[0]["grid_points"]}
            row |= {"train_s": float(np.mean([r["train_s"] for r in runs])), "n_parameters": runs[0]["n_parameters"]}
            rows.append(row)
        for metric in sorted({m for rs in found.values() for r in rs for m in r["per_user"]}):
            tests |= {
                f"{protocol} {metric}": _tests(found, metric, [x for x in order if x != REFERENCE], paired_tests, holm)
            }
    return {"rows": rows, "tests": tests, "reference": REFERENCE}


def _tests(found: dict, metric: str, others: list[str], paired_tests, holm) -> dict:
    """Paired tests over users of the reference minus each other row, a user's seeds averaged first."""
    import numpy as np

    if REFERENCE not in found:
        return {}

    def matrix(label: str) -> np.ndarray:
        users = sorted(found[label][0]["per_user"][metric])
        return np.array([[r["per_user"][metric][u] for u in users] for r in found[label]])

    results = {label: paired_tests(matrix(REFERENCE), matrix(label)) for label in others}
    adjusted = holm({label: r.p_values["t"] for label, r in results.items()}) if results else {}
    return {
        label: {
            "mean_difference": r.mean_difference,
            "ci": [r.ci_low, r.ci_high],
            "effect_size": r.effect_size,
            "p": r.p_values,
            "p_holm": adjusted[label],
        }
        for label, r in results.items()
    }


def table(summary: dict) -> str:
    """Markdown tables, one a protocol."""
    parts = []
    for protocol in dict.fromkeys(row["protocol"] for row in summary["rows"]):
        rows = [row for row in summary["rows"] if row["protocol"] == protocol]
        names = [n for n in (*SHOWN, "full/hit@10", "full/ndcg@10") if n in rows[0]["metrics"]]
        parts.append(f"**{PROTOCOLS[protocol]}**, ml-100k, test\n")
        parts.append("| model | seeds | " + " | ".join(names) + " | p (Holm) | train s |")
        parts.append("|---|---" + "|---" * (len(names) + 2) + "|")
        tests = summary["tests"].get(f"{protocol} ndcg@10", {})
        for row in rows:
            cells = []
            for name in names:
                value = row["metrics"][name]
                cells.append(f"{value['mean']:.4f}" + ("" if value["sd"] is None else f" ± {value['sd']:.4f}"))
            test = tests.get(row["label"])
            p = "" if test is None else f"{test['p_holm']:.2g}"
            parts.append(
                f"| {row['label']} | {row['seeds']} | " + " | ".join(cells) + f" | {p} | {row['train_s']:.0f} |"
            )
        parts.append("")
    parts.append(
        "Mean ± standard deviation over seeds (closed-form models: one, chosen from a grid by validation); p: paired "
        f"t-test over users of {summary['reference']}'s NDCG@10 against the row, seeds averaged first, Holm-corrected. "
        "ml-100k's rating times partly follow the order in which the site presented films, which is why Markov is "
        "strong. "
        "Made by `python benchmarks/quality_ur4rec.py --readme` from benchmarks/results/quality_ur4rec.jsonl."
    )
    return "\n".join(parts)


if __name__ == "__main__":
    main()
