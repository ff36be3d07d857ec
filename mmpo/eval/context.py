"""The context that an evaluation's benchmarks share, foremost its annotated images with the objects in each as CHAIR
defines them.
"""

from __future__ import annotations

from collections.abc import Sequence

from mmpo.data.annotations.records import AnnotatedImage
from mmpo.eval.chair import metrics as chair
from mmpo.eval.chair.settings import ChairSettings
from mmpo.eval.protocol import AnnotatedSet
from mmpo.eval.section import Section
from mmpo.eval.settings import EvalSettings
from mmpo.eval.task import Context

VOCABULARY = "chair"
"""The benchmark whose settings say which words name which object, for all that are built from annotated images."""


def context_of(
    settings: EvalSettings, annotated: Sequence[AnnotatedImage] | None, cache: str, *, look: bool = False
) -> Context:
    """The context that the evaluation's benchmarks share; `cache` is where judges' replies are kept."""
    others = {name: value for name, value in settings if isinstance(value, Section)}
    words = others[VOCABULARY]
    assert isinstance(words, ChairSettings)
    ready = None if annotated is None else annotated_set(annotated, words)
    return Context(ready, settings.images, settings.limit, settings.judge, cache, others, look)


def annotated_set(images: Sequence[AnnotatedImage], settings: ChairSettings) -> AnnotatedSet:
    """Pair images with their objects: annotated ones and those that reference captions mention, under the
    vocabulary's names.
    """
    images = list(images)
    names = (name for image in images for name in image.object_names)
    vocabulary = chair.vocabulary_for(names, settings.vocabulary, settings.published_rules)
    by_id = chair.ground_truth(images, vocabulary, words=settings.words)
    unknown = sorted({name for image in images for name in image.object_names if vocabulary.name_of(name) is None})
    notes = []
    if unknown:
        shown = ", ".join(unknown[:8]) + (", …" if len(unknown) > 8 else "")
        notes.append(f"{len(unknown)} annotated names are not in the vocabulary and are left out: {shown}")
    return AnnotatedSet(images, {image.path: by_id[image.id] for image in images}, vocabulary, notes)
