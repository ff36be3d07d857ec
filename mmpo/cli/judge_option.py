"""Reading of `--judge FILE|KEY=VALUE` and `--set KEY=VALUE` of a command."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mmpo.errors import UserError

if TYPE_CHECKING:
    from mmpo.chat import ChatSettings


def key_value(text: str, option: str) -> tuple[str, str]:
    """KEY and VALUE of one word of an option. Raises UserError for anything else."""
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise UserError(f"{option} {text}: expected KEY=VALUE")
    return key.strip(), value


def judge_settings(words: Sequence[str]) -> ChatSettings:
    """ChatSettings from YAML files and KEY=VALUE words, later ones winning. Raises UserError for what is no
    setting, with the word.
    """
    from pydantic import ValidationError

    from mmpo.chat import ChatSettings
    from mmpo.outside import Unreadable, read_map, yaml_of

    values: dict[str, Any] = {}
    for word in words:
        try:
            if "=" not in word:
                found = read_map(word)
                if not isinstance(found, dict):
                    raise UserError(f"{word}: expected a map such as `backend: server`")
                values |= found
            else:
                key, text = key_value(word, "--judge")
                values[key] = yaml_of(text)
        except Unreadable as error:
            raise error.at(f"--judge {word}", lines=False) from None
    try:
        return ChatSettings.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        message = str(first["msg"]).removeprefix("Value error, ")
        raise UserError(f"--judge {place}: {message}" if place else f"--judge: {message}") from None
