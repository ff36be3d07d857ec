"""The benchmarks an evaluation can run, and the annotated images that some of them are built from.

A new benchmark is a class with `asks`, `score` and `write` (`mmpo.eval.protocol`), a settings class with a field in
`EvalSettings`, and a line in `BENCHMARKS`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from mmpo.data.annotations.records import AnnotatedImage
from mmpo.errors import UserError
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
from mmpo.eval.section import Section
from mmpo.eval.settings import SECTIONS, EvalSettings
from mmpo.eval.shr.task import ShrBenchmark
from mmpo.eval.temporal.task import TemporalBenchmark
from mmpo.eval.video_qa.task import VideoQaBenchmark
from mmpo.registry import Registry

Factory = Callable[[Material | None, EvalSettings], Benchmark]
_OWN: dict[str, Factory] = {
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
BENCHMARKS: Registry[Factory] = Registry("benchmarks", _OWN)
"""Name -> factory. The material is None where the evaluation names no annotated images."""

PROTOCOL = "mmpo.eval.protocol.Benchmark says what a benchmark is"
Made = TypeVar("Made", bound=Callable[..., Benchmark])


def benchmark(name: str, settings: type[Section] = Section) -> Callable[[Made], Made]:
    """Make a benchmark of your own available by name: a decorator of a class (`mmpo.eval.protocol.Benchmark`) that is
    made of the material and its own `settings`, the section `eval.NAME` of a recipe. Raises `UserError` for a name that
    is taken, also by another key of `eval`."""
    if name in EvalSettings.model_fields or not name.isidentifier():
        taken = "a benchmark or another key of `eval:`" if name.isidentifier() else "no word that can be a key"
        raise UserError(f"no benchmark of yours can be called {name!r}: that is {taken}, of mmpo", hint="rename it")

    def add(made: Made) -> Made:
        if missing := [method for method in ("asks", "score", "write") if not hasattr(made, method)]:
            raise UserError(f"the benchmark {name} has no {' and no '.join(missing)}", hint=PROTOCOL)

        def factory(material: Material | None, whole: EvalSettings) -> Benchmark:
            ready = made(material, getattr(whole, name))
            if not hasattr(ready, "conventions"):
                raise UserError(f"the benchmark {name} has no `conventions`, a list of sentences", hint=PROTOCOL)
            return ready

        BENCHMARKS.add(name, factory, module=made.__module__)
        SECTIONS.add(name, settings, module=made.__module__)
        return made

    return add


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
