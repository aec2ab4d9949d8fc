"""The script that takes screenshots: which browser, which command line, what it says where there is none."""

import runpy
import stat
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "docs" / "screenshots.py"
BROWSER = """#!/bin/sh
for word in "$@"; do case "$word" in --screenshot=*) echo "$@" > "${word#--screenshot=}";; esac; done
"""


@pytest.fixture
def script(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.delenv("CHROME", raising=False)
    return runpy.run_path(str(SCRIPT), run_name="screenshots")


@pytest.fixture
def page(tmp_path) -> Path:
    path = tmp_path / "out" / "index.html"
    path.parent.mkdir()
    path.write_text("<p>page</p>", encoding="utf-8")
    return path


def test_two_sizes_two_schemes(script, page, tmp_path, monkeypatch, capsys):
    browser = tmp_path / "browser"
    browser.write_text(BROWSER, encoding="utf-8")
    browser.chmod(browser.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("CHROME", str(browser))
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    assert script["main"]([str(page), str(tmp_path / "shots")]) == 0
    made = {path.stem: path.read_text(encoding="utf-8") for path in (tmp_path / "shots").iterdir()}
    assert set(made) == {f"index-{d}-{s}" for d in ("phone", "desktop") for s in ("light", "dark")}
    assert "--window-size=390,844" in made["index-phone-dark"]
    assert "preferredColorScheme=0" in made["index-phone-dark"]
    assert "preferredColorScheme=1" in made["index-desktop-light"]
    assert capsys.readouterr().out.count("wrote ") == 4


def test_no_browser(script, page, capsys):
    assert script["main"]([str(page)]) == 2
    assert "no browser found (chromium, chromium-browser, google-chrome)" in capsys.readouterr().err


def test_no_page(script, tmp_path, capsys):
    assert script["main"]([str(tmp_path / "index.html")]) == 2
    assert "does not exist; make it with: recbole-llm report" in capsys.readouterr().err


def test_a_browser_that_fails(script, page, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("CHROME", "/bin/false")
    assert script["main"]([str(page), str(tmp_path / "shots")]) == 2
    assert "/bin/false made no index-phone-light.png" in capsys.readouterr().err
