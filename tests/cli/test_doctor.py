"""The report on the installation."""

import importlib.metadata
import json

import pytest

from recbole_llm import compat
from recbole_llm.cli import main
from recbole_llm.cli.doctor import check_package, examine, requirement_lines
from recbole_llm.errors import MissingDependencyError


@pytest.fixture
def without(monkeypatch):
    """Makes packages look as if they were not installed."""
    real = importlib.metadata.version

    def hide(*names):
        def version(name):
            if name in names:
                raise importlib.metadata.PackageNotFoundError(name)
            return real(name)

        monkeypatch.setattr(importlib.metadata, "version", version)

    return hide


def test_report_of_this_machine(capsys):
    assert main(["doctor", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    packages = {package["name"]: package for package in report["packages"]}
    assert packages["recbole"]["version"] == "1.2.1" and packages["torch"]["ok"]
    assert report["runnable"] is True and report["problems"] == []
    assert {patch["name"] for patch in report["patches"]} == {patch.name for patch in compat.patches()}
    assert all(patch["in_force"] for patch in report["patches"] if patch["needed"])
    assert report["threads"] >= 1 and report["device"] in ("cpu", "cuda")


def test_coverage_of_the_shipped_features():
    rows = {row["feature"]: row for row in examine()["features"] if row["dataset"] == "ml-100k"}
    assert (rows["content"]["covered"], rows["content"]["of"], rows["content"]["interactions"]) == (1682, 1682, 1.0)
    assert rows["director"]["covered"] < 1682 and rows["director"]["interactions"] < 1.0


def test_a_broken_feature_file_is_reported_not_raised(tmp_path, monkeypatch, capsys):
    folder = tmp_path / "ml-100k"
    folder.mkdir()
    (folder / "ml-100k.broken.safetensors").write_bytes(b"\x01")
    for module in ("cli.doctor", "config.locate"):
        monkeypatch.setattr(f"recbole_llm.{module}.dataset_atomic_dir", lambda: tmp_path)
    assert main(["doctor"]) == 0
    assert "ml-100k broken: " in capsys.readouterr().out


def test_missing_package_makes_it_not_runnable(without, capsys):
    without("texttable")
    assert main(["doctor"]) == 1
    out = capsys.readouterr().out
    assert "texttable >=1.6,<2 is needed (not installed); run: pip install 'texttable>=1.6,<2'" in out
    assert out.splitlines()[-1] == "runs cannot be started yet"


def test_missing_recbole(without, monkeypatch, capsys):
    without("recbole")

    def apply():
        raise MissingDependencyError("RecBole is not installed; run: pip install --no-deps recbole==1.2.1")

    monkeypatch.setattr(compat, "apply", apply)
    assert main(["doctor"]) == 1
    assert "pip install --no-deps recbole==1.2.1" in capsys.readouterr().out


def test_missing_extra_is_only_a_hint(without):
    without("optuna")
    report = examine()
    assert report["runnable"] is True
    assert "optuna >=4.0,<5 is needed for tune (not installed); run: pip install 'recbole-llm[tune]'" in report["hints"]


@pytest.mark.parametrize(
    ("line", "extra", "wanted", "ok"),
    [
        ("pytest>=1", None, ">=1", True),
        ("pytest<1,>=0.5", None, ">=0.5,<1", False),
        ('no-such-package>=2 ; extra == "tune"', "tune", ">=2", False),
    ],
)
def test_check_package(line, extra, wanted, ok):
    package = check_package(line)
    assert (package.extra, package.wanted, package.ok) == (extra, wanted, ok)


def test_requirements_of_the_installed_metadata_equal_those_of_the_checkout(monkeypatch, tmp_path):
    lines = requirement_lines()
    assert "recbole==1.2.1" in lines and any(line.startswith("torch>=") for line in lines)
    monkeypatch.setattr("recbole_llm.cli.doctor.__file__", str(tmp_path / "a" / "b" / "doctor.py"))
    monkeypatch.setattr(
        importlib.metadata, "requires", lambda name: ["torch>=2.6", "recbole-llm[text] ; extra == 'test'"]
    )
    assert requirement_lines() == ["torch>=2.6", "recbole==1.2.1"]
