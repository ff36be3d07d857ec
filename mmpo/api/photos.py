"""Photos and questions as users give them, checked before a model is loaded. No torch here."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from PIL import Image

from mmpo.errors import Quarantined, UserError
from mmpo.files.images import load_image

Photo: TypeAlias = str | Path | bytes | Image.Image
"""A file, encoded bytes, or a picture in memory."""

_SAID = {
    "missing": "no such file",
    "not_an_image": "not an image",
    "empty": "the file is empty",
    "corrupt": "the image is damaged",
    "truncated": "the image is cut off",
}


@dataclass(frozen=True)
class NamedPhoto:
    """A photo with the name it has in answers: its path as given, or its number."""

    name: str
    image: str | Path | bytes | Image.Image


def photos_of(given: Photo | Sequence[Photo]) -> list[NamedPhoto]:
    """The photos of a call, each opened once. Raises one `UserError` that lists all that can't be used."""
    photos = [given] if isinstance(given, str | Path | bytes | Image.Image) else _listed(given, "photos", "a photo")
    if not photos:
        raise UserError("no photo given", hint="a path, bytes or a PIL image, or a list of them")
    found, wrong = [], []
    for number, photo in enumerate(photos):
        try:
            found.append(_checked(photo, f"photo {number + 1}"))
        except UserError as error:
            wrong.append(error)
    if len(wrong) == 1:
        raise wrong[0]
    if wrong:
        lines = [f"{error.message}" + (f"\n  hint: {error.hint}" if error.hint else "") for error in wrong[:20]]
        more = [f"and {len(wrong) - 20} more"] if len(wrong) > 20 else []
        raise UserError("\n".join([f"{len(wrong)} of {len(photos)} photos can't be used", *lines, *more]))
    return found


def questions_of(given: str | Sequence[str]) -> list[str]:
    """The questions of a call. Raises `UserError` where there is none, or one is no text or blank."""
    questions = [given] if isinstance(given, str) else _listed(given, "questions", "a text")
    if not questions:
        raise UserError("no question given", hint='for example "Is there a dog in the image?"')
    for number, question in enumerate(questions):
        if not isinstance(question, str):
            raise UserError(f"question {number + 1} must be a text, not {type(question).__name__}")
        if not question.strip():
            raise UserError(f"question {number + 1} is empty", hint='for example "Is there a dog in the image?"')
    return questions


def _listed(given: object, what: str, one: str) -> list:
    if isinstance(given, Iterable) and not isinstance(given, dict):
        return list(given)
    raise UserError(f"{what} must be {one} or a list, not {type(given).__name__}")


def _checked(photo: object, number: str) -> NamedPhoto:
    if isinstance(photo, Image.Image):
        return NamedPhoto(number, photo)
    if not isinstance(photo, str | Path | bytes):
        raise UserError(f"{number} must be a path, bytes or a PIL image, not {type(photo).__name__}")
    name = number if isinstance(photo, bytes) else str(photo)
    shown = name if len(name) <= 200 else f"{name[:200]}…"
    if "://" in name:
        raise UserError(f"{shown}: an address; mmpo opens no addresses", hint="download the picture and give the file")
    if not isinstance(photo, bytes) and os.path.isdir(photo):
        raise UserError(f"{name} is a folder; a photo belongs here", hint=f"for every photo in it: {name}/*.jpg")
    try:
        load_image(photo)
    except Quarantined as error:
        told = _SAID.get(error.reason, error.reason.replace("_", " "))
        detail = f" ({error.detail.rpartition(': ')[2]})" if error.reason not in _SAID and error.detail else ""
        raise UserError(f"{shown}: {told}{detail}") from None
    except (OSError, ValueError) as error:  # a name that can be no file: too long, half a character
        raise UserError(f"{shown}: can't be opened: {error}") from None
    return NamedPhoto(name, photo)
