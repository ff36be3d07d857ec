"""POPE questions from any annotated image set, by the algorithm of the official tool (RUCAIBox/POPE, `main.py`; paper
section 4).

Where the official tool and the paper differ, the tool is followed, so that published files are reproduced:
frequencies are counted over the selected images only, and an adversarial negative is the strongest partner of the
positive before it. What the tool gets wrong is not: the article is replaced as a word, a duplicate object is dropped,
and an image on which no negative is possible is an error instead of an endless loop.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from mmpo.errors import UserError
from mmpo.eval.pope.metrics import SPLITS, PopeQuestion, PopeSplit
from mmpo.text.vocabulary import article as english_article

TEMPLATE = "Is there {article} {object} in the image?"


@dataclass(frozen=True)
class ImageObjects:
    """An image and the names of the objects in it, each once, in annotation order (the first ones are asked about)."""

    image: str
    objects: tuple[str, ...]


@dataclass(frozen=True)
class BuiltQuestions:
    """The questions of one split. `fallbacks` negatives of the popular or adversarial split were drawn at random
    because its ranking ran out.
    """

    questions: list[PopeQuestion]
    fallbacks: int


def select(
    images: Sequence[ImageObjects], count: int | None, *, positives: int = 3, seed: int = 0
) -> list[ImageObjects]:
    """Draw `count` images without replacement from those with at least `positives` objects; None takes all of them in
    order.

    Raises UserError where fewer qualify.
    """
    fitting = [ImageObjects(image.image, tuple(dict.fromkeys(image.objects))) for image in images]
    fitting = [image for image in fitting if len(image.objects) >= positives]
    if not fitting or (count is not None and len(fitting) < count):
        asked = "some were needed" if count is None else f"{count} were asked for"
        raise UserError(
            f"{len(fitting)} of {len(images)} images have at least {positives} different objects, {asked}",
            hint="lower `images` or `questions_per_image` (it needs half as many objects), or annotate more images",
        )
    return fitting if count is None else random.Random(f"{seed}:images").sample(fitting, count)


def usable(images: Sequence[ImageObjects], positives: int) -> list[ImageObjects]:
    """The images with at least `positives` objects of which at least as many other kinds are absent, the kinds being
    those of the images that are kept.
    """
    kept = [ImageObjects(image.image, tuple(dict.fromkeys(image.objects))) for image in images]
    while True:
        kinds = len(frequencies(kept))
        fewer = [image for image in kept if positives <= len(image.objects) <= kinds - positives]
        if len(fewer) == len(kept):
            return kept
        kept = fewer


def frequencies(images: Sequence[ImageObjects]) -> dict[str, int]:
    """The number of images that contain each object, in order of first appearance."""
    counts: dict[str, int] = {}
    for image in images:
        for name in image.objects:
            counts[name] = counts.get(name, 0) + 1
    return counts


def co_occurrence(images: Sequence[ImageObjects]) -> dict[str, list[str]]:
    """For each object the others seen with it, most frequent partner first; ties in order of first appearance."""
    counts: dict[str, dict[str, int]] = {name: {} for name in frequencies(images)}
    for image in images:
        for name in image.objects:
            for partner in image.objects:
                if partner != name:
                    counts[name][partner] = counts[name].get(partner, 0) + 1
    return {name: sorted(partners, key=lambda partner: -partners[partner]) for name, partners in counts.items()}


def build(
    images: Sequence[ImageObjects],
    splits: Sequence[PopeSplit] = SPLITS,
    *,
    positives: int = 3,
    seed: int = 0,
    article: Literal["fixed", "official"] = "fixed",
    template: str = TEMPLATE,
) -> dict[PopeSplit, BuiltQuestions]:
    """Build `splits` over the selected `images` (see `select`): per image `positives` objects that are there, each
    followed by one that is not.

    All splits ask about the same images and the same present objects. `article="official"` goes by the first letter
    alone, as the published texts do ("an unicycle"). Raises UserError where an image has too few objects or leaves no
    absent object to ask about.
    """
    spell = _article_rule(article)
    frequency = frequencies(images)
    ranking: dict[PopeSplit, Callable[[str], Sequence[str]]] = {"random": lambda _: ()}
    if "popular" in splits:
        popular = sorted(frequency, key=lambda name: -frequency[name])
        ranking["popular"] = lambda _: popular
    if "adversarial" in splits:
        partners = co_occurrence(images)
        ranking["adversarial"] = lambda positive: partners[positive]

    built: dict[PopeSplit, BuiltQuestions] = {}
    for split in splits:
        rng = random.Random(f"{seed}:{split}")
        questions: list[PopeQuestion] = []
        fallbacks = 0
        for image in images:
            if len(image.objects) < positives:
                raise UserError(f"{image.image} has {len(image.objects)} objects, {positives} are needed")
            excluded = set(image.objects)
            for positive in image.objects[:positives]:
                ranked = ranking[split](positive)
                negative = next((name for name in ranked if name not in excluded), None)
                if negative is None:
                    negative = _draw(rng, frequency, excluded, image.image)
                    fallbacks += split != "random"
                excluded.add(negative)
                for name, label in ((positive, "yes"), (negative, "no")):
                    text = template.format(article=spell(name), object=name)
                    questions.append(
                        PopeQuestion(len(questions) + 1, image.image, text, "yes" if label == "yes" else "no")
                    )
        built[split] = BuiltQuestions(questions, fallbacks)
    return built


def _draw(rng: random.Random, names: dict[str, int], excluded: set[str], image: str) -> str:
    """An object that the image lacks and was not asked about, uniformly (what the official redrawing amounts to)."""
    absent = [name for name in names if name not in excluded]
    if not absent:
        raise UserError(
            f"{image}: no absent object is left to ask about; the selected images know {len(names)} objects in all",
            hint="use more images with more kinds of objects, or fewer questions an image",
        )
    return rng.choice(absent)


def _article_rule(article: str) -> Callable[[str], str]:
    if article == "official":
        return lambda name: "an" if name[:1] in ("a", "e", "i", "o", "u") else "a"
    if article == "fixed":
        return english_article
    raise UserError(f"article {article!r} is unknown", hint="choose fixed or official")
