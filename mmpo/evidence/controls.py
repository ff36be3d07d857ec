"""Control pictures: annotated ones on which sources are calibrated, none of them among the pictures that are judged."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations, islice

from mmpo.data.annotations.read import read_annotations
from mmpo.data.image_digests import pixel_digest
from mmpo.data.near_duplicates import NearDuplicates, difference_hash
from mmpo.data.truth import truth_of
from mmpo.errors import Quarantined, UserError
from mmpo.evidence.records import EvidencePicture
from mmpo.evidence.settings import ControlSettings
from mmpo.files.images import load_image, read_image
from mmpo.progress import track
from mmpo.text.vocabulary import ObjectVocabulary

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SeenPicture:
    """A picture as others are compared with it: the digest of its pixels, its dHash, and its path."""

    key: str
    hash: str
    path: str


@dataclass(frozen=True)
class ControlPicture:
    """An annotated picture with all classes that are in it."""

    picture: EvidencePicture
    hash: str
    present: frozenset[str]


def open_picture(data: bytes, path: str) -> tuple[EvidencePicture, str]:
    """A picture as evidence is asked about it, and its dHash. Quarantined where it can't be decoded."""
    image = load_image(data)
    return EvidencePicture(pixel_digest(image), data, path), difference_hash(image)


def read_controls(settings: ControlSettings, vocabulary: ObjectVocabulary) -> list[ControlPicture]:
    """The control pictures that can be opened. UserError where there are none, or none of a known class."""
    listed = list(islice(read_annotations(settings.annotations, settings.images), settings.limit))
    found: list[ControlPicture] = []
    lost: list[Quarantined] = []
    for image in track(listed, "reading control pictures"):
        try:
            picture, hash = open_picture(read_image(image.path, root=image.root), image.path)
        except Quarantined as error:
            lost.append(error)
            continue
        found.append(ControlPicture(picture, hash, truth_of(image, vocabulary).names))
    if not found:
        why = f"the first: {lost[0]}" if lost else "it lists none"
        raise UserError(f"{settings.annotations}: no control picture can be used; {why}", hint="see controls.images")
    if not any(one.present for one in found):
        raise UserError(f"{settings.annotations}: nothing in the control pictures is in the vocabulary")
    if lost:
        log.warning("%d of %d control pictures are left out; the first: %s", len(lost), len(listed), lost[0])
    return found


def refuse_shared(controls: Sequence[ControlPicture], judged: Iterable[SeenPicture]) -> None:
    """UserError where a control picture, or a near-duplicate of one, is among the pictures that are to be judged."""
    pixels = {one.picture.key: one.picture.path for one in controls}
    near = NearDuplicates()
    for one in controls:
        near.add(one.hash, one.picture.path)
    shared = []
    for picture in judged:
        twin = near.nearest(picture.hash)
        if picture.key in pixels:
            shared.append((picture.path, pixels[picture.key], "the same pixels"))
        elif twin is not None:
            shared.append((picture.path, twin[0], f"a near-duplicate, {twin[1]} of 256 bits differ"))
    if shared:
        own, control, how = shared[0]
        raise UserError(
            f"{len(shared)} pictures are also controls; the first is {own} (control {control}: {how})",
            hint="leave them out of `controls`: sources must be calibrated on other pictures than they judge",
        )


def control_names(controls: Sequence[ControlPicture], claimed: Sequence[Collection[str]]) -> list[frozenset[str]]:
    """The classes to ask about each control picture: those claimed there, and as many absent ones that are not claimed,
    those first that most often come with what is there."""
    alone: Counter[str] = Counter()
    together: Counter[tuple[str, str]] = Counter()
    for one in controls:
        alone.update(one.present)
        together.update(combinations(sorted(one.present), 2))
    asked = []
    for one, own in zip(controls, claimed, strict=True):
        likely = {
            name: max(
                (together[min(name, other), max(name, other)] / alone[other] for other in one.present), default=0.0
            )
            for name in alone
            if name not in one.present and name not in own
        }
        absent = sorted(likely, key=lambda name: (-likely[name], -alone[name], name))
        asked.append(frozenset(own).union(absent[: len(set(own))]))
    return asked
