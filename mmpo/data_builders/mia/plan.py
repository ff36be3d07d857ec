"""The plan of prompts: read and filter records, deal them out by exact proportions. No picture is opened here."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmpo.data.layouts.geometry import Layout
from mmpo.data.layouts.mixing import Distinct, companions, quotas, shuffled
from mmpo.data.layouts.prompts import has_box
from mmpo.data.pair import placeholder_in
from mmpo.data.records import read_records as rows_of
from mmpo.data_builders.mia.settings import CollageSettings, MiaSettings
from mmpo.errors import Quarantined, UserError
from mmpo.files.paths import is_relative_path

OFFICIAL_REFUSAL_STEP = 50


@dataclass(frozen=True)
class QuestionRecord:
    """One single-image question with its right answer. `boxed`: some turn holds box coordinates."""

    id: str
    image: str
    question: str
    answer: str
    boxed: bool = False

    @property
    def subset(self) -> str:
        head, slash, _ = self.image.partition("/")
        return head if slash else ""


@dataclass(frozen=True)
class Target:
    """A record in a prompt; `index` is the place of its picture, from 1 (one beyond the last for a refusal)."""

    record: QuestionRecord
    index: int


@dataclass(frozen=True)
class ComposedPrompt:
    """One composed prompt: pictures in order and the records asked about. `trouble` where it can't be composed."""

    id: str
    layout: Layout
    pictures: tuple[str, ...]
    targets: tuple[Target, ...]
    refusal: bool = False
    trouble: Quarantined | None = None

    @property
    def n(self) -> int:
        return len(self.pictures)


def read_records(path: str | Path, limit: int | None = None) -> tuple[list[QuestionRecord], Counter[str]]:
    """The usable records of a file, and counts: `in` and the losses by reason.

    LLaVA's conversations (`{"id", "image", "conversations": [{"from", "value"}, …]}`, of which the first question and
    answer count) or rows of `{"image", "question", "answer", "id"?}`. Raises UserError naming the line of what is no
    such row; a row that is one but can't be used is counted.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file of records")
    found: list[QuestionRecord] = []
    counts: Counter[str] = Counter()
    seen: set[str] = set()
    for where, row in rows_of(path):
        if limit is not None and counts["in"] == limit:
            break
        counts["in"] += 1
        try:
            record = _record(row, where, str(counts["in"] - 1))
        except Quarantined as error:
            counts[error.reason] += 1
            continue
        if record.id in seen:
            counts["duplicate_id"] += 1
            continue
        seen.add(record.id)
        found.append(record)
    return found, counts


def _record(row: dict[str, Any], where: str, number: str) -> QuestionRecord:
    turns = row.get("conversations")
    if turns is None and not {"question", "answer"} <= set(row):
        raise UserError(f"{where}: neither `conversations` nor `question` and `answer`")
    if isinstance(row.get("image"), list) or "image" not in row:
        raise Quarantined("record", "no_single_image")
    image = row["image"]
    if not isinstance(image, str) or not is_relative_path(image):
        raise Quarantined("record", "bad_image_path")
    if turns is None:
        said = [row["question"], row["answer"]]
    else:
        if not isinstance(turns, list) or any(not isinstance(turn, dict) for turn in turns):
            raise Quarantined("record", "bad_conversation")
        order = [turn.get("from") for turn in turns[:2]]
        if order != ["human", "gpt"]:
            raise Quarantined("record", "bad_conversation")
        said = [turn.get("value") for turn in turns]
    if not all(isinstance(text, str) for text in said):
        raise Quarantined("record", "bad_conversation")
    if not said[0].replace("<image>", "").strip() or not said[1].strip():
        raise Quarantined("record", "empty_text")
    if said[0].count("<image>") > 1:
        raise Quarantined("record", "image_count")
    if placeholder_in(said[0].replace("<image>", "")) or placeholder_in(said[1]):
        raise Quarantined("record", "image_tag")
    return QuestionRecord(str(row.get("id", number)), image, said[0], said[1].strip(), any(map(has_box, said)))


def plan(records: Sequence[QuestionRecord], settings: MiaSettings) -> list[ComposedPrompt]:
    """Every prompt of the build: sequences, then collages, then pictures in a picture. The same records and settings
    give the same prompts."""
    official = settings.compat == "official"
    short = [record for record in records if len(record.answer) <= settings.max_chosen_characters]
    boxless = [record for record in short if not record.boxed] if settings.drop_boxes else short
    dealt = _Dealer(records, settings)
    items: list[ComposedPrompt] = []
    if (sequence := settings.sequence) is not None:
        for group, rng in dealt.groups(short, "sequence", sequence.share):
            for record, size in zip(group, quotas(len(group), sequence.sizes), strict=True):
                items.append(dealt.item("sequence", [record], size, rng))
    if (collage := settings.collage) is not None:
        for group, rng in dealt.groups(boxless, "collage", collage.share):
            for size, targets in _collages(group, collage):
                items.append(dealt.item("collage", targets, size, rng))
    if settings.pic_in_pic is not None:
        for group, rng in dealt.groups(boxless, "pic_in_pic", settings.pic_in_pic.share):
            items += [dealt.inner(record, rng) for record in group]
    if settings.refusals and settings.sequence is not None:
        for group, rng in dealt.groups(short, "refusal", 1.0 if official else settings.refusals):
            chosen = group[::OFFICIAL_REFUSAL_STEP] if official else group
            sizes = quotas(len(chosen), settings.sequence.sizes)
            items += [dealt.refusal(record, size, rng) for record, size in zip(chosen, sizes, strict=True)]
    return items


class _Dealer:
    """Draws companions and places for records."""

    def __init__(self, records: Sequence[QuestionRecord], settings: MiaSettings) -> None:
        self.settings = settings
        self.official = settings.compat == "official"
        pools: dict[str, list[str]] = {}
        for record in records:
            pools.setdefault(self._pool_of(record), []).append(record.image)
        self.pools: dict[str, Sequence[str]] = {
            name: paths if self.official else Distinct(paths) for name, paths in pools.items()
        }

    def _pool_of(self, record: QuestionRecord) -> str:
        return record.subset if self.settings.companions == "same_subset" else ""

    def groups(
        self, records: Sequence[QuestionRecord], purpose: str, share: float
    ) -> Iterator[tuple[list[QuestionRecord], random.Random]]:
        """The records of each pool, in a drawn order (in that of the file, as the released code does), as many as
        `share` asks for, with the generator for what else is drawn about them."""
        by_pool: dict[str, list[QuestionRecord]] = {}
        for record in records:
            by_pool.setdefault(self._pool_of(record), []).append(record)
        for name, members in by_pool.items():
            rng = random.Random(f"{self.settings.seed}/{purpose}/{name}")
            if not self.official:
                rng.shuffle(members)
            yield members[: round(share * len(members))], rng

    def item(self, layout: Layout, targets: Sequence[QuestionRecord], size: int, rng: random.Random) -> ComposedPrompt:
        """Targets and drawn companions in a drawn order."""
        name = f"{targets[0].id}/{layout}"
        own = [target.image for target in targets]
        pool = self.pools[self._pool_of(targets[0])]
        try:
            others = companions(own, pool, size - len(own), rng, official=self.official)
        except Quarantined as trouble:
            return ComposedPrompt(name, layout, tuple(own), tuple(Target(t, 1) for t in targets), trouble=trouble)
        pictures, places = shuffled([*own, *others], rng)
        placed = tuple(Target(target, places[number] + 1) for number, target in enumerate(targets))
        return ComposedPrompt(name, layout, tuple(pictures), placed)

    def inner(self, record: QuestionRecord, rng: random.Random) -> ComposedPrompt:
        """(outer, inner): the target is the second."""
        name = f"{record.id}/pic_in_pic"
        try:
            outer = companions(record.image, self.pools[self._pool_of(record)], 1, rng, official=self.official)
        except Quarantined as trouble:
            return ComposedPrompt(name, "pic_in_pic", (record.image,), (Target(record, 1),), trouble=trouble)
        return ComposedPrompt(name, "pic_in_pic", (*outer, record.image), (Target(record, 2),))

    def refusal(self, record: QuestionRecord, size: int, rng: random.Random) -> ComposedPrompt:
        """A sequence whose question points to the image after the last."""
        made = self.item("sequence", [record], size, rng)
        target = Target(record, len(made.pictures) + 1)
        return ComposedPrompt(
            f"{record.id}/refusal", "sequence", made.pictures, (target,), refusal=True, trouble=made.trouble
        )


def _collages(
    records: Sequence[QuestionRecord], settings: CollageSettings
) -> Iterator[tuple[int, list[QuestionRecord]]]:
    """(size, targets): as many collages in the wanted proportions as the records suffice for."""
    weights = {size: weight for size, weight in settings.sizes.items() if weight}
    per_collage = sum(w * settings.targets.get(n, 1) for n, w in weights.items()) / sum(weights.values())
    waiting = list(records)[::-1]
    for size in quotas(int(len(waiting) / per_collage), weights):
        targets: list[QuestionRecord] = []
        aside: list[QuestionRecord] = []
        while waiting and len(targets) < settings.targets.get(size, 1):
            record = waiting.pop()
            alike = record.image in {target.image for target in targets}
            (aside if alike else targets).append(record)
        waiting += aside[::-1]
        if targets:
            yield size, targets
