"""What peers and plausible shortcuts do, put into mmpo: the silent errors that the checks must notice."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

import mmpo.models.scoring.score as score_module
import mmpo.models.scoring.segment_logps as segments_module
import mmpo.models.tree.segments as tree_module
from mmpo.models.families.loading import VLM
from mmpo.models.families.vision import select_images
from mmpo.models.scoring.segment_logps import rules_of
from mmpo.models.tree.attention import CallPlan, TreePlan, dense_attention_mask
from mmpo.models.tree.layout import TreeBatch
from mmpo.models.tree.positions import SequentialPositions

Mutation = Callable[[pytest.MonkeyPatch, VLM], Any]


def inputs_changed(change: Callable[[dict[str, Any]], dict[str, Any]]) -> Mutation:
    """The model gets other inputs than the layout's."""

    def mutate(patch: pytest.MonkeyPatch, vlm: VLM) -> None:
        honest = TreeBatch.model_inputs.fget  # type: ignore[attr-defined]
        patch.setattr(TreeBatch, "model_inputs", property(lambda self: change(dict(honest(self)))))

    return mutate


def without(*names: str) -> Mutation:
    return inputs_changed(lambda inputs: {key: value for key, value in inputs.items() if key not in names})


def rules_changed(**changed: Any) -> Mutation:
    def mutate(patch: pytest.MonkeyPatch, vlm: VLM) -> None:
        patch.setattr(segments_module, "rules_of", lambda vlm: replace(rules_of(vlm), **changed))

    return mutate


def row_distance(patch: pytest.MonkeyPatch, vlm: VLM) -> None:
    """Sliding windows by the distance in the row: the chosen response pushes the prompt out of the rejected one's."""
    patch.setattr(tree_module, "path_starts", lambda tree: tree_module.row_starts(tree, tree_module.depth_first(tree)))


def one_mask_for_all_layers(patch: pytest.MonkeyPatch, vlm: VLM) -> None:
    """A single causal 4-D mask replaces the masks per layer type that the model makes itself."""

    def change(inputs: dict[str, Any]) -> dict[str, Any]:
        spine, rejected = inputs.pop("tree_plan").calls[0]
        total = spine.queries + rejected.queries
        allowed = torch.ones(total, total, dtype=torch.bool).tril()
        allowed[spine.queries :, rejected.ranges[0][1] : spine.queries] = False
        return inputs | {"attention_mask": dense_attention_mask([allowed], vlm.dtype)}

    inputs_changed(change)(patch, vlm)


def counted_positions(patch: pytest.MonkeyPatch, vlm: VLM) -> None:
    patch.setattr(segments_module, "positions_of", lambda vlm, image_inputs=None: SequentialPositions())


def row_positions(patch: pytest.MonkeyPatch, vlm: VLM) -> None:
    """Positions count along the row, so the rejected response stands behind the chosen one."""
    inputs_changed(lambda i: i | {"position_ids": torch.arange(i["input_ids"].shape[1])[None]})(patch, vlm)


def rejected_behind_chosen(patch: pytest.MonkeyPatch, vlm: VLM) -> None:
    """The rejected response goes on counting where the chosen one ended, in whatever coordinates."""

    def change(inputs: dict[str, Any]) -> dict[str, Any]:
        spine, rejected = inputs["tree_plan"].calls[0]
        places = inputs["position_ids"].clone()
        places[..., spine.queries :] += spine.queries - rejected.ranges[0][1]
        return inputs | {"position_ids": places}

    inputs_changed(change)(patch, vlm)


def aligned_at_the_first_key(patch: pytest.MonkeyPatch, vlm: VLM) -> None:
    """SDPA's `is_causal` where there are more keys than queries: response tokens see only the prompt's beginning."""
    honest = TreePlan.mask

    def top_left(plan: TreePlan, tree: int, number: int, like: torch.Tensor, **more: Any) -> torch.Tensor:
        call = plan.calls[tree][number]
        if more["near"] or call.mask is not None or more["in_place"]:
            return honest(plan, tree, number, like, **more)
        return torch.full((call.queries - more["skip"], call.width or call.queries), float("-inf")).triu(1)

    patch.setattr(TreePlan, "mask", top_left)


def chosen_seen_by_rejected(patch: pytest.MonkeyPatch, vlm: VLM) -> None:
    """One causal call over the whole row, as a packed row without its block-diagonal mask gets."""

    def change(inputs: dict[str, Any]) -> dict[str, Any]:
        plan = inputs["tree_plan"]
        whole = replace(plan, calls=[[CallPlan(plan.lengths[0])]], _masks={})
        return inputs | {"tree_plan": whole}

    inputs_changed(change)(patch, vlm)


def predicted_by_the_last_token(patch: pytest.MonkeyPatch, vlm: VLM) -> None:
    """The rejected response's first token predicted from the token before it in the row, the chosen one's last."""
    honest = score_module.shared_row

    def shifted(*arguments: Any) -> TreeBatch:
        layout = honest(*arguments)
        predictors = layout.predictors.clone()
        predictors[layout.lengths[0]] = layout.own[layout.lengths[0]] - 1
        return replace(layout, predictors=predictors)

    patch.setattr(score_module, "shared_row", shifted)


def first_layer_features_only(patch: pytest.MonkeyPatch, vlm: VLM) -> None:
    """What pasting features into the embeddings loses: what Qwen3-VL adds in deeper layers."""

    def paste(encoded: Any, order: Any, family: Any) -> dict[str, Any]:
        chosen = select_images(encoded, order, family)
        image = chosen["mm_encoder_outputs"]["image"]
        image.deepstack_features = [[part * 0 for part in layer] for layer in image.deepstack_features]
        return chosen

    patch.setattr(segments_module, "select_images", paste)


def images_swapped(patch: pytest.MonkeyPatch, vlm: VLM) -> None:
    """Two images of equal size in the wrong order: nothing in transformers can notice."""
    patch.setattr(
        segments_module,
        "select_images",
        lambda encoded, order, family: select_images(encoded, order[::-1], family),
    )


def no_softcap(patch: pytest.MonkeyPatch, vlm: VLM) -> None:
    patch.setattr(type(vlm), "softcap", None)


TRAPS: dict[str, tuple[str, Mutation]] = {
    "transformers: positions that restart mean separate documents": ("llava", without("tree_plan", "attention_mask")),
    "transformers: positions that restart, under a 2-D mask": (
        "llava",
        inputs_changed(
            lambda i: (
                {k: v for k, v in i.items() if k != "tree_plan"} | {"attention_mask": torch.ones_like(i["input_ids"])}
            )
        ),
    ),
    "transformers: positions that continue past the other response": ("llava", row_positions),
    "LLaMA-Factory v1: the rejected response reads the chosen one": ("llava", chosen_seen_by_rejected),
    "the first rejected token predicted by the last chosen one": ("llava", predicted_by_the_last_token),
    "SDPA: is_causal aligns at the first key": ("llava", aligned_at_the_first_key),
    "transformers: one 4-D mask for Gemma 3 drops windows and image blocks": ("gemma3", one_mask_for_all_layers),
    "Gemma 3: image tokens that see only backwards": ("gemma3", rules_changed(blocks="none")),
    "Gemma 3: sliding windows left out": ("gemma3", rules_changed(window=None)),
    "Gemma 3: windows by distance in the row": ("gemma3", row_distance),
    "Mistral: windows by distance in the row": ("mistral3-window", row_distance),
    "PaliGemma: a prompt that sees only backwards": ("paligemma", rules_changed(blocks="none")),
    "PaliGemma 2: final_logit_softcapping left out": ("paligemma2", no_softcap),
    "Qwen: a 4-D mask without position_ids runs with 1-D positions": ("qwen2_5_vl", without("position_ids")),
    "Qwen: positions counted (trl 5277)": ("qwen2_vl", counted_positions),
    "Qwen: the second response placed behind the first": ("qwen2_5_vl", rejected_behind_chosen),
    "Qwen3-VL: pasted embeddings lose the deeper layers' features": ("qwen3_vl", first_layer_features_only),
}
