"""Scoring preference pairs: the log-probs of chosen and rejected responses under policy and reference, each token
computed once.

`PairScorer` is one module whose forward holds vision encoding, language model and head, so that DDP, FSDP and
DeepSpeed can wrap it. The reference pass comes first, without autograd: its temporary memory is gone before the
policy's activations appear.

Shapes: b pairs, t scored tokens of a response (padded), n all scored tokens, s row tokens, h hidden.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal, cast

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from mmpo.errors import UserError
from mmpo.models.attention import use_tree_attention
from mmpo.models.layout import Rules, Segment, Tree, TreeBatch, pack, response_tree, unshared
from mmpo.models.loading import VLM
from mmpo.models.logprob import TokenLogps, token_logps
from mmpo.models.positions import positions_of
from mmpo.models.prompts import encode_prompt, encode_response, process_images
from mmpo.models.sharing import Path, Shared, share
from mmpo.models.vision import encode_images, select_images, vision_is_frozen

logger = logging.getLogger(__name__)

Sharing = Literal["auto", "on", "off"]
# Mean difference per token above which the first batch counts as wrong: far above rounding, far below the 0.2 and more
# by which a leak between branches moves log-probs.
_SELF_CHECK_TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 6e-2, torch.float16: 2e-2}


@dataclass
class PairBatch:
    """Preference pairs as token ids, and the distinct images they show.

    `image_index[i]` names the images of pair i's prompt in the order of its placeholders (indices into
    `image_inputs`). Where the rejected side sees other images, `rejected_prompt_ids[i]` and `rejected_image_index[i]`
    hold its own prompt; None otherwise. Weights, if given, are one float per response token. `image_tokens[k]` is the
    number of placeholder tokens of distinct image k: with it, pairs that share an image, or an image and a prompt,
    become one tree; without it every pair is a tree of its own. `reference[i]` holds reference log-probs (chosen [c],
    rejected [r]) that were computed before."""

    ids: list[str]
    prompt_ids: list[Tensor]
    chosen_ids: list[Tensor]
    rejected_ids: list[Tensor]
    image_inputs: dict[str, Tensor]
    image_index: list[list[int]]
    rejected_prompt_ids: list[Tensor | None] | None = None
    rejected_image_index: list[list[int] | None] | None = None
    chosen_weights: list[Tensor] | None = None
    rejected_weights: list[Tensor] | None = None
    image_tokens: list[int] | None = None
    reference: list[tuple[Tensor, Tensor]] | None = None

    def __len__(self) -> int:
        return len(self.ids)

    def to(self, device: torch.device | str) -> PairBatch:
        """Move what the model reads (pixels and weights). Token ids stay where they are: the layout is made from
        them.
        """
        return replace(
            self,
            image_inputs={key: value.to(device) for key, value in self.image_inputs.items()},
            chosen_weights=None if self.chosen_weights is None else [w.to(device) for w in self.chosen_weights],
            rejected_weights=None if self.rejected_weights is None else [w.to(device) for w in self.rejected_weights],
            reference=None if self.reference is None else [(c.to(device), r.to(device)) for c, r in self.reference],
        )

    def paths(self) -> list[Path]:
        """What is scored: chosen, rejected, chosen, … of the pairs, each with the prompt and images it follows."""
        paths: list[Path] = []
        for i, prompt in enumerate(self.prompt_ids):
            paths.append(Path(prompt.tolist(), self.chosen_ids[i].tolist(), self.image_index[i]))
            own = self.rejected_prompt_ids[i] if self.rejected_prompt_ids is not None else None
            images = self.rejected_image_index[i] if self.rejected_image_index is not None else None
            paths.append(
                Path(
                    (own if own is not None else prompt).tolist(),
                    self.rejected_ids[i].tolist(),
                    images if images is not None else self.image_index[i],
                )
            )
        return paths

    def shared(self, image_token_id: int, *, whole_prompts: bool = False) -> Shared:
        """The paths laid out as trees: over the whole batch where `image_tokens` says where each image ends, else pair
        by pair. `whole_prompts`: a prompt is shared as a whole or not at all."""
        paths = self.paths()
        if self.image_tokens is not None:
            least = sys.maxsize if whole_prompts else None
            return share(paths, image_token_id, dict(enumerate(self.image_tokens)), least=least)
        trees: list[list[Segment]] = []
        leaf: list[int] = []
        for chosen, rejected in zip(paths[0::2], paths[1::2], strict=True):
            if chosen.prompt == rejected.prompt and chosen.images == rejected.images:
                trees.append(response_tree(chosen.prompt, [chosen.response, rejected.response], chosen.images))
            else:
                trees += [response_tree(side.prompt, [side.response], side.images) for side in (chosen, rejected)]
            leaf += [len(leaf), len(leaf) + 1]
        return Shared(trees, leaf)


@dataclass
class ResponseLogps:
    """Log-probs of one side's responses, right-padded with zeros: `policy` [b, t] float32, `reference` [b, t] or
    None, `mask` [b, t] bool, `weights` [b, t] or None, `top1` [b, t] bool (the policy's first choice)."""

    policy: Tensor
    reference: Tensor | None
    mask: Tensor
    weights: Tensor | None = None
    top1: Tensor | None = None

    @property
    def policy_sum(self) -> Tensor:
        """[b], every scored token counted once."""
        return self.policy.sum(dim=-1)

    @property
    def reference_sum(self) -> Tensor:
        """[b]. Raises `UserError` without reference log-probs."""
        if self.reference is None:
            raise UserError("this objective needs reference log-probs, and scoring ran without a reference")
        return self.reference.sum(dim=-1)

    @property
    def lengths(self) -> Tensor:
        """[b] number of scored tokens."""
        return self.mask.sum(dim=-1)


@dataclass
class PairLogps:
    """What an objective sees: never a model, only log-probs."""

    chosen: ResponseLogps
    rejected: ResponseLogps

    def __len__(self) -> int:
        return len(self.chosen.mask)


class PairScorer(nn.Module):
    """Scores pair batches with one pass per model over the distinct tokens.

    `sharing`: "on" lays pairs out as trees; "auto" does so after the first batch was checked against plain rows and
    falls back loudly; "off" scores one ordinary row per response. `reference`: "adapter_off" (the same network
    without its adapter), "cached" (the log-probs that come with each batch), "none", or a second model of the same
    kind. `chunk`: scored tokens per head call, by default
    chosen by memory."""

    def __init__(
        self,
        vlm: VLM,
        *,
        sharing: Sharing = "auto",
        reference: Literal["adapter_off", "cached", "none"] | nn.Module = "adapter_off",
        chunk: int | None = None,
    ) -> None:
        super().__init__()
        if sharing not in ("auto", "on", "off"):
            raise UserError(f"sharing={sharing!r} is unknown", hint="one of auto, on, off")
        if isinstance(reference, str) and reference not in ("adapter_off", "cached", "none"):
            raise UserError(f"reference={reference!r} is unknown", hint="one of adapter_off, cached, none, or a model")
        if sharing == "on" and not vlm.family.sharing:
            raise UserError(
                f"{vlm.family.name} can't share prefixes: {vlm.family.why_not}", hint="set sharing to auto or off"
            )
        self.model = vlm.model
        self.reference_model = reference if isinstance(reference, nn.Module) else None
        self.reference: str = "model" if isinstance(reference, nn.Module) else reference
        self.chunk = chunk
        self.shared = sharing != "off" and vlm.family.sharing
        self._vlm = vlm
        self._reference_vlm = (
            replace(vlm, model=cast(Any, self.reference_model)) if self.reference_model is not None else vlm
        )
        self._check_due = sharing == "auto" and self.shared
        if self.reference_model is not None:
            self.reference_model.requires_grad_(False).eval()
        if self.shared:
            use_tree_attention(vlm.base)
            if self.reference_model is not None:
                use_tree_attention(self._reference_vlm.base)

    def forward(self, batch: PairBatch) -> PairLogps:
        shared = batch.shared(self._vlm.image_token_id, whole_prompts=self._vlm.family.blocks == "prompt")
        if self._check_due:
            self._self_check(shared.trees, batch.image_inputs)
        layout = self._layout(shared.trees, batch.image_inputs)
        frozen = vision_is_frozen(self._vlm)
        features = encode_images(self._vlm, batch.image_inputs, frozen=True) if frozen else None
        reference = None
        if self.reference in ("adapter_off", "model"):
            with torch.no_grad(), self._reference_mode():
                own = self._reference_features(batch.image_inputs, features)
                reference = segment_logps(self._reference_vlm, layout, own, chunk=self.chunk)
        if not frozen:
            features = encode_images(self._vlm, batch.image_inputs, frozen=False)
        policy = segment_logps(self._vlm, layout, features, chunk=self.chunk)
        pairs = _pair_logps(batch, shared.leaf, layout.lengths, policy, reference)
        return _with_cached_reference(pairs, batch) if self.reference == "cached" else pairs

    def gradient_checkpointing_enable(self, gradient_checkpointing_kwargs: dict[str, Any] | None = None) -> None:
        """Recompute the language model's layers in backward, non-reentrant.

        Not through peft or `enable_input_require_grads`: that hook makes the frozen tower's output require gradients
        too, so that every tower layer is recomputed and differentiated for nothing. Non-reentrant checkpointing
        doesn't need it."""
        kwargs = {**(gradient_checkpointing_kwargs or {}), "use_reentrant": False}
        self._vlm.base.gradient_checkpointing_enable(gradient_checkpointing_kwargs=kwargs)

    def gradient_checkpointing_disable(self) -> None:
        self._vlm.base.gradient_checkpointing_disable()

    @contextmanager
    def _reference_mode(self) -> Iterator[None]:
        if self.reference == "adapter_off":
            with self._vlm.adapter_off():
                yield
        else:
            yield

    def _reference_features(self, tensors: Mapping[str, Tensor], policy_features: Any | None) -> Any | None:
        """The policy's features where the reference has the same tower, else the reference's own."""
        if policy_features is not None and self.reference_model is None:
            return policy_features
        return encode_images(self._reference_vlm, tensors, frozen=True)

    def _layout(self, trees: Sequence[Tree], tensors: Mapping[str, Tensor]) -> TreeBatch:
        lay_out = shared_row if self.shared else plain_rows
        return lay_out(self._vlm, trees, tensors).to(self._vlm.device)

    @torch.no_grad()
    def _self_check(self, trees: Sequence[Tree], tensors: Mapping[str, Tensor]) -> None:
        """Compare shared with plain scoring on the first pair; switch sharing off, with a warning, if they disagree."""
        self._check_due = False
        training = self.model.training
        self.model.eval()
        try:
            features = encode_images(self._vlm, tensors, frozen=True)
            first = [max(trees, key=len)]
            layouts = (self._layout(first, tensors), plain_rows(self._vlm, first, tensors).to(self._vlm.device))
            tree, plain = (segment_logps(self._vlm, layout, features, chunk=self.chunk).logps for layout in layouts)
        finally:
            self.model.train(training)
        difference = (tree - plain).abs().mean().item()
        tolerance = _SELF_CHECK_TOLERANCE.get(self._vlm.dtype, 1e-3)
        if not difference <= tolerance:
            self.shared = False
            logger.warning(
                "shared-prefix scoring disagrees with plain scoring by %.3g nats per token on this model (%s); "
                "scoring one row per response instead, which is slower",
                difference,
                self._vlm.config.model_type,
            )


def segment_logps(vlm: VLM, layout: TreeBatch, features: Any | None, *, chunk: int | None = None) -> TokenLogps:
    """Log-probs [n] of every scored token of a layout, in its order. `features` come from `encode_images`."""
    out = vlm.backbone(
        **layout.model_inputs, **select_images(features, layout.image_order, vlm.family.features), use_cache=False
    )
    hidden = out.last_hidden_state
    scored = hidden.reshape(-1, hidden.shape[-1]).index_select(0, layout.predictors)
    return token_logps(scored, vlm.head, layout.targets, chunk=chunk, softcap=vlm.softcap)


def shared_row(vlm: VLM, trees: Sequence[Tree], image_inputs: Mapping[str, Tensor] | None = None) -> TreeBatch:
    """Whole trees in one row for this model. `image_inputs` are the processor's tensors of the batch's images."""
    return pack(trees, positions=positions_of(vlm, image_inputs), rules=rules_of(vlm))


def plain_rows(vlm: VLM, trees: Sequence[Tree], image_inputs: Mapping[str, Tensor] | None = None) -> TreeBatch:
    """The trees' scored paths as ordinary padded rows for this model."""
    return unshared(trees, positions=positions_of(vlm, image_inputs), rules=rules_of(vlm), pad_id=vlm.pad_id)


def rules_of(vlm: VLM) -> Rules:
    """Who sees whom in this model."""
    text = vlm.config.get_text_config()
    layers = getattr(text, "layer_types", None)
    window = getattr(text, "sliding_window", None) if layers is None or "sliding_attention" in layers else None
    return Rules(vlm.family.blocks, vlm.image_token_id, window)


@torch.no_grad()
def score_responses(
    vlm: VLM, messages: Sequence[Mapping[str, Any]], images: Sequence[Image.Image], texts: Sequence[str]
) -> list[float]:
    """Summed log-prob of each text as the answer to one conversation. The conversation is computed once."""
    if not texts:
        return []
    processed = process_images(vlm, images)
    prompt = encode_prompt(vlm, messages, processed.placeholders)
    tree = response_tree(prompt, [encode_response(vlm, text) for text in texts], range(len(images)))
    features = encode_images(vlm, processed.tensors, frozen=True)
    if vlm.family.sharing:
        use_tree_attention(vlm.base)
    lay_out = shared_row if vlm.family.sharing else plain_rows
    layout = lay_out(vlm, [tree], processed.tensors)
    logps = segment_logps(vlm, layout.to(vlm.device), features).logps
    return [part.sum().item() for part in logps.split(layout.lengths)]


def _pair_logps(
    batch: PairBatch, leaf: Sequence[int], lengths: Sequence[int], policy: TokenLogps, reference: TokenLogps | None
) -> PairLogps:
    """Spread flat log-probs [n] of the scored segments into right-padded sides [b, t]; `leaf` names the segments of
    chosen, rejected, chosen, …"""
    device = policy.logps.device

    def sides(flat: Tensor) -> tuple[Tensor, Tensor]:
        parts = flat.split(list(lengths))
        chosen, rejected = ([parts[number] for number in leaf[which::2]] for which in (0, 1))
        return pad_sequence(chosen, batch_first=True), pad_sequence(rejected, batch_first=True)

    policies, top1 = sides(policy.logps), sides(policy.top1)
    references = sides(reference.logps) if reference is not None else (None, None)

    def side(which: int, weights: list[Tensor] | None) -> ResponseLogps:
        t = policies[which].shape[1]
        own = torch.tensor([lengths[number] for number in leaf[which::2]], device=device)
        mask = torch.arange(t, device=device) < own[:, None]
        padded = pad_sequence(weights, batch_first=True).to(device) if weights is not None else None
        if padded is not None and padded.shape != mask.shape:
            raise ValueError(f"weights are {tuple(padded.shape)}, responses {tuple(mask.shape)}: one weight per token")
        return ResponseLogps(policies[which], references[which], mask, padded, top1[which])

    return PairLogps(side(0, batch.chosen_weights), side(1, batch.rejected_weights))


def _with_cached_reference(pairs: PairLogps, batch: PairBatch) -> PairLogps:
    if batch.reference is None or len(batch.reference) != len(batch):
        raise ValueError("reference='cached' needs reference log-probs for every pair of the batch")

    def side(response: ResponseLogps, logps: Sequence[Tensor]) -> ResponseLogps:
        if [len(values) for values in logps] != response.lengths.tolist():
            raise ValueError("cached reference log-probs belong to other tokens: their number differs")
        return replace(response, reference=pad_sequence(list(logps), batch_first=True).to(response.policy))

    chosen, rejected = zip(*batch.reference, strict=True)
    return PairLogps(side(pairs.chosen, chosen), side(pairs.rejected, rejected))
