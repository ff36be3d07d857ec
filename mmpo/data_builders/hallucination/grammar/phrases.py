"""Phrases for objects that a description left out, in the manner of the model that wrote it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from mmpo.data.annotations.records import AnnotatedImage, BoxXYWH
from mmpo.data.truth import Truth, side_at
from mmpo.data_builders.hallucination.grammar import lexicon as lx
from mmpo.data_builders.hallucination.grammar.tree import Phrase, Sentence, Tail, is_place, is_spread, say_tail
from mmpo.text.described import COLORS, SAY_SIDE
from mmpo.text.words import article, is_plural, plural, with_article

NUMBER_WORDS = dict(enumerate(lx.NUMBERS, start=1))


@dataclass(frozen=True, order=True)
class Naming:
    """The name for one object of a class: `a` + `mug`, with or without its colour."""

    quantifier: str
    noun: str
    colored: bool = False


def usual_namings(trees: Iterable[Sentence | None]) -> dict[str, Naming]:
    """For each class the commonest way in which sentences list one object of it."""
    seen: dict[str, Counter[Naming]] = {}
    for tree in trees:
        for item in listed_items(tree):
            quantifier = "a" if item.quantifier == "an" else item.quantifier
            words = item.words.split()
            noun = " ".join(word for word in words if word.lower() not in COLORS)
            if len(item.names) == 1 and noun and quantifier in ("a", "some", "a pair of", ""):
                naming = Naming(quantifier, noun, colored=noun != item.words)
                seen.setdefault(item.names[0], Counter())[naming] += 1
    return {name: min(counts, key=lambda naming: (-counts[naming], naming)) for name, counts in seen.items()}


def noun_phrase(
    name: str, count: int = 1, color: str | None = None, place: str | None = None, naming: Naming | None = None
) -> Phrase:
    """`a cat`, `two red cups on the left`, `a pair of scissors`. `naming` says how the model would name one."""
    if naming is None:
        quantifier = with_article(name).removesuffix(name).strip()
        naming = Naming("a" if quantifier == "an" else quantifier, name)
    words = f"{color} {naming.noun}" if color else naming.noun
    many = count > 1 and plural(words) != words
    if many:
        quantifier, words = NUMBER_WORDS.get(count, "several"), plural(words)
    else:
        quantifier = article(words) if naming.quantifier == "a" else naming.quantifier
    tails = (Tail(f" {place}"),) if place else ()
    return Phrase(quantifier, words, (name,), many or (is_plural(name) and not quantifier), tails)


def missed_phrases(
    image: AnnotatedImage,
    name_of: Callable[[str], str | None],
    size: tuple[int, int],
    like: Sequence[Sentence | None],
    *,
    min_area: float = 0.0,
    namings: Mapping[str, Naming] | None = None,
) -> list[Phrase]:
    """Phrases for all annotated objects, the largest first, in the manner of a description (`like`).

    They give positions if the description gives them for half of its things or more, and a colour where the model names
    one for this class or the description for anything. `size` is the picture's (width, height); classes whose largest
    object covers less than `min_area` of it are left out.
    """
    items = [item for tree in like for item in listed_items(tree)]
    places = [tail for item in items for tail in item.tails if is_place(tail)]
    words = [tail for tail in places if not is_spread(tail)]
    placed = len(places) * 2 >= len(items) > 0
    colored = any(COLORS.intersection(item.words.lower().split()) for item in items)
    known = Truth(replace(image, width=size[0], height=size[1]), frozenset())
    found: dict[str, list[_Seen]] = {}
    for item in image.objects:
        if (name := name_of(item.name)) is not None:
            color = item.attributes.get("color")
            seen = _Seen(_area(item.bbox_xywh, size), side_at(item, known), color if isinstance(color, str) else None)
            found.setdefault(name, []).append(seen)
    phrases: list[tuple[float, Phrase]] = []
    for name, group in found.items():
        area = max(seen.area for seen in group)
        if area < min_area:
            continue
        side, color = _common(seen.side for seen in group), _common(seen.color for seen in group)
        naming = (namings or {}).get(name)
        shown = color if colored or (naming is not None and naming.colored) else None
        place = _place_words(words, side) if placed and side else None
        phrases.append((area, noun_phrase(name, len(group), shown, place, naming)))
    phrases.sort(key=lambda entry: -entry[0])  # stable: ties stay in the order of the annotation
    return [phrase for _, phrase in phrases]


@dataclass(frozen=True)
class _Seen:
    area: float
    side: str | None
    color: str | None


def _area(box: BoxXYWH | None, size: tuple[int, int]) -> float:
    """The share of the picture that a box covers; all of it without one."""
    return 1.0 if box is None else box[2] * box[3] / (size[0] * size[1])


def _common(values: Iterable[str | None]) -> str | None:
    """The value that all have in common; None if there is none."""
    distinct = set(values)
    return distinct.pop() if len(distinct) == 1 else None


def _place_words(places: Sequence[Tail], side: str) -> str:
    """`on the left`, worded as the description words that side."""
    said = Counter(" ".join(say_tail(tail).split()) for tail in places)
    return next((words for words, _ in said.most_common() if side in words.split()), SAY_SIDE[side])


def listed_items(tree: Sentence | None) -> list[Phrase]:
    """The phrases with an object that a sentence lists, those behind `with` included."""
    if tree is None:
        return []
    found: list[Phrase] = []
    for clause in tree.clauses:
        for item in clause.items:
            found += [item] if item.names else []
            behind_with = [inner for tail in item.tails if tail.link.strip() == "with" for inner in tail.items]
            found += [inner for inner in behind_with if inner.names]
    return found
