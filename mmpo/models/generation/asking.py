"""Requests to the answering engine (images, clips, prompts, questions), and their preparation for the model."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

from PIL import Image

from mmpo.data.video_pairs import in_order, with_frames
from mmpo.errors import Quarantined, UserError
from mmpo.files.images import load_image
from mmpo.models.families.loading import VLM
from mmpo.models.families.processing import join_images, process_video
from mmpo.models.families.prompts import ProcessedImages, encode_prompt, process_images, split_begun
from mmpo.video.clip import Clip

ImageSource: TypeAlias = Image.Image | bytes | str | Path | Clip
Images: TypeAlias = ImageSource | Sequence[ImageSource]
# A user's text, shown after the images; or whole messages whose image and video parts show them in order. An assistant
# message at the end is an answer begun, which the model continues.
Prompt: TypeAlias = str | Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Question:
    """One question. `image` may be None where the question comes in a group with its image."""

    id: str
    image: Images | None
    text: Prompt


Asked: TypeAlias = Iterable[Question | tuple[Images, Sequence[Question | Prompt]]]


class PromptImages:
    """The images of one prompt or of a group of questions. Their key is made once."""

    def __init__(self, images: Images) -> None:
        self.images, self.sources = images, as_list(images)

    @cached_property
    def key(self) -> Hashable:
        return tuple(map(source_key, self.sources))


@dataclass(frozen=True)
class ShownImages:
    """Images that prompts are about, decoded and processed; `digest` identifies their pixels (and a video's times).
    `clips` are the numbers of frames of the clips among them, `kinds` says for each source what it is."""

    processed: ProcessedImages
    digest: str
    kinds: tuple[str, ...]
    clips: tuple[int, ...] = ()


class ImageCache:
    """Decodes and processes images. Remembers the last few, so prompts in a row about one image cost it once. A clip is
    shown as a video or, where the model takes none, as a list of images."""

    def __init__(self, vlm: VLM, root: str | Path | None, remembered: int = 16) -> None:
        self._vlm, self._root, self._remembered = vlm, root, remembered
        self._recent: OrderedDict[Hashable, ShownImages | Quarantined] = OrderedDict()

    def show(self, images: Images | PromptImages) -> ShownImages:
        """The images of one prompt. Raises `Quarantined` where one can't be used (again, if it is requested again)."""
        pictures = images if isinstance(images, PromptImages) else PromptImages(images)
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

    def encode(self, prompt: Prompt, shown: ShownImages) -> list[int]:
        """Token ids of a prompt about these images, placeholders expanded, ready for the answer."""
        if isinstance(prompt, str):
            content = [*({"type": kind} for kind in shown.kinds), {"type": "text", "text": prompt}]
            prompt = [{"role": "user", "content": content}]
        stills = len(shown.kinds) - len(shown.clips)
        order = in_order(prompt, ["image"] * stills, ["video"] * len(shown.clips))
        if tuple(order) != shown.kinds:
            raise UserError(
                f"the prompt shows {', '.join(order)}, but given were {', '.join(shown.kinds)}",
                hint="give images and clips in the order in which the prompt shows them",
            )
        if shown.clips and not self._vlm.takes_videos:
            prompt = with_frames(prompt, shown.clips)
        return encode_prompt(self._vlm, prompt, shown.processed.placeholders)

    def _process(self, sources: Sequence[ImageSource]) -> ShownImages:
        clips = [source for source in sources if isinstance(source, Clip)]
        kinds = tuple("video" if isinstance(source, Clip) else "image" for source in sources)
        lists = [
            [self._picture(one) for one in (source.frames if isinstance(source, Clip) else [source])]
            for source in sources
        ]
        digest = hashlib.blake2b(digest_size=16)
        for picture in (picture for own in lists for picture in own):
            digest.update(repr(picture.size).encode() + picture.tobytes())
        counts = tuple(len(clip.frames) for clip in clips)
        if not clips or not self._vlm.takes_videos:
            pictures = [picture for own in lists for picture in own]
            processed = process_images(self._vlm, pictures, several=len(pictures) > 1)
            return ShownImages(processed, digest.hexdigest(), kinds, counts)
        digest.update(repr([kinds, *(clip.times for clip in clips)]).encode())
        several = kinds.count("image") > 1
        parts = [
            process_video(self._vlm, own, source.times)
            if isinstance(source, Clip)
            else process_images(self._vlm, own, several=several)
            for source, own in zip(sources, lists, strict=True)
        ]
        processed = ProcessedImages(
            join_images([part.tensors for part in parts]), [part.placeholders[0] for part in parts]
        )
        return ShownImages(processed, digest.hexdigest(), kinds, counts)

    def _picture(self, source: Image.Image | bytes | str | Path) -> Image.Image:
        return source.convert("RGB") if isinstance(source, Image.Image) else load_image(source, root=self._root)


def group_by_image(questions: Iterable[Question]) -> list[tuple[Images, list[Question]]]:
    """Questions brought together by image, images in order of first appearance: the engine's fastest form."""
    groups: dict[Hashable, tuple[Images, list[Question]]] = {}
    for question, pictures in flat(questions):
        groups.setdefault(pictures.key, (pictures.images, []))[1].append(question)
    return list(groups.values())


def flat(asked: Asked) -> Iterator[tuple[Question, PromptImages]]:
    """Single questions, each with its images; a plain text's id is its number. The questions of a group, and those in a
    row about the same bytes or path, have the same `PromptImages`."""
    number = 0
    pictures: PromptImages | None = None
    for item in asked:
        images, questions = (item.image, [item]) if isinstance(item, Question) else item
        if pictures is None or images is not pictures.images or not isinstance(images, bytes | str | Path | Clip):
            pictures = None if images is None else PromptImages(images)
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


def begun_of(prompt: Prompt) -> str:
    """The answer begun at the end of a prompt, empty without one."""
    return "" if isinstance(prompt, str) else split_begun(prompt)[1]


def as_list(images: Images) -> list[ImageSource]:
    """One image or several, as a list."""
    if isinstance(images, Image.Image | bytes | str | Path | Clip):
        return [images]
    return list(images)


def source_key(source: ImageSource) -> Hashable:
    """A hashable key of an image, known before it is decoded."""
    if isinstance(source, Image.Image):
        return source.mode, source.size, hashlib.blake2b(source.tobytes(), digest_size=16).digest()
    if isinstance(source, bytes):
        return hashlib.blake2b(source, digest_size=16).digest()
    if isinstance(source, Clip):
        return tuple(map(source_key, source.frames)), source.times
    return str(source)


def text_key(prompt: Prompt) -> Hashable:
    """A hashable key of a prompt."""
    return prompt if isinstance(prompt, str) else repr([dict(message) for message in prompt])
