"""Options of a command beside settings."""

import argparse

import pytest

from recbole_llm.cli import main
from recbole_llm.cli.options import parse_options
from recbole_llm.errors import ConfigError


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="recbole-llm search", allow_abbrev=False)
    made.add_argument("file", nargs="?")
    made.add_argument("--trials", type=int)
    made.add_argument("--dry-run", action="store_true")
    return made


def test_what_is_no_option_is_a_setting():
    args, rest = parse_options(parser(), ["a.yaml", "--epochs=3", "--trials", "4", "--metric_of.mine=1"])
    assert (args.file, args.trials, rest) == ("a.yaml", 4, ["--epochs=3", "--metric_of.mine=1"])


def test_a_setting_may_be_near_to_an_option():
    made = parser()
    made.add_argument("--seeds", type=int)
    assert parse_options(made, ["--seed=3"])[1] == ["--seed=3"]
    assert parse_options(made, ["--epoch=3"])[1] == ["--epoch=3"]  # the configuration answers, as for any key


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--trails", "3"], "unknown option --trails; did you mean --trials?"),
        (["--trails=3"], "unknown option --trails; did you mean --trials?"),
        (["a.yaml", "--dryrun"], "unknown option --dryrun; did you mean --dry-run?"),
        (["--epochs", "3"], "write --epochs=3: recbole-llm search takes the value of a setting only after ="),
    ],
)
def test_a_misspelt_option_is_named(words, message):
    with pytest.raises(ConfigError) as caught:
        parse_options(parser(), words)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["tune", "--model=BPR", "--trails", "3"], "unknown option --trails; did you mean --trials?"),
        (["compare", "--models=BPR", "--sedes", "3"], "unknown option --sedes; did you mean --seeds?"),
        (["diagnose", "--model=BPR", "--stpes", "3"], "unknown option --stpes; did you mean --steps?"),
        (["audit", "--dataset=x", "--texts=y", "--feild=z"], "unknown option --feild; did you mean --field?"),
        (["augment", "--dataset=x", "--kind=edges", "--titel=y"], "unknown option --titel; did you mean --title?"),
    ],
)
def test_in_every_command_that_takes_settings(words, message, capsys):
    assert main(words) == 2
    assert message in capsys.readouterr().err
