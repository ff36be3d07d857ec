"""One unit of multi-image prompts: compose, let the model answer, see where it looked (MIA-DPO, arXiv:2410.17637).

    pictures ──compose──▶ prompt ──add noise──▶ the model's answer and its attention ──▶ candidates

What a unit gives depends on its prompts, the settings, the pictures and the model. Candidates are kept whatever the
selection says, so that it can be made again.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from mmpo.data.corruption import generator
from mmpo.data.layouts import Box, Composer
from mmpo.data.layouts.compose import picture_in_picture
from mmpo.data.layouts.geometry import official_cell
from mmpo.data.layouts.noise import add_noise
from mmpo.data.layouts.prompts import check_prompt, collage_text, inner_text, sequence_text
from mmpo.data_builders.mia.plan import ComposedPrompt, Target
from mmpo.data_builders.mia.ratio import AttentionShare, packed, region_parts, sequence_parts
from mmpo.data_builders.mia.select import perplexity
from mmpo.data_builders.mia.settings import MiaSettings
from mmpo.errors import Quarantined, UserError
from mmpo.files.images import encode_image, load_image, portable_image
from mmpo.models.families.interleaved import interleaved
from mmpo.models.generation.answer import AnswerEngine, AnswerWithAttention
from mmpo.models.generation.probe import ProbeSpec
from mmpo.models.tree.token_map import token_map

OFFICIAL_QUALITY = 75
OFFICIAL_REFUSAL = "You only provided {count} images, Image{index} does not exist."


@dataclass(frozen=True)
class Prepared:
    """A composed prompt: encoded images as the pair holds them, and the regions of its pictures (for a sequence: one
    whole image each)."""

    item: ComposedPrompt
    images: tuple[bytes, ...]
    regions: tuple[Box, ...]


class PictureMaker:
    """Makes the images of prompts from the files. Nothing but the prompt and the files decides the bytes."""

    def __init__(self, settings: MiaSettings, root: Any) -> None:
        self.settings, self.root = settings, root
        self.composer = Composer()

    def prepare(self, item: ComposedPrompt) -> Prepared:
        """Raises Quarantined where a picture can't be used, or the plan found no companions."""
        if item.trouble is not None:
            raise item.trouble
        if item.layout == "sequence":
            images = tuple(self._file(path, item) for path in item.pictures)
            sizes = [load_image(image).size for image in images]
            return Prepared(item, images, tuple(Box(0, 0, *size) for size in sizes))
        pictures = [self._open(path, item) for path in item.pictures]
        if item.layout == "collage":
            made = self.composer.collage(pictures, item.pictures)
        else:
            made = picture_in_picture(*pictures)
        return Prepared(item, (self._encoded(made.picture),), made.regions)

    def _file(self, path: str, item: ComposedPrompt) -> bytes:
        try:
            return portable_image(path, root=self.root)
        except Quarantined as error:
            raise _blamed(error, path, item) from None

    def _open(self, path: str, item: ComposedPrompt) -> Image.Image:
        try:
            return load_image(path, root=self.root)
        except Quarantined as error:
            raise _blamed(error, path, item) from None

    def _encoded(self, picture: Image.Image) -> bytes:
        if self.settings.compat == "official":
            import io

            out = io.BytesIO()
            picture.save(out, "JPEG", quality=OFFICIAL_QUALITY)
            return out.getvalue()
        return encode_image(picture, "JPEG")


def _blamed(error: Quarantined, path: str, item: ComposedPrompt) -> Quarantined:
    """Say whether the target's picture or one beside it is at fault."""
    own = path in {target.record.image for target in item.targets}
    return Quarantined("target" if own else "companion", error.reason, f"{path}: {error.detail}")


@dataclass
class MiaBuilder:
    """Builds unit after unit."""

    settings: MiaSettings
    engine: AnswerEngine
    maker: PictureMaker
    version: str

    def __post_init__(self) -> None:
        own = self.settings.attention
        spec = ProbeSpec(tuple(own.layers), tuple(own.heads), own.reduce, own.predictive)
        self.probe = spec.resolved(self.engine.vlm)

    def build(self, items: Sequence[ComposedPrompt]) -> list[dict[str, Any]]:
        """An outcome for each prompt, in order: `candidates`, or `stage`, `reason` and `detail`."""
        outcomes: list[dict[str, Any]] = []
        asked: list[tuple[int, Prepared, Target, str]] = []
        for number, item in enumerate(items):
            outcomes.append({"candidates": []})
            try:
                prepared = self.maker.prepare(item)
                texts = [(target, self.text(item, target)) for target in self._asked(item)]
                for target, text in texts:
                    check_prompt(text, len(prepared.images), item.n + item.refusal)
                    asked.append((number, prepared, target, text))
            except Quarantined as error:
                outcomes[number] |= {"stage": error.stage, "reason": error.reason, "detail": error.detail}
        prompts = [
            (self._shown(prepared, target), interleaved(self.engine.vlm, text)) for _, prepared, target, text in asked
        ]
        watched = self.engine.watched(prompts, self.probe, max_new_tokens=self.settings.max_new_tokens)
        for (number, prepared, target, text), (_, messages), seen in zip(asked, prompts, watched, strict=True):
            candidate = self._candidate(prepared, target, text, seen)
            outcomes[number]["candidates"].append({**candidate, "prompt": messages})
        return outcomes

    def _asked(self, item: ComposedPrompt) -> Sequence[Target]:
        """The released code takes the first question of a collage only."""
        return item.targets[:1] if self.settings.compat == "official" else item.targets

    def text(self, item: ComposedPrompt, target: Target) -> str:
        """The question as it is asked, with image tags."""
        official = self.settings.compat == "official"
        question = target.record.question
        if item.layout == "pic_in_pic":
            return inner_text(question, random.Random(f"{self.settings.seed}/{item.id}"), official=official)
        if item.layout == "collage":
            return collage_text(question, target.index, official=official)
        assert self.settings.sequence is not None
        label = "Image{n}:" if official else self.settings.sequence.label
        text = sequence_text(question, item.n, target.index, official=official)
        for number in range(1, item.n + 1):
            text = text.replace(f"Image{number}:<image>", label.format(n=number) + "<image>", 1)
        return text

    def _shown(self, prepared: Prepared, target: Target) -> list[bytes | Image.Image]:
        """The images as the model sees them while it answers: with noise, in collages and pictures in a picture."""
        item, settings = prepared.item, self.settings
        if item.layout == "sequence":
            return list(prepared.images)
        picture = load_image(prepared.images[0])
        rng = generator(settings.seed, f"{item.id}/{target.index}", 0)
        official = settings.compat == "official"
        if item.layout == "collage":
            assert settings.collage is not None
            box = (
                official_cell(picture.size, item.n, target.index - 1)
                if official
                else prepared.regions[target.index - 1]
            )
            return [add_noise(picture, settings.collage.noise, rng, box) if settings.collage.noise else picture]
        assert settings.pic_in_pic is not None
        if not settings.pic_in_pic.noise:
            return [picture]
        return [add_noise(picture, settings.pic_in_pic.noise, rng, wrap=official)]

    def _candidate(self, prepared: Prepared, target: Target, text: str, seen: AnswerWithAttention) -> dict[str, Any]:
        item = prepared.item
        parts, share, maps = self._measure(prepared, target, seen)
        chosen = target.record.answer
        if item.refusal:
            wording = OFFICIAL_REFUSAL if self.settings.compat == "official" else self.settings.refusal
            chosen = wording.format(count=item.n, index=target.index)
        return {
            "id": f"{target.record.id}/{'refusal' if item.refusal else item.layout}",
            "layout": item.layout,
            "n": item.n,
            "index": target.index,
            "refusal": item.refusal,
            "text": text,
            "chosen": chosen,
            "rejected": seen.answer.text,
            "truncated": seen.answer.truncated,
            "tokens": len(seen.answer.token_ids),
            "perplexity": perplexity(seen.top),
            "parts": parts,
            "seen": share,
            "maps": maps,
        }

    def _measure(
        self, prepared: Prepared, target: Target, seen: AnswerWithAttention
    ) -> tuple[dict[str, dict[str, float]] | None, float, list[dict[str, Any]]]:
        """The attention on the target and on everything, the share of the target that the model was shown, and the
        maps to draw."""
        item, vlm = prepared.item, self.engine.vlm
        if seen.attention is None:
            return None, 1.0, []
        attention = seen.attention.mean(0).numpy().astype(float)
        counts = [sum(token == vlm.image_token_id for token in ids) for ids in seen.shown.processed.placeholders]
        by_image = np.split(attention, np.cumsum(counts)[:-1])
        sizes = [load_image(image).size for image in prepared.images]
        maps: list[dict[str, Any]] = []
        real: list[np.ndarray] = []
        share = 1.0
        places = None
        for number, values in enumerate(by_image):
            try:
                places = token_map(vlm, sizes[number], seen.shown.processed, number)
            except UserError:
                if item.layout != "sequence":
                    raise
                real.append(values)
                continue
            real.append(values[places.real])
            views = [
                {"grid": list(view.tokens.shape), "box": list(view.box), **packed(values[view.tokens].ravel())}
                for view in places.views
            ]
            maps.append({"size": list(sizes[number]), "views": views})
        parts: dict[str, AttentionShare] = {}
        if item.refusal:
            pass
        elif item.layout == "sequence":
            parts = sequence_parts(real, target.index - 1)
        else:
            assert places is not None
            share = places.seen(prepared.regions[target.index - 1])
            parts = region_parts(item.layout, by_image[0], places, prepared.regions, target.index - 1)
        return {name: part.as_json() for name, part in parts.items()} or None, share, maps
