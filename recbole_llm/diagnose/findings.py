"""What a group of checks hands back: measurements, tables, charts, and the findings that follow from them."""

from collections.abc import Iterable
from dataclasses import dataclass, field

SEVERITIES = ("error", "warning", "note")  # the numbers are void; look at it before you believe them; worth knowing


@dataclass(frozen=True)
class Finding:
    """Something a person should look at.

    Attributes:
        check: name of the check, ``low-coverage``; the same in the page, the JSON and the documentation.
        severity: one of SEVERITIES.
        subject: what it is about: a feature, a column, a part of the model.
        message: what was measured, one sentence.
        advice: what to do, one sentence.
    """

    check: str
    severity: str
    subject: str
    message: str
    advice: str

    def __post_init__(self) -> None:
        if self.severity not in SEVERITIES:
            raise ValueError(f"severity is '{self.severity}'; one of {', '.join(SEVERITIES)}")

    def text(self) -> str:
        """One line."""
        return f"{self.severity}: {self.check}, {self.subject}: {self.message}; {self.advice}"


@dataclass(frozen=True)
class Histogram:
    """Counts between edges. edges: [k + 1]. counts: [k]."""

    title: str
    x_label: str
    edges: list[float]
    counts: list[int]


@dataclass(frozen=True)
class Lines:
    """Values by step. series: name -> a value a step, None where there is none."""

    title: str
    y_label: str
    series: dict[str, list[float | None]]
    logarithmic: bool = False


@dataclass
class Part:
    """One group of checks.

    Attributes:
        key, title: name in the JSON, heading of the page.
        facts: what was measured, by words that can be read.
        tables: caption -> rows of the same columns.
        charts: pictures of the page; their numbers stand in the JSON.
        findings: what follows.
    """

    key: str
    title: str
    facts: dict[str, object] = field(default_factory=dict)
    tables: dict[str, list[dict[str, object]]] = field(default_factory=dict)
    charts: list[Histogram | Lines] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)

    def find(self, check: str, severity: str, subject: str, message: str, advice: str) -> None:
        """Add a finding."""
        self.findings.append(Finding(check, severity, subject, message, advice))


def ordered(parts: Iterable[Part]) -> list[Finding]:
    """Findings of all parts, the severest first."""
    found = [finding for part in parts for finding in part.findings]
    return sorted(found, key=lambda finding: SEVERITIES.index(finding.severity))
