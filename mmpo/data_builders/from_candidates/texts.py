"""Texts that a maker wrote or asked for: what they claim, by the verdicts about their picture, and how likely a model
finds them. No torch at import."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from mmpo.data_builders.candidates.records import JudgedPicture, pool_of, recall_pool
from mmpo.data_builders.from_candidates.maker import PairSide
from mmpo.evidence.records import ClaimRow, CombinedOpinion, Presence, claim_row
from mmpo.text.claims import claimed, split_sentences
from mmpo.text.vocabulary import ObjectVocabulary

if TYPE_CHECKING:
    from mmpo.models.families.loading import VLM


def names_in(text: str, vocabulary: ObjectVocabulary) -> frozenset[str]:
    """The classes that a text says are there, read sentence by sentence."""
    return frozenset(mention.name for part in split_sentences(text) for mention in claimed(part.text, vocabulary))


def verdict_of(known: Mapping[str, CombinedOpinion], name: str) -> Presence:
    """The verdict about a class; uncertain where nobody was asked."""
    return known[name].verdict if name in known else "uncertain"


def side_of(text: str, vocabulary: ObjectVocabulary, known: Mapping[str, CombinedOpinion], sample: int) -> PairSide:
    """A text that was made of the candidate `sample`, as a side without recall."""
    by: dict[Presence, set[str]] = {"present": set(), "absent": set(), "uncertain": set()}
    for name in names_in(text, vocabulary):
        by[verdict_of(known, name)].add(name)
    return PairSide(text, frozenset(by["present"]), frozenset(by["absent"]), frozenset(by["uncertain"]), sample=sample)


def recall_in(picture: JudgedPicture, side: PairSide) -> float | None:
    """The share of the classes known to be in the picture that a side names."""
    return recall_pool(side.present, pool_of(picture.candidates))


def claim_rows(known: Mapping[str, CombinedOpinion], names: Iterable[str]) -> list[ClaimRow]:
    """The verdicts about classes and what each source said; nothing for those that nobody was asked about."""
    return [claim_row(known[name]) for name in sorted(set(names) & known.keys())]


def answer_logps(vlm: VLM, picture: bytes, prompt: str, texts: Sequence[str]) -> list[float]:
    """Log-prob (nats) of each text with its end token as the model's answer to a prompt about a picture, from one
    prefill."""
    from mmpo.files.images import load_image
    from mmpo.models.generation.generate import answering
    from mmpo.models.scoring.segment_logps import score_responses

    messages = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": prompt}]}]
    with answering(vlm.model):
        return score_responses(vlm, messages, [load_image(picture)], texts)
