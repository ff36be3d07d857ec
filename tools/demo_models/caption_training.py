"""Second stage of training the demo model: the whole LLaVA on careless descriptions, questions and answers.

One row holds one picture (or two or three) and all turns about it. The turns are siblings: each sees the
picture and itself, not the others, so a turn is trained exactly as it will be asked, and the picture is paid for once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from transformers import LlavaForConditionalGeneration, PreTrainedTokenizerFast

from mmpo.demo.language import CARELESS, EXACT, NUMBERS, Turn, describe, noun_phrase, questions
from mmpo.demo.scene import SIDES, Scene
from mmpo.demo.things import COLORS, THINGS
from mmpo.text.words import plural
from tools.demo_models.loop import read_after_images, weighed_surprise, word_tokens
from tools.demo_models.tower_pretraining import (
    PatchLabels,
    PatchReader,
    balance,
    patch_labels,
    pixels,
    read_patches,
    training_scene,
)

ROUNDED = 32
"""Rows are padded to a multiple of this: kernels and memory of few sizes are made once and used again."""

Row = tuple[list[Scene], str, list[Turn]]
"""The scenes of a row, the text before its turns, and the turns."""


@dataclass
class Batch:
    """Rows of one batch. Shapes: r rows, s tokens, n scored tokens, i images.

    ids, positions [r, s]; visible [r, 1, s, s] bool; images [i, 3, h, w]; predictors, targets, turns [n] (flat index
    into r * s, token id, number of the turn in the batch); labels: what each patch shows, [i, image tokens] each.
    """

    ids: Tensor
    positions: Tensor
    visible: Tensor
    images: Tensor
    predictors: Tensor
    targets: Tensor
    turns: Tensor
    labels: PatchLabels


def single_row(seed: tuple[int, ...]) -> Row:
    """One scene, the text before the turns, and its turns: two detailed descriptions, often a brief one, some
    questions.
    """
    scene = training_scene(seed)
    rng = np.random.default_rng((*seed, 3))
    turns = [describe(scene, rng, CARELESS), describe(scene, rng, CARELESS)]
    if rng.random() < 0.4:
        turns.append(describe(scene, rng, CARELESS, brief=True))
    return [scene], "<image>\n", [*turns, *questions(scene, rng, CARELESS)]


def several_row(seed: tuple[int, ...]) -> Row:
    """Two or three scenes in a sequence, and questions that name one of them."""
    rng = np.random.default_rng((*seed, 4))
    scenes = [training_scene((*seed, k)) for k in range(int(rng.integers(2, 4)))]
    turns: list[Turn] = []
    for _ in range(4):
        k = int(rng.integers(len(scenes)))
        elsewhere = [t for j, s in enumerate(scenes) if j != k for t in s.things]
        thing = str(rng.choice(scenes[k].things if rng.random() < 0.5 else elsewhere if rng.random() < 0.7 else THINGS))
        yes = thing in scenes[k].things
        a_thing = noun_phrase(thing)
        answer = f"Yes, there is {a_thing} in Image{k + 1}." if yes else f"No, there is no {thing} in Image{k + 1}."
        turns.append(Turn(f"In Image{k + 1}, is there {a_thing}?", answer))
        owners = [j for j, s in enumerate(scenes) if thing in s.things]
        if len(owners) == 1:
            turns.append(Turn(f"Which image shows {a_thing}?", f"Image{owners[0] + 1}."))
    k = int(rng.integers(len(scenes)))
    turns.append(Turn(f"Describe Image{k + 1} in detail.", describe(scenes[k], rng, EXACT).answer))
    return scenes, "".join(f"Image{k + 1}: <image>\n" for k in range(len(scenes))), turns


def make_batch(rows: Sequence[Row], tokenizer: PreTrainedTokenizerFast, image_tokens: int) -> Batch:
    """Tokenize and lay out `rows`; every `<image>` becomes `image_tokens` placeholders."""
    image_id = tokenizer.convert_tokens_to_ids("<image>")
    laid: list[tuple[list[int], list[int], list[int], list[tuple[int, int]]]] = []
    turn_of_scored: list[int] = []
    for _, before, turns in rows:
        prefix: list[int] = []
        for token in tokenizer.encode(f"<s>USER: {before}", add_special_tokens=False):
            prefix.extend([token] * (image_tokens if token == image_id else 1))
        ids, positions, owner, scored = list(prefix), list(range(len(prefix))), [0] * len(prefix), []
        for number, turn in enumerate(turns, start=1):
            begin, answer_text = (f" {turn.given}", turn.answer) if turn.given else ("", f" {turn.answer}")
            question = tokenizer.encode(f"{turn.question} ASSISTANT:{begin}", add_special_tokens=False)
            answer = [*tokenizer.encode(answer_text, add_special_tokens=False), tokenizer.eos_token_id]
            start = len(ids) + len(question)
            scored += [(start + k - 1, token) for k, token in enumerate(answer)]
            turn_of_scored += [turn_of_scored[-1] + 1 if turn_of_scored else 0] * len(answer)
            ids += question + answer
            positions += range(len(prefix), len(prefix) + len(question) + len(answer))
            owner += [number] * (len(question) + len(answer))
        laid.append((ids, positions, owner, scored))
    length = -(-max(len(ids) for ids, *_ in laid) // ROUNDED) * ROUNDED
    pad = tokenizer.pad_token_id

    def padded(lists: list[list[int]], fill: int) -> Tensor:
        return torch.tensor([values + [fill] * (length - len(values)) for values in lists])

    turn_of = padded([row[2] for row in laid], -1)
    order = torch.arange(length)
    same = (turn_of[:, None, :] == 0) | (turn_of[:, None, :] == turn_of[:, :, None])
    visible = (same & (order[None, :] <= order[:, None])) | torch.eye(length, dtype=torch.bool)
    return Batch(
        ids=padded([row[0] for row in laid], pad),
        positions=padded([row[1] for row in laid], 0),
        visible=visible[:, None],
        images=pixels([scene for scenes, _, _ in rows for scene in scenes]),
        predictors=torch.tensor([r * length + at for r, row in enumerate(laid) for at, _ in row[3]]),
        targets=torch.tensor([token for row in laid for _, token in row[3]]),
        turns=torch.tensor(turn_of_scored),
        labels=patch_labels([scene for scenes, _, _ in rows for scene in scenes]),
    )


class Words(NamedTuple):
    """The first token of every word for what a patch shows, as it stands inside a sentence; in the order of the labels
    of `PatchLabels` that have the same name."""

    things: Tensor
    colors: Tensor
    sides: Tensor
    counts: Tensor


def name_tokens(tokenizer: PreTrainedTokenizerFast) -> Words:
    """The words that image tokens are aligned with."""
    kinds = (THINGS, COLORS, [side.split()[-1] for side in SIDES], NUMBERS[1:4])
    return Words(*(word_tokens(tokenizer, words) for words in kinds))


def yes_no_tokens(tokenizer: PreTrainedTokenizerFast) -> Tensor:
    """The tokens that begin an answer with yes or no [2]."""
    return word_tokens(tokenizer, ("Yes", "No"))


def thing_of_token(tokenizer: PreTrainedTokenizerFast) -> Tensor:
    """The thing that a token begins the name of, one of it or several: an index into `THINGS`, -1 for all other tokens
    [vocabulary]."""
    things = torch.full((len(tokenizer),), -1)
    for number, thing in enumerate(THINGS):
        things[word_tokens(tokenizer, (thing, plural(thing)))] = number
    return things


def decisive_tokens(tokenizer: PreTrainedTokenizerFast) -> Tensor:
    """The tokens that decide what an answer claims: yes and no, sides, numbers, colours, and how a list goes
    on [tokens]."""
    words = ("Yes", "No", *(side.split()[-1] for side in SIDES), "a", "an", *NUMBERS[:4], "is", "are", *COLORS)
    # What may stand in a decisive token's place weighs as much: else it'd be named too rarely.
    words += ("on", "in", "and")
    marks = torch.tensor(tokenizer.convert_tokens_to_ids([",", "."]))
    return torch.cat([word_tokens(tokenizer, words), marks])


def batch_loss(
    model: LlavaForConditionalGeneration,
    batch: Batch,
    names: Words,
    decisive: Tensor,
    align: float = 0.5,
    reader: PatchReader | None = None,
    things: Tensor | None = None,
) -> Tensor:
    """Weighted mean cross-entropy over the answer tokens, plus `align` times the alignment of image tokens with words,
    plus a fifth of the loss of `reader` on the tower's patches. With `things` (of `thing_of_token`) the names of things
    weigh as the `decisive` tokens do, and naming one again costs (see `naming_again`).

    Alignment: an image token that shows a dog on the left should lie nearer to the embedding of the word "dog" than to
    other names, and nearer to "left" than to other sides. A decoder that can match and copy words then needs no second
    skill to find what a question asks for and to say what it found; without it, looking comes late.
    """
    middle, last = read_patches(model.model.vision_tower, batch.images)
    features = model.model.multi_modal_projector(last)
    hidden = read_after_images(model, features, batch.ids, batch.visible, batch.positions)
    logits = model.lm_head(hidden.flatten(0, 1)[batch.predictors])
    heavy = torch.isin(batch.targets, decisive)
    if things is not None:
        heavy |= things[batch.targets] >= 0
    loss = weighed_surprise(logits, batch.targets, heavy)
    if reader is not None:
        loss = loss + 0.2 * reader(middle, last, batch.labels)
    if things is not None:
        loss = loss + 2 * naming_again(logits, batch, things)
    return loss + align * _alignment(model, features.flatten(0, 1), batch.labels, names)


def naming_again(logits: Tensor, batch: Batch, things: Tensor) -> Tensor:
    """The loss of naming a thing that the turn has named already: the mean of -log(1 - probability) over the places
    where it names another: the unlikelihood of Welleck et al. 2020 (arXiv 1908.04319, eq. 4), for the names of things
    alone. logits [n, vocabulary], `things` [vocabulary] as of `thing_of_token`.
    """
    told = things[batch.targets]
    at = (told >= 0).nonzero().squeeze(1)
    kinds = nn.functional.one_hot(told[at], len(THINGS)).float()
    before = (batch.turns[at][:, None] == batch.turns[at]).float().tril(-1)
    named = ((before @ kinds) > 0) & (kinds == 0)
    words = (things >= 0).nonzero().squeeze(1)
    chance = logits[at].float().softmax(-1)[:, words] @ nn.functional.one_hot(things[words], len(THINGS)).float()
    again = named.any(-1)
    return -torch.log1p(-(chance * named).sum(-1)[again].clamp(max=0.999)).mean() if again.any() else logits.sum() * 0


def _alignment(model: LlavaForConditionalGeneration, features: Tensor, labels: PatchLabels, names: Words) -> Tensor:
    """Cross-entropy of each image token's words among their kind, by the cosine of token and word; summed over the
    kinds. features [image tokens of the batch, width]."""
    told = nn.functional.normalize(features.float(), dim=-1)
    loss = features.new_zeros((), dtype=torch.float32)
    for kind, tokens in names._asdict().items():
        truth = getattr(labels, kind).flatten()
        shown = (truth >= 0) & (truth < len(tokens))
        if shown.any():
            words = nn.functional.normalize(model.get_input_embeddings()(tokens).float(), dim=-1)
            weight = balance(truth[shown], len(tokens)) if kind == "counts" else None
            loss = loss + nn.functional.cross_entropy(12 * told[shown] @ words.T, truth[shown], weight)
    return loss
