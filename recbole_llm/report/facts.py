"""How to read a table and what it rests on: averaging, selection, split, code, packages, machine."""

from collections.abc import Iterable, Sequence

from recbole_llm.comparison.record import OK, Record
from recbole_llm.comparison.summary import Table
from recbole_llm.report.cells import TEST_NAMES, listed

SHORT = 12  # hexadecimal digits of a fingerprint


def facts(table: Table, records: Sequence[Record], test: str, n_users: int | None) -> tuple[tuple[str, str], ...]:
    """(heading, sentence) pairs beneath a table; all distinct values are named where the runs differ."""
    results = [record.result for record in records if record.status == OK]
    several = len(table.splits) > 1
    by_impression, pooled = _kind(results)
    unit = "impression" if by_impression else "user"
    found = [
        ("Numbers", _numbers(n_users, several, pooled, unit)),
        ("Selection", _selection(results, records, several)),
    ]
    if any(row.tests for row in table.rows):
        found.append(("Tests", _tests(test, several, unit)))
    found.append(("Costs", _costs()))
    if not results:
        return tuple(found)
    found += [
        ("Seeds", ", ".join(str(seed) for seed in sorted({r.seed for r in results if r.seed >= 0}))),
        ("Splits" if several else "Split", ", ".join(split[:SHORT] for split in table.splits)),
        ("Commit", _commits(r.commit for r in results)),
        ("Code", _code(records)),
        ("Packages", "; ".join(_distinct(_versions(r.versions) for r in results))),
        ("Machine", "; ".join(_distinct(_machine(r.machine) for r in results))),
    ]
    return tuple(found)


def observed(records: Sequence[Record]) -> str:
    """What the tests of a table are over, for its legend."""
    by_impression, pooled = _kind([record.result for record in records if record.status == OK])
    if pooled:
        return "users, of the AUC of each one's own rows, which need not order rows as the pool does"
    return "impressions" if by_impression else "users"


def _kind(results) -> tuple[bool, bool]:
    """Whether metrics are by impression; whether they are of one pool of rows."""
    by_impression = any(r.config.get("impressions") and "auc" in r.test for r in results)
    pooled = any(r.config.get("phases") or r.config.get("impressions") for r in results)
    return by_impression, pooled and not by_impression


def _numbers(n_users: int | None, several: bool, pooled: bool, unit: str) -> str:
    users = f"the {n_users:,} test {unit}s" if n_users else "the test rows"
    if several:
        users = f"the test {unit}s of its split" + (f" ({n_users:,} {unit}s in all)" if n_users else "")
    if unit == "impression":
        users += " with clicked rows and others; pooled metrics are over all rows together"
    of_a_run = f"the mean over {users}"
    if pooled:
        of_a_run = (
            "that of all scored rows in one pool; tests, and figures by user, are about the AUC of each user's own "
        )
        of_a_run += f"rows, the mean over {users} who have rows of both labels"
    return (
        f"A run's metric is {of_a_run}. A row is the mean ± standard deviation (n − 1) over its runs, one "
        f"run a seed{', and every seed a split of its own' if several else ''}; nothing was rounded before it was "
        "averaged."
    )


def _selection(results, records: Sequence[Record], several: bool) -> str:
    reads = sorted({r.test_reads for r in results})
    read = (
        "in every run the test rows were read once, after everything was chosen"
        if reads in ([], [1])
        else f"the test rows were read {listed(map(str, reads))} times, depending on the run"
    )
    if budgets := sorted({r.tried for r in records if r.searched}):
        return (
            f"Epochs, stages and settings were chosen by validation; {read}. A row with a number of tried points was "
            f"chosen by a search of that many trials, which hold no test row (budget: {listed(map(str, budgets))}); "
            "the others run one configuration, that of their YAML."
        )
    return (
        f"Epochs, stages and grid points were chosen by validation; {read}. Where a number of tried points is given, "
        f"the row was chosen from that grid in this comparison{', for each split anew' if several else ''}; the others "
        "run one configuration, that of their YAML."
    )


def _tests(test: str, several: bool, unit: str) -> str:
    return (
        f"Every {unit} is one observation: the seeds of one are averaged first, then "
        f"the reference and the row are compared {unit} by {unit} by {listed(TEST_NAMES.values())}. Holm and "
        f"Benjamini-Hochberg adjust the {TEST_NAMES[test]} for the number of tests in the table, rows times metrics. "
        "The p over seeds asks whether "
        f"the randomness of {'splits and training' if several else 'training'} alone could have made the difference; "
        "it is not adjusted."
    )


def _costs() -> str:
    return (
        "Seconds are wall time, means over seeds: training without validations but with the building of the model, in "
        "which closed-form models are solved; one epoch; one evaluation of the test rows. Peak MiB is the greatest "
        "resident memory of a run's whole process, for a row with a grid that of the search included; memory of a GPU "
        "is not in it."
    )


def _commits(commits: Iterable[str]) -> str:
    names = [c[:SHORT] + "+" * c.endswith("+") if c else "outside a checkout" for c in _distinct(commits)]
    return ", ".join(names) + (" (+: with uncommitted changes)" if any(n.endswith("+") for n in names) else "")


def _code(records: Sequence[Record]) -> str:
    """Code hashes, with the rows they belong to where there are several: rows import different models."""
    by_hash: dict[str, list[str]] = {}
    for record in records:
        if record.status == OK:
            by_hash.setdefault(record.result.code_hash[:SHORT], []).append(record.label)
    if len(by_hash) == 1:
        return next(iter(by_hash))
    return "; ".join(f"{', '.join(dict.fromkeys(labels))}: {code}" for code, labels in by_hash.items())


def _versions(versions: dict[str, str]) -> str:
    return ", ".join(f"{name} {version or 'not installed'}" for name, version in versions.items())


def _machine(machine: dict[str, object]) -> str:
    threads = machine.get("threads", "?")
    return f"{machine.get('processor', 'unknown processor')}, {threads} thread{'s' * (threads != 1)}, " + str(
        machine.get("device", "unknown device")
    )


def _distinct(texts: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(texts))
