"""Command line: ``recbole-llm COMMAND``, RecBole style, train being the default command."""

from recbole_llm.cli.dispatch import main

__all__ = ["main"]
