"""Trees of segments: which tokens attend to which, and in which attention calls.

A token sees the segments on its path to the root and the earlier tokens of its own segment. A family may add to that
(`AttentionRules`): images or whole prompts that see themselves in both directions, and layers that look back only so
far.

Shapes: s row tokens of one tree.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from mmpo.models.tree.attention import CallPlan
from mmpo.models.tree.kernels import Marks

Blocks = Literal["none", "images", "prompt"]

# Non-spine segments are attended together until they hold this many queries: few calls, little wasted work.
CALL_QUERIES = 512


@dataclass(frozen=True)
class Segment:
    """Tokens that follow `parent` (an index into the tree, None for the root).

    `scored` asks for their log-probs; `images` lists, in order, the images whose placeholders are among the tokens
    (indices into the batch's distinct images)."""

    ids: Sequence[int]
    parent: int | None = None
    scored: bool = False
    images: Sequence[int] = ()


Tree = Sequence[Segment]


@dataclass(frozen=True)
class AttentionRules:
    """A family's additions to attention to "ancestors and own past".

    `blocks`: tokens that see each other in both directions: "images", each run of `image_token_id`; "prompt", all of
    the root. `window`: layers with a sliding window see only the last so many tokens of their path, themselves
    included; None if there are no such layers."""

    blocks: Blocks = "none"
    image_token_id: int | None = None
    window: int | None = None


CAUSAL = AttentionRules()


def response_tree(
    prompt: Sequence[int], responses: Sequence[Sequence[int]], images: Sequence[int] = ()
) -> list[Segment]:
    """A prefix with scored responses below it; with two responses, a preference pair."""
    return [Segment(prompt, images=images)] + [Segment(ids, parent=0, scored=True) for ids in responses]


def validate_tree(tree: Tree) -> None:
    """Raises `ValueError` unless segments are non-empty, rooted once, parents first, and no root is scored."""
    for index, segment in enumerate(tree):
        if len(segment.ids) == 0:
            raise ValueError(f"segment {index} of the tree is empty")
        if (segment.parent is None) != (index == 0):
            raise ValueError(f"segment {index}: exactly the first segment must be the root")
        if segment.parent is not None and not 0 <= segment.parent < index:
            raise ValueError(f"segment {index}: parent {segment.parent} does not come before it")
        if segment.parent is None and segment.scored:
            raise ValueError("the root can't be scored: nothing precedes its first token")


def depth_first(tree: Tree) -> list[int]:
    """Segment indices with every subtree contiguous, children in their given order."""
    children: list[list[int]] = [[] for _ in tree]
    for index, segment in enumerate(tree):
        if segment.parent is not None:
            children[segment.parent].append(index)
    order, stack = [], [0]
    while stack:
        node = stack.pop()
        order.append(node)
        stack.extend(reversed(children[node]))
    return order


def path(tree: Tree, index: int) -> list[int]:
    """Segment indices from the root down to `index`."""
    nodes: list[int] = []
    node: int | None = index
    while node is not None:
        nodes.append(node)
        node = tree[node].parent
    return nodes[::-1]


def row_starts(tree: Tree, order: Sequence[int]) -> list[int]:
    """The index in the row at which each segment starts."""
    start, cursor = [0] * len(tree), 0
    for node in order:
        start[node] = cursor
        cursor += len(tree[node].ids)
    return start


def path_starts(tree: Tree) -> list[int]:
    """The number of tokens that precede each segment on its path."""
    before = [0] * len(tree)
    for node, segment in enumerate(tree):
        if segment.parent is not None:
            before[node] = before[segment.parent] + len(tree[segment.parent].ids)
    return before


def longest_path(tree: Tree) -> int:
    """Tokens on the longest path from the root to a leaf."""
    return max(before + len(segment.ids) for before, segment in zip(path_starts(tree), tree, strict=True))


def visibility(tree: Tree, rules: AttentionRules = CAUSAL, *, windowed: bool = False) -> Tensor:
    """The dense mask of one packed tree, bool [s, s], True where a query (row) sees a key (column); `windowed` for
    the layers with a sliding window.

    The definition that the fast attention is tested against. Distances are counted along a token's path, not in the
    row: another branch that lies between doesn't push the prompt out of the window."""
    order = depth_first(tree)
    start = row_starts(tree, order)
    total = sum(len(segment.ids) for segment in tree)
    allowed = torch.zeros(total, total, dtype=torch.bool)
    for node in order:
        own = slice(start[node], start[node] + len(tree[node].ids))
        for step in path(tree, node)[:-1]:
            allowed[own, start[step] : start[step] + len(tree[step].ids)] = True
        allowed[own, own] = torch.ones(len(tree[node].ids), len(tree[node].ids), dtype=torch.bool).tril()
    block = _same_block(tree, order, rules) if rules.blocks != "none" else None
    if windowed and rules.window is not None:
        before = path_starts(tree)
        place = torch.cat([torch.arange(len(tree[node].ids)) + before[node] for node in order])
        near = place[None, :] > place[:, None] - rules.window
        if block is None:
            return allowed & near
        # The window of Gemma 3 also cuts image blocks; PaliGemma's prompt sees all of itself in every layer.
        return (allowed | block) & near if rules.blocks == "images" else (allowed & near) | block
    return allowed if block is None else allowed | block


def token_types(segment: Segment, rules: AttentionRules) -> Tensor:
    """[n] the token types from which a family's own mask code makes blocks: 1 for image tokens ("images"), 0 for prompt
    and 1 for response tokens ("prompt")."""
    if rules.blocks == "images":
        return _image_tokens(segment, rules).long()
    return torch.full((len(segment.ids),), int(segment.scored))


def _image_tokens(segment: Segment, rules: AttentionRules) -> Tensor:
    return torch.tensor([token == rules.image_token_id for token in segment.ids])


def _block_numbers(tree: Tree, order: Sequence[int], rules: AttentionRules) -> Tensor:
    """[s] the row index of the first token of each token's block; -1 outside of blocks."""
    if rules.blocks == "none":
        return torch.full((sum(len(segment.ids) for segment in tree),), -1)
    if rules.blocks == "prompt":
        if any(not segment.scored and segment.parent is not None for segment in tree):
            raise ValueError("a prompt that sees itself in both directions must be the root as a whole")
        return torch.cat([torch.full((len(tree[node].ids),), 0 if node == 0 else -1) for node in order])
    numbers: list[Tensor] = []
    start = 0
    for node in order:  # a run of image tokens ends with its segment
        image = _image_tokens(tree[node], rules)
        begins = image & ~torch.cat([torch.zeros(1, dtype=torch.bool), image[:-1]])
        places = torch.arange(start, start + len(image))
        numbers.append(torch.where(image, torch.where(begins, places, -1).cummax(0).values, -1))
        start += len(image)
    return torch.cat(numbers)


def _same_block(tree: Tree, order: Sequence[int], rules: AttentionRules) -> Tensor:
    """Bool [s, s]: both tokens are in one block."""
    block = _block_numbers(tree, order, rules)
    return (block[:, None] == block[None, :]) & (block >= 0)[:, None]


def marks_of(tree: Tree, order: Sequence[int], rules: AttentionRules = CAUSAL) -> Marks:
    """The numbers of each row token from which FlexAttention's mask is made."""
    sizes = [len(segment.ids) for segment in tree]
    start, before = row_starts(tree, order), path_starts(tree)
    end = [first + size for first, size in zip(start, sizes, strict=True)]
    for node in range(len(tree) - 1, 0, -1):  # children come after their parents: a subtree ends with its last child
        parent = tree[node].parent
        assert parent is not None
        end[parent] = max(end[parent], end[node])
    return Marks(
        reach=torch.cat([torch.full((sizes[node],), end[node], dtype=torch.int32) for node in order]),
        place=torch.cat([torch.arange(sizes[node], dtype=torch.int32) + before[node] for node in order]),
        block=_block_numbers(tree, order, rules).to(torch.int32),
        window=rules.window,
        window_cuts_blocks=rules.blocks == "images",
    )


def sequences_of(tree: Tree, order: Sequence[int], offset: int = 0) -> list[tuple[int, list[tuple[int, int]]]]:
    """The sequences of a variable-length call: for the spine and each further segment, the number of queries and the
    row ranges of its path. The tree begins at row place `offset`."""
    sizes = [len(segment.ids) for segment in tree]
    start = row_starts(tree, order)
    spine = spine_of(tree, order)
    total = sum(sizes[node] for node in order[:spine])
    parts = [(total, [(offset, offset + total)])]
    for node in order[spine:]:
        parts.append((sizes[node], [(offset + start[n], offset + start[n] + sizes[n]) for n in path(tree, node)]))
    return parts


def spine_of(tree: Tree, order: Sequence[int]) -> int:
    """The number of segments of the spine: the root and its chain of first children, contiguous in the row."""
    spine = 1
    while spine < len(order) and tree[order[spine]].parent == order[spine - 1]:
        spine += 1
    return spine


def plan_dense(tree: Tree, rules: AttentionRules = CAUSAL) -> list[CallPlan]:
    """One call over the whole tree under its dense masks."""
    total = sum(len(segment.ids) for segment in tree)
    windowed = rules.window is not None and longest_path(tree) > rules.window
    near = _additive(visibility(tree, rules, windowed=True)) if windowed else None
    return [CallPlan(total, [(0, total)], _additive(visibility(tree, rules)), total, near)]


def plan_calls(tree: Tree, order: Sequence[int], rules: AttentionRules = CAUSAL) -> list[CallPlan]:
    """The attention calls of one tree: one causal call over the spine, then groups of the remaining segments, each
    against exactly the ancestors it needs."""
    start = row_starts(tree, order)
    sizes = [len(segment.ids) for segment in tree]
    spine = spine_of(tree, order)
    calls = [CallPlan(queries=sum(sizes[node] for node in order[:spine]))]
    group: list[int] = []
    for node in order[spine:]:
        if group and sum(sizes[member] for member in group) + sizes[node] > CALL_QUERIES:
            calls.append(_group_call(tree, group, start))
            group = []
        group.append(node)
    if group:
        calls.append(_group_call(tree, group, start))
    _apply_rules(tree, calls, rules)
    return calls


def _group_call(tree: Tree, group: Sequence[int], start: Sequence[int]) -> CallPlan:
    """One call: the queries of `group` (contiguous in the row) against the union of their paths."""
    keys = sorted({step for node in group for step in path(tree, node)}, key=lambda node: start[node])
    column, width = {}, 0
    ranges: list[tuple[int, int]] = []
    for node in keys:
        size = len(tree[node].ids)
        column[node] = width
        width += size
        if ranges and ranges[-1][1] == start[node]:
            ranges[-1] = (ranges[-1][0], start[node] + size)
        else:
            ranges.append((start[node], start[node] + size))
    queries = sum(len(tree[node].ids) for node in group)
    if len(group) == 1:  # a single branch below its path: plain causal, aligned to the last key
        return CallPlan(queries=queries, ranges=ranges, width=width)
    mask = torch.full((queries, width), float("-inf"))
    row = 0
    for node in group:
        size = len(tree[node].ids)
        own = slice(row, row + size)
        for step in path(tree, node)[:-1]:
            mask[own, column[step] : column[step] + len(tree[step].ids)] = 0.0
        mask[own, column[node] : column[node] + size] = torch.full((size, size), float("-inf")).triu(1)
        row += size
    return CallPlan(queries=queries, ranges=ranges, mask=mask, width=width)


def _apply_rules(tree: Tree, calls: Sequence[CallPlan], rules: AttentionRules) -> None:
    """Give the calls the masks that a family's rules ask for; calls that the rules don't change keep what they have."""
    windowed = rules.window is not None and longest_path(tree) > rules.window
    if rules.blocks == "none" and not windowed:
        return
    full = visibility(tree, rules) if rules.blocks != "none" else None
    near = visibility(tree, rules, windowed=True) if windowed else None
    row = 0
    for call in calls:
        ranges = call.ranges or [(0, call.queries)]
        keys = torch.cat([torch.arange(first, last) for first, last in ranges])
        own = slice(row, row + call.queries)
        if full is not None and not _is_causal(part := full[own][:, keys]):
            call.mask = _additive(part)
        if near is not None:
            call.near = _additive(near[own][:, keys])
        row += call.queries


def _is_causal(allowed: Tensor) -> bool:
    """True if a part [queries, keys] is the causal mask aligned to its last key."""
    queries, keys = allowed.shape
    return bool(torch.equal(allowed, torch.ones_like(allowed).tril(keys - queries)))


def _additive(allowed: Tensor) -> Tensor:
    return torch.zeros(allowed.shape).masked_fill_(~allowed, float("-inf"))
