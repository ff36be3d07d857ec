"""The log-probs of the scored tokens of a layout: trees in one row, or plain rows.

Shapes: n all scored tokens, s row tokens, h hidden.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch import Tensor

from mmpo.models.families import unknown
from mmpo.models.families.loading import VLM
from mmpo.models.families.prompts import (
    begun_tokens,
    encode_prompt,
    encode_response,
    process_images,
    split_begun,
)
from mmpo.models.families.vision import encode_images, select_images
from mmpo.models.scoring.hidden import capture
from mmpo.models.scoring.lean import recomputing
from mmpo.models.scoring.logprob import token_logps
from mmpo.models.tree.attention import use_tree_attention
from mmpo.models.tree.layout import AttentionBackend, AttentionRules, Tree, TreeBatch, pack, response_tree, unshared
from mmpo.models.tree.positions import positions_of
from mmpo.types import Hidden


class SegmentLogps(NamedTuple):
    """Log-probs [n] of the scored tokens in the layout's order, and whether each is the model's first choice. On
    request: the `hidden` states that an objective reads, one scored segment after the other, the `states` [n, h] that
    predict the tokens, and `best`, the first choices (else empty)."""

    logps: Tensor
    top1: Tensor
    best: Tensor
    hidden: Tensor | None = None
    states: Tensor | None = None


def segment_logps(
    vlm: VLM,
    layout: TreeBatch,
    features: Any | None,
    *,
    chunk: int | None = None,
    hidden: Hidden | None = None,
    states: bool = False,
    best: bool = False,
) -> SegmentLogps:
    """Log-probs of every scored token of a layout; `features` come from `encode_images`. `hidden` names further states
    to return, `states` keeps those that the tokens were predicted from, `best` the first choices."""
    if layout.plan is not None and hidden is not None and hidden.span == "sequence":
        layout = replace(layout, plan=replace(layout.plan, read=None))  # the states of other tokens are wanted
    with capture(vlm, hidden) as captured, recomputing(vlm.base):
        if vlm.family.features == "own":
            rows = unknown.hidden_states(vlm, layout, features)
        else:
            shown = select_images(features, layout.image_order, vlm.family)
            rows = vlm.backbone(**layout.model_inputs, **shown, use_cache=False).last_hidden_state
    scored = rows.flatten(0, 1).index_select(0, layout.predictors)
    found = token_logps(scored, vlm.head, layout.targets, chunk=chunk, softcap=vlm.softcap, best=best)
    asked = captured.read(rows, layout) if captured is not None else None
    return SegmentLogps(found.logps, found.top1, found.best, asked, scored if states else None)


def shared_row(
    vlm: VLM,
    trees: Sequence[Tree],
    image_inputs: Mapping[str, Tensor] | None = None,
    backend: AttentionBackend = "plain",
) -> TreeBatch:
    """Whole trees in one row for this model. `image_inputs` are the processor's tensors of the batch's images."""
    return pack(trees, positions=positions_of(vlm, image_inputs), rules=rules_of(vlm), backend=backend)


def plain_rows(vlm: VLM, trees: Sequence[Tree], image_inputs: Mapping[str, Tensor] | None = None) -> TreeBatch:
    """The trees' scored paths as ordinary padded rows for this model."""
    return unshared(trees, positions=positions_of(vlm, image_inputs), rules=rules_of(vlm), pad_id=vlm.pad_id)


def rules_of(vlm: VLM) -> AttentionRules:
    """The rules by which tokens of this model attend to one another."""
    text = vlm.config.get_text_config()
    layers = getattr(text, "layer_types", None)
    window = getattr(text, "sliding_window", None) if layers is None or "sliding_attention" in layers else None
    return AttentionRules(vlm.family.blocks, vlm.image_token_id, window)


def score_responses(
    vlm: VLM, messages: Sequence[Mapping[str, Any]], images: Sequence[Image.Image], texts: Sequence[str]
) -> list[float]:
    """Summed log-prob of each text as the answer to one conversation, or as what follows the answer begun at its end.
    The conversation is computed once."""
    return [logp for logp, _ in response_logps(vlm, messages, images, [(text, False) for text in texts])]


@torch.no_grad()
def response_logps(
    vlm: VLM, messages: Sequence[Mapping[str, Any]], images: Sequence[Image.Image], texts: Sequence[tuple[str, bool]]
) -> list[tuple[float, int]]:
    """Summed log-prob in nats, and number of tokens, of each text as the answer to one conversation, or as what follows
    the answer begun at its end. Texts come as (text, cut off): the end token is scored of those that are not cut off.
    """
    if not texts:
        return []
    messages, begun = split_begun(messages)
    processed = process_images(vlm, images, several=len(images) > 1)
    prompt = encode_prompt(vlm, messages, processed.placeholders)
    said = begun_tokens(vlm, begun, [text for text, _ in texts]) if begun else []
    answers = [encode_response(vlm, begun + text, eos=not cut)[len(said) :] for text, cut in texts]
    tree = response_tree([*prompt, *said], answers, range(len(images)))
    features = encode_images(vlm, processed.tensors, frozen=True)
    if vlm.family.sharing:
        use_tree_attention(vlm.base)
    lay_out = shared_row if vlm.family.sharing else plain_rows
    layout = lay_out(vlm, [tree], processed.tensors)
    logps = segment_logps(vlm, layout.to(vlm.device), features).logps
    return [(part.sum().item(), len(part)) for part in logps.split(layout.lengths)]
