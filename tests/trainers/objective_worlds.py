"""Small worlds in which any registered objective trains: a model, pairs that carry all that a loss may read, and the
settings that a recipe needs for it, found by what it reads.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from mmpo.data.pair import PreferencePair, text_message
from mmpo.data.responses import ResponseGroup, ScoredResponse
from mmpo.data.shards import PairWriter, ResponseWriter
from mmpo.files.images import encode_image
from mmpo.models.families.loading import load_vlm
from mmpo.objectives import OBJECTIVES
from mmpo.objectives.registry import Registered
from mmpo.trainers.lora import add_lora
from mmpo.trainers.settings import LoraSettings
from tests.tiny import save_tiny_llava, tiny_image
from tests.tiny_videos import SIZE, clip, save_video_model
from tests.trainers.material import make_pairs

PAIRS = 8
SMALL: dict[str, Any] = {
    "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
    "num_key_value_heads": 1,
}  # fmt: skip
KINDS = ("image", "images", "video")


@dataclass(frozen=True)
class World:
    """A saved model and what lies beside it: `pairs` of one turn, some of several in `talks`, a `bank` of responses of
    the reference, `groups` of three scored answers, a `guide` to compare with."""

    model: Path
    pairs: Path
    talks: Path
    bank: Path
    groups: Path
    guide: Path


def make_world(kind: str, folder: Path) -> World:
    """The world whose prompts show an image, two images, or a video of two frames."""
    made = [_carrying(pair, number) for number, pair in enumerate(_shown(kind))]
    folder.mkdir(parents=True, exist_ok=True)
    if kind == "video":
        model = save_video_model("llava_next_video", folder / "model", **SMALL)
    else:
        model = save_tiny_llava(folder / "model", text=SMALL)
    with ResponseWriter(folder / "groups") as writer:
        for pair in made[:6]:
            writer.add(_group(pair))
    rows = [{"id": pair.id, "texts": ["A red cup.", "There is a dog."][: 1 + k % 2]} for k, pair in enumerate(made)]
    (folder / "bank.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    vlm = add_lora(load_vlm(model), LoraSettings(rank=2))
    for name, parameter in vlm.model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    vlm.model.save_pretrained(folder / "guide")
    return World(
        model,
        _written(folder / "pairs", made),
        _written(folder / "talks", [_talk(pair) for pair in made]),
        folder / "bank.jsonl",
        folder / "groups",
        folder / "guide",
    )


def _written(folder: Path, pairs: list[PreferencePair]) -> Path:
    with PairWriter(folder, recipe={"builder": "test"}) as writer:
        for pair in pairs:
            writer.add(pair)
    return folder


def _shown(kind: str) -> list[PreferencePair]:
    """Pairs, each about something else."""
    found = []
    for number, pair in enumerate(make_pairs(PAIRS, seed=3)):
        stills = [encode_image(tiny_image(10 * number + k, SIZE)) for k in range(1 if kind == "image" else 2)]
        parts = [{"type": "video"}] if kind == "video" else [{"type": "image"}] * len(stills)
        shown = replace(pair, prompt=[{"role": "user", "content": [*parts, *pair.prompt[0]["content"][1:]]}])
        if kind == "video":
            frames = clip(number, frames=2)
            shown = replace(shown, images=[], videos=[{"frames": list(frames.frames), "times": list(frames.times)}])
        else:
            shown = replace(shown, images=stills)
        found.append(shown)
    return found


def _carrying(pair: PreferencePair, number: int) -> PreferencePair:
    """The pair with scores, scored parts, a twin and, every second one, weights of its own."""
    chosen, rejected = pair.chosen_text, pair.rejected_text
    return replace(
        pair,
        scores={"chosen": 0.6 + number / 50, "rejected": 0.4 - number / 40, "similarity": 0.5 + number / 20},
        chosen_parts=_parts(chosen, 0.5),
        rejected_parts=_parts(rejected, -0.5),
        twin=f"pair-{number ^ 1}",
        chosen_weights=[{"start": 0, "end": 5, "weight": 2.0}] if number % 2 else None,
        rejected_weights=[{"start": 6, "end": 12, "weight": 4.0}] if number % 2 else None,
    )


def _parts(text: str, score: float) -> list[dict[str, Any]]:
    middle = len(text) // 2
    return [
        {"start": start, "end": end, "kind": kind, "scores": scores}
        for start, end, share in ((0, middle, 1.0), (middle, len(text), 0.4))
        for kind, scores in (("step", [score * share]), ("segment", [1.0 + score * share, 2.0 * share]))
    ]


def _talk(pair: PreferencePair) -> PreferencePair:
    """The pair with a second question and answer on both sides; every third keeps its one turn."""
    if int(pair.id.rpartition("-")[2]) % 3 == 2:
        return pair
    more = [text_message("user", "What colour is it?"), text_message("assistant", "It is red.")]
    return replace(pair, chosen=[*pair.chosen, *more], rejected=[*pair.rejected, *more])


def _group(pair: PreferencePair) -> ResponseGroup:
    texts = ((pair.chosen_text, 1.0), (pair.rejected_text, 0.2), ("Two trees.", 0.0))
    answers = [ScoredResponse(text, score) for text, score in texts]
    return ResponseGroup(pair.id, pair.prompt, answers, pair.images, pair.videos)


# ---- the recipe of an objective

NEEDS: Mapping[str, Callable[[World], dict[str, Any]]] = {
    "weights": lambda world: {"token_weights": {"changed": 3.0, "insertions": True}},
    "turns": lambda world: {"pairs": str(world.talks)},
    "auxiliary": lambda world: {"auxiliary": {"data": str(world.pairs), "per_pair": 0.5}},
    "groups": lambda world: {"groups": {"data": str(world.groups)}},
    "samples": lambda world: {"samples_from": {"data": str(world.bank)}},
    "second_reference": lambda world: {"references": {"second": {"adapter": str(world.guide)}}},
}
"""What a recipe must say for a loss that reads a thing, beside the pairs, which bring scores, parts and twins."""

STARTS_AT_ITS_MINIMUM = ("kl",)
"""Losses that alone move nothing: they are least where policy and reference are the same."""


def objective_of(entry: Registered) -> dict[str, Any]:
    """The loss with the parameters that it must be given, and a loss on pairs beside one that can't be alone."""
    spec: dict[str, Any] = {entry.name: dict.fromkeys(entry.required, 1.0)}
    if entry.of == "auxiliary" or entry.name in STARTS_AT_ITS_MINIMUM:
        spec["dpo"] = {}
    return spec


def train_section(world: World, objective: Mapping[str, Any], **changed: Any) -> dict[str, Any]:
    """A recipe's `train:` section in this world, without what no loss of the objective needs."""
    section: dict[str, Any] = {
        "model": str(world.model), "pairs": str(world.pairs), "objective": dict(objective), "learning_rate": 1e-2,
        "batch_size": 4, "lora": {"rank": 2}, "samples": {"n": 0}, "eval_fraction": 0, "logging_steps": 1, "warmup": 0,
    }  # fmt: skip
    for name, given in objective.items():
        for read in OBJECTIVES[name].reads_of(given):
            section |= NEEDS.get(read, lambda world: {})(world)
    return section | changed
