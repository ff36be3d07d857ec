"""Finds what prompts have in common and lays it out as trees, so that every shared beginning is computed once.

Shared parts are found, never declared. Two responses to one prompt, the 3 x 3 pairs of rewritten variants, several
questions about one image, a prompt and its perturbed twin: each is a set of paths (a prompt with its images, then a
response), and paths whose prompts begin alike, images included, become branches of one tree.

    path 0: [image A | question 1 | chosen]                   image A ─┬─ question 1 ─┬─ chosen
    path 1: [image A | question 1 | rejected]         ──▶              │              └─ rejected
    path 2: [image A | question 2 | answer]                            └─ question 2 ─── answer
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from mmpo.models.tree.layout import Segment

Sharing = Literal["auto", "on", "off"]
"""Sharing of common beginnings: wherever that is exact on this model, always, or never."""

LEAST_SHARED = 64
"""Common beginnings shorter than this many tokens are computed twice: another branch costs attention calls."""


TokenIds = int | tuple[int, ...]
"""The placeholder of images, or those of images and videos."""


@dataclass(frozen=True)
class ResponsePath:
    """A response to score after a prompt. `images` lists the prompt's images in order, as indices into the batch's
    distinct images."""

    prompt: Sequence[int]
    response: Sequence[int]
    images: Sequence[int] = ()


@dataclass(frozen=True)
class Shared:
    """Trees of segments, and for each path the number of its response among all scored segments, in the order of
    trees and segments (which is the order of `TreeBatch.lengths`). Equal paths share a response."""

    trees: list[list[Segment]]
    leaf: list[int]


def share(
    paths: Sequence[ResponsePath],
    image_token_id: TokenIds,
    tokens_per_image: Mapping[int, int],
    *,
    least: int | None = None,
) -> Shared:
    """Lay `paths` out as trees whose branches share all common beginnings of at least `least` tokens
    (default: `LEAST_SHARED`).

    `tokens_per_image` says how many placeholder tokens each image takes; an image is never cut. Raises `ValueError`
    where a prompt's placeholders and its images do not agree.
    """
    least = LEAST_SHARED if least is None else least
    prompts = _Prompts(paths, image_token_id, tokens_per_image)
    trees: list[list[Segment]] = []
    leaves: dict[tuple[int, tuple[int, ...]], tuple[int, int]] = {}  # (prompt, response) -> (tree, segment)
    for block in _blocks(prompts, list(range(len(prompts.symbols))), 0, 0, least):
        tree: list[Segment] = []
        pending: list[tuple[list[int], int, int | None]] = [(block, 0, None)]
        while pending:
            members, start, parent = pending.pop(0)
            end = _common(prompts.symbols, members, start)
            tree.append(prompts.segment(members[0], start, end, parent))
            node = len(tree) - 1
            for member in members:
                if len(prompts.symbols[member]) == end:
                    for response in prompts.responses[member]:
                        leaves[member, response] = (len(trees), len(tree))
                        tree.append(Segment(response, parent=node, scored=True))
            rest = [member for member in members if len(prompts.symbols[member]) > end]
            pending.extend((child, end, node) for child in _blocks(prompts, rest, end, end, least))
        trees.append(tree)
    scored = [(t, s) for t, tree in enumerate(trees) for s, segment in enumerate(tree) if segment.scored]
    number = {place: n for n, place in enumerate(scored)}
    return Shared(trees, [number[leaves[prompts.of_path[i], tuple(path.response)]] for i, path in enumerate(paths)])


class _Prompts:
    """The distinct prompts of some paths. `symbols[i]` is prompt i with every placeholder replaced by -1 - image: two
    prompts share exactly as far as their symbols are equal."""

    def __init__(
        self, paths: Sequence[ResponsePath], image_token_id: TokenIds, tokens_per_image: Mapping[int, int]
    ) -> None:
        self.symbols: list[np.ndarray] = []
        self.ids: list[Sequence[int]] = []
        self.images: list[list[tuple[int, int]]] = []  # (position of the first placeholder, image)
        self.responses: list[list[tuple[int, ...]]] = []
        self.of_path: list[int] = []
        known: dict[bytes, int] = {}
        for path in paths:
            symbols, places = _symbols(path, image_token_id, tokens_per_image)
            index = known.setdefault(symbols.tobytes(), len(self.symbols))
            if index == len(self.symbols):
                self.symbols.append(symbols)
                self.ids.append(path.prompt)
                self.images.append(places)
                self.responses.append([])
            response = tuple(path.response)
            if response not in self.responses[index]:
                self.responses[index].append(response)
            self.of_path.append(index)

    def segment(self, prompt: int, start: int, end: int, parent: int | None) -> Segment:
        shown = [image for at, image in self.images[prompt] if start <= at < end]
        return Segment(self.ids[prompt][start:end], parent=parent, images=shown)


def _symbols(
    path: ResponsePath, image_token_id: TokenIds, tokens_per_image: Mapping[int, int]
) -> tuple[np.ndarray, list[tuple[int, int]]]:
    symbols = np.asarray(path.prompt, dtype=np.int64).copy()
    placeholders = np.flatnonzero(np.isin(symbols, image_token_id))
    wanted = sum(tokens_per_image[image] for image in path.images)
    if len(placeholders) != wanted:
        raise ValueError(f"the prompt has {len(placeholders)} image tokens, its {len(path.images)} images {wanted}")
    places, cursor = [], 0
    for image in path.images:
        own = placeholders[cursor : cursor + tokens_per_image[image]]
        symbols[own] = -1 - image
        places.append((int(own[0]), image))
        cursor += len(own)
    return symbols, places


def _common(symbols: Sequence[np.ndarray], members: Sequence[int], start: int) -> int:
    """The end of the stretch from `start` on in which all members agree."""
    first = symbols[members[0]]
    end = len(first)
    for member in members[1:]:
        other = symbols[member]
        end = min(end, len(other))
        differs = np.flatnonzero(first[start:end] != other[start:end])
        if len(differs):
            end = start + int(differs[0])
    return end


def _blocks(prompts: _Prompts, members: Sequence[int], start: int, depth: int, least: int) -> list[list[int]]:
    """Split members, which agree up to `depth`, into blocks that each agree on at least `least` tokens from `start`
    on; what agrees with nobody so far stands alone. In order of first appearance."""
    ended = [[member] for member in members if len(prompts.symbols[member]) == depth]
    groups: dict[int, list[int]] = {}
    for member in members:
        if len(prompts.symbols[member]) > depth:
            groups.setdefault(int(prompts.symbols[member][depth]), []).append(member)
    blocks = ended
    for group in groups.values():
        end = _common(prompts.symbols, group, depth)
        if len(group) == 1 or end - start >= least:
            blocks.append(group)
        else:
            blocks.extend(_blocks(prompts, group, start, end, least))
    return sorted(blocks)
