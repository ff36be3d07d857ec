"""Preference pairs as token ids."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from mmpo.models.families.loading import VLM
from mmpo.models.tree.sharing import LEAST_SHARED
from mmpo.trainers.responses import ScoredParts
from mmpo.trainers.schedule import PairPart


@dataclass(frozen=True, slots=True)
class EncodedPair:
    """A pair as token ids (int32, to save memory) with the keys of its images in the order in which the prompt shows
    them.

    `rejected_prompt` and `rejected_images` are given where the rejected side sees other images; `reference` holds the
    reference log-probs of chosen and rejected where they were computed before, `second_reference` those of a second
    one. `image_weights` weigh the chosen answer
    where it is compared with itself under another image. `words` are the question's words with
    the places of their tokens in `prompt`, where something asks for them; `twin` is the id of the pair that shows a
    similar image; `scores` are numbers of the pair, by name. Responses of several turns
    have the turn of each token, -1 between turns; parts are the `steps` and `segments` of the responses, where
    something asks for them. `visit` counts how often training saw the pair before, `view_tokens` what its further views
    add to a batch.
    """

    id: str
    prompt: Tensor
    chosen: Tensor
    rejected: Tensor
    chosen_weights: Tensor | None
    rejected_weights: Tensor | None
    images: tuple[str, ...]
    rejected_prompt: Tensor | None = None
    rejected_images: tuple[str, ...] | None = None
    image_weights: Tensor | None = None
    reference: tuple[Tensor, Tensor] | None = None
    second_reference: tuple[Tensor, Tensor] | None = None
    words: tuple[tuple[str, tuple[int, ...]], ...] | None = None
    twin: str | None = None
    scores: Mapping[str, float] | None = None
    chosen_turns: Tensor | None = None
    rejected_turns: Tensor | None = None
    chosen_parts: Mapping[str, ScoredParts] = field(default_factory=dict)
    rejected_parts: Mapping[str, ScoredParts] = field(default_factory=dict)
    visit: int = 0
    view_tokens: int = 0

    @property
    def length(self) -> int:
        """Distinct tokens: p + c + r, a second prompt if there is one, and what further views add."""
        second = 0 if self.rejected_prompt is None else len(self.rejected_prompt)
        return len(self.prompt) + len(self.chosen) + len(self.rejected) + second + self.view_tokens

    @property
    def all_images(self) -> tuple[str, ...]:
        return self.images + (self.rejected_images or ())


@dataclass
class EncodedPairs:
    """A data set of encoded pairs with what was left out on the way."""

    rows: list[EncodedPair]
    dropped: Counter[str] = field(default_factory=Counter)
    truncated: int = 0

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> EncodedPair:
        """The pair of that index; beyond the last pair the index counts on, visit by visit."""
        visit, place = divmod(index, len(self.rows))
        return replace(self.rows[place], visit=visit) if visit else self.rows[place]

    @property
    def lengths(self) -> list[int]:
        return [row.length for row in self.rows]

    def parts(self, vlm: VLM) -> list[list[PairPart]]:
        """For each pair the parts that the model computes, and the number of tokens of each: the prompt up to its last
        image, the rest of it, and the responses. Pairs of one batch that have a part in common compute it once."""
        return [_parts(row, vlm) for row in self.rows]

    @property
    def image_groups(self) -> list[int]:
        """For each pair the number of the first pair that shows the same images."""
        first: dict[tuple[str, ...], int] = {}
        return [first.setdefault(row.images, index) for index, row in enumerate(self.rows)]

    def subset(self, keep: Callable[[EncodedPair], bool]) -> EncodedPairs:
        return EncodedPairs([row for row in self.rows if keep(row)])


def _parts(row: EncodedPair, vlm: VLM) -> list[PairPart]:
    visual = torch.tensor(vlm.visual_token_ids, dtype=torch.int32)
    parts: list[PairPart] = []

    def add(name: bytes, ids: Tensor) -> bytes:
        name = hashlib.blake2b(name + ids.numpy().tobytes(), digest_size=16).digest()
        if len(ids) and (name, len(ids)) not in parts:
            parts.append((name, len(ids)))
        return name

    def prompt(ids: Tensor, images: tuple[str, ...]) -> bytes:
        shown = torch.isin(ids, visual).nonzero()
        # Beginnings shorter than this are not shared; a prompt that sees itself in both directions is so as a whole.
        whole = vlm.family.blocks == "prompt" or not len(shown) or int(shown[-1]) + 1 < LEAST_SHARED
        end = len(ids) if whole else int(shown[-1]) + 1
        return add(add(repr(images).encode(), ids[:end]), ids[end:])

    first = prompt(row.prompt, row.images)
    add(first, row.chosen)
    images = row.images if row.rejected_images is None else row.rejected_images
    add(first if row.rejected_prompt is None else prompt(row.rejected_prompt, images), row.rejected)
    if row.view_tokens:
        parts.append((f"views {row.id}".encode(), row.view_tokens))
    return parts
