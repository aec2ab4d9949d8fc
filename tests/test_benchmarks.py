"""What the quality benchmarks keep of a comparison, and what they take up again."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from report_data import make_records, make_result, write_comparison

from recbole_llm.comparison.plan import Plan, Row
from recbole_llm.comparison.record import (
    FAILED,
    OK,
    OTHERS_FILE,
    About,
    Record,
    per_user_file,
    read_records,
    write_about,
)

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))
import quality  # noqa: E402
import tuned  # noqa: E402

PLAN = Plan(dataset="toy", rows=(Row("Pop", "Pop", seeds=3), Row("SASRec", "SASRec")), seeds=3, first_seed=1)


def comparison(folder: Path, failed: tuple[str, ...] = ()) -> Path:
    """Three runs of each of the plan's rows; those of the labels in ``failed`` gave no result."""
    made = [(record, users) for record, users in make_records() if record.label in ("Pop", "SASRec")]
    made = [
        (replace(r, status=FAILED, reason="killed", result=None), None) if r.label in failed else (r, users)
        for r, users in made
    ]
    write_about(write_comparison(folder, made), About("A title", reference="Pop", tested=("ndcg@10",)))
    return folder


@pytest.fixture
def kept(tmp_path):
    quality.keep(comparison(tmp_path / "out"), tmp_path / "kept", PLAN)
    return tmp_path / "kept"


def test_what_is_kept(tmp_path, kept):
    records = read_records(kept)
    assert records == read_records(tmp_path / "out") and len(records) == 6
    for record in records:
        table = pd.read_parquet(per_user_file(kept, record))
        assert list(table) == ["user", "ndcg@10"]
        pd.testing.assert_frame_equal(table, pd.read_parquet(per_user_file(tmp_path / "out", record))[list(table)])
    assert (kept / "comparison.json").read_text() == (tmp_path / "out" / "comparison.json").read_text()


def test_a_failure_takes_no_result_s_place(tmp_path, kept):
    before = read_records(kept)
    quality.keep(comparison(tmp_path / "second", failed=("SASRec",)), kept, PLAN)
    assert sorted(r.key for r in read_records(kept)) == sorted(r.key for r in before)
    assert all(r.result and per_user_file(kept, r).is_file() for r in read_records(kept))


def test_rows_that_the_plan_has_no_more_go(kept, tmp_path):
    plan = Plan(dataset="toy", rows=(Row("Pop", "Pop", seeds=3),), seeds=3, first_seed=1)
    out = write_comparison(tmp_path / "less", [made for made in make_records() if made[0].label == "Pop"])
    write_about(out, About())
    quality.keep(out, kept, plan)
    assert {r.label for r in read_records(kept)} == {"Pop"} and len(list((kept / "per_user").iterdir())) == 3


def test_a_fresh_clone_takes_up_what_is_kept(tmp_path, kept):
    out = tmp_path / "fresh"
    quality.take_up(kept, out)
    quality.take_up(kept, out)
    taken = read_records(out, OTHERS_FILE)
    assert taken == read_records(kept) and all(per_user_file(out, r).is_file() for r in taken)


def test_rows_that_begin_so_are_run_alone_and_the_others_stay(tmp_path, kept):
    plan = quality.beginning_with(PLAN, "sas")
    assert [row.label for row in plan.rows] == ["SASRec"]
    with pytest.raises(SystemExit, match="no row starts with 'GRU'; there are Pop, SASRec"):
        quality.beginning_with(PLAN, "GRU")
    out = write_comparison(tmp_path / "again", [made for made in make_records() if made[0].label == "SASRec"])
    write_about(out, About())
    quality.keep(out, kept, PLAN)
    assert [r.label for r in read_records(kept)] == ["Pop"] * 3 + ["SASRec"] * 3


def test_what_is_kept_of_a_search(tmp_path):
    out, kept = tmp_path / "out", tmp_path / "kept"
    comparison(out / "final")
    for name in ("tuned.json", "trials.jsonl"):
        (out / name).write_text(name)
    (kept / "per_user").mkdir(parents=True)
    (kept / "per_user" / "old.parquet").write_text("of an earlier search")
    tuned.keep(out, kept)
    records = read_records(kept)
    assert records == read_records(out / "final") and len(records) == 6
    assert {p.name for p in kept.iterdir()} == {
        "records.jsonl", "comparison.json", "tuned.json", "trials.jsonl", "per_user"
    }  # fmt: skip
    assert len(list((kept / "per_user").iterdir())) == 6
    assert all(list(pd.read_parquet(per_user_file(kept, r))) == ["user", "ndcg@10"] for r in records)


def test_the_table_of_searches(tmp_path):
    """Default and found settings side by side, by validation; what is bold is what validation says."""
    folder = tmp_path / "tuned-bpr"
    made = []
    for name, rate, score in (("default", 0.002, 0.30), ("tuned", 0.012345678, 0.29)):
        for seed in (1, 2):
            config = {
                "valid_metric": "NDCG@10",
                "valid_metric_bigger": True,
                "protocol": "loo-full",
                "learning_rate": rate,
            }
            result = make_result(
                "BPR", seed, {}, config=config, valid={"ndcg@10": score}, test={"ndcg@10": score - 0.1}
            )
            made.append((Record(f"BPR, {name}", "BPR", "toy", "loo-full", seed, OK, result=result), None))
    write_comparison(folder, made)
    found = {"model": "BPR", "dataset": "toy", "trials": 7, "best": {"settings": {"learning_rate": 0.012345678}}}
    (folder / "tuned.json").write_text(json.dumps(found))
    rows = [[cell.text for cell in row] for row in tuned.before_and_after([folder]).rows]
    shown = ["toy, loo-full, ndcg@10", "–", "0.3000 ± 0.0000", "0.2000 ± 0.0000", "4.50", "learning_rate=0.002"]
    assert rows[0] == ["BPR, default", *shown]
    assert rows[1][2] == "7" and rows[1][-1] == "learning_rate=0.01235"
    assert [row[3].rank for row in tuned.before_and_after([folder]).rows] == [1, 0]


def test_a_block_is_put_where_a_document_keeps_its_place(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- a:begin -->\nold\n<!-- a:end -->\nafter\n")
    quality.write_block(page, "a", "| new |")
    quality.write_block(page, "b", "nowhere")
    assert page.read_text() == "before\n<!-- a:begin -->\n| new |\n<!-- a:end -->\nafter\n"
