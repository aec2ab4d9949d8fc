"""``recbole-llm augment``: attributes of items, profiles of users and proposed edges, by a language model."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from recbole_llm.cli.options import parse_options
from recbole_llm.cli.places import feature_folder
from recbole_llm.errors import ConfigError

KINDS = ("item_attributes", "user_profile", "edges")
LEDGER_FILE = ".ledger.sqlite"

_EPILOG = """\
examples:
  recbole-llm augment --dataset shop --kind item_attributes --model llama3 --api-base http://localhost:11434/v1
  OPENAI_API_KEY=... recbole-llm augment --dataset ml-100k --kind user_profile --model gpt-4o-mini \\
      --api-base https://api.openai.com/v1 --allow-upload --price-in 0.15 --price-out 0.6 --budget 2
  recbole-llm augment --dataset ml-100k --kind edges --checkpoint runs/<run> --proposer embedding --feature content

Users' histories are those of the training rows of the protocol's split (--protocol=...), and the output says which
split; they leave this machine only with --allow-upload. What was answered is in the ledger and never asked again: a
run broken off goes on, and --replay answers from the ledger alone. Prompts are YAML files, properties/prompt/; name a
copy of your own with --prompt. Needs: pip install 'recbole-llm[llm]'. Any --key=value is a setting, as in a run."""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="recbole-llm augment",
        description="Have a language model describe items, profile users or propose edges, as JSON lines.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--dataset", required=True, help="name of the dataset, for example ml-100k")
    parser.add_argument("--kind", required=True, choices=KINDS, help="what is asked for")
    parser.add_argument(
        "--proposer", choices=("llm", "embedding"), default="llm", help="who proposes edges (default llm)"
    )
    parser.add_argument("--title", default="", metavar="COLUMN", help="of <dataset>.item; default: title or name")
    parser.add_argument("--prompt", default="", metavar="FILE", help="prompt; default: the shipped one of the kind")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="default: the dataset's folder")
    parser.add_argument("--limit", type=int, metavar="N", help="only the first N items or users")
    edges = parser.add_argument_group("edges")
    edges.add_argument("--checkpoint", type=Path, metavar="RUN", help="run folder of the model that finds candidates")
    edges.add_argument("--candidates", type=int, default=10, metavar="N", help="candidates a user (default 10)")
    edges.add_argument("--feature", default="", help="text feature of --proposer embedding, for example content")
    model = parser.add_argument_group("language model")
    model.add_argument("--model", default="", help="name of the model at the endpoint")
    model.add_argument("--api-base", default="", metavar="URL", help="endpoint of OpenAI's protocol, up to /v1")
    model.add_argument("--requests", type=int, default=4, metavar="N", help="requests at a time (default 4)")
    model.add_argument("--price-in", type=float, default=0.0, metavar="USD", help="of a million tokens asked")
    model.add_argument("--price-out", type=float, default=0.0, metavar="USD", help="of a million tokens answered")
    model.add_argument("--budget", type=float, metavar="USD", help="ask no more than this costs")
    model.add_argument("--ledger", type=Path, metavar="FILE", help=f"answers; default: {LEDGER_FILE} beside the output")
    model.add_argument("--replay", action="store_true", help="answer from the ledger alone, offline")
    model.add_argument("--allow-upload", action="store_true", help="users' histories may leave this machine")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    return parser


def main(argv: Sequence[str]) -> int:
    """Augment. Returns: 0, or 1 when something was not asked about, or a replay's ledger lacks it.

    Raises:
        RecBoleLLMError: for a wrong dataset, prompt, model or endpoint, or a missing package.
    """
    args, rest = parse_options(_parser(), argv)
    _check(args)
    from recbole_llm.augment.prompts import read_prompt

    prompt = read_prompt(args.prompt or args.kind)

    from recbole_llm import compat

    compat.apply()
    from recbole_llm.augment.gather import gather
    from recbole_llm.config import build_config
    from recbole_llm.config.sources import parse_command_line

    settings = (parse_command_line(rest) if rest else {}) | {"show_progress": False}
    config = build_config("Pop", args.dataset, (), settings, ())
    gathered = gather(config, args.kind, prompt, args.title, args.checkpoint, args.candidates, settings.get("protocol"))
    out = args.out or feature_folder(args.dataset, Path(config["data_path"]).parent)
    path = out / f"{args.dataset}.{args.kind}.jsonl"
    if args.proposer == "embedding":
        return _by_embedding(args, gathered, path)
    return _by_llm(args, gathered, prompt, path)


def _check(args: argparse.Namespace) -> None:
    for name in ("requests", "candidates", "limit"):
        value = getattr(args, name)
        if value is not None and value < (2 if name == "candidates" else 1):
            raise ConfigError(f"--{name} must be at least {2 if name == 'candidates' else 1}, not {value}")
    if args.kind == "edges" and args.checkpoint is None:
        raise ConfigError("edges need candidates: name the run folder of a trained model with --checkpoint")
    if args.proposer == "embedding":
        if args.kind != "edges" or not args.feature:
            raise ConfigError("--proposer embedding proposes edges from a text feature: --kind edges --feature content")
        return
    if not args.model or not (args.api_base or args.replay):
        raise ConfigError("name the language model with --model and its endpoint with --api-base")
    if args.replay:
        return  # nothing is sent
    from recbole_llm.encoding.endpoint import check_base, is_local

    if args.kind != "item_attributes" and not is_local(check_base(args.api_base)) and not args.allow_upload:
        raise ConfigError(
            f"users' histories would go to {args.api_base}, not a part of this machine; say --allow-upload if they may"
        )


def _by_llm(args: argparse.Namespace, gathered, prompt, path: Path) -> int:
    from tqdm import tqdm

    from recbole_llm.augment.chat import Chat, Terms
    from recbole_llm.augment.ledger import Ledger
    from recbole_llm.augment.run import ask_all
    from recbole_llm.data.derived import write_derived

    terms = Terms(args.price_in, args.price_out, args.budget, replay=args.replay)
    subjects, place = list(gathered.subjects)[: args.limit], args.ledger or path.parent / LEDGER_FILE
    if args.replay and not place.is_file():
        raise ConfigError(f"there is no ledger {place} to answer from; name it with --ledger")
    with Ledger(place) as ledger:
        chat = Chat(args.model, args.api_base, ledger, terms)
        with tqdm(total=len(subjects), desc=args.kind, unit="answer", disable=args.quiet) as bar:
            answers = ask_all(subjects, prompt, chat, args.requests, bar.update)
        totals = ledger.totals()
    made_by = {"proposer": "llm", "model": args.model, "prompt": prompt.name, "prompt_version": prompt.version}
    cost = {"tokens_in": totals.tokens_in, "tokens_out": totals.tokens_out, "usd": totals.usd}
    if not answers.complete or args.limit:  # a whole file of an earlier run stays
        path = path.with_suffix(".partial.jsonl")
    write_derived(path, answers.records, {**gathered.facts, **made_by, "counts": answers.counts, "ledger": cost})
    shown = ", ".join(f"{n} {name}" for name, n in answers.counts.items() if n or name == "answered")
    print(f"{args.kind}: {len(subjects)} asked about: {shown}; {chat.asked} requests, {chat.spent:.4f} USD now")
    print(f"wrote {path}")
    if answers.error is not None:
        raise answers.error
    if answers.stopped:
        print(answers.stopped, file=sys.stderr)
    return 0 if answers.complete else 1


def _by_embedding(args: argparse.Namespace, gathered, path: Path) -> int:
    from recbole_llm.augment.subjects import embedding_edges
    from recbole_llm.data.derived import write_derived

    rows = gathered.feature_rows(args.feature)
    users = dict(list(gathered.candidates.items())[: args.limit])
    records = list(embedding_edges(gathered.histories, users, rows))
    counts = {"answered": len(records), "texts do not tell": len(users) - len(records)}
    path = path.with_suffix(".partial.jsonl") if args.limit else path
    write_derived(path, records, {**gathered.facts, "proposer": f"embedding of {args.feature}", "counts": counts})
    print(f"edges: {len(records)} users, by the text feature {args.feature} alone, no language model")
    print(f"wrote {path}")
    return 0
