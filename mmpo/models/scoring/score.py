"""Scoring preference pairs: the log-probs of chosen and rejected responses under policy and reference, each token
computed once.

`PairScorer` is one module whose forward holds vision encoding, language model and head, so that DDP, FSDP and
DeepSpeed can wrap it. The reference pass comes first, without autograd: its temporary memory is gone before the
policy's activations appear.

Shapes: b pairs, t scored tokens of a response (padded), n all scored tokens, s row tokens, h hidden.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.nn.utils.rnn import pad_sequence

from mmpo.errors import UserError
from mmpo.models.families import unknown
from mmpo.models.families.loading import VLM
from mmpo.models.families.vision import encode_images, vision_is_frozen, vision_modules
from mmpo.models.scoring.hidden import places
from mmpo.models.scoring.last_layer import read_last_layer_only_where_needed
from mmpo.models.scoring.lean import recompute_adapters, recompute_feed_forward
from mmpo.models.scoring.logprob import token_logps
from mmpo.models.scoring.other_weights import OtherWeights
from mmpo.models.scoring.pairs import AnswerBatch, PairBatch, ViewResponses, with_batch_fields
from mmpo.models.scoring.references import FrozenAdapter, ReferenceNetwork
from mmpo.models.scoring.segment_logps import SegmentLogps, plain_rows, segment_logps, shared_row
from mmpo.models.scoring.sides import pair_logps, path_slices, with_cached_reference, with_cached_second_reference
from mmpo.models.scoring.statistics import ReadStatistic, TokenStatistics, with_statistics
from mmpo.models.tree.attention import use_tree_attention
from mmpo.models.tree.backends import Attention, choose_attention
from mmpo.models.tree.layout import AttentionBackend, Tree, TreeBatch
from mmpo.models.tree.sharing import Sharing
from mmpo.types import Hidden, PairLogps, ResponseLogps, ScoringOptions

__all__ = ["Hidden", "PairBatch", "PairLogps", "PairScorer", "ResponseLogps", "ViewResponses"]

logger = logging.getLogger(__name__)

# Mean difference per token above which the first batch counts as wrong: far above rounding, far below the 0.2 and more
# by which a leak between branches moves log-probs.
_SELF_CHECK_TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 6e-2, torch.float16: 2e-2}


class Passes(NamedTuple):
    """One layout under the policy and under the references that are run."""

    policy: SegmentLogps
    reference: SegmentLogps | None
    second: SegmentLogps | None


class PairScorer(nn.Module):
    """Scores pair batches with one pass per model over the distinct tokens.

    `sharing`: "on" lays pairs out as trees; "auto" does so after the first batch was checked against plain rows and
    falls back loudly; "off" scores one ordinary row per response. `reference`: "adapter_off" (the same network
    without its adapter), a `FrozenAdapter` (with another one), "cached" (the log-probs that come with each batch),
    "none", or a second model of the same kind. `second`: a second reference, of these that are run or "cached".
    `attention`: how trees are attended to (`mmpo.models.tree.backends`). `chunk`: scored tokens per head call, by
    default chosen by memory. `hidden`: which states to return as well. `reads`: what the losses read, names of
    `mmpo.objectives.reads`; what of it is made of hidden states is computed (`mmpo.models.scoring.statistics`), with
    the numbers of `options`, and so are `further` statistics. While `other_weights` is set, the policy also runs at
    these, on pairs alone."""

    other_weights: OtherWeights | None = None

    def __init__(
        self,
        vlm: VLM,
        *,
        sharing: Sharing = "auto",
        reference: Literal["adapter_off", "cached", "none"] | FrozenAdapter | nn.Module = "adapter_off",
        second: Literal["cached"] | FrozenAdapter | nn.Module | None = None,
        attention: Attention = "auto",
        chunk: int | None = None,
        hidden: Hidden | None = None,
        reads: Collection[str] = (),
        options: ScoringOptions | None = None,
        further: Sequence[ReadStatistic] = (),
    ) -> None:
        super().__init__()
        if sharing not in ("auto", "on", "off"):
            raise UserError(f"sharing={sharing!r} is unknown", hint="one of auto, on, off")
        if isinstance(reference, str) and reference not in ("adapter_off", "cached", "none"):
            raise UserError(f"reference={reference!r} is unknown", hint="one of adapter_off, cached, none, or a model")
        if "second_reference" in reads and second is None:
            raise UserError("the objective reads a second reference, and there is none", hint="set references.second")
        if sharing == "on" and not vlm.family.sharing:
            raise UserError(
                f"{vlm.family.name} can't share prefixes: {vlm.family.unsupported_reason}",
                hint="set sharing to auto or off",
            )
        shared = sharing != "off" and vlm.family.sharing
        if not shared and attention != "auto":
            raise UserError(
                f"attention={attention} says how shared prompts are attended to, and nothing is shared here",
                hint="leave attention out, or set sharing to auto",
            )
        self._reference = None if reference in ("cached", "none") else ReferenceNetwork(vlm, reference)  # type: ignore[arg-type]
        self._second = None if second in ("cached", None) else ReferenceNetwork(vlm, second)  # type: ignore[arg-type]
        self.model = vlm.model
        self.reference_model = self._reference.module if self._reference is not None else None
        self.second_model = self._second.module if self._second is not None else None
        self.cached, self.cached_second = reference == "cached", second == "cached"
        self.chunk = chunk
        self.hidden = hidden
        self.statistics = TokenStatistics(reads, vlm, self._reference, options or ScoringOptions(), chunk, further)
        self.shared = shared
        self.backend: AttentionBackend = choose_attention(attention, vlm) if shared else "plain"
        self._vlm = vlm
        self._unknown = vlm.family.features == "own"
        self._check_due = self._unknown or (sharing == "auto" and self.shared)
        if self._unknown:
            logger.warning(
                "mmpo has no record of model type %s: scoring row by row with the model's own code, which is slow",
                vlm.family.model_type,
            )
        networks = [vlm, *(one.vlm for one in (self._reference, self._second) if one is not None)]
        for base in {id(one.base): one.base for one in networks}.values():
            if not self._unknown:
                recompute_feed_forward(base.get_decoder())
                recompute_adapters(base.get_decoder())
                read_last_layer_only_where_needed(base.get_decoder())
            if self.shared:
                use_tree_attention(base)
        # What FSDP gathers at a time, as models of transformers name it.
        self._no_split_modules = (
            [] if self._unknown else sorted({type(m).__name__ for m in vlm.base.get_decoder().layers})
        )

    def train(self, mode: bool = True) -> PairScorer:
        """As any module's, but a reference model of its own stays in evaluation: its dropout is never wanted."""
        super().train(mode)
        for own in (self.reference_model, self.second_model):
            if own is not None:
                own.eval()
        return self

    def forward(self, batch: PairBatch) -> PairLogps:
        shared = batch.shared(self._vlm.visual_token_ids, whole_prompts=self._vlm.family.blocks == "prompt")
        if self._check_due:
            self._self_check(shared.trees, batch.image_inputs)
        layout = self._layout(shared.trees, batch.image_inputs)
        frozen = vision_is_frozen(self._vlm)
        features = encode_images(self._vlm, batch.image_inputs, frozen=True) if frozen else None
        preferred = any(spec.preferred_under for spec in batch.views)
        other, elsewhere = self.other_weights, None
        if other is not None:
            elsewhere = other(self._vlm, layout, batch.image_inputs, features, self.chunk)
        states = bool(self.statistics.asked) or preferred or other is not None
        passes = self._passes(layout, batch.image_inputs, features, states=states, best=preferred)
        pairs = pair_logps(batch, shared.leaf, layout, *passes)
        if other is not None:
            asked = (other.statistic,)
            pairs = self.statistics.of_pairs(pairs, batch, shared.leaf, layout, passes.policy, elsewhere, asked)
        if self.statistics.asked:
            pairs = self.statistics.of_pairs(pairs, batch, shared.leaf, layout, passes.policy, passes.reference)
        if preferred:
            self._score_preferred(pairs, batch, shared.leaf, layout, passes.policy, passes.reference)
        if batch.auxiliary is not None:
            pairs = replace(pairs, auxiliary=self._answers(batch.auxiliary, frozen))
        if batch.groups is not None:
            answers = self._answers(batch.groups, frozen, reference=True)
            pairs = replace(pairs, groups=batch.groups.groups_of(answers))
        if batch.samples is not None:
            pairs = replace(pairs, samples=self._answers(batch.samples, frozen))
        if self.cached_second:
            pairs = with_cached_second_reference(pairs, batch)
        if self.cached:
            pairs = with_cached_reference(pairs, batch)
        return with_batch_fields(pairs, batch)  # last: masks hold for everything that was computed

    def _passes(
        self,
        layout: TreeBatch,
        tensors: Mapping[str, Tensor],
        features: Any | None,
        *,
        states: bool,
        best: bool = False,
        second: bool = True,
    ) -> Passes:
        """Policy and references on one layout, the references first. `features` are given where the tower is frozen."""
        reference, other = None, None
        options: dict[str, Any] = {"chunk": self.chunk, "hidden": self.hidden, "states": states}
        if self._reference is not None:
            reference = self._reference(layout, tensors, features, **options)
        if self._second is not None and second:
            other = self._second(layout, tensors, features, chunk=self.chunk)
        if features is not None:
            return Passes(segment_logps(self._vlm, layout, features, best=best, **options), reference, other)
        features = encode_images(self._vlm, tensors, frozen=False)
        found = segment_logps(self._vlm, layout, features, best=best, **options)
        return Passes(found._replace(logps=found.logps + self._tied(features)), reference, other)

    def _tied(self, features: Any | None) -> Tensor | float:
        """0 that depends on all that trains in tower and projector: in a process whose batch shows no image (or whose
        tower has layers that are not read) their gradients must exist, or the others wait for them."""
        if not (torch.is_grad_enabled() and dist.is_available() and dist.is_initialized()):
            return 0.0
        trained = [p for root in vision_modules(self._vlm) for p in root.parameters() if p.requires_grad]
        tied = [p.flatten()[:1] for p in trained if not hasattr(p, "ds_id") and not isinstance(p, DTensor)]
        if len(tied) < len(trained) and features is not None:  # sharded: reached through the tower alone
            tied += [feature.flatten()[:1] for feature in features.pooler_output]
        return 0.0 * torch.cat([value.float() for value in tied]).nan_to_num().sum() if tied else 0.0

    def _score_preferred(
        self,
        pairs: PairLogps,
        batch: PairBatch,
        leaf: Sequence[int],
        layout: TreeBatch,
        policy: SegmentLogps,
        reference: SegmentLogps | None,
    ) -> None:
        """Replace the views that ask for the tokens that the policy prefers under another view."""
        assert policy.states is not None
        slices = path_slices(batch)
        best = policy.best.split(layout.lengths)
        for spec in batch.views:
            if spec.preferred_under is None:
                continue
            here, there = (leaf[slices[view]] for view in (spec, spec.preferred_under))
            targets = [best[number] for number in there]
            if [len(t) for t in targets] != [layout.lengths[number] for number in here]:
                raise ValueError(f"{spec.name} and {spec.preferred_under.name} must have responses of the same lengths")
            own = places(here, layout.lengths).to(policy.logps.device)

            def side(vlm: VLM, states: Tensor, own: Tensor = own, targets: list[Tensor] = targets) -> Tensor:
                flat = torch.cat(targets)
                found = token_logps(states.index_select(0, own), vlm.head, flat, chunk=self.chunk, softcap=vlm.softcap)
                return pad_sequence(list(found.logps.split([len(t) for t in targets])), batch_first=True)

            theirs = None
            if reference is not None and reference.states is not None and self._reference is not None:
                with torch.no_grad():
                    theirs = side(self._reference.vlm, reference.states)
            before = pairs.views[spec]
            pairs.views[spec] = replace(before, policy=side(self._vlm, policy.states), reference=theirs, top1=None)

    def _answers(self, batch: AnswerBatch, frozen: bool, *, reference: bool = False) -> ResponseLogps:
        """Log-probs of answers beside the pairs, a row a sample [samples, t]: the policy's, and on demand those of a
        `reference` that is run."""
        compared = reference and self._reference is not None
        of_answers = bool(self.statistics.of_answers) and not reference
        if not batch.owner:
            nothing = torch.zeros(0, 0, device=self._vlm.device)
            theirs, kl = nothing if compared else None, nothing if of_answers else None
            return ResponseLogps(nothing, theirs, nothing.bool(), top1=nothing.bool(), kl=kl)
        shared = batch.shared(self._vlm.visual_token_ids, whole_prompts=self._vlm.family.blocks == "prompt")
        layout = self._layout(shared.trees, batch.image_inputs)
        read: dict[str, Tensor] = {}
        before: SegmentLogps | None = None
        if of_answers or compared:
            features = encode_images(self._vlm, batch.image_inputs, frozen=True) if frozen else None
            found, before, _ = self._passes(layout, batch.image_inputs, features, states=of_answers, second=False)
            read = self.statistics.of_tokens(layout, found, before) if of_answers else {}
        else:
            features = encode_images(self._vlm, batch.image_inputs, frozen=frozen)
            found = segment_logps(self._vlm, layout, features, chunk=self.chunk)
        rows: list[list[int]] = [[] for _ in range(max(batch.owner) + 1)]
        for leaf, owner in zip(shared.leaf, batch.owner, strict=True):
            rows[owner].append(leaf)

        def side(flat: Tensor) -> Tensor:
            parts = flat.split(list(layout.lengths))
            return pad_sequence([torch.cat([parts[leaf] for leaf in row]) for row in rows], batch_first=True)

        mask = side(torch.ones_like(found.logps, dtype=torch.bool))
        theirs = side(before.logps) if compared and before is not None else None
        answers = ResponseLogps(side(found.logps), theirs, mask, top1=side(found.top1))
        return with_statistics(answers, {name: side(values) for name, values in read.items()})

    def gradient_checkpointing_enable(self, gradient_checkpointing_kwargs: dict[str, Any] | None = None) -> None:
        """Recompute the language model's layers in backward, non-reentrant.

        Not through peft or `enable_input_require_grads`: that hook makes the frozen tower's output require gradients
        too, so that every tower layer is recomputed and differentiated for nothing. Non-reentrant checkpointing
        doesn't need it."""
        kwargs = {**(gradient_checkpointing_kwargs or {}), "use_reentrant": False}
        self._vlm.base.gradient_checkpointing_enable(gradient_checkpointing_kwargs=kwargs)

    def gradient_checkpointing_disable(self) -> None:
        self._vlm.base.gradient_checkpointing_disable()

    def _layout(self, trees: Sequence[Tree], tensors: Mapping[str, Tensor]) -> TreeBatch:
        if self.shared:
            return shared_row(self._vlm, trees, tensors, self.backend).to(self._vlm.device)
        return plain_rows(self._vlm, trees, tensors).to(self._vlm.device)

    @torch.no_grad()
    def _self_check(self, trees: Sequence[Tree], tensors: Mapping[str, Tensor]) -> None:
        """Compare shared with plain scoring on the first pair; switch sharing off, with a warning, if they disagree.
        A model without a record is checked for what row-by-row scoring needs, and refused if it lacks it."""
        self._check_due = False
        training = self.model.training
        self.model.eval()
        try:
            features = encode_images(self._vlm, tensors, frozen=True)
            if self._unknown:
                unknown.check(self._vlm, self._layout(trees, tensors), features)
                return
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
