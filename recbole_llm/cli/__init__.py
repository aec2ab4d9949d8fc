"""Command line: ``recbole-llm [train|doctor|encode]``, RecBole style, train being the default."""

from recbole_llm.cli.dispatch import main

__all__ = ["main"]
