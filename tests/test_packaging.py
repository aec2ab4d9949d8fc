"""What a wheel holds, and what importing the package costs."""

import os
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

import recbole_llm
from recbole_llm import paths

ROOT = Path(__file__).resolve().parents[1]
HEAVY = ("torch", "ray", "transformers", "sentence_transformers", "recbole", "pandas", "numpy", "scipy")


def run_python(code: str, path: str = str(ROOT)) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": path},
        cwd="/",
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


def test_importing_the_package_imports_no_heavy_library():
    assert run_python(f"import sys, recbole_llm; print([m for m in {HEAVY!r} if m in sys.modules])") == "[]"


def test_public_names_are_found_when_asked_for():
    assert {"run", "load", "__version__"} <= set(dir(recbole_llm))
    with pytest.raises(AttributeError, match="no attribute 'nope'"):
        _ = recbole_llm.nope


def test_version_has_one_source():
    assert re.fullmatch(r"\d+\.\d+\.\d+", recbole_llm.__version__)
    assert "version" in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dynamic"]


def test_dependencies_are_bounded_and_pinned():
    from packaging.requirements import Requirement

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [Requirement(line) for line in project["dependencies"]]
    assert "recbole" not in {requirement.name for requirement in wanted}  # it would pull ray<=2.6.3
    assert all(any(bound.operator == ">=" for bound in requirement.specifier) for requirement in wanted)
    lines = (ROOT / ".ci" / "constraints.txt").read_text().splitlines()
    pins = dict(line.split("==") for line in lines if line and not line.startswith("#"))
    assert pins["torch"] == "2.13.0"
    for requirement in wanted:
        assert requirement.specifier.contains(pins[requirement.name.lower()]), requirement


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    hatchling = pytest.importorskip("hatchling.build", reason="hatchling comes with the test extra")
    if not (ROOT / "README.md").is_file():
        pytest.skip("not a full checkout: README.md is missing")
    folder, before = tmp_path_factory.mktemp("wheel"), Path.cwd()
    os.chdir(ROOT)  # the build interface works on the current folder
    try:
        return folder / hatchling.build_wheel(str(folder))
    finally:
        os.chdir(before)


def shipped(folder: Path, prefix: str) -> set[str]:
    files = (file for file in folder.rglob("*") if file.is_file() and not file.name.endswith(".tmp"))
    return {f"{prefix}/{file.relative_to(folder).as_posix()}" for file in files}


def test_wheel_holds_properties_data_and_entry_point(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        entry = next(name for name in names if name.endswith("entry_points.txt"))
        assert "recbole-llm = recbole_llm.cli:main" in archive.read(entry).decode()
    expected = shipped(ROOT / "properties", "recbole_llm/_properties")
    expected |= shipped(ROOT / "dataset_atomic", "recbole_llm/_dataset_atomic")
    assert "recbole_llm/_properties/overall.yaml" in expected
    assert any(name.startswith("recbole_llm/_dataset_atomic/ml-100k/") for name in expected)
    assert expected <= names
    assert not any(name.startswith(("tests/", "benchmarks/")) for name in names)


def test_an_installed_wheel_finds_its_own_files(wheel, tmp_path):
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    code = "from recbole_llm import paths; print(paths.properties_dir(), paths.dataset_atomic_dir())"
    where = run_python(code, str(tmp_path)).split()
    assert where == [str(tmp_path / "recbole_llm" / name) for name in ("_properties", "_dataset_atomic")]
    listed = run_python("from recbole_llm.cli import main; main(['--help'])", str(tmp_path))
    assert "loo-cand100" in listed


def test_a_checkout_finds_its_own_files():
    assert paths.properties_dir() == ROOT / "properties"
    assert paths.dataset_atomic_dir() == ROOT / "dataset_atomic"
