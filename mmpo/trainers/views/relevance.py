"""The words of a question that have nothing to do with the image: the visual-agnostic words that TARS perturbs.

Relevance is the cosine of the image's and the word's embedding, each made once and kept with the pairs. Two sources:

* a CLIP-like model from transformers (CLIP, SigLIP, …), as the paper uses;
* the policy itself, where there is no CLIP: the mean of the image's projected tokens against the mean of the word's
  input embeddings. The two live in one space because the language model reads both, but nothing trained them to be
  near one another when they mean the same: ranks are noisier than CLIP's.

Source: TARS (arXiv 2507.21584), section 2.2.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol, cast

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list, gather_object
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.functional import normalize

from mmpo.errors import UserError
from mmpo.files.atomic import replacing
from mmpo.files.fingerprints import folder_fingerprint, model_folder
from mmpo.models.families.loading import VLM
from mmpo.models.families.vision import encode_images
from mmpo.progress import track
from mmpo.trainers.images import ImageStore


def visual_agnostic(relevance: Sequence[float], *, omega: float = 1e-3, cap: float = 1.0) -> list[int]:
    """Indices of the words to perturb, least relevant first.

    `relevance` holds cosines; P = -cosine is large for words the image does not show. N = floor(omega / dP) + 1 words
    with the largest P are taken, dP the lead of the first over the second: one where it stands out, many where the
    ranking is flat, all where the first two are equal. At most `cap` of the words, at least one. Arithmetic on the
    edge of a whole number counts as that number. TARS, arXiv 2507.21584, eq. of N_t.
    """
    order = sorted(range(len(relevance)), key=lambda i: (relevance[i], i))
    if len(order) < 2:
        return order
    lead = relevance[order[1]] - relevance[order[0]]
    count = len(order) if lead <= 0 else math.floor(omega / lead + 1e-6) + 1
    return order[: max(1, min(count, math.floor(cap * len(order) + 1e-9)))]


class Embedder(Protocol):
    """A model that places images and words in one space."""

    identity: str

    def images(self, keys: Sequence[str]) -> Tensor:
        """[n, d]"""

    def words(self, words: Sequence[str]) -> Tensor:
        """[n, d]"""


class PolicyEmbedder:
    """The policy's own space; see above. The adapter is off."""

    def __init__(self, vlm: VLM, store: ImageStore) -> None:
        if vlm.family.features == "own":
            raise UserError(
                f"{vlm.source}: the image features of an unknown model can't be read", hint="name a CLIP folder"
            )
        self.vlm, self.store = vlm, store
        self.identity = f"policy:{folder_fingerprint(model_folder(vlm.source))}"

    def images(self, keys: Sequence[str]) -> Tensor:
        rows = []
        for key in keys:
            with self.vlm.adapter_off():
                encoded = encode_images(self.vlm, self.store.prepared(key).tensors, frozen=True)
            assert encoded is not None  # there is an image
            rows.append(encoded.pooler_output[0].float().mean(0))
        return torch.stack(rows).cpu()

    def words(self, words: Sequence[str]) -> Tensor:
        table = cast(Tensor, self.vlm.base.get_input_embeddings().weight)
        ids = [self.vlm.tokenizer(f" {word}", add_special_tokens=False).input_ids for word in words]
        return torch.stack([table[torch.tensor(own, device=table.device)].float().mean(0) for own in ids]).cpu()


class ClipEmbedder:
    """A CLIP-like model of transformers in `folder`; `template` is the form in which it gets a word."""

    def __init__(
        self, folder: str, store: ImageStore, template: str = "{}", device: torch.device | str = "cpu"
    ) -> None:
        from transformers import AutoModel, AutoProcessor

        try:
            model: Any = AutoModel.from_pretrained(folder, local_files_only=True, use_safetensors=True)
            self.model = model.eval().to(device)
            self.processor: Any = AutoProcessor.from_pretrained(folder, local_files_only=True)
        except (OSError, ValueError) as error:
            raise UserError(
                f"{folder}: no CLIP-like model could be loaded: {error}",
                hint="give the folder of a CLIP or SigLIP model, or relevance: policy",
            ) from error
        if not hasattr(self.model, "get_text_features") or not hasattr(self.model, "get_image_features"):
            raise UserError(f"{folder}: {type(self.model).__name__} does not embed images and texts")
        self.store, self.template = store, template
        self._padding: dict[str, Any] = {"padding": True}
        if self.model.config.model_type.startswith("siglip"):
            # These read a text at the last place of all, where training had padding up to their full length.
            places = self.model.config.text_config.max_position_embeddings
            self._padding = {"padding": "max_length", "max_length": places}
        self.identity = f"clip:{folder_fingerprint(model_folder(folder))}:{template}"

    def images(self, keys: Sequence[str]) -> Tensor:
        """A clip's is the mean of its frames'."""
        stills = [self.store.stills(key) for key in keys]
        pictures = [self.store.picture(key) for own in stills for key in own]
        inputs = self.processor(images=pictures, return_tensors="pt").to(self.model.device)
        found = _pooled(self.model.get_image_features(**inputs)).cpu()
        return torch.stack([own.float().mean(0) for own in found.split([len(own) for own in stills])])

    def words(self, words: Sequence[str]) -> Tensor:
        texts = [self.template.replace("{}", word) for word in words]
        inputs = self.processor(text=texts, return_tensors="pt", truncation=True, **self._padding)
        return _pooled(self.model.get_text_features(**inputs.to(self.model.device))).cpu()


def _pooled(output: Any) -> Tensor:
    found: Tensor = output if isinstance(output, Tensor) else output.pooler_output
    return found


class RelevanceTable:
    """Unit vectors of images (by content) and words, filled once and kept in `folder` with the pairs."""

    def __init__(self, folder: Path, embedder: Embedder, store: ImageStore) -> None:
        name = hashlib.blake2b(embedder.identity.encode(), digest_size=16).hexdigest()
        self._file = folder / f"{name}.safetensors"
        self._embedder, self._store = embedder, store
        self._vectors: dict[str, Tensor] = {}
        try:
            with safe_open(self._file, framework="pt") as file:
                self._vectors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a dict)
        except Exception:  # absent, or torn by a kill: both mean that it has to be computed
            self._vectors = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_embedder": None}  # it is for `fill`; a loader worker only looks up

    @torch.no_grad()
    def fill(self, images: Iterable[str], words: Iterable[str]) -> None:
        """Embed what is not known yet and save the table, atomically. Every process calls this: each embeds its share,
        all get the whole, the first one writes."""
        state = PartialState()
        missing = [
            [key for key in dict.fromkeys(images) if self._image_name(key) not in self._vectors],
            [word for word in dict.fromkeys(words) if f"word:{word}" not in self._vectors],
        ]
        broadcast_object_list(missing)  # the first process's: another may see a newer file
        if not any(missing):
            return
        new_images, new_words = (own[state.process_index :: state.num_processes] for own in missing)
        before = set(self._vectors)
        for start in track(range(0, len(new_images), 16), "relevance of images"):
            keys = new_images[start : start + 16]
            for key, vector in zip(keys, normalize(self._embedder.images(keys).float(), dim=-1), strict=True):
                self._vectors[self._image_name(key)] = vector.clone()
        for start in range(0, len(new_words), 256):
            chunk = new_words[start : start + 256]
            for word, vector in zip(chunk, normalize(self._embedder.words(chunk).float(), dim=-1), strict=True):
                self._vectors[f"word:{word}"] = vector.clone()
        if state.num_processes > 1:
            made = {name: vector for name, vector in self._vectors.items() if name not in before}
            for others in gather_object([made]):
                self._vectors |= others
        if state.is_main_process:
            with replacing(self._file) as partial:
                save_file(self._vectors, partial)

    def relevance(self, images: Sequence[str], words: Sequence[str]) -> list[float]:
        """Cosine of each word with the image it fits best (0 without images)."""
        if not images or not words:
            return [0.0] * len(words)
        shown = torch.stack([self._vectors[self._image_name(key)] for key in images])
        told = torch.stack([self._vectors[f"word:{word}"] for word in words])
        found: list[float] = (told @ shown.T).amax(dim=1).tolist()
        return found

    def nearest(self, images: Sequence[str]) -> dict[str, str]:
        """For each image the most similar one of other content. Raises `UserError` where all are the same."""
        numbers: dict[str, int] = {}
        content = torch.tensor([numbers.setdefault(self._image_name(key), len(numbers)) for key in images])
        if len(numbers) < 2:
            raise UserError("the corruption `nearest` needs at least two different images")
        vectors = torch.stack([self._vectors[self._image_name(key)] for key in images])
        found: list[int] = []
        for start in range(0, len(images), 256):
            cosines = vectors[start : start + 256] @ vectors.T
            same = content[start : start + 256, None] == content
            found += cosines.masked_fill(same, -math.inf).argmax(dim=1).tolist()
        return {key: images[k] for key, k in zip(images, found, strict=True)}

    def _image_name(self, key: str) -> str:
        return f"image:{self._store.content(key)}"
