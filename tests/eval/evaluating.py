"""A small evaluation to be run: a tiny LLaVA, two adapters, twelve annotated images."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from mmpo.eval.context import context_of
from mmpo.eval.protocol import AnnotatedSet
from mmpo.eval.settings import EvalSettings
from mmpo.eval.task import Task, named
from tests.tiny import add_lora, tiny_image, tiny_llava

NAMES = ["dog", "cat", "cup", "chair", "bus", "car", "bed", "book"]


def make_world(folder: Path) -> Path:
    """Fill `folder` with `model`, `adapter`, `adapter2`, `images` (of twelve, 10.png is cut and 11.png is missing) and
    `annotations.jsonl`.
    """
    tiny_llava().model.save_pretrained(folder / "model")
    tiny_llava().processor.save_pretrained(folder / "model")
    for name, seed in (("adapter", 1), ("adapter2", 2)):
        add_lora(tiny_llava(), seed=seed, spread=0.3).model.save_pretrained(folder / name)
    (folder / "images").mkdir()
    rows = []
    for number in range(12):
        tiny_image(number).save(folder / f"images/{number}.png")
        objects = [NAMES[(number + shift) % 8] for shift in (0, 1, 3)]
        rows.append({"image": f"{number}.png", "objects": objects, "captions": [f"A {objects[0]}."]})
    whole = (folder / "images/10.png").read_bytes()
    (folder / "images/10.png").write_bytes(whole[: len(whole) // 2])
    (folder / "images/11.png").unlink()
    (folder / "annotations.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def settings(world: Path, **changes: object) -> EvalSettings:
    values: dict = {
        "model": str(world / "model"),
        "adapter": str(world / "adapter"),
        "images": str(world / "images"),
        "annotations": str(world / "annotations.jsonl"),
        "pope": {"max_new_tokens": 4},
        "chair": {"max_new_tokens": 8, "prompt": "Describe the image."},
        "bootstrap": {"samples": 200},
        "dtype": "float32",
        "drift": {"texts": False, "kl": False},  # tests/eval/drift asks for these
    }
    return EvalSettings(**(values | changes))


def task(name: str, chosen: EvalSettings, annotated: AnnotatedSet | None = None) -> Task[Any]:
    """A benchmark that is ready, on these annotated images."""
    context = replace(context_of(chosen, None, "."), annotated=annotated)
    return named(name).ready(chosen.of(name), context)


def answers_in(run: Path) -> list[dict]:
    """The rows of a run's `answers.jsonl`."""
    return [json.loads(line) for line in (run / "answers.jsonl").read_text().splitlines()]
