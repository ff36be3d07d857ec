"""Candidates: all responses that a model gave about a picture, and what the evidence says of their claims."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from mmpo.evidence.records import CombinedOpinion, Presence


@dataclass(frozen=True)
class ClaimMention:
    """`text[start:end]` of a candidate is `word` and says that the class `name` is in the picture. Of a claim in words
    `name` is its question, `word` the fact, and the place is the whole text."""

    name: str
    start: int
    end: int
    word: str


@dataclass(frozen=True)
class Candidate:
    """One response to a prompt about a picture. `prompt_number` counts the prompts of its picture, `sample` the
    responses to one prompt; 0 is the greedy one.

    `logp` (nats) sums over `logp_tokens` tokens of the text, the end token among them unless `truncated`; `logp_blind`
    is the same without the picture. Both are None where they were not asked for. `tokens` were generated.
    `verdicts` are those of the classes that it names. `chair_i`: absent mentions of those with a verdict other than
    uncertain, None where there are none. `recall_pool`: the share of the classes known to be in the picture that it
    names, None where none is known. A candidate that is not `kept` has the reason in `why_not`.
    """

    prompt: str
    prompt_number: int
    sample: int
    text: str
    truncated: bool
    tokens: int
    mentions: tuple[ClaimMention, ...] = ()
    verdicts: Mapping[str, Presence] = field(default_factory=dict)
    logp: float | None = None
    logp_tokens: int | None = None
    logp_blind: float | None = None
    chair_i: float | None = None
    recall_pool: float | None = None
    why_not: str = ""
    answer: str | None = None
    """The right answer to the prompt, where the list of prompts has one."""

    @property
    def kept(self) -> bool:
        return not self.why_not

    @cached_property
    def words(self) -> int:
        """The number of words between white space."""
        return len(self.text.split())

    @cached_property
    def present(self) -> frozenset[str]:
        """The classes that it names and that are in the picture."""
        return self._of("present")

    @cached_property
    def absent(self) -> frozenset[str]:
        """The classes that it names and that are not in the picture."""
        return self._of("absent")

    @cached_property
    def uncertain(self) -> frozenset[str]:
        return self._of("uncertain")

    @property
    def claims(self) -> frozenset[str]:
        """All classes that it names."""
        return frozenset(mention.name for mention in self.mentions)

    def mentioned(self, verdict: Presence) -> int:
        """The number of its mentions of classes with this verdict."""
        return sum(self.verdicts.get(mention.name) == verdict for mention in self.mentions)

    def _of(self, verdict: Presence) -> frozenset[str]:
        return frozenset(name for name, found in self.verdicts.items() if found == verdict)


@dataclass(frozen=True)
class JudgedPicture:
    """A picture with its candidates and what all sources together say of the classes that were asked about: those that
    candidates name, and a few more (`probes`), which no candidate names.

    `image` is its path below the folder of pictures and its id; `key` the digest of its pixels. `cluster` is the path
    of the picture that stands for it and its near-duplicates.
    """

    image: str
    key: str
    dhash: str
    cluster: str
    width: int
    height: int
    candidates: tuple[Candidate, ...]
    opinions: Mapping[str, CombinedOpinion]

    @property
    def id(self) -> str:
        return self.image

    def names(self, verdict: Presence) -> frozenset[str]:
        """The classes with this verdict, probes included."""
        return frozenset(name for name, found in self.opinions.items() if found.verdict == verdict)

    @property
    def prompts(self) -> dict[int, tuple[Candidate, ...]]:
        """The kept candidates of each prompt, by its number, in the order of their samples."""
        found: dict[int, list[Candidate]] = {}
        for candidate in self.candidates:
            if candidate.kept:
                found.setdefault(candidate.prompt_number, []).append(candidate)
        return {number: tuple(group) for number, group in found.items()}

    def greedy(self, prompt_number: int) -> Candidate | None:
        """The greedy candidate of a prompt, if it was kept."""
        group = self.prompts.get(prompt_number, ())
        return next((candidate for candidate in group if candidate.sample == 0), None)


def chair_i(absent: int, present: int) -> float | None:
    """CHAIR_i (Rohrbach et al. 2018) of one text from its judged mentions: absent / (present + absent). None where none
    is judged: a text that names nothing is not a good one."""
    return absent / (present + absent) if present + absent else None


def recall_pool(named: Iterable[str], pool: Iterable[str]) -> float | None:
    """The share of the classes known to be in a picture (`pool`) that a text names; None for an empty pool. With one
    pool for all candidates of a picture it compares them, and is no recall of everything that can be seen."""
    known = frozenset(pool)
    return len(known.intersection(named)) / len(known) if known else None


def pool_of(candidates: Sequence[Candidate], detected: Iterable[str] = ()) -> frozenset[str]:
    """The classes known to be in the picture: those that any kept candidate names with the verdict present, and
    `detected`, confirmed ones that a closed-set detector found beyond them."""
    return frozenset(detected).union(*(candidate.present for candidate in candidates if candidate.kept))
