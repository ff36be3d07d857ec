"""Small folders of pairs and ready-made trainers for the tests of this folder."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path
from typing import Any

from mmpo.data.pair import PreferencePair
from mmpo.data.shards import PairWriter
from mmpo.files.images import encode_image
from tests.tiny import tiny_image

OBJECTS = ("dog", "cat", "red cup", "ball", "small house", "tree", "chair", "table")
QUESTIONS = ("Describe the image.", "What is on the left?", "Is there a dog in the image? Please answer yes or no.")


def make_pairs(n: int, seed: int = 0) -> list[PreferencePair]:
    """`n` pairs of different lengths; every second one shares its image with the one before."""
    rng = random.Random(seed)
    pairs = []
    for i in range(n):
        seen, other = rng.sample(OBJECTS, 2)
        tail = " The image shows a kitchen with a table." * rng.randrange(3)
        pairs.append(
            PreferencePair.simple(
                id=f"pair-{i}",
                image=encode_image(tiny_image(seed * 1000 + i // 2)),
                question=rng.choice(QUESTIONS),
                chosen=f"There is a {seen}.{tail}",
                rejected=f"There is a {seen} and a {other}.{tail}",
            )
        )
    return pairs


def write_pairs(folder: Path, n: int, seed: int = 0) -> Path:
    with PairWriter(folder, recipe={"builder": "test", "seed": seed}) as writer:
        for pair in make_pairs(n, seed):
            writer.add(pair)
    return folder


def write_conversations(folder: Path) -> Path:
    """Five usable conversations, one of three turns, one without an image; and three that are none."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(3):
        (folder / f"{number}.png").write_bytes(encode_image(tiny_image(50 + number)))

    def human(text: str) -> dict[str, str]:
        return {"from": "human", "value": text}

    def gpt(text: str) -> dict[str, str]:
        return {"from": "gpt", "value": text}

    talk = [human("<image>\nDescribe the image."), gpt("A red cup."), human("Where?"), gpt("On the table, left."),
            human("And a dog?"), gpt("No.")]  # fmt: skip
    rows: list[dict[str, Any]] = [
        {"id": "long", "image": "0.png", "conversations": talk},
        *({"id": f"s{k}", "image": f"{k}.png", "conversations": [human("What?\n<image>"), gpt("dog " * (k + 1))]}
          for k in range(3)),
        {"id": "words", "conversations": [human("Are there trees?"), gpt("Three trees.")]},
        {"id": "gone", "image": "gone.png", "conversations": talk[:2]},
        {"id": "mute", "image": "0.png", "conversations": talk[:1]},
        {"id": "out", "image": "../x.png", "conversations": talk[:2]},
    ]  # fmt: skip
    (folder / "chat.json").write_text(json.dumps(rows))
    return folder / "chat.json"


def settings_for(model: Path, pairs: Path, **values: Any) -> Any:
    from mmpo.trainers.settings import TrainSettings

    defaults: dict[str, Any] = {
        "learning_rate": 1e-2,
        "batch_size": 4,
        "eval_fraction": 0.2,
        "logging_steps": 2,
        "samples": {"n": 0},
        "lora": {"rank": 4},
    }
    return TrainSettings(model=str(model), pairs=pairs, **(defaults | values))


def resumed_alike(settings: Any, run: Path) -> Any:
    """The result of a copy of a finished run of four steps that goes on from its second: it must end with the same
    weights."""
    import torch
    from safetensors.torch import load_file

    from mmpo.trainers.train import train

    stopped = Path(shutil.copytree(run, run.parent / "stopped"))
    for name in ("train_result.json", "adapter", "checkpoints/checkpoint-4"):
        path = stopped / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    resumed = train(settings, stopped)
    assert resumed.resumed_from == 2
    ours, theirs = (load_file(one / "adapter" / "adapter_model.safetensors") for one in (run, stopped))
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)
    return resumed
