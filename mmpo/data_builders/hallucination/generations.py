"""The model's descriptions and answers, kept on disk under everything that decides them.

The model is the expensive part of a build. A unit of work whose descriptions are there already (of a build that was
killed, or of another one over the same images with the same model and sampling) is not described again.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from mmpo.data_builders.hallucination.settings import BuildSettings
from mmpo.errors import UserError
from mmpo.files.atomic import read_sealed, write_sealed
from mmpo.models.generation.answer import Question
from mmpo.models.generation.answerer import Answerer

logger = logging.getLogger(__name__)

Generation = tuple[str, bool]
"""A text, and whether it was cut off at the limit."""

Engine = Callable[[], Answerer]
"""Opens the model when it is first needed."""


class KeptAnswers:
    """Asks the model of a build. `model` is the fingerprint of its files, `dtype` its number format, `folder` where its
    texts are kept."""

    def __init__(self, dtype: str, engine: Engine, model: str, folder: Path) -> None:
        self.dtype, self.engine, self.model, self.folder = dtype, engine, model, folder

    def answers(
        self, unit: int, groups: Sequence[tuple[bytes, Sequence[tuple[str, str]]]], limit: int
    ) -> list[Generation]:
        """Greedy answers to the (id, question)s about each picture, in order."""
        asked = [[hashlib.sha256(picture).hexdigest(), [list(item) for item in items]] for picture, items in groups]
        key = self._key("answers", asked, limit)
        path = self.folder / f"{unit:05d}.answers.json"
        if (before := self._read(path, key)) is not None:
            return [(text, cut) for text, cut in before]
        questions = [(picture, [Question(id, None, text) for id, text in items]) for picture, items in groups]
        if not any(items for _, items in groups):
            return self._keep(path, key, [])
        answers = list(self.engine().answer(questions, max_new_tokens=limit))
        whole = not any(answer.failed for answer in answers)
        return self._keep(path, key, [(answer.text, answer.truncated) for answer in answers], whole)

    def _key(self, *parts: Any) -> str:
        text = json.dumps([self.model, self.dtype, *parts], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:32]

    def _read(self, path: Path, key: str) -> Any | None:
        if not path.exists():
            return None
        try:
            record = read_sealed(path)
        except UserError as error:
            logger.warning("%s; it is asked again", error.message)
            return None
        return record["texts"] if record.get("key") == key else None

    def _keep(self, path: Path, key: str, texts: Any, whole: bool = True) -> Any:
        """Keep the texts for later builds, unless a server has failed to give some."""
        if whole:
            write_sealed(path, {"key": key, "texts": texts})
        return texts


class GenerationCache(KeptAnswers):
    """Also asks for descriptions."""

    def __init__(self, settings: BuildSettings, engine: Engine, model: str, folder: Path) -> None:
        super().__init__(settings.dtype, engine, model, folder)
        self.settings = settings

    def descriptions(
        self, unit: int, asked: Sequence[tuple[bytes, str]], done: Callable[[], None] = lambda: None
    ) -> list[list[Generation]]:
        """For each (picture, prompt) the greedy description and the sampled ones, from one prefill. `done` is called
        for each picture.
        """
        settings = self.settings
        sampling: dict[str, Any] = {
            "temperature": settings.temperature,
            "top_p": settings.top_p,
            "seed": settings.seed,
            "max_new_tokens": settings.max_new_tokens,
        }
        pictures = [[hashlib.sha256(picture).hexdigest(), prompt] for picture, prompt in asked]
        key = self._key("descriptions", pictures, settings.samples_per_image, sampling)

        failed = False

        def describe() -> list[list[Generation]]:
            nonlocal failed
            found = []
            many = self.engine().sample_many(asked, settings.samples_per_image, **sampling, greedy_first=True)
            for answers in many:
                found.append([(answer.text, answer.truncated) for answer in answers])
                failed = failed or any(answer.failed for answer in answers)
                done()
            return found

        path = self.folder / f"{unit:05d}.descriptions.json"
        if (before := self._read(path, key)) is not None:
            for _ in asked:
                done()
            return [[(text, cut) for text, cut in texts] for texts in before]
        texts = describe() if asked else []
        return self._keep(path, key, texts, not failed)
