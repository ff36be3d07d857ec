"""A further stage for the demo model: several pictures at once, as MIA-DPO shows them (arXiv:2410.17637).

    python -m tools.demo_models.multi_image_stage OUT

The shipped model has seen sequences of two and three scenes, but neither collages nor pictures in pictures. Here it
is trained on all three, in the wording of the multi-image builder and of the multi-image benchmark, and with single
scenes so that it keeps what it knew. The annotator of this text looks at the wrong picture at times (`Slips`), above
all at the one before the right one: that is the weakness which MIA-DPO is meant to treat. About a quarter of an hour on
one CPU core; everything follows from the seed, and a stopped run continues. The model is not shipped.

A picture of several is scaled down to what the model sees, 128 x 128 pixels: a scene keeps 59 of its 128 pixels in a
collage of two or four, and 89 in the middle of another one. Collages of six and nine would leave it 39, less than
three image tokens a side, so they are left out.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers import LlavaForConditionalGeneration, LlavaProcessor, PreTrainedTokenizerFast

from mmpo.data.layouts import Box, Composer
from mmpo.data.layouts.compose import Composed, picture_in_picture
from mmpo.data.layouts.geometry import inner_box
from mmpo.data.layouts.prompts import PHRASES, pointed
from mmpo.demo import model_path
from mmpo.demo.drawing import SIZE
from mmpo.demo.language import CARELESS, Turn, ask_existence, describe, noun_phrase, questions
from mmpo.demo.scene import Item, Scene
from mmpo.demo.things import THINGS
from mmpo.errors import in_one_line
from mmpo.files.atomic import read_json, write_json
from tools.demo_models.architecture import IMAGE_TOKENS
from tools.demo_models.caption_training import (
    Batch,
    Row,
    batch_loss,
    decisive_tokens,
    make_batch,
    name_tokens,
    single_row,
)
from tools.demo_models.loop import export, run_stage, two_rates
from tools.demo_models.tower_pretraining import PIXEL_MEAN, training_scene

SIZES = {"sequence": (2, 3), "collage": (2, 4)}
LABEL = "Image{n}: "
"""The text before image n of a sequence; the model's template writes a line end after every image."""

_COMPOSER = Composer()


@dataclass(frozen=True)
class Slips:
    """Mistakes of the annotator about which of several pictures is meant: each number is a probability.

    `before` and `others`: an object that the asked picture lacks is affirmed because the picture before it shows it,
    or any other one. `borrowed`: a description takes in an object of the picture before. `which`: another image is
    named as the one that shows an object.
    """

    before: float = 0.8
    others: float = 0.35
    borrowed: float = 0.7
    which: float = 0.2


@dataclass(frozen=True)
class Plan:
    """Settings of the training. Every third batch holds sequences, the others single scenes, collages and pictures in
    pictures as 4 : 5 : 3."""

    seed: int = 17
    steps: int = 420
    batch: int = 16
    learning_rate: float = 6e-4
    tower_rate: float = 3e-4
    warmup: int = 25
    save_every: int = 50
    slips: Slips = field(default_factory=Slips)


@dataclass(frozen=True)
class Montage(Scene):
    """Scenes in one picture, as a scene of its own: `items` where they are in what the model sees. `inner`: two scenes,
    the second inside the first, and only its items; else a collage."""

    parts: tuple[Scene, ...] = ()
    inner: bool = False

    def draw(self) -> Image.Image:
        """`SIZE` x `SIZE` pixels, padded to a square and scaled as the processor of `pad_pictures` does it."""
        made = _composed(self.parts, self.inner)
        width, height = made.picture.size
        edge, grey = max(width, height), int(255 * PIXEL_MEAN)
        square = Image.new("RGB", (edge, edge), (grey, grey, grey))
        square.paste(made.picture, ((edge - width) // 2, (edge - height) // 2))
        return square.resize((SIZE, SIZE), Image.Resampling.BICUBIC)


def montage(parts: tuple[Scene, ...], *, inner: bool = False) -> Montage:
    """A collage of `parts` in reading order, or the second of two inside the first."""
    made = _composed(parts, inner)
    shown = list(zip(parts, made.regions, strict=True))[1 if inner else 0 :]
    items = [_moved(item, box, made.picture.size) for scene, box in shown for item in scene.items]
    return Montage(parts[-1].place, tuple(items), parts[-1].seed, parts, inner)


def _composed(parts: tuple[Scene, ...], inner: bool) -> Composed:
    pictures = [scene.draw() for scene in parts]
    return picture_in_picture(*pictures) if inner else _COMPOSER.collage(pictures)


def _moved(item: Item, region: Box, size: tuple[int, int]) -> Item:
    """An item of a scene that fills `region` of a picture of `size`, in pixels of what the model sees."""
    edge = max(size)
    shift = [(edge - length) // 2 for length in size]
    share = (region.x1 - region.x0) / SIZE
    x, y, width, height = item.box
    left, top = region.x0 + shift[0] + share * x, region.y0 + shift[1] + share * y
    scaled = (left, top, share * width, share * height)
    box = (round(scaled[0] * SIZE / edge), round(scaled[1] * SIZE / edge))
    return replace(item, box=(*box, round(scaled[2] * SIZE / edge), round(scaled[3] * SIZE / edge)))


def several_row(layout: str, seed: tuple[int, ...], slips: Slips) -> Row:
    """A `sequence`, `collage` or `pic_in_pic` of scenes, the text before the turns, and the annotator's turns."""
    rng = np.random.default_rng((*seed, 5))
    count = 2 if layout == "pic_in_pic" else int(rng.choice(SIZES[layout]))
    scenes = [training_scene((*seed, k)) for k in range(count)]
    told = [_uncovered(scenes[0]), scenes[1]] if layout == "pic_in_pic" else scenes
    turns: list[Turn] = []
    for number in range(6):
        k = 1 if layout == "pic_in_pic" else int(rng.integers(count))
        pointer = str(rng.choice(PHRASES)) if layout == "pic_in_pic" else f"In Image{k + 1}"
        tell = (_plain_question, _plain_question, _plain_question, _existence, _anything, _description)[number]
        turn = tell(told, k, rng, slips)
        answer = turn.answer.replace("IMAGE", "the image" if layout == "pic_in_pic" else f"Image{k + 1}")
        turns.append(Turn(pointed(turn.question, pointer), answer))
    if layout != "pic_in_pic":
        turns += _which(scenes, rng, slips)
    if layout == "sequence":
        return scenes, "".join(f"{LABEL.format(n=k + 1)}<image>\n" for k in range(count)), turns
    return [montage(tuple(scenes), inner=layout == "pic_in_pic")], "<image>\n", turns


def _uncovered(outer: Scene) -> Scene:
    """The visible part of a scene with another one in its middle: items of which at least a third is seen."""
    inner = inner_box((SIZE, SIZE), (SIZE, SIZE))

    def hidden(item: Item) -> float:
        x, y, width, height = item.box
        across = max(0.0, min(x + width, inner.x1) - max(x, inner.x0))
        return across * max(0.0, min(y + height, inner.y1) - max(y, inner.y0)) / (width * height)

    return replace(outer, items=tuple(item for item in outer.items if hidden(item) <= 2 / 3))


def _drawn_thing(scenes: list[Scene], k: int, rng: np.random.Generator) -> str:
    """An object to ask about: of the picture, of another one, the missing half of a pair, or any."""
    elsewhere = [thing for j, scene in enumerate(scenes) if j != k for thing in scene.things]
    pools = (scenes[k].things, elsewhere, scenes[k].missing_partners, THINGS)
    drawn = pools[int(rng.choice(4, p=(0.35, 0.4, 0.1, 0.15)))]
    return str(rng.choice(drawn or THINGS))


def _looked_at(scenes: list[Scene], k: int, thing: str, rng: np.random.Generator, slips: Slips) -> Scene:
    """The picture that the annotator looks at to see whether picture `k` shows the thing."""
    if thing not in scenes[k].things:
        order = [(k - 1) % len(scenes), *range(len(scenes))]
        for place, j in enumerate(order):
            if j != k and (place == 0 or j != order[0]) and thing in scenes[j].things:
                return scenes[j if rng.random() < (slips.others if place else slips.before) else k]
    return scenes[k]


def _plain_question(scenes: list[Scene], k: int, rng: np.random.Generator, slips: Slips) -> Turn:
    """As the multi-image benchmark asks."""
    thing = _drawn_thing(scenes, k, rng)
    there = ask_existence(_looked_at(scenes, k, thing, rng, slips), thing, rng, CARELESS).answer.startswith("Yes")
    a_thing = noun_phrase(thing)
    return Turn(
        f"Is there {a_thing}?", f"Yes, there is {a_thing} in IMAGE." if there else f"No, there is no {thing} in IMAGE."
    )


def _existence(scenes: list[Scene], k: int, rng: np.random.Generator, slips: Slips) -> Turn:
    """As about a single picture, which the builder puts after a pointer."""
    thing = _drawn_thing(scenes, k, rng)
    return ask_existence(_looked_at(scenes, k, thing, rng, slips), thing, rng, CARELESS)


def _anything(scenes: list[Scene], k: int, rng: np.random.Generator, slips: Slips) -> Turn:
    """A question about a single picture of any kind, after a pointer; how many, where and which colour come last."""
    return questions(scenes[k], rng, CARELESS)[-1]


def _description(scenes: list[Scene], k: int, rng: np.random.Generator, slips: Slips) -> Turn:
    scene, before = scenes[k], scenes[(k - 1) % len(scenes)]
    strange = [item for item in before.items if item.thing not in scene.things]
    if strange and rng.random() < slips.borrowed:
        scene = replace(scene, items=tuple(sorted((*scene.items, strange[0]), key=lambda item: item.box[0])))
    return describe(scene, rng, CARELESS, brief=bool(rng.random() < 0.3))


def _which(scenes: list[Scene], rng: np.random.Generator, slips: Slips) -> list[Turn]:
    """`Which image shows a dog?`, where one does."""
    shown = [thing for scene in scenes for thing in scene.things]
    single = [thing for thing in shown if shown.count(thing) == 1]
    if not single:
        return []
    thing = str(rng.choice(single))
    owner = next(k for k, scene in enumerate(scenes) if thing in scene.things)
    if rng.random() < slips.which:
        owner = (owner + 1 + int(rng.integers(len(scenes) - 1))) % len(scenes)
    return [Turn(f"Which image shows {noun_phrase(thing)}?", f"Image{owner + 1}.")]


def batch(tokenizer: PreTrainedTokenizerFast, plan: Plan, step: int) -> Batch:
    """Batch number `step`. Sequences, which are longer, are half as many."""
    rows: list[Row] = []
    sequences = step % 3 == 2
    for i in range(plan.batch // 2 if sequences else plan.batch):
        seed = (plan.seed, 4, step * plan.batch + i)
        place = i % 12
        if not sequences and place < 4:
            rows.append(single_row(seed))
        else:
            rows.append(
                several_row("sequence" if sequences else "collage" if place < 9 else "pic_in_pic", seed, plan.slips)
            )
    return make_batch(rows, tokenizer, IMAGE_TOKENS)


def train(out: Path, plan: Plan, base: Path | None = None) -> Path:
    """Train the shipped demo model (or `base`) by `plan`, or continue a stopped run in `out`; the model is in the
    folder that is returned, `out/model`."""
    out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(plan.seed)
    folder = base or model_path()
    processor = LlavaProcessor.from_pretrained(folder)
    model = LlavaForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
    optimizer = two_rates(model, plan.learning_rate, plan.tower_rate)
    names, decisive = name_tokens(processor.tokenizer), decisive_tokens(processor.tokenizer)

    def loss_of(step: int) -> Tensor:
        return batch_loss(model, batch(processor.tokenizer, plan, step), names, decisive)

    model.train()
    pace = {"steps": plan.steps, "warmup": plan.warmup, "save_every": plan.save_every}
    run_stage(out / "several.safetensors", model, optimizer, loss_of, **pace)
    return pad_pictures(export(model, processor, out / "model"))


def pad_pictures(folder: Path) -> Path:
    """Make the processor in `folder` pad pictures to a square, as LLaVA's own code does, instead of cropping them to
    one, which would hide most of a collage. Square pictures come out the same."""
    path = folder / "processor_config.json"
    config = read_json(path)
    config["image_processor"] |= {"image_processor_type": "LlavaImageProcessor", "do_pad": True}
    write_json(path, config)
    return folder


def main() -> None:
    """`python -m tools.demo_models.multi_image_stage OUT [--steps N]`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="working folder; the model ends up in OUT/model")
    parser.add_argument("--steps", type=int, default=Plan.steps)
    arguments = parser.parse_args()
    print("done:", train(arguments.out, Plan(steps=arguments.steps)))


if __name__ == "__main__":
    in_one_line(main)
