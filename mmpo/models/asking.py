"""What is asked of the answering engine: images, prompts, questions; and the images made ready for the model."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

from PIL import Image

from mmpo.data.images import load_image
from mmpo.errors import Quarantined, UserError
from mmpo.models.loading import VLM
from mmpo.models.prompts import ProcessedImages, encode_prompt, process_images

ImageSource: TypeAlias = Image.Image | bytes | str | Path
Images: TypeAlias = ImageSource | Sequence[ImageSource]
# A user's text, shown after the images; or whole messages whose image parts show the images in order.
Prompt: TypeAlias = str | Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Question:
    """One question. `image` may be None where the question comes in a group with its image."""

    id: str
    image: Images | None
    text: Prompt


Asked: TypeAlias = Iterable[Question | tuple[Images, Sequence[Question | Prompt]]]


class Pictures:
    """The images of one prompt or of a group of questions. What identifies them is found once."""

    def __init__(self, images: Images) -> None:
        self.images, self.sources = images, as_list(images)

    @cached_property
    def key(self) -> Hashable:
        return tuple(map(source_key, self.sources))


@dataclass(frozen=True)
class Shown:
    """Images that prompts are about, decoded and processed; `digest` identifies their pixels."""

    processed: ProcessedImages
    digest: str


class Gallery:
    """Decodes and processes images. Remembers the last few, so prompts in a row about one image cost it once."""

    def __init__(self, vlm: VLM, root: str | Path | None, remembered: int = 16) -> None:
        self._vlm, self._root, self._remembered = vlm, root, remembered
        self._recent: OrderedDict[Hashable, Shown | Quarantined] = OrderedDict()

    def show(self, images: Images | Pictures) -> Shown:
        """The images of one prompt. Raises `Quarantined` where one can't be used (again, if it is asked for again)."""
        pictures = images if isinstance(images, Pictures) else Pictures(images)
        key = pictures.key
        if key not in self._recent:
            try:
                self._recent[key] = self._process(pictures.sources)
            except Quarantined as reason:
                self._recent[key] = reason
            if len(self._recent) > self._remembered:
                self._recent.popitem(last=False)
        self._recent.move_to_end(key)
        shown = self._recent[key]
        if isinstance(shown, Quarantined):
            raise shown
        return shown

    def encode(self, prompt: Prompt, shown: Shown) -> list[int]:
        """Token ids of a prompt about these images, placeholders expanded, ready for the answer."""
        if isinstance(prompt, str):
            content = [{"type": "image"}] * len(shown.processed) + [{"type": "text", "text": prompt}]
            prompt = [{"role": "user", "content": content}]
        return encode_prompt(self._vlm, prompt, shown.processed.placeholders)

    def _process(self, sources: Sequence[ImageSource]) -> Shown:
        pictures = [
            source.convert("RGB") if isinstance(source, Image.Image) else load_image(source, root=self._root)
            for source in sources
        ]
        digest = hashlib.blake2b(digest_size=16)
        for picture in pictures:
            digest.update(repr(picture.size).encode() + picture.tobytes())
        return Shown(process_images(self._vlm, pictures, several=len(pictures) > 1), digest.hexdigest())


def group_by_image(questions: Iterable[Question]) -> list[tuple[Images, list[Question]]]:
    """Questions brought together by image, images in order of first appearance: the form that the engine likes best."""
    groups: dict[Hashable, tuple[Images, list[Question]]] = {}
    for question, pictures in flat(questions):
        groups.setdefault(pictures.key, (pictures.images, []))[1].append(question)
    return list(groups.values())


def flat(asked: Asked) -> Iterator[tuple[Question, Pictures]]:
    """Single questions, each with its images; a plain text's id is its number. The questions of a group, and those in a
    row about the same bytes or path, have the same `Pictures`."""
    number = 0
    pictures: Pictures | None = None
    for item in asked:
        images, questions = (item.image, [item]) if isinstance(item, Question) else item
        if pictures is None or images is not pictures.images or not isinstance(images, bytes | str | Path):
            pictures = None if images is None else Pictures(images)
        for question in questions:
            if not isinstance(question, Question):
                question = Question(str(number), images, question)
            elif images is not question.image:
                question = Question(question.id, images, question.text)
            if pictures is None:
                raise UserError(
                    f"question {question.id!r} names no image", hint="give it one, or use (image, questions)"
                )
            number += 1
            yield question, pictures


def as_list(images: Images) -> list[ImageSource]:
    """One image or several, as a list."""
    if isinstance(images, Image.Image | bytes | str | Path):
        return [images]
    return list(images)


def source_key(source: ImageSource) -> Hashable:
    """What identifies an image before it is decoded."""
    if isinstance(source, Image.Image):
        return source.mode, source.size, hashlib.blake2b(source.tobytes(), digest_size=16).digest()
    if isinstance(source, bytes):
        return hashlib.blake2b(source, digest_size=16).digest()
    return str(source)


def text_key(prompt: Prompt) -> Hashable:
    """What identifies a prompt."""
    return prompt if isinstance(prompt, str) else repr([dict(message) for message in prompt])
