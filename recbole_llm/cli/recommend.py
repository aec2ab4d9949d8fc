"""``recbole-llm recommend``: what a trained model recommends, and its embeddings, as files."""

import argparse
import contextlib
import sys
from collections.abc import Sequence
from pathlib import Path

from recbole_llm.errors import ConfigError, DataError

_SHOWN = 10  # users at most whose lists go to the terminal

_EPILOG = """\
examples:
  recbole-llm recommend --checkpoint runs/<run> --topk 20 --out recommendations.parquet
  recbole-llm recommend --checkpoint runs/<run> --users 196,186
  recbole-llm recommend --checkpoint runs/<run> --user-embeddings shop.u_bpr.safetensors \\
      --item-embeddings shop.i_bpr.safetensors

A user is known by all that he has used, test rows included, and none of it is recommended again. With --history known
it is the training and validation rows alone, as in the evaluation, so that compare --import can score the lists. A user
to whom fewer items are left gets fewer. Columns: user, rank, item, score and, where the items have titles, title."""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="recbole-llm recommend",
        description="Write the items that a trained model puts on top for each user.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--checkpoint", required=True, type=Path, metavar="RUN", help="run folder of the model")
    parser.add_argument("--topk", type=int, default=20, metavar="K", help="items a user at most (default 20)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="ends with .parquet, .csv, .json or .jsonl")
    parser.add_argument("--users", metavar="TOKENS", help="u1,u2; default: all users")
    parser.add_argument("--users-file", type=Path, metavar="FILE", help="one user a line")
    parser.add_argument(
        "--history", choices=("all", "known"), default="all", help="what is known of a user and left out (default all)"
    )
    parser.add_argument(
        "--title", default="", metavar="COLUMN", help="of <dataset>.item; default: one that is called so"
    )
    parser.add_argument("--user-embeddings", type=Path, metavar="FILE", help="write the users' vectors: .safetensors")
    parser.add_argument("--item-embeddings", type=Path, metavar="FILE", help="write the items' vectors: .safetensors")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    return parser


def main(argv: Sequence[str]) -> int:
    """Recommend. Returns: 0.

    Raises:
        RecBoleLLMError: for a wrong run, user, file or format, or a model that has no embeddings.
    """
    args = _parser().parse_args(list(argv))
    users = _users(args)
    wants_lists = _check(args, users)

    from recbole_llm import compat

    compat.apply()
    from recbole_llm.serving.embeddings import save_embeddings
    from recbole_llm.serving.recommender import Recommender

    with contextlib.redirect_stdout(sys.stderr):  # RecBole prints here and there
        recommender = Recommender.from_run(args.checkpoint, args.history, args.title)
    if wants_lists:
        _lists(args, recommender, users)
    if args.user_embeddings or args.item_embeddings:
        save_embeddings(recommender, args.user_embeddings, args.item_embeddings)
        for path in filter(None, (args.user_embeddings, args.item_embeddings)):
            print(f"wrote {path}")
    return 0


def _users(args: argparse.Namespace) -> list[str] | None:
    """The users named; None: all."""
    if args.users is None and args.users_file is None:
        return None
    named = [token.strip() for token in (args.users or "").split(",") if token.strip()]
    if args.users_file is not None:
        try:
            lines = args.users_file.read_text(encoding="utf-8").split("\n")
        except OSError as error:
            raise DataError(
                f"{args.users_file} cannot be read ({error.strerror}); name a file with one user a line"
            ) from None
        except UnicodeDecodeError:
            raise DataError(f"{args.users_file} is not a text file in UTF-8; name one with one user a line") from None
        named += [line.strip() for line in lines if line.strip()]
    if not named:
        raise ConfigError("--users and --users-file name no user; leave them out to have all users")
    return list(dict.fromkeys(named))


def _check(args: argparse.Namespace, users: list[str] | None) -> bool:
    """Whether lists are wanted; raises before anything is loaded."""
    if args.topk < 1:
        raise ConfigError(f"--topk must be at least 1, not {args.topk}")
    from recbole_llm.serving.files import check_embeddings_file, check_format

    if args.out is not None:
        check_format(args.out)
    exports = [path for path in (args.user_embeddings, args.item_embeddings) if path is not None]
    for path in exports:
        check_embeddings_file(path)
    if args.out is None and (users is None or len(users) > _SHOWN):
        if exports and users is None:
            return False
        raise ConfigError(f"name the file with --out, or up to {_SHOWN} users with --users to see their lists here")
    return True


def _lists(args: argparse.Namespace, recommender, users: list[str] | None) -> None:
    from tqdm import tqdm

    from recbole_llm.serving.files import as_text, write_recommendations

    n_users = len(recommender.user_ids(users))
    with tqdm(total=n_users, desc="recommend", unit="user", delay=2, disable=args.quiet) as bar:  # if it takes longer
        frame = recommender.recommend(users, args.topk, bar.update)
    short = n_users - int((frame["rank"] == args.topk).sum())
    if short:
        print(f"{short} of {n_users} users have fewer than {args.topk} items left", file=sys.stderr)
    if args.out is None:
        print(as_text(frame))
        return
    write_recommendations(args.out, frame)
    print(f"{len(frame)} recommendations to {n_users} users, history: {args.history}")
    print(f"wrote {args.out}")
