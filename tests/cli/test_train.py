"""Parsing, output, errors and exit codes of the command line, with the experiment package stubbed."""

import os
import subprocess
import sys
import types
from pathlib import Path

import pytest

from recbole_llm.cli import main
from recbole_llm.cli.train import parse
from recbole_llm.errors import ConfigError, DataError

ROOT = Path(__file__).resolve().parents[2]


class StubResult:
    def to_json(self) -> str:
        return '{"ndcg@10": 0.5}'

    def summary(self) -> str:
        return "summary of the run"


@pytest.fixture
def runs(monkeypatch):
    """Replaces the experiment package; the list collects the calls of ``run``."""
    calls = []

    def run(model, dataset, config_files=(), config_dict=None, cli=()):
        print("a library prints this")
        calls.append((model, dataset, list(config_files), config_dict, list(cli)))
        if isinstance(stub.error, BaseException):
            raise stub.error
        return StubResult()

    stub = types.ModuleType("recbole_llm.experiment")
    stub.run, stub.error, stub.calls = run, None, calls
    monkeypatch.setitem(sys.modules, "recbole_llm.experiment", stub)
    return stub


class TestParse:
    def test_recbole_style(self):
        request = parse(
            [
                "-m",
                "BPR",
                "--dataset=ml-100k",
                "--config_files",
                "a.yaml b.yaml",
                "--epochs=3",
                "--seed",
                "3",
                "--resume",
                "--json",
            ]
        )
        assert (request.model, request.dataset, request.config_files) == ("BPR", "ml-100k", ["a.yaml", "b.yaml"])
        assert request.settings == ["--epochs=3", "--seed=3", "--resume"]
        assert request.json and not request.list and not request.help

    def test_short_forms_with_equals(self):
        request = parse(["-m=BPR", "-d=ml-100k"])
        assert (request.model, request.dataset) == ("BPR", "ml-100k")

    @pytest.mark.parametrize(
        ("argv", "message"),
        [
            (["-m", "BPR", "ml-100k"], "stray argument 'ml-100k': settings are given as --key=value"),
            (["--model"], "--model needs a value, as in --model=UR4RecMoE"),
            (["--config_files="], "--config_files needs a value"),
            (["-x"], "stray argument '-x'"),
        ],
    )
    def test_mistakes(self, argv, message):
        with pytest.raises(ConfigError, match=message):
            parse(argv)


class TestMain:
    def test_train_is_the_default_command(self, runs, capsys):
        assert main(["--model=BPR", "--dataset=ml-100k", "--epochs=1"]) == 0
        assert main(["train", "--model=BPR", "--dataset=ml-100k", "--epochs=1"]) == 0
        assert runs.calls == [("BPR", "ml-100k", [], None, ["--epochs=1"])] * 2
        captured = capsys.readouterr()
        assert captured.out == "summary of the run\n" * 2
        assert "a library prints this" in captured.err

    def test_json_is_all_of_stdout(self, runs, capsys):
        assert main(["--model=BPR", "--dataset=ml-100k", "--json"]) == 0
        assert capsys.readouterr().out == '{"ndcg@10": 0.5}\n'

    def test_model_and_dataset_from_a_config_file(self, runs, tmp_path):
        file = tmp_path / "c.yaml"
        file.write_text("model: BPR\ndataset: tiny\n")
        assert main([f"--config_files={file}"]) == 0
        assert runs.calls[0][:3] == ("BPR", "tiny", [str(file)])

    def test_an_error_is_one_sentence_and_exit_code_2(self, runs, capsys):
        runs.error = DataError("no such\n  file; put it there")
        assert main(["--model=BPR", "--dataset=ml-100k"]) == 2
        assert capsys.readouterr().err.splitlines()[-1] == "error: no such file; put it there"

    def test_debug_shows_the_traceback(self, runs):
        runs.error = DataError("no such file")
        with pytest.raises(DataError):
            main(["--model=BPR", "--dataset=ml-100k", "--debug"])
        assert runs.calls[0][4] == []  # --debug is no setting

    def test_interrupt(self, runs, capsys):
        runs.error = KeyboardInterrupt()
        assert main(["--model=BPR", "--dataset=ml-100k"]) == 130
        assert "--resume" in capsys.readouterr().err

    def test_missing_package_is_named(self, runs, capsys):
        runs.error = ModuleNotFoundError("No module named 'thop'", name="thop")
        assert main(["--model=BPR", "--dataset=ml-100k"]) == 2
        assert (
            capsys.readouterr().err.splitlines()[-1]
            == "error: the package 'thop' is not installed; run: pip install thop"
        )

    def test_a_bug_is_not_dressed_up(self, runs):
        runs.error = ModuleNotFoundError("No module named 'recbole_llm.nope'", name="recbole_llm.nope")
        with pytest.raises(ModuleNotFoundError):
            main(["--model=BPR", "--dataset=ml-100k"])

    @pytest.mark.parametrize(
        ("argv", "message"),
        [
            (["tnue"], "unknown command 'tnue' (commands: train, compare, ablate, "),
            (["--model=BPR"], "no dataset given: add --dataset=ml-100k; --list shows the datasets"),
            (["--dataset=ml-100k"], "no model given: add --model=UR4RecMoE; --list shows the models"),
            (["--model=BPR", "--config_files=absent.yaml"], "config file 'absent.yaml' does not exist"),
            (["doctor", "--verbose"], "doctor knows --json only, not '--verbose'"),
        ],
    )
    def test_mistakes(self, argv, message, capsys):
        assert main(argv) == 2
        captured = capsys.readouterr()
        assert captured.err.startswith(f"error: {message}") and captured.err.count("\n") == 1
        assert captured.out == ""


class TestTexts:
    def test_help_shows_settings_with_their_defaults(self, capsys):
        assert main(["--help"]) == 0
        text = capsys.readouterr().out
        for expected in (
            "--model=UR4RecMoE --dataset=ml-100k",
            "seed: 2020",
            "epochs: 300",
            "loo-cand100",
            "--resume",
            "runs/",
        ):
            assert expected in text
        assert main([]) == 0
        assert capsys.readouterr().out == text

    def test_list_names_everything(self, capsys, tmp_path, tiny_dataset):
        assert main(["--list", f"--data_path={tiny_dataset(tmp_path)}"]) == 0
        words = capsys.readouterr().out.split()
        assert {
            "UR4RecMoE",
            "Markov",
            "LightGCN",
            "SASRec",
            "FM",
            "CFKG",
            "ml-100k",
            "tiny",
            "loo-full",
            "rs-full",
        } <= set(words)

    def test_a_reader_that_stops_reading_is_no_error(self):
        command = f"{sys.executable} {ROOT / 'run_recbole_llm.py'} --help | true; exit ${{PIPESTATUS[0]}}"
        done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")

    def test_help_and_list_import_no_heavy_library(self):
        code = (
            "import sys; from recbole_llm.cli import main; assert main(['--help']) == 0 and main(['--list']) == 0; "
            "print(sorted({'torch', 'recbole', 'pandas', 'numpy', 'scipy', 'ray'} & set(sys.modules)), file=sys.stderr)"
        )
        done = subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stderr.strip() == "[]"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--model=BRP", "--dataset=ml-100k"], "error: unknown model 'BRP'; did you mean 'BPR'"),
        (
            ["--model=BPR", "--dataset=ml-100k", "--epoch=3"],
            "error: unknown key 'epoch' (command line); did you mean 'epochs'",
        ),
        pytest.param(
            ["--model=BPR", "--dataset=ml-100q"],
            "error: dataset 'ml-100q' not found",
            marks=pytest.mark.slow,  # loads torch
        ),
    ],
)
def test_the_script_ends_with_exit_code_2_and_one_sentence(options, message, tmp_path):
    done = subprocess.run(
        [sys.executable, str(ROOT / "run_recbole_llm.py"), *options],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith(message) and "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []  # nothing is left in the working folder
