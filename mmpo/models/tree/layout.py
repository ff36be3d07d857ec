"""The tree of segments and its layout in one row.

A shared beginning is computed once: two responses to one prompt, many questions about one image,
samples of each question. A *tree* is a list of segments, root first, parents before their children. A token sees the
segments on its path to the root and the earlier tokens of its own segment; its position counts along that path.

`pack` lays whole trees one after another into a single row without padding. A preference pair is
`response_tree(prompt, [chosen, rejected])`, laid out as `[prefix | chosen | rejected]`. `unshared` is the plain
alternative: one right-padded row per path, as any model understands it.

Shapes: s row tokens, n scored tokens, p/c/r the lengths of prefix, chosen and rejected.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from mmpo.models.crossing import moved
from mmpo.models.tree.attention import TreePlan
from mmpo.models.tree.kernels import Marks, Sequences
from mmpo.models.tree.positions import Positions, SequentialPositions, place_path
from mmpo.models.tree.segments import (
    CAUSAL,
    AttentionRules,
    Segment,
    Tree,
    depth_first,
    longest_path,
    marks_of,
    path,
    plan_calls,
    plan_dense,
    response_tree,
    row_starts,
    sequences_of,
    token_types,
    validate_tree,
    visibility,
)

__all__ = [
    "AttentionRules",
    "Segment",
    "Tree",
    "TreeBatch",
    "depth_first",
    "pack",
    "path",
    "response_tree",
    "unshared",
    "validate_tree",
    "visibility",
]

AttentionBackend = Literal["plain", "dense", "flex", "varlen"]
"""The computation of attention over a packed row, see `mmpo.models.tree.backends`."""

MOST_KEYS = 4
"""A variable-length call copies the keys of a segment's path for each segment: two times the row for a pair, but fifty
times the image for fifty questions about it. A row that would take more than this is attended to in plain calls, which
copy a path for many segments at once."""


@dataclass
class TreeBatch:
    """Token rows ready for the model, and where the scored tokens are.

    `input_ids` [rows, s]; `position_ids` [rows, s] or [3, rows, s]; `attention_mask` what the model gets as such;
    `plan` what the tree attention gets (None for plain rows); `extra` what the family wants besides. `predictors` [n]
    indexes the flattened rows: the hidden state that predicts `targets` [n], and `own` [n] that of the scored token
    itself. `lengths` holds the number of scored
    tokens of each scored segment, in the order of trees and segments, and `spans` the stretches [start, end) of the
    flattened rows that make up the segment's whole path. `image_order` says which image the placeholders
    show, in the order of the rows, `images_per_row` how many of them are in each plain row."""

    input_ids: Tensor
    position_ids: Tensor
    attention_mask: Tensor
    plan: TreePlan | None
    predictors: Tensor
    targets: Tensor
    own: Tensor
    lengths: list[int]
    image_order: list[int]
    spans: list[list[tuple[int, int]]] = field(default_factory=list)
    images_per_row: list[int] = field(default_factory=list)
    extra: dict[str, Tensor] = field(default_factory=dict)

    def to(self, device: torch.device | str) -> TreeBatch:
        there: dict[str, Any] = {
            name: moved(getattr(self, name), device)
            for name in ("input_ids", "position_ids", "attention_mask", "predictors", "targets", "own")
        }
        there["extra"] = {name: moved(value, device) for name, value in self.extra.items()}
        return replace(self, plan=self.plan.to(device) if self.plan is not None else None, **there)

    @property
    def model_inputs(self) -> dict[str, Any]:
        """Keyword arguments for the backbone."""
        inputs: dict[str, Any] = {
            "input_ids": self.input_ids,
            "position_ids": self.position_ids,
            "attention_mask": self.attention_mask,
            **self.extra,
        }
        if self.plan is not None:
            inputs["tree_plan"] = self.plan
        return inputs


def pack(
    trees: Sequence[Tree],
    *,
    position_base: int = 0,
    positions: Positions | None = None,
    rules: AttentionRules = CAUSAL,
    backend: AttentionBackend = "plain",
) -> TreeBatch:
    """Lay `trees` out in one unpadded row [1, s]. Positions are counted from `position_base` unless `positions` places
    them. Raises `ValueError` for a malformed tree."""
    if not trees:
        raise ValueError("nothing to pack")
    positions = positions or SequentialPositions(position_base)
    ids: list[int] = []
    places: list[Tensor] = []
    predictors: list[int] = []
    targets: list[int] = []
    scored: list[int] = []
    lengths: list[int] = []
    spans: list[list[tuple[int, int]]] = []
    images: list[int] = []
    unread: list[int] = []
    for tree in trees:
        validate_tree(tree)
        offset, before = len(ids), len(predictors)
        order = depth_first(tree)
        start = row_starts(tree, order)
        follows = [positions.first] * len(tree)  # the position that comes after each segment
        for node in order:
            segment = tree[node]
            ids.extend(segment.ids)
            images.extend(segment.images)
            own, follows[node] = positions.place(
                segment, positions.first if segment.parent is None else follows[segment.parent]
            )
            places.append(own)
        for node, segment in enumerate(tree):
            if segment.scored:
                parent = segment.parent
                assert parent is not None  # validate_tree: the root is never scored
                first = offset + start[node]
                predictors.append(offset + start[parent] + len(tree[parent].ids) - 1)
                predictors.extend(range(first, first + len(segment.ids) - 1))
                targets.extend(segment.ids)
                scored.extend(range(first, first + len(segment.ids)))
                lengths.append(len(segment.ids))
                steps = path(tree, node)
                spans.append([(offset + start[s], offset + start[s] + len(tree[s].ids)) for s in steps])
        unread.append(min(predictors[before:], default=len(ids)) - offset)
    plan = _plan(trees, rules, backend)
    plan.read = torch.tensor(sorted({*predictors, *scored}), dtype=torch.long)
    plan.unread = unread
    return TreeBatch(
        input_ids=torch.tensor([ids]),
        position_ids=torch.cat(places, dim=-1).unsqueeze(-2),
        # A 4-D mask goes through the model unread; anything else makes it build masks of its own from the positions.
        attention_mask=torch.ones(1, 1, 1, 1, dtype=torch.bool),
        plan=plan,
        predictors=torch.tensor(predictors, dtype=torch.long),
        targets=torch.tensor(targets, dtype=torch.long),
        own=torch.tensor(scored, dtype=torch.long),
        lengths=lengths,
        image_order=images,
        spans=spans,
    )


def _plan(trees: Sequence[Tree], rules: AttentionRules, backend: AttentionBackend) -> TreePlan:
    lengths = [sum(len(segment.ids) for segment in tree) for tree in trees]
    plan = TreePlan(lengths, [], longest=max(map(longest_path, trees)), window=rules.window)
    orders = [depth_first(tree) for tree in trees]
    if backend == "plain":
        plan.calls = [plan_calls(tree, order, rules) for tree, order in zip(trees, orders, strict=True)]
    elif backend == "dense":
        plan.calls = [plan_dense(tree, rules) for tree in trees]
    elif backend == "flex":
        plan.marks = Marks.join([marks_of(tree, order, rules) for tree, order in zip(trees, orders, strict=True)])
    else:
        starts = [sum(lengths[:number]) for number in range(len(trees))]
        parts = [sequences_of(*each) for each in zip(trees, orders, starts, strict=True)]
        sequences = Sequences.of([sequence for part in parts for sequence in part])
        if len(sequences.key_index) > MOST_KEYS * sum(lengths):
            return _plan(trees, rules, "plain")
        plan.sequences = sequences
    return plan


def unshared(
    trees: Sequence[Tree],
    *,
    position_base: int = 0,
    positions: Positions | None = None,
    rules: AttentionRules = CAUSAL,
    pad_id: int = 0,
) -> TreeBatch:
    """One right-padded row per scored segment [rows, s], with an ordinary 2-D mask: the layout every model
    understands. Families with blocks get them as `token_type_ids`, from which they make their own masks.
    """
    positions = positions or SequentialPositions(position_base)
    rows: list[list[int]] = []
    places: list[Tensor] = []
    types: list[Tensor] = []
    images: list[int] = []
    counts: list[int] = []
    spans: list[tuple[int, int]] = []
    for tree in trees:
        validate_tree(tree)
        for node, segment in enumerate(tree):
            if segment.scored:
                steps = [tree[step] for step in path(tree, node)]
                tokens = [token for step in steps for token in step.ids]
                spans.append((len(tokens) - len(segment.ids), len(tokens)))
                rows.append(tokens)
                places.append(place_path(positions, steps)[0])
                types.append(torch.cat([token_types(step, rules) for step in steps]))
                shown = [image for step in steps for image in step.images]
                images.extend(shown)
                counts.append(len(shown))
    if not rows:
        raise ValueError("nothing to score")
    width = max(len(row) for row in rows)
    input_ids = torch.full((len(rows), width), pad_id)
    position_ids = torch.zeros(*places[0].shape[:-1], len(rows), width, dtype=torch.long)
    mask = torch.zeros(len(rows), width, dtype=torch.long)
    predictors, targets = [], []
    for number, (row, (start, end)) in enumerate(zip(rows, spans, strict=True)):
        input_ids[number, : len(row)] = torch.tensor(row)
        position_ids[..., number, : len(row)] = places[number]
        mask[number, : len(row)] = 1
        predictors.append(torch.arange(start - 1, end - 1) + number * width)
        targets.append(torch.tensor(row[start:end]))
    return TreeBatch(
        input_ids=input_ids,
        position_ids=position_ids,
        attention_mask=mask,
        plan=None,
        predictors=torch.cat(predictors),
        targets=torch.cat(targets),
        own=torch.cat(predictors) + 1,  # in a plain row the next token
        lengths=[end - start for start, end in spans],
        image_order=images,
        spans=[[(number * width, number * width + len(row))] for number, row in enumerate(rows)],
        images_per_row=counts,
        extra={} if rules.blocks == "none" else {"token_type_ids": pad_sequence(types, batch_first=True)},
    )
