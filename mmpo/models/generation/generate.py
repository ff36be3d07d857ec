"""Generation for many prompts about few images: each image is encoded once, each shared prefix prefilled once.

    prompts ──common prefix──▶ prefix, once ──▶ the rows' own tokens ──▶ a token of every row ──▶ … ──▶ Continuation

A group is a set of prompts that show the same images. The common prefix is found on token ids, so it works with any
chat template and reaches as far into the question as the questions agree. `generate_shared` and `generate_alone` (the
model's own `generate`, one prompt at a time) return the same tokens; the first is the fast one, the second the
reference.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from transformers import LogitsProcessorList, StoppingCriteriaList

from mmpo.models.crossing import moved, placed
from mmpo.models.families.loading import VLM
from mmpo.models.families.processing import join_images, model_tensors, processor_facts
from mmpo.models.families.vision import encode_images, select_images
from mmpo.models.generation.choosing import Chooser, ChooserProcessor, FirstReader, Greedy, RepetitionPenalty
from mmpo.models.generation.probe import AttentionSums, Confidence, ProbeSpec, image_columns, query_rows, watching
from mmpo.models.generation.shared_cache import PrefixStored, SharedCache, SharingUnsupported, shared_attention
from mmpo.models.generation.stopping import SentenceStop, StopInGenerate
from mmpo.models.tree.layout import Segment
from mmpo.models.tree.positions import positions_of, token_types_of


@dataclass
class PromptGroup:
    """Prompts about the same images. `prompts`: token ids with image placeholders; `tensors`: the processor's
    output."""

    prompts: list[list[int]]
    tensors: dict[str, Tensor] = field(default_factory=dict)
    n_images: int = 1


@dataclass
class Continuation:
    """The generation for one prompt. `token_ids` ends with the end token unless `truncated` by the limit, or `stopped`
    behind its first sentence; `margin` is the smallest lead of a chosen token over the runner-up; `first` is what the
    reader took from the first step's logits.

    Where generation is watched (`probe.py`): `attention` [layers, image tokens], the mean over the response's rows
    (None without a row), and `top`, the largest log-prob of each step."""

    token_ids: list[int] = field(default_factory=list)
    truncated: bool = False
    stopped: bool = False
    margin: float = float("inf")
    first: tuple[float, ...] | None = None
    attention: Tensor | None = None
    top: list[float] = field(default_factory=list)


def common_prefix(prompts: Sequence[Sequence[int]]) -> int:
    """Length of the longest common prefix that leaves every prompt at least one token of its own."""
    low, high = min(map(list, prompts)), max(map(list, prompts))  # what the smallest and the largest share, all share
    limit = min(len(prompt) for prompt in prompts) - 1
    return next((i for i in range(limit) if low[i] != high[i]), limit)


@contextmanager
def answering(model: nn.Module) -> Iterator[None]:
    """Eval mode without autograd; afterwards every module is back in the mode in which it was."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        for module in training:
            module.training = True


def generate_shared(
    vlm: VLM,
    groups: Sequence[PromptGroup],
    *,
    max_new_tokens: int,
    chooser: Chooser | None = None,
    reader: FirstReader | None = None,
    probe: ProbeSpec | None = None,
    stop: SentenceStop | None = None,
) -> list[list[Continuation]]:
    """Continue all prompts of all groups together; one list per group, in order. Call inside `answering`. `probe`
    watches the attention on the way, `stop` ends rows early.

    Raises `SharingUnsupported` where the model can't share prefixes.
    """
    chooser = chooser or Greedy()
    config = vlm.config.get_text_config()
    with shared_attention(config):
        prompts = [prompt for group in groups for prompt in group.prompts]
        longest = max(map(len, prompts)) + max_new_tokens
        sums = None
        if probe is not None:
            chooser = Confidence(chooser, len(prompts))
            sums = AttentionSums(probe.resolved(vlm), [image_columns(vlm, prompt) for prompt in prompts], vlm.device)
        cache = SharedCache(vlm.device, longest, sums)
        plan = _Plan(vlm, groups)
        _prefill_prefixes(vlm, plan, cache)
        logits, positions = _prefill_rows(vlm, plan, cache)
        penalty = RepetitionPenalty.of(vlm, prompts)
        rows = _decode(vlm, logits, positions, cache, chooser, penalty, reader, max_new_tokens, stop)
    if sums is not None and isinstance(chooser, Confidence):
        for number, row in enumerate(rows):
            _note(row, sums, number, chooser.top[number])
    remaining = iter(rows)
    return [[next(remaining) for _ in group.prompts] for group in groups]


def _note(row: Continuation, sums: AttentionSums, number: int, top: list[float]) -> None:
    row.attention = sums.mean(number, query_rows(sums.spec, len(row.token_ids)))
    row.top = top[: len(row.token_ids)]


def token_kinds(vlm: VLM, ids: Tensor) -> dict[str, Tensor]:
    """Inputs on the kind of each prompt token, named as in the family's own code. Without them three-coordinate
    positions and two-way blocks are silently not made."""
    image = (ids == vlm.image_token_id).long()
    if vlm.family.features == "own":
        return {key: image for key in processor_facts(vlm).get("token_keys", ())}
    if vlm.family.grid_positions:
        return {"mm_token_type_ids": token_types_of(vlm, ids)}
    return {"none": {}, "images": {"token_type_ids": image}, "prompt": {"token_type_ids": torch.zeros_like(ids)}}[
        vlm.family.blocks
    ]


def generate_alone(
    vlm: VLM,
    group: PromptGroup,
    index: int,
    *,
    max_new_tokens: int,
    chooser: Chooser | None = None,
    reader: FirstReader | None = None,
    probe: ProbeSpec | None = None,
    past: Any | None = None,
    stop: SentenceStop | None = None,
) -> tuple[Continuation, list[Tensor]]:
    """The same through `model.generate`, for one prompt and with nothing shared. `chooser` is asked for row 0. `past`,
    from `prefill_images`, is copied and continued instead of computing the images again.

    Also returns each step's scores ([v] fp32), so that a caller can distinguish a near-tie from a mistake.
    """
    prompt = torch.tensor([group.prompts[index]], device=vlm.device)
    if past is None:
        tensors = _inputs(vlm, group, prompt)
    else:
        tensors = {**token_kinds(vlm, prompt), "past_key_values": copy.deepcopy(past)}
    sums = None
    if probe is not None:
        chooser = Confidence(chooser or Greedy(), 1)
        sums = AttentionSums(probe.resolved(vlm), [image_columns(vlm, group.prompts[index])], vlm.device)
    processors = LogitsProcessorList([ChooserProcessor(chooser)] if chooser is not None else [])
    with watching(vlm, sums, prompt.shape[1]) if sums is not None else nullcontext():
        out = vlm.base.generate(  # type: ignore[operator]
            input_ids=prompt,
            attention_mask=torch.ones_like(prompt),
            **tensors,
            do_sample=False,
            num_beams=1,
            max_new_tokens=max_new_tokens,
            logits_processor=processors,
            stopping_criteria=StoppingCriteriaList([StopInGenerate(stop, prompt.shape[1])] if stop else []),
            return_dict_in_generate=True,
            output_scores=True,
            output_logits=True,
        )
    token_ids = out.sequences[0, prompt.shape[1] :].tolist()
    scores = [step[0].float() for step in out.scores]
    leads = [torch.topk(step, 2).values for step in scores]
    ended = token_ids[-1] in vlm.end_ids
    stopped = stop is not None and not ended and stop.ended(token_ids)
    row = Continuation(
        token_ids=token_ids,
        truncated=not ended and not stopped,
        stopped=stopped,
        margin=min(float(top[0] - top[1]) for top in leads),
        first=tuple(reader(out.logits[0].float())[0].tolist()) if reader is not None else None,
    )
    if sums is not None and isinstance(chooser, Confidence):
        _note(row, sums, 0, chooser.top[0])
    return row, scores


def _inputs(vlm: VLM, group: PromptGroup, ids: Tensor) -> dict[str, Any]:
    """Inputs of the model's own forward besides the token ids."""
    tensors = {**model_tensors(vlm, group.tensors), **token_kinds(vlm, ids)}
    return {
        key: value.to(vlm.device, vlm.dtype if value.is_floating_point() else None) for key, value in tensors.items()
    }


@torch.no_grad()
def prefill_images(vlm: VLM, group: PromptGroup) -> Any | None:
    """The model's own cache after what the group's prompts have in common, for `generate_alone(past=…)`; None where
    they have not all their images in common, or there is but one prompt."""
    shared = common_prefix(group.prompts)
    visual = vlm.visual_token_ids
    if len(group.prompts) < 2 or any(token in visual for token in group.prompts[0][shared:]):
        return None
    ids = torch.tensor([group.prompts[0][:shared]], device=vlm.device)
    out = vlm.base(
        input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=True, logits_to_keep=1, **_inputs(vlm, group, ids)
    )
    return out.past_key_values


class _Plan:
    """Layout of a batch: the places of each group's images among the encoded ones, the lengths of the groups' common
    prefixes, and the positions of every token of a prompt."""

    def __init__(self, vlm: VLM, groups: Sequence[PromptGroup]) -> None:
        if vlm.family.blocks != "none":
            raise SharingUnsupported(f"{vlm.family.name}'s {vlm.family.blocks} see themselves in both directions")
        self.groups = groups
        self.prefixes = [common_prefix(group.prompts) for group in groups]
        if min(self.prefixes) < 1:
            raise SharingUnsupported("the prompts of a group have no first token in common")
        tensors = join_images([group.tensors for group in groups])
        positions = positions_of(vlm, tensors)
        self.encoded = encode_images(vlm, tensors, frozen=True)
        self.prefix_order: list[int] = []  # the image at each image place of the prefixes
        self.row_order: list[int] = []  # the same for the rows' own tokens
        self.places: list[list[tuple[Tensor, int]]] = []  # per prompt: its tokens' positions, and the next one
        first = 0
        for group, prefix in zip(groups, self.prefixes, strict=True):
            images = range(first, first + group.n_images)
            first += group.n_images
            shown = sum(token in vlm.visual_token_ids for token in group.prompts[0][:prefix])
            sizes = [len(self.encoded.pooler_output[i]) for i in images] if self.encoded is not None else []
            inside = next((k for k in range(len(sizes) + 1) if sum(sizes[:k]) >= shown), 0)
            self.prefix_order += images[:inside]
            self.row_order += [*images[inside:]] * len(group.prompts)
            self.places.append(
                [positions.place(Segment(prompt, images=images), positions.first) for prompt in group.prompts]
            )


def _prefill_prefixes(vlm: VLM, plan: _Plan, cache: SharedCache) -> None:
    longest = max(plan.prefixes)
    ids = [
        [*group.prompts[0][:prefix], *[vlm.pad_id] * (longest - prefix)]
        for group, prefix in zip(plan.groups, plan.prefixes, strict=True)
    ]
    places = [own[0][0][..., :prefix] for own, prefix in zip(plan.places, plan.prefixes, strict=True)]
    padded = [torch.nn.functional.pad(place, (0, longest - place.shape[-1])) for place in places]
    cache.begin_prefixes(plan.prefixes, layers=vlm.config.get_text_config().num_hidden_layers)
    with suppress(PrefixStored):
        vlm.backbone(
            input_ids=moved(torch.tensor(ids), vlm.device),
            position_ids=moved(torch.stack(padded, dim=-2), vlm.device),
            use_cache=False,
            shared_cache=cache,
            **select_images(plan.encoded, plan.prefix_order, vlm.family),
        )


def _prefill_rows(vlm: VLM, plan: _Plan, cache: SharedCache) -> tuple[Tensor, Tensor]:
    """Run every prompt's own tokens. Returns the logits after each prompt [n, v] fp32 and the next positions, [n] or
    [3, n]."""
    ids: list[int] = []
    positions: list[Tensor] = []
    following: list[int] = []
    lengths: list[int] = []
    for group, prefix, places in zip(plan.groups, plan.prefixes, plan.places, strict=True):
        for prompt, (place, after) in zip(group.prompts, places, strict=True):
            ids += prompt[prefix:]
            positions.append(place[..., prefix:])
            following.append(after)
            lengths.append(len(prompt) - prefix)
    flat = torch.cat(positions, dim=-1)
    cache.begin_rows([len(group.prompts) for group in plan.groups], lengths)
    last = torch.tensor(lengths).cumsum(0) - 1
    shown = select_images(plan.encoded, plan.row_order, vlm.family)
    extra = {"logits_to_keep": moved(last, vlm.device), **shown}
    logits = _logits(vlm, torch.tensor([ids]), flat.unsqueeze(-2), cache, **extra)
    return logits, placed(following, vlm.device).expand(*flat.shape[:-1], -1)


def _decode(
    vlm: VLM,
    logits: Tensor,
    positions: Tensor,
    cache: SharedCache,
    chooser: Chooser,
    penalty: RepetitionPenalty | None,
    reader: FirstReader | None,
    max_new_tokens: int,
    stop: SentenceStop | None,
) -> list[Continuation]:
    """Choose a token for every row, feed it, and so on. Finished rows leave once they are an eighth of the batch.

    The device is looked at once a step (`_best`), and once more at the end for what `reader` found."""
    rows = [Continuation() for _ in range(len(logits))]
    first = reader(logits) if reader is not None else None
    ends = set(vlm.end_ids)
    batch = list(range(len(rows)))  # row numbers in the cache's order; finished rows may still be among them
    done: set[int] = set()
    for step in range(max_new_tokens):
        scores = chooser.scores(logits if penalty is None else penalty.apply(logits), batch)
        tokens, chosen, leads = _best(scores)
        if penalty is not None:
            penalty.chosen(tokens)
        for number, token, lead in zip(batch, chosen, leads, strict=True):
            if number in done:
                continue
            rows[number].token_ids.append(token)
            rows[number].margin = min(rows[number].margin, lead)
            if token in ends:
                done.add(number)
            elif stop is not None and stop.ended(rows[number].token_ids):
                rows[number].stopped = True
                done.add(number)
        if len(done) == len(rows) or step + 1 == max_new_tokens:
            break
        live = [place for place, number in enumerate(batch) if number not in done]
        if 8 * (len(batch) - len(live)) >= len(batch):
            cache.keep(live)
            kept = placed(live, vlm.device)
            if penalty is not None:
                penalty.keep(kept)
            batch = [batch[place] for place in live]
            tokens, positions = tokens[kept], positions[..., kept]
            live = list(range(len(live)))
        cache.begin_step(live)
        logits = _logits(vlm, tokens[None], positions.unsqueeze(-2), cache)
        positions = positions + 1
    for number, row in enumerate(rows):
        row.truncated = number not in done
    if first is not None:
        for row, read in zip(rows, first.tolist(), strict=True):
            row.first = tuple(read)
    return rows


def _best(scores: Tensor) -> tuple[Tensor, list[int], list[float]]:
    """The argmax of each row, [n], and read from the device at once: the same as numbers, and its lead over the
    runner-up. An exact tie goes to the argmax's own choice, for which the device is asked again."""
    top = scores.topk(2, dim=-1)
    tokens, leads = top.indices[:, 0], top.values[:, 0] - top.values[:, 1]
    chosen, ahead = torch.stack([tokens.double(), leads.double()]).tolist()  # a double holds both exactly
    if 0.0 in ahead:
        tokens = scores.argmax(-1)
        chosen = tokens.tolist()
    return tokens, list(map(int, chosen)), ahead


def _logits(vlm: VLM, ids: Tensor, positions: Tensor, cache: SharedCache, **extra: Any) -> Tensor:
    """One forward of the whole model over a flat stream; logits [n, v] fp32. The model itself applies its head."""
    inputs = {"input_ids": moved(ids, vlm.device), "position_ids": moved(positions, vlm.device)}
    out = vlm.base(**inputs, use_cache=False, shared_cache=cache, **extra)
    return out.logits[0].float()
