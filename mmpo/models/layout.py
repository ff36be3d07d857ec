"""The tree of segments and its layout in one row.

Whatever shares a beginning shares its computation: two responses to one prompt, many questions about one image,
samples of each question. A *tree* is a list of segments, root first, parents before their children. A token sees the
segments on its path to the root and the earlier tokens of its own segment; its position counts along that path.

`pack` lays whole trees one after another into a single row without padding. A preference pair is
`response_tree(prompt, [chosen, rejected])`, laid out as `[prefix | chosen | rejected]`. `unshared` is the plain
alternative: one right-padded row per path, as any model understands it.

Shapes: s row tokens, n scored tokens, p/c/r the lengths of prefix, chosen and rejected.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from mmpo.models.attention import CallPlan, TreePlan, dense_attention_mask

# Non-spine segments are attended together until they hold this many queries: few calls, little wasted work.
_CALL_QUERIES = 512


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


@dataclass
class TreeBatch:
    """Token rows ready for the model, and where the scored tokens are.

    `input_ids`, `position_ids` [rows, s]; `attention_mask` what the model gets as such; `plan` what the tree
    attention gets (None for plain rows). `predictors` [n] indexes the flattened rows: the hidden state that predicts
    `targets` [n]. `lengths` holds the number of scored tokens of each scored segment, in the order of trees and
    segments. `image_order` says which image the placeholders show, in the order of the rows."""

    input_ids: Tensor
    position_ids: Tensor
    attention_mask: Tensor
    plan: TreePlan | None
    predictors: Tensor
    targets: Tensor
    lengths: list[int]
    image_order: list[int]

    def with_dense_mask(self, trees: Sequence[Tree], dtype: torch.dtype) -> TreeBatch:
        """The same packed row with one additive mask [1, 1, s, s] in place of the plan."""
        return replace(self, plan=None, attention_mask=dense_attention_mask([visibility(t) for t in trees], dtype))

    def to(self, device: torch.device | str) -> TreeBatch:
        moved: dict[str, Any] = {
            name: getattr(self, name).to(device)
            for name in ("input_ids", "position_ids", "attention_mask", "predictors", "targets")
        }
        return replace(self, plan=self.plan.to(device) if self.plan is not None else None, **moved)

    @property
    def model_inputs(self) -> dict[str, Any]:
        """Keyword arguments for the backbone."""
        inputs: dict[str, Any] = {
            "input_ids": self.input_ids,
            "position_ids": self.position_ids,
            "attention_mask": self.attention_mask,
        }
        if self.plan is not None:
            inputs["tree_plan"] = self.plan
        return inputs


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


def pack(trees: Sequence[Tree], *, position_base: int = 0) -> TreeBatch:
    """Lay `trees` out in one unpadded row [1, s]. Raises `ValueError` for a malformed tree."""
    if not trees:
        raise ValueError("nothing to pack")
    ids: list[int] = []
    positions: list[int] = []
    predictors: list[int] = []
    targets: list[int] = []
    lengths: list[int] = []
    images: list[int] = []
    tree_lengths, calls = [], []
    for tree in trees:
        validate_tree(tree)
        offset = len(ids)
        order = depth_first(tree)
        start, position = _starts(tree, order, position_base)
        for node in order:
            segment = tree[node]
            ids.extend(segment.ids)
            images.extend(segment.images)
            positions.extend(range(position[node], position[node] + len(segment.ids)))
        for node, segment in enumerate(tree):
            if segment.scored:
                parent = segment.parent
                assert parent is not None  # validate_tree: the root is never scored
                first = offset + start[node]
                predictors.append(offset + start[parent] + len(tree[parent].ids) - 1)
                predictors.extend(range(first, first + len(segment.ids) - 1))
                targets.extend(segment.ids)
                lengths.append(len(segment.ids))
        tree_lengths.append(len(ids) - offset)
        calls.append(_plan_calls(tree, order, start))
    return TreeBatch(
        input_ids=torch.tensor([ids]),
        position_ids=torch.tensor([positions]),
        # A 4-D mask goes through the model unread; anything else makes it build masks of its own from the positions.
        attention_mask=torch.ones(1, 1, 1, 1, dtype=torch.bool),
        plan=TreePlan(tree_lengths, calls),
        predictors=torch.tensor(predictors, dtype=torch.long),
        targets=torch.tensor(targets, dtype=torch.long),
        lengths=lengths,
        image_order=images,
    )


def unshared(trees: Sequence[Tree], *, position_base: int = 0, pad_id: int = 0) -> TreeBatch:
    """One right-padded row per scored segment [rows, s], with an ordinary 2-D mask: the layout every model
    understands.
    """
    rows: list[list[int]] = []
    images: list[int] = []
    spans: list[tuple[int, int]] = []
    for tree in trees:
        validate_tree(tree)
        for node, segment in enumerate(tree):
            if segment.scored:
                tokens = [token for step in path(tree, node) for token in tree[step].ids]
                spans.append((len(tokens) - len(segment.ids), len(tokens)))
                rows.append(tokens)
                images.extend(image for step in path(tree, node) for image in tree[step].images)
    if not rows:
        raise ValueError("nothing to score")
    width = max(len(row) for row in rows)
    input_ids = torch.full((len(rows), width), pad_id)
    mask = torch.zeros(len(rows), width, dtype=torch.long)
    predictors, targets = [], []
    for number, (row, (start, end)) in enumerate(zip(rows, spans, strict=True)):
        input_ids[number, : len(row)] = torch.tensor(row)
        mask[number, : len(row)] = 1
        predictors.append(torch.arange(start - 1, end - 1) + number * width)
        targets.append(torch.tensor(row[start:end]))
    return TreeBatch(
        input_ids=input_ids,
        position_ids=(torch.arange(width) + position_base).expand(len(rows), width).contiguous(),
        attention_mask=mask,
        plan=None,
        predictors=torch.cat(predictors),
        targets=torch.cat(targets),
        lengths=[end - start for start, end in spans],
        image_order=images,
    )


def visibility(tree: Tree) -> Tensor:
    """The dense mask of one packed tree, bool [s, s], True where a query (row) sees a key (column).

    The definition that the fast attention is tested against; families that need a dense mask start from it.
    """
    order = depth_first(tree)
    start, _ = _starts(tree, order, 0)
    total = sum(len(segment.ids) for segment in tree)
    allowed = torch.zeros(total, total, dtype=torch.bool)
    for node in order:
        own = slice(start[node], start[node] + len(tree[node].ids))
        for step in path(tree, node)[:-1]:
            allowed[own, start[step] : start[step] + len(tree[step].ids)] = True
        allowed[own, own] = torch.ones(len(tree[node].ids), len(tree[node].ids), dtype=torch.bool).tril()
    return allowed


def _starts(tree: Tree, order: Sequence[int], position_base: int) -> tuple[list[int], list[int]]:
    """Where each segment starts in the row, and the position of its first token."""
    start, position, cursor = [0] * len(tree), [position_base] * len(tree), 0
    for node in order:
        start[node] = cursor
        cursor += len(tree[node].ids)
        parent = tree[node].parent
        if parent is not None:
            position[node] = position[parent] + len(tree[parent].ids)
    return start, position


def _plan_calls(tree: Tree, order: Sequence[int], start: Sequence[int]) -> list[CallPlan]:
    """How to attend within one tree: one causal call over the spine (the root and its chain of first children,
    contiguous in the row), then groups of the remaining segments, each against exactly the ancestors it needs."""
    sizes = [len(segment.ids) for segment in tree]
    spine = 1
    while spine < len(order) and tree[order[spine]].parent == order[spine - 1]:
        spine += 1
    calls = [CallPlan(queries=sum(sizes[node] for node in order[:spine]))]
    group: list[int] = []
    for node in order[spine:]:
        if group and sum(sizes[member] for member in group) + sizes[node] > _CALL_QUERIES:
            calls.append(_group_call(tree, group, start))
            group = []
        group.append(node)
    if group:
        calls.append(_group_call(tree, group, start))
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
        return CallPlan(queries=queries, ranges=ranges, mask=None, width=width)
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
