"""What a model says about the photos of a unit of work: greedy and sampled responses, their log-probs and claims."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mmpo.data.pair import placeholder_in
from mmpo.data.photos import ListedPhoto, PhotoPrompt
from mmpo.data_builders.candidates.records import Candidate, ClaimMention
from mmpo.data_builders.candidates.settings import CandidateSettings
from mmpo.data_builders.hallucination.drafts import whole_sentences
from mmpo.files.images import load_image
from mmpo.text.claims import claimed, split_sentences
from mmpo.text.vocabulary import ObjectVocabulary

if TYPE_CHECKING:
    from mmpo.models.generation.answer import Answer
    from mmpo.models.generation.answerer import Answerer


@dataclass(frozen=True)
class AskedPhoto:
    """A photo with its file, and the prompts to ask."""

    data: bytes
    prompts: tuple[PhotoPrompt, ...]


def prompts_of(photo: ListedPhoto, settings: CandidateSettings) -> tuple[PhotoPrompt, ...]:
    """The photo's own prompts, or one that is drawn by its path."""
    if photo.prompts:
        return photo.prompts
    return (PhotoPrompt(random.Random(f"{settings.seed}/prompt/{photo.path}").choice(settings.prompts)),)


def respond(
    engine: Answerer,
    photos: Sequence[AskedPhoto],
    settings: CandidateSettings,
    vocabulary: ObjectVocabulary | None,
    done: Callable[[], None],
) -> list[list[Candidate]]:
    """The candidates of each photo, prompt after prompt, the greedy one first. `done` is called once for each photo.
    Without a vocabulary no claims are read."""
    asked = [(photo.data, prompt.text) for photo in photos for prompt in photo.prompts]
    many = engine.sample_many(
        asked,
        settings.samples,
        temperature=settings.temperature,
        top_p=settings.top_p,
        seed=settings.seed,
        max_new_tokens=settings.max_new_tokens,
        greedy_first=True,
    )
    said: list[list[list[Answer]]] = []
    for photo in photos:
        said.append([next(many) for _ in photo.prompts])
        done()
    found: list[list[Candidate]] = []
    for photo, responses in zip(photos, said, strict=True):
        own: list[Candidate] = []
        for number, (prompt, answers) in enumerate(zip(photo.prompts, responses, strict=True)):
            scored = _log_probs(engine, photo.data, prompt.text, answers, settings)
            own += read_responses(answers, prompt, number, vocabulary, scored)
        found.append(own)
    return found


def read_responses(
    answers: Sequence[Answer],
    prompt: PhotoPrompt,
    number: int,
    vocabulary: ObjectVocabulary | None,
    scored: Mapping[int, Mapping[str, Any]],
) -> Iterator[Candidate]:
    """The answers to one prompt as candidates, with the reason of those that are of no use."""
    seen: set[str] = set()
    for sample, answer in enumerate(answers):
        mentions = () if vocabulary is None else tuple(mentions_in(answer.text, vocabulary))
        why_not = ""
        if answer.failed:
            why_not = "no_reply"
        elif not answer.text:
            why_not = "unfinished" if answer.truncated else "empty"
        elif placeholder_in(answer.text):
            why_not = "image_tag"
        elif answer.truncated and not whole_sentences(answer.text):
            why_not = "unfinished"
        elif answer.text in seen:
            why_not = "duplicate"
        elif not mentions and vocabulary is not None and prompt.answer is None:
            why_not = "no_claim"
        seen.add(answer.text)
        yield Candidate(
            prompt.text,
            number,
            sample,
            answer.text,
            answer.truncated,
            scored.get(sample, {}).get("logp_tokens", len(answer.token_ids)),
            mentions,
            answer=prompt.answer,
            why_not=why_not,
            **scored.get(sample, {}),
        )


def mentions_in(text: str, vocabulary: ObjectVocabulary) -> Iterator[ClaimMention]:
    """What a text says is there: the mentions that it does not deny, sentence by sentence."""
    for piece in split_sentences(text):
        for m in claimed(piece.text, vocabulary):
            yield ClaimMention(m.name, piece.start + m.start, piece.start + m.end, m.word)


def _log_probs(
    engine: Answerer, picture: bytes, prompt: str, answers: Sequence[Answer], settings: CandidateSettings
) -> dict[int, dict[str, Any]]:
    """The log-probs of the answers that have words, by their number; one prefill serves all."""
    if not settings.log_probs and not settings.log_probs_blind:
        return {}
    from mmpo.models.scoring.segment_logps import response_logps

    spoken = [number for number, answer in enumerate(answers) if answer.text]
    texts = list(dict.fromkeys((answers[number].text, answers[number].truncated) for number in spoken))
    content = [{"type": "image"}, {"type": "text", "text": prompt}]
    columns: dict[str, list[Any]] = {}
    if settings.log_probs:
        shown = [{"role": "user", "content": content}]
        found = response_logps(engine.vlm, shown, [load_image(picture)], texts)
        columns |= {"logp": [logp for logp, _ in found], "logp_tokens": [tokens for _, tokens in found]}
    if settings.log_probs_blind:
        blind = [{"role": "user", "content": content[1:]}]
        columns["logp_blind"] = [logp for logp, _ in response_logps(engine.vlm, blind, [], texts)]
    places = {text: place for place, text in enumerate(texts)}
    return {
        number: {
            name: values[places[answers[number].text, answers[number].truncated]] for name, values in columns.items()
        }
        for number in spoken
    }


def count_candidates(candidates: Sequence[Candidate]) -> Counter[str]:
    """How many came in, and where each went."""
    return Counter({"in": len(candidates)}) + Counter(one.why_not or "kept" for one in candidates)


def candidate_row(one: Candidate) -> dict[str, Any]:
    """A candidate without verdicts, as JSON data."""
    names = ("prompt", "prompt_number", "sample", "text", "truncated", "tokens", "why_not")
    row: dict[str, Any] = {name: getattr(one, name) for name in names}
    row["mentions"] = [[m.name, m.start, m.end, m.word] for m in one.mentions]
    more = ("logp", "logp_tokens", "logp_blind", "answer")
    return row | {name: value for name in more if (value := getattr(one, name)) is not None}


def candidate_of(row: Mapping[str, Any]) -> Candidate:
    """The candidate of a row."""
    return Candidate(**{**row, "mentions": tuple(ClaimMention(*m) for m in row["mentions"])})
