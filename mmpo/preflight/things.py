"""Checks of the things that fields of the settings name, by their kind (`mmpo.settings.Need`)."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from jinja2 import Environment, TemplateSyntaxError
from pydantic import BaseModel

from mmpo.chat.settings import ChatSettings, SamplerSettings
from mmpo.chat.templates import template_path
from mmpo.errors import UserError
from mmpo.models.folder import check_adapter, check_fit, check_model, find_model, no_such_model
from mmpo.preflight.context import PreflightContext
from mmpo.recipes.source import KeyPath as Keys
from mmpo.settings import Need

_SHOWN = 5


def check_things(context: PreflightContext, section: str, *, without: Collection[str] = ()) -> None:
    """Look at everything that a section's settings name, except below the keys `without`."""
    from mmpo.preflight.machine import check_chat, check_sampler

    for path, need, value in _named(context.settings(section), (section,), without):
        if isinstance(value, ChatSettings):
            check_chat(context, path, value)
        elif isinstance(value, SamplerSettings):
            check_sampler(context, path, value)
        elif need is not None and value not in need.words and not context.comes(value):
            with context.noting(context.given(path)):
                _check(context, path, need, str(value))


def _named(settings: BaseModel, at: Keys, without: Collection[str] = ()) -> Iterator[tuple[Keys, Need | None, Any]]:
    """(key, kind, value) of every field that names something, depth first; text models as (key, None, settings)."""
    for name, field in type(settings).model_fields.items():
        value = getattr(settings, name)
        if value is None or name in without:
            continue
        if isinstance(value, ChatSettings | SamplerSettings):
            yield (*at, name), None, value
        elif isinstance(value, BaseModel):
            yield from _named(value, (*at, name))
        elif isinstance(value, list) and value and all(isinstance(item, BaseModel) for item in value):
            for number, item in enumerate(value):
                yield from _named(item, (*at, name, str(number)))
        elif need := next((one for one in field.metadata if isinstance(one, Need)), None):
            if isinstance(value, list):
                yield from (((*at, name, str(number)), need, item) for number, item in enumerate(value))
            else:
                yield (*at, name), need, value


def _check(context: PreflightContext, path: Keys, need: Need, value: str) -> None:
    if need.kind == "model":
        _model(context, path, value)
    elif need.kind == "detector":
        _detector(value)
    elif need.kind == "adapter":
        _adapter(context, path, value)
    elif need.kind == "template":
        _template(value)
    elif need.kind == "sampling":
        from mmpo.video.sampling import parse

        parse(value)
    elif need.kind == "output":
        check_writable(Path(value))
    elif need.kind == "pairs":
        _pairs(Path(value))
    else:
        check_path(Path(value), need)
        if need.kind == "vocabulary":
            from mmpo.text.vocabulary import ObjectVocabulary

            ObjectVocabulary.from_file(value)


def check_path(path: Path, need: Need) -> None:
    """Raises `UserError` unless `path` is there, is a file or folder as needed, can be read, and holds something."""
    kind = {"annotations": "annotation file", "path": "file or folder", "vocabulary": "file"}.get(need.kind, need.kind)
    if not path.exists():
        if path.is_symlink():
            raise UserError(f"{path}: a link to {os.readlink(path)}, which is not there")
        raise UserError(f"{path}: no such {kind}", hint=_instead(path))
    if need.kind == "folder" and not path.is_dir():
        raise UserError(f"{path} is a file; a folder belongs here", hint=f"its folder is {path.parent}")
    if need.kind in ("file", "annotations", "vocabulary") and path.is_dir():
        fit = sorted(file.name for file in path.iterdir() if file.is_file() and file.suffix in need.fits)
        shown = ", ".join(fit[:_SHOWN]) + (f" and {len(fit) - _SHOWN} more" if len(fit) > _SHOWN else "")
        wanted = " or ".join(need.fits)
        raise UserError(
            f"{path} is a folder; {'an' if kind[0] == 'a' else 'a'} {kind} belongs here",
            hint=f"files in it that fit: {shown}" if fit else f"it holds no {wanted} file",
        )
    if not os.access(path, os.R_OK | (os.X_OK if path.is_dir() else 0)):
        raise UserError(f"{path}: no permission to read it", hint=f"chmod u+r{'x' if path.is_dir() else ''} {path}")
    if path.is_file() and path.stat().st_size == 0:
        raise UserError(f"{path}: the file is empty", hint="was it written to the end?")
    if path.is_dir() and not any(path.iterdir()):
        raise UserError(f"{path}: the folder is empty")


def _instead(path: Path) -> str:
    """A hint for a missing path: a neighbour with a similar name, or where relative paths start."""
    above = path.parent
    if str(path).startswith("~"):
        return "~ is the shell's: write the whole path"
    if above.is_dir():
        near = get_close_matches(path.name, [one.name for one in above.iterdir()], n=1, cutoff=0.7)
        if near:
            return f"did you mean {above / near[0]}?"
    if not path.is_absolute():
        return f"relative paths start where the command is typed, here {Path.cwd()}"
    there = next(one for one in path.parents if one.exists())
    return f"the path exists up to {there}"


def _pairs(folder: Path) -> None:
    from mmpo.data.shards import read_pairs

    check_path(folder, Need("folder"))
    if next(iter(read_pairs(folder)), None) is None:
        raise UserError(f"{folder}: there are no pairs in it")


def _model(context: PreflightContext, path: Keys, source: str) -> None:
    folder = find_model(source)
    if folder is None:
        if context.fetches(source):
            context.warn(context.given(path), f"{source} is not on this machine and will be fetched from the hub")
            return
        raise no_such_model(source)
    trusted = bool(getattr(context.settings(path[0]), "trust_remote_code", False))
    check_vision_model(folder, source, trust_remote_code=trusted)


def _detector(source: str) -> None:
    from mmpo.evidence.detector import detector_kind

    folder = find_model(source)
    if folder is None:
        raise no_such_model(source)
    detector_kind(folder, source)


def check_vision_model(folder: Path, source: str, *, trust_remote_code: bool = False) -> None:
    """Everything but the weights: the files, the family, and a processor that opens with the packages that are here.
    A processor whose own code would run is left to the run."""
    config = check_model(folder, source)
    if "vision_config" not in config:
        raise UserError(
            f"{source}: a model of type {config.get('model_type')!r} without a vision tower; it sees no pictures",
            hint="name a vision-language model (docs/families.md)",
        )
    if not trust_remote_code:
        from mmpo.models.families.opening import family_in, open_processor

        family_in(source)
        open_processor(source)


def _adapter(context: PreflightContext, path: Keys, value: str) -> None:
    config = check_adapter(value)
    model = context.settings(path[0]).model
    folder = find_model(model)
    if folder is None or context.has_error(context.given((path[0], "model"))):
        return
    check_fit(value, folder, model)
    base = str(config.get("base_model_name_or_path") or "")
    if base and find_model(base) != folder and Path(base).name != Path(model).name:
        context.warn(path, f"{value} was trained on {base}, and is put on {model}")


def _template(value: str) -> None:
    path = template_path(value)
    try:
        Environment().parse(path.read_text(encoding="utf-8"))
    except TemplateSyntaxError as error:
        raise UserError(f"{path}:{error.lineno}: {error.message}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read: {error}") from None


def check_writable(path: Path) -> None:
    """Raises `UserError` unless the folder `path` is there, or can be made, and can be written in."""
    there = next((one for one in (path.absolute(), *path.absolute().parents) if one.exists()), Path("/"))
    if not there.is_dir():
        raise UserError(f"{path}: {there} is a file; a folder belongs here")
    if not os.access(there, os.W_OK | os.X_OK):
        raise UserError(f"{path}: no permission to write in {there}", hint="name another folder")
