"""Common parts of judged benchmarks: asking a text model about answers, and reading its verdicts.

A verdict is read `strict`, by the rule of the benchmark's published script, or `tolerant`, which also understands bold
type, other separators, a thinking model's notes and the like, and refuses what contradicts itself. A reply that holds
no verdict is counted as unparsed, a question that got no reply as failed; both stand in the result.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, Literal, TypeVar, get_args

from mmpo.chat import ChatModel, ChatReply, ChatRequest, ChatSettings, open_chat
from mmpo.errors import Quarantined, UserError

T = TypeVar("T")
Mode = Literal["strict", "tolerant"]
MODES: tuple[Mode, ...] = get_args(Mode)

JUDGE_CACHE = "judge.jsonl"
LASTING = (
    "bad_request", "refused", "empty_reply", "too_long", "no_chat_template", "not_an_image", "images_unsupported",
)  # fmt: skip
"""Failures that asking again would not change: they count as unparsed. After any other the run should be repeated."""


@dataclass(frozen=True)
class Judgement(Generic[T]):
    """One verdict with the judge's words. `value` None: unparsed, or not judged because of `failure`."""

    value: T | None
    text: str | None
    failure: Quarantined | None = None
    truncated: bool = False


def judge(
    chat: ChatModel,
    prompts: Sequence[str],
    read: Callable[[str], T | None],
    *,
    label: str = "judging",
    max_tokens: int | Sequence[int] = 512,
    temperature: float = 0.0,
    seed: int = 0,
) -> list[Judgement[T]]:
    """Ask the judge every prompt and read the replies; equal prompts are asked once. In order; `max_tokens` may be
    given for each.
    """
    limits = [max_tokens] * len(prompts) if isinstance(max_tokens, int) else list(max_tokens)
    requests = [
        ChatRequest.ask(prompt, max_tokens=limit, temperature=temperature, seed=seed)
        for prompt, limit in zip(prompts, limits, strict=True)
    ]
    found: list[Judgement[T]] = []
    for reply in chat.replies(requests, label):
        if isinstance(reply, Quarantined):
            found.append(Judgement(None, None, reply))
        else:
            found.append(Judgement(read(reply.text), reply.text, truncated=reply.truncated))
    return found


@contextmanager
def opened(settings: ChatSettings | None, cache: str | None, benchmark: str) -> Iterator[ChatModel]:
    """The judge of an evaluation, with its replies kept in the folder `cache`. Raises UserError where none is set."""
    if settings is None:
        raise UserError(f"{benchmark} needs a judge", hint="set eval.judge (docs/judges.md)")
    with open_chat(settings, None if cache is None else Path(cache) / JUDGE_CACHE) as chat:
        yield chat


def failures(judgements: Sequence[Judgement[T]]) -> dict[str, int]:
    """The number of answers not judged, by reason, as `judge_timeout` and the like."""
    reasons = Counter(f"judge_{one.failure.reason}" for one in judgements if one.failure is not None)
    return dict(sorted(reasons.items()))


def unparsed(judgements: Sequence[Judgement[T]]) -> int:
    """The number of replies of the judge without a verdict."""
    return sum(one.value is None and one.failure is None for one in judgements)


def not_judged(judgements: Sequence[Judgement[T]], what: str = "answers") -> list[str]:
    """A warning where some were not judged, with what happened to the first, else nothing."""
    lost = [one.failure for one in judgements if one.failure is not None]
    if not lost:
        return []
    why = f"{lost[0].reason}: {lost[0].detail}" if lost[0].detail else lost[0].reason
    return [f"{len(lost)} {what} were not judged and are left out (the first: {why}); run again to ask for them"]


def cut_off(judgements: Sequence[Judgement[T]]) -> list[str]:
    """A warning where replies of the judge were cut off at the token limit, else nothing."""
    cut = sum(one.truncated for one in judgements)
    return [f"{cut} of {len(judgements)} judge replies were cut off at the token limit"] if cut else []


def require_all(judgements: Sequence[Judgement[T]], benchmark: str) -> None:
    """Raises UserError where a question got no reply for a reason that may pass: before and after must be judged on
    the same answers.
    """
    passing = [one.failure for one in judgements if one.failure is not None and one.failure.reason not in LASTING]
    if passing:
        raise UserError(
            f"{benchmark}: {len(passing)} of {len(judgements)} questions to the judge got no reply "
            f"({passing[0].reason}: {passing[0].detail})",
            hint="run again: the replies that came are kept, only the missing ones are asked",
        )


def final_replies(replies: list[ChatReply | Quarantined], who: str) -> list[ChatReply | Quarantined]:
    """The replies, all of them final. Raises UserError where one failed for a reason that may pass: what is built must
    not depend on a bad hour of a server."""
    passing = [reply for reply in replies if isinstance(reply, Quarantined) and reply.reason not in LASTING]
    if passing:
        raise UserError(
            f"{len(passing)} of {len(replies)} requests to the {who} got no reply ({passing[0].reason}: "
            f"{passing[0].detail})",
            hint="run again: the replies that came are kept, only the missing ones are asked",
        )
    return replies


def without_thinking(text: str) -> str:
    """The reply without a thinking model's notes (`<think> … </think>`, also where the first tag is missing)."""
    return re.sub(r"(?s)^.*</think(?:ing)?>", "", re.sub(r"(?s)<think(?:ing)?>.*?</think(?:ing)?>", "", text)).strip()


_GAP = r"(?:[^\w\n-]|-(?!\d))*"
_RATING = re.compile(rf"\b(?:rating|score)\b{_GAP}(?:(?:is|of)\b{_GAP})?(-?\d+(?:\.\d+)?)")
_BARE_NUMBER = re.compile(r"\W*(-?\d+(?:\.\d+)?)(?:\s*/\s*\d+)?\W*")


def read_rating(text: str, mode: Mode, highest: int = 6) -> int | None:
    """A rating from 0 to `highest`; None where there is none, or more than one.

    strict: the lower-cased text holds `rating: K` for exactly one K (so `rating: 10` reads as 1). tolerant: the number
    after the word rating or score, or a reply that is only a number; it must be whole and in range.
    """
    if mode == "strict":
        lowered = text.lower()
        found = [number for number in range(highest + 1) if f"rating: {number}" in lowered]
        return found[0] if len(found) == 1 else None
    cleaned = without_thinking(text).lower()
    numbers = {float(number) for number in _RATING.findall(cleaned)}
    if not numbers and (bare := _BARE_NUMBER.fullmatch(cleaned)):
        numbers = {float(bare.group(1))}
    if len(numbers) != 1:
        return None
    (number,) = numbers
    return int(number) if number.is_integer() and 0 <= number <= highest else None


_NOT_CORRECT = re.compile(r"\b(?:not|isn['’]t|never|in)[\s-]+(?:\w+ly\s+)?correct\b")
_CORRECTNESS = re.compile(r"\b(?:incorrect|wrong|correct|unclear)\b")
_CORRECTNESS_VALUES = {"incorrect": 0, "wrong": 0, "correct": 1, "unclear": 2}


def read_correctness(text: str, mode: Mode) -> int | None:
    """0 incorrect, 1 correct, 2 unclear.

    strict: the text holds "incorrect", else "correct", else it is unclear; so "not correct" is correct, and nothing is
    ever None. tolerant: whole words, "not correct" is incorrect; with several verdicts the first line decides if it is
    nothing but a verdict, else the last line if it holds one; None without one.
    """
    if mode == "strict":
        lowered = text.lower()
        return 0 if "incorrect" in lowered else 1 if "correct" in lowered else 2
    return _single(without_thinking(text).lower(), _correctness_words)


def _correctness_words(text: str) -> set[int]:
    plain = _NOT_CORRECT.sub(" incorrect ", text)
    return {_CORRECTNESS_VALUES[word] for word in _CORRECTNESS.findall(plain)}


_NOT_SAME = re.compile(r"\b(?:not|isn['’]t|aren['’]t|never)\s+(?:\w+ly\s+)?(?:the\s+)?same\b")


def read_same(text: str, mode: Mode) -> int | None:
    """1 if two answers mean the same, else 0.

    strict: the text holds "same" (so "not the same" is the same). tolerant: as in `read_correctness`.
    """
    if mode == "strict":
        return int("same" in text.lower())
    return _single(without_thinking(text).lower(), _same_words)


def _same_words(text: str) -> set[int]:
    words = re.findall(r"\b(?:same|different)\b", _NOT_SAME.sub(" different ", text))
    return {int(word == "same") for word in words}


def _single(text: str, words: Callable[[str], set[int]]) -> int | None:
    lines = [line for line in text.splitlines() if line.strip()]
    first = [line for line in lines[:1] if len(re.findall(r"\w+", line)) == 1]
    for part in [text, *first, *lines[-1:]]:
        if len(found := words(part)) == 1:
            return found.pop()
    return None
