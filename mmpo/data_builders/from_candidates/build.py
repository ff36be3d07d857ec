"""Pairs from a folder of candidates, by a maker, under guards. Beside what every build leaves behind
(`mmpo.data_builders.run`):

    run_dir/maker/         what models replied to the maker, where it asks any

A unit of work is a shard of the candidates. Guards look at all pairs, so they decide when the units are finished.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache, cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mmpo
from mmpo.chat import ChatModel, ChatSettings, open_chat
from mmpo.data.image_digests import pixel_digest
from mmpo.data.pair import PreferencePair, text_message
from mmpo.data_builders.candidates.judging import judged_by, later_judging
from mmpo.data_builders.candidates.records import JudgedPicture
from mmpo.data_builders.candidates.tables import CandidateTables
from mmpo.data_builders.from_candidates.entry import checked_photos
from mmpo.data_builders.from_candidates.guards import GuardOutcome, PairFacts, guarded
from mmpo.data_builders.from_candidates.maker import (
    Made,
    MadePair,
    MakerContext,
    Opinions,
    PairMaker,
    load_makers,
)
from mmpo.data_builders.from_candidates.settings import PairsFromCandidatesSettings, PairsMade
from mmpo.data_builders.from_candidates.texts import claim_rows
from mmpo.data_builders.hallucination.style_probe import SEPARABLE, Sides, probe
from mmpo.data_builders.models import model_contents, open_answerer
from mmpo.data_builders.run import Builder, Written
from mmpo.data_builders.units import Advance, Units, Work, count_table, digest, file_digest, ordered
from mmpo.errors import Quarantined, UserError
from mmpo.files.images import load_image, portable_image
from mmpo.resuming import deciding
from mmpo.text.vocabulary import ObjectVocabulary, coco

if TYPE_CHECKING:
    from mmpo.models.generation.answerer import Answerer

SCORES = ("chosen_absent", "rejected_absent", "chosen_recall", "rejected_recall", "chosen_words", "rejected_words")
Judging = Callable[[Sequence[JudgedPicture], Sequence[Sequence[str]]], list[Opinions]]


@dataclass(frozen=True)
class PictureRef:
    """A picture of the candidates, by its path."""

    id: str


@dataclass(frozen=True)
class MakerModels:
    """What a maker may ask, each opened at its first use."""

    name: str
    engine: Callable[[], Answerer]
    evidence: Judging


class PairsFromCandidates(Builder[PairsFromCandidatesSettings, PictureRef, PairsMade]):
    """Pairs that a maker makes of candidates."""

    result = PairsMade
    label = "making pairs"
    title = "Pairs from candidates"
    called = {"card": "candidates", "mmpo": "mmpo version", "asked": "content of the model's files"}  # noqa: RUF012

    def __init__(
        self,
        settings: PairsFromCandidatesSettings,
        run_dir: Path,
        *,
        models: Callable[[ExitStack], MakerModels] | None = None,
    ) -> None:
        super().__init__(settings, run_dir)
        self.tables = CandidateTables(settings.candidates)
        self.recipe |= {"shard_size": self.tables.pictures_per_shard}
        self.entry = load_makers()[settings.pairs.maker]
        self.scores = (*SCORES, *self.entry.maker.scores)
        self._models = models or self._own_models
        self._facts: GuardOutcome | None = None

    @cached_property
    def vocabulary(self) -> ObjectVocabulary:
        return vocabulary_of(self.tables.card)

    @cached_property
    def root(self) -> Path:
        """The folder that the photos' paths start in."""
        return self.settings.images or Path(self.tables.card["root"])

    @property
    def model(self) -> str:
        return self.settings.model or str(self.tables.card["settings"]["model"])

    def plan(self) -> Sequence[PictureRef]:
        _, paths = checked_photos(self.settings, self.tables)
        return [PictureRef(path) for path in paths]

    def source(self) -> dict[str, Any]:
        asked = model_contents(self.model, self.settings, self.run_dir, "asked") if self.entry.maker.asks else None
        return super().source() | {"card": file_digest(self.settings.candidates / "card.json"), "asked": asked}

    def open(self, stack: ExitStack) -> Work[PictureRef]:
        maker = self.maker(stack)
        maker.prepare(len(self.tables), self._pictures)

        def work(number: int, part: Sequence[PictureRef], advance: Advance) -> dict[str, Any]:
            pictures = self._pictures(number)
            assert [picture.id for picture in pictures] == [ref.id for ref in part]
            found: list[Made] = maker.make(number, pictures, advance)
            made = [_outcome(self, picture, one) for picture, one in zip(pictures, found, strict=True)]
            return {"outcomes": made}

        return work

    def _pictures(self, number: int) -> list[JudgedPicture]:
        pictures = self.tables.pictures(number)
        if self.settings.sources is None:
            return pictures
        return [judged_by(picture, self.tables.settings, self.settings.sources) for picture in pictures]

    def maker(self, stack: ExitStack) -> PairMaker[Any]:
        """The maker, with what it may ask."""
        models = self._models(stack)
        folder = self.run_dir / "maker"

        chats: dict[str, ChatModel] = {}

        def chat(wanted: ChatSettings) -> ChatModel:
            key = digest(json.dumps(deciding(wanted), sort_keys=True).encode())
            if key not in chats:
                chats[key] = stack.enter_context(open_chat(wanted, folder / f"{key}.jsonl"))
            return chats[key]

        context = MakerContext(
            vocabulary=self.vocabulary,
            seed=self.settings.seed,
            folder=folder,
            model=models.name,
            engine=models.engine,
            evidence=models.evidence,
            picture=self.picture,
            chat=chat,
        )
        return self.entry.maker(self.settings.pairs, context)

    def picture(self, picture: JudgedPicture) -> bytes:
        """The picture's file for a data set. Quarantined where it is gone, or shows something else by now."""
        return unchanged_picture(picture.image, picture.key, self.root)

    def _own_models(self, stack: ExitStack) -> MakerModels:
        engine = cache(partial(open_answerer, self.model, self.settings, self.run_dir, stack))
        judging = later_judging(
            self.tables, self.vocabulary, self.run_dir, self.root, stack, engine, self.settings.sources
        )
        return MakerModels(self.model, engine, judging)

    # ---- assembling

    def pairs(self, source: PictureRef, outcome: Mapping[str, Any], units: Units[PictureRef]) -> list[PreferencePair]:
        if outcome["reason"]:
            raise Quarantined(outcome["stage"], outcome["reason"], outcome["detail"])
        dropped = self.guards(units).dropped
        kept = [row for row in outcome["pairs"] if row["id"] not in dropped]
        if not kept:
            reason = dropped[outcome["pairs"][0]["id"]]
            raise Quarantined("guard", reason, "the pairs as a whole are better without it")
        picture = unchanged_picture(source.id, outcome["key"], self.root)
        return [_pair(row, picture) for row in kept]

    def guards(self, units: Units[PictureRef]) -> GuardOutcome:
        """What the maker and the guards leave out of all pairs; decided once."""
        if self._facts is None:
            facts = [facts_of(row) for row in _rows(units)]
            whole = self.entry.maker.whole(self.settings.pairs, facts)
            outcome = guarded([one for one in facts if one.id not in whole], self.settings.pairs.guards)
            self._facts = GuardOutcome({**whole, **outcome.dropped}, outcome.warnings)
        return self._facts

    def summary(self, units: Units[PictureRef], written: Written) -> PairsMade:
        outcome = self.guards(units)
        kept = [row for row in _rows(units) if row["id"] not in outcome.dropped]
        lost = Counter(f"guard: {reason}" for reason in outcome.dropped.values())
        gone = sum(lost.values()) + written.pairs
        table = {"in": len(kept) + len(outcome.dropped), "kept": written.pairs, **lost}
        if missing := table["in"] - gone:
            table["decode: picture_gone"] = missing
        facts = [facts_of(row) for row in kept]
        told = [one for one in facts if not one.free_length] or facts
        punished = Counter(name for one in facts for name in one.punished)
        recalls = [one.recall for one in told if None not in one.recall]
        result = PairsMade(
            maker=self.settings.pairs.maker,
            images=written.table["in"],
            images_used=written.table["paired"],
            pairs_made=written.pairs,
            counts={"pictures": ordered(written.table), "pairs": ordered(table, ("in", "kept"))},
            chosen_words=_mean([one.words[0] for one in told]) or 0.0,
            rejected_words=_mean([one.words[1] for one in told]) or 0.0,
            chosen_recall=_mean([one[0] for one in recalls]),  # type: ignore[misc]
            rejected_recall=_mean([one[1] for one in recalls]),  # type: ignore[misc]
            punished=dict(sorted(punished.items(), key=lambda item: (-item[1], item[0]))[:20]),
            warnings=list(outcome.warnings),
        )
        result.style = self._style(kept)
        if result.style is not None and result.style.separable:
            result.warnings.append(f"wording alone tells the sides apart (above {SEPARABLE})")
        return result

    def _style(self, rows: Sequence[Mapping[str, Any]]) -> Any:
        """The style probe of the descriptions. UserError for pairs whose style is plainer than is allowed."""
        found = (
            Sides(row["picture"], row["chosen"], row["rejected"])
            for row in rows
            if row["facts"]["kind"] == "description"
        )
        style = probe(found, self.vocabulary, seed=self.settings.seed)
        most = self.settings.pairs.guards.refuse_style
        if style is not None and style.beyond is not None and most is not None and style.beyond.auroc_low > most:
            raise UserError(
                f"{self.run_dir}: style alone tells chosen from rejected sides: AUROC {style.beyond.auroc:.2f}, at "
                f"least {style.beyond.auroc_low:.2f}, more than refuse_style: {most:g}; a policy would learn style",
                hint="let one writer word both sides, take another maker, or set guards.refuse_style higher",
            )
        return style

    def notes(self, result: PairsMade) -> str:
        recall = (
            f"; of what is known to be there, chosen sides name {result.chosen_recall:.0%}, rejected ones "
            f"{result.rejected_recall:.0%}"
            if result.chosen_recall is not None and result.rejected_recall is not None
            else ""
        )
        most = ", ".join(f"{name} {count:,}" for name, count in list(result.punished.items())[:8])
        return (
            f"{result.pairs_made:,} pairs by the maker `{result.maker}` (chosen {result.chosen_words} words, rejected "
            f"{result.rejected_words}{recall}).\n\n"
            + (f"Made-up classes that pairs punish most: {most}.\n\n" if most else "")
            + "".join(f"Warning: {warning}.\n\n" for warning in result.warnings)
            + (f"Style probe of the pairs: {result.style.line()}.\n\n" if result.style else "")
            + count_table(result.counts)
        )


def vocabulary_of(card: Mapping[str, Any]) -> ObjectVocabulary:
    """The vocabulary that claims were read with, from the card of the candidates: its words, not its file."""
    words: Mapping[str, list[str]] | None = card["vocabulary"]
    return coco() if words is None else ObjectVocabulary(words)


def unchanged_picture(path: str, key: str, root: Path) -> bytes:
    """The bytes of a picture for a data set. Quarantined where it is gone, or its pixels are others than `key` says."""
    data = portable_image(path, root=root)
    if pixel_digest(load_image(data)) != key:
        raise Quarantined("decode", "changed", f"{path} is another picture than when the candidates were made")
    return data


def facts_of(row: Mapping[str, Any]) -> PairFacts:
    """What the guards know of a row."""
    facts = row["facts"]
    return PairFacts(
        row["id"],
        facts["kind"],
        tuple(facts["words"]),
        tuple(facts["recall"]),
        frozenset(facts["punished"]),
        frozenset(facts["rewarded"]),
        facts["free_length"],
    )


def _rows(units: Units[PictureRef]) -> Iterator[dict[str, Any]]:
    for _, outcome in units.outcomes():
        yield from outcome["pairs"]


def _outcome(builder: PairsFromCandidates, picture: JudgedPicture, made: Made) -> dict[str, Any]:
    if isinstance(made, Quarantined):
        return {"pairs": [], "key": picture.key, "stage": made.stage, "reason": made.reason, "detail": made.detail}
    rows = [_row(builder, picture, one) for one in made]
    return {"pairs": rows, "key": picture.key, "stage": "", "reason": "", "detail": ""}


def _row(builder: PairsFromCandidates, picture: JudgedPicture, made: MadePair) -> dict[str, Any]:
    """A pair without its picture, as JSON data."""
    chosen, rejected = made.chosen, made.rejected
    settings = builder.settings
    scores: dict[str, float | int | None] = {
        "chosen_absent": len(chosen.absent),
        "rejected_absent": len(rejected.absent),
        "chosen_recall": chosen.recall,
        "rejected_recall": rejected.recall,
        "chosen_words": chosen.words,
        "rejected_words": rejected.words,
        **made.scores,
    }
    provenance = {
        "builder": "pairs_from_candidates",
        "version": mmpo.__version__,
        "sources": [picture.image],
        "seed": settings.seed,
        "filters": [name for name, value in settings.pairs.guards.model_dump().items() if value is not None],
        "source": picture.image,
        "maker": settings.pairs.maker,
        "kind": made.kind,
        "samples": [chosen.sample, rejected.sample],
        "claims": claim_rows(picture.opinions, chosen.names ^ rejected.names),
        **made.about,
    }
    return {
        "id": f"{picture.image}/{made.key}",
        "picture": picture.cluster,
        "prompt": made.prompt,
        "begun": made.begun,
        "unfinished": made.unfinished,
        "chosen": chosen.text,
        "rejected": rejected.text,
        "chosen_weights": None if chosen.weights is None else list(chosen.weights),
        "rejected_weights": None if rejected.weights is None else list(rejected.weights),
        "scores": {name: float(value) for name, value in scores.items() if value is not None},
        "facts": {
            "kind": made.kind,
            "words": [chosen.words, rejected.words],
            "recall": [chosen.recall, rejected.recall],
            "punished": sorted(made.punished),
            "rewarded": sorted(made.rewarded),
            "free_length": made.free_length,
        },
        "provenance": provenance,
    }


def _pair(row: Mapping[str, Any], picture: bytes) -> PreferencePair:
    prompt = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": row["prompt"]}]}]
    if row["begun"]:
        prompt.append(text_message("assistant", row["begun"]))
    return PreferencePair(
        id=row["id"],
        prompt=prompt,
        chosen=[text_message("assistant", row["chosen"])],
        rejected=[text_message("assistant", row["rejected"])],
        images=[picture],
        chosen_weights=row["chosen_weights"],
        rejected_weights=row["rejected_weights"],
        unfinished=row["unfinished"],
        scores=row["scores"],
        provenance=row["provenance"],
    )


def _mean(values: Sequence[float]) -> float | None:
    return round(sum(values) / len(values), 4) if values else None
