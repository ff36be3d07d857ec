"""Judged pictures by hand."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from mmpo.data_builders.candidates.records import Candidate, ClaimMention, JudgedPicture, chair_i, pool_of, recall_pool
from mmpo.data_builders.from_candidates.maker import MakerContext
from mmpo.evidence.records import CombinedOpinion, Opinion, Presence
from mmpo.text.claims import claimed
from mmpo.text.vocabulary import ObjectVocabulary

VOCABULARY = ObjectVocabulary.from_names(["cat", "dog", "cup", "bird", "horse", "knife", "table", "chair"])


def said(
    sample: int,
    text: str,
    verdicts: dict[str, Presence],
    *,
    truncated: bool = False,
    prompt_number: int = 0,
    prompt: str = "Describe the image.",
    **more: Any,
) -> Candidate:
    """A candidate whose claims are read from its text."""
    mentions = tuple(ClaimMention(m.name, m.start, m.end, m.word) for m in claimed(text, VOCABULARY))
    own = {mention.name: verdicts[mention.name] for mention in mentions}
    found = Candidate(prompt, prompt_number, sample, text, truncated, 9, mentions, own, **more)
    return replace(found, chair_i=chair_i(found.mentioned("absent"), found.mentioned("present")))


def judged(image: str, texts: Iterable[str | Candidate], verdicts: dict[str, Presence]) -> JudgedPicture:
    """A picture whose candidates are these texts."""
    all_ = [text if isinstance(text, Candidate) else said(n, text, verdicts) for n, text in enumerate(texts)]
    pool = pool_of(all_)
    whole = tuple(
        one if one.recall_pool is not None else replace(one, recall_pool=recall_pool(one.present, pool)) for one in all_
    )
    opinions = {
        name: CombinedOpinion(name, verdict, 0.9, {"hand": Opinion(verdict, 1.0)}) for name, verdict in verdicts.items()
    }
    return JudgedPicture(image, f"key of {image}", "0" * 64, image, 100, 80, whole, opinions)


def context(folder: Path, **changes: Any) -> MakerContext:
    """A context without models: asking one is an error."""

    def nothing(*_: Any) -> Any:
        raise AssertionError("no model is to be asked")

    values: dict[str, Any] = {
        "vocabulary": VOCABULARY, "seed": 0, "folder": folder, "model": "none", "engine": nothing, "evidence": nothing,
        "picture": nothing, "chat": nothing,
    }  # fmt: skip
    return MakerContext(**values | changes)
