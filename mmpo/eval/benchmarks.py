"""The benchmarks an evaluation can run, and the annotated images that some of them are built from.

A new benchmark is a class with `asks`, `score` and `write` (`mmpo.eval.protocol`), a settings class with a field in
`EvalSettings`, and a line in `BENCHMARKS`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from mmpo.data.annotations.records import AnnotatedImage
from mmpo.eval.amber.task import AmberBenchmark
from mmpo.eval.chair import metrics as chair
from mmpo.eval.chair.task import ChairBenchmark
from mmpo.eval.claims.task import ClaimsBenchmark
from mmpo.eval.hallusionbench.task import HallusionBenchmark
from mmpo.eval.mme.task import MmeBenchmark
from mmpo.eval.mmhal.task import MmhalBenchmark
from mmpo.eval.multi_image.task import MultiImageBenchmark
from mmpo.eval.multiple_choice.task import MultipleChoiceBenchmark
from mmpo.eval.object_halbench.task import ObjectHalBenchmark
from mmpo.eval.pope.task import PopeBenchmark
from mmpo.eval.protocol import Benchmark, Material
from mmpo.eval.radiology.task import RadiologyBenchmark
from mmpo.eval.settings import EvalSettings
from mmpo.eval.shr.task import ShrBenchmark
from mmpo.eval.temporal.task import TemporalBenchmark
from mmpo.eval.video_qa.task import VideoQaBenchmark

BENCHMARKS: dict[str, Callable[[Material | None, EvalSettings], Benchmark]] = {
    "pope": PopeBenchmark,
    "chair": ChairBenchmark,
    "claims": ClaimsBenchmark,
    "mme": MmeBenchmark,
    "amber": AmberBenchmark,
    "object_halbench": ObjectHalBenchmark,
    "shr": ShrBenchmark,
    "mmhal": MmhalBenchmark,
    "hallusionbench": HallusionBenchmark,
    "radiology": RadiologyBenchmark,
    "video_qa": VideoQaBenchmark,
    "temporal": TemporalBenchmark,
    "multi_image": MultiImageBenchmark,
    "multiple_choice": MultipleChoiceBenchmark,
}
"""Name -> factory. The material is None where the evaluation names no annotated images."""


def material(images: Sequence[AnnotatedImage], settings: EvalSettings) -> Material:
    """Pair images with their objects: annotated ones and those that reference captions mention, under the
    vocabulary's names.
    """
    images = list(images)
    names = (name for image in images for name in image.object_names)
    vocabulary = chair.vocabulary_for(names, settings.chair.vocabulary, settings.chair.published_rules)
    by_id = chair.ground_truth(images, vocabulary, words=settings.chair.words)
    unknown = sorted({name for image in images for name in image.object_names if vocabulary.name_of(name) is None})
    notes = []
    if unknown:
        shown = ", ".join(unknown[:8]) + (", …" if len(unknown) > 8 else "")
        notes.append(f"{len(unknown)} annotated names are not in the vocabulary and are left out: {shown}")
    return Material(images, {image.path: by_id[image.id] for image in images}, vocabulary, notes)
