"""Prompts as YAML files: what is asked, the answer's schema, the sampling. Edit a copy and name it with --prompt."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from string import Formatter
from typing import Any

import yaml

from recbole_llm.errors import ConfigError
from recbole_llm.paths import properties_dir

_KEYS = {"version", "system", "user", "schema", "temperature", "max_tokens", "history_items"}


@dataclass(frozen=True)
class Prompt:
    """One prompt.

    Attributes:
        name, version: as the ledger records them. system, user: texts; the latter has placeholders.
        schema: JSON schema of the answer. history_items: how many items of a history are shown.
    """

    name: str
    version: int
    system: str
    user: str
    schema: Mapping[str, Any]
    temperature: float = 0.0
    max_tokens: int = 400
    history_items: int = 30
    placeholders: tuple[str, ...] = field(default=())

    def messages(self, values: Mapping[str, Any]) -> list[dict[str, str]]:
        """The messages of a request. values: placeholder -> text, or what formats itself."""
        return [
            {"role": "system", "content": self.system},
            {"role": "user", "content": Formatter().vformat(self.user, (), values).strip()},
        ]


def read_prompt(name: str | Path) -> Prompt:
    """A shipped prompt by its name, or a file.

    Raises:
        ConfigError: for a file that is missing, no YAML, or lacks a part.
    """
    path = Path(name)
    if not path.is_file():
        path = properties_dir() / "prompt" / f"{name}.yaml"
    if not path.is_file():
        raise ConfigError(f"there is no prompt file {name}")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        parts = {key: content[key] for key in ("version", "system", "user", "schema")}
        unknown = sorted(set(content) - _KEYS)
        placeholders = tuple(name for _, name, _, _ in Formatter().parse(content["user"]) if name is not None)
    except (yaml.YAMLError, ValueError, KeyError, TypeError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"{path} is no prompt ({reason}); it needs version, system, user and schema") from None
    if unknown:
        raise ConfigError(f"{path}: unknown key '{unknown[0]}'; known are {', '.join(sorted(_KEYS))}")
    options = {key: content[key] for key in ("temperature", "max_tokens", "history_items") if key in content}
    return Prompt(name=path.stem, placeholders=placeholders, **parts, **options)
