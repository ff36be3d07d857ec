"""Prompts live in Jinja files that a user can copy, edit and name in the settings instead.

The packaged ones are in `mmpo/chat/prompts/`. Templates run in Jinja's sandbox; a name that the caller does not give is
an error, never an empty text.
"""

from __future__ import annotations

import hashlib
import traceback
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined, Template, TemplateError, TemplateSyntaxError
from jinja2.loaders import FileSystemLoader

from mmpo.errors import UserError
from mmpo.outside.templates import BoundedEnvironment, TemplateTooMuch, limited

PROMPTS = Path(__file__).parent / "prompts"
SUFFIX = ".j2"


def render(name_or_path: str | Path, **values: Any) -> str:
    """The prompt that a template makes of `values`, without white space at its ends.

    `name_or_path` is a packaged template's name (`shr_judge`) or the path of a .j2 file. Raises UserError naming file
    and line for a template that is missing, wrong, or uses a value that is not there.
    """
    path = template_path(name_or_path)
    try:
        with limited():
            return str(_template(path, path.stat().st_mtime_ns).render(**values)).strip()
    except TemplateTooMuch as error:
        raise UserError(f"{path}: the template is stopped: {error}", hint="take the endless loop out of it") from None
    except TemplateSyntaxError as error:
        raise UserError(f"{error.filename or path}:{error.lineno}: {error.message}") from None
    except (TemplateError, TypeError, ValueError, ArithmeticError, LookupError) as error:
        known = ", ".join(f"`{name}`" for name in values) or "none"
        raise UserError(f"{_place(error, path)}: {error}", hint=f"values of this prompt: {known}") from None


def template_path(name_or_path: str | Path) -> Path:
    """The file of a packaged template's name or of a path. Raises UserError where there is none."""
    text = str(name_or_path)
    if text.endswith(SUFFIX):
        path = Path(text)
        if not path.is_file():
            raise UserError(f"{path}: no such template file")
        return path.resolve()
    path = PROMPTS / f"{text}{SUFFIX}"
    if text not in packaged():
        raise UserError(
            f"no prompt is called {text!r}",
            hint=f"one of {', '.join(packaged())}, or the path of a {SUFFIX} file",
        )
    return path


def packaged() -> list[str]:
    """The names of the templates that come with mmpo."""
    return sorted(path.name.removesuffix(SUFFIX) for path in PROMPTS.glob(f"*{SUFFIX}"))


def template_version(name_or_path: str | Path) -> str:
    """A name for results: the template's name and the first digits of its content's hash."""
    path = template_path(name_or_path)
    return f"{path.name.removesuffix(SUFFIX)}@{hashlib.sha256(path.read_bytes()).hexdigest()[:8]}"


@cache
def _template(path: Path, changed: int) -> Template:
    return _environment(path.parent).get_template(path.name)


@cache
def _environment(folder: Path) -> Environment:
    """`{% include %}` finds files next to the template, then the packaged ones; nothing outside these folders."""
    return BoundedEnvironment(
        loader=FileSystemLoader([folder, PROMPTS]),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=False,
    )


def _place(error: Exception, path: Path) -> str:
    """FILE:LINE of the innermost template line that the error passed through."""
    frames = traceback.extract_tb(error.__traceback__)
    lines = [f"{frame.filename}:{frame.lineno}" for frame in frames if frame.filename.endswith(SUFFIX)]
    return lines[-1] if lines else str(path)
