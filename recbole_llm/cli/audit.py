"""``recbole-llm audit``: do texts about users name items that were held out from them?"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from recbole_llm.cli.options import parse_options


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="recbole-llm audit",
        description="Check texts about users, such as a language model's profiles, for items held out from the users.",
        epilog="A text made from training rows names a user's held-out items no oftener than those of other users; one "
        "made from whole histories does. Exit code 1 when it does. Any --key=value is a setting, as in a run.",
        allow_abbrev=False,
    )
    parser.add_argument("--dataset", required=True, help="name of the dataset, for example ml-100k")
    parser.add_argument("--texts", required=True, type=Path, help="JSON object user: text, or JSON lines with user_id")
    parser.add_argument("--field", default="", help="which text of a line; default: all of them")
    parser.add_argument(
        "--title", default="", metavar="COLUMN", help="of <dataset>.item; default: one that is called so"
    )
    parser.add_argument("--json", action="store_true", help="end with one line of JSON")
    return parser


def main(argv: Sequence[str]) -> int:
    """Audit. Returns: 0, or 1 when held-out items are named oftener than chance explains.

    Raises:
        RecBoleLLMError: for a dataset, file or column that is not there.
    """
    args, rest = parse_options(_parser(), argv)
    from recbole_llm.config.sources import parse_command_line
    from recbole_llm.experiment.audit import audit, item_titles, read_user_texts

    texts = read_user_texts(args.texts, args.field)  # before the dataset is loaded
    settings = parse_command_line(rest) if rest else {}

    from recbole_llm import compat

    compat.apply()
    from recbole_llm.config import build_config

    config = build_config("Pop", args.dataset, (), settings | {"show_progress": False}, ())
    titles = item_titles(Path(config["data_path"]) / f"{args.dataset}.item", args.title)
    found = audit(config, texts, titles)
    print(f"{args.texts.name}: {len(texts)} texts; {args.dataset}, protocol {config['protocol']}", file=sys.stderr)
    for part in found:
        print(part.text())
        for user, title in part.examples if part.leaks else ():
            print(f"  for example user {user}: {title}")
    leaks = any(part.leaks for part in found)
    print(
        "these texts know held-out items: make them from the training rows of the split" if leaks else "no leak shows"
    )
    if args.json:
        print(json.dumps({"leaks": leaks, "parts": [asdict(part) | {"share": part.share} for part in found]}))
    return 1 if leaks else 0
