"""The references of a run that are not the model without its adapter: opened before training, run beside the policy or
only to compute the log-probs that are kept.

A further adapter is loaded beside the policy's and costs its matrices; a second model costs its weights. TR-DPO's
moving reference is in `moving`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from torch import nn

from mmpo.errors import UserError
from mmpo.files.fingerprints import file_fingerprint, folder_fingerprint, model_folder
from mmpo.models.families.loading import VLM, load_beside, load_vlm
from mmpo.models.scoring.references import FrozenAdapter
from mmpo.models.scoring.sides import SECOND
from mmpo.objectives import Objective
from mmpo.trainers.moving import MovingReference
from mmpo.trainers.reference_settings import OtherReferenceSettings
from mmpo.trainers.settings import TrainSettings

FIRST: Literal["reference"] = "reference"
"""The name of the reference's adapter, beside the policy's; the second's is `SECOND`."""

ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")


ReferenceName = Literal["reference", "second_reference"]


@dataclass
class FixedReference:
    """A reference that stays as it is: an adapter on the policy's model, under `name` from `on` on, or a second model,
    loaded where it is first used."""

    name: str
    given: OtherReferenceSettings
    load: Callable[[str], VLM]

    @cached_property
    def model(self) -> VLM | None:
        """The second model; None for an adapter."""
        return self.load(self.given.model) if self.given.model is not None else None

    def put_on(self, vlm: VLM) -> None:
        """Load an adapter beside that of `vlm`."""
        if self.given.adapter is not None:
            load_beside(vlm, self.given.adapter, self.name)

    @property
    def identity(self) -> str:
        """A digest of adapter or model."""
        if self.given.model is not None:
            return folder_fingerprint(model_folder(self.given.model))
        assert self.given.adapter is not None
        files = [file_fingerprint(Path(self.given.adapter) / name) for name in ADAPTER_FILES]
        return hashlib.sha256("\n".join(files).encode()).hexdigest()

    @contextmanager
    def in_place_of(self, vlm: VLM) -> Iterator[VLM]:
        """The model to score with, whose log-probs are the reference's inside."""
        if self.model is not None:
            yield self.model
        else:
            with vlm.adapter_of(self.name):
                yield vlm

    def release(self) -> None:
        """Let go of a second model that is no longer needed."""
        self.__dict__.pop("model", None)

    @property
    def network(self) -> FrozenAdapter | nn.Module:
        """As `PairScorer` takes it."""
        return self.model.model if self.model is not None else FrozenAdapter(self.name)


@dataclass
class References:
    """What a run compares its policy with. `fixed` are the references other than the base, by the field of a pair that
    keeps their log-probs; `kept` are these fields, where log-probs are computed before training."""

    fixed: dict[str, FixedReference]
    moving: MovingReference | None
    kept: tuple[ReferenceName, ...]
    read: bool

    def release_kept(self) -> None:
        """Let go of second models whose log-probs are all kept."""
        for name in self.kept:
            if name in self.fixed:
                self.fixed[name].release()

    def for_scorer(self) -> dict[str, Any]:
        """The references as arguments of `PairScorer`."""
        first: Literal["adapter_off", "cached", "none"] | FrozenAdapter | nn.Module = "adapter_off"
        if not self.read:
            first = "none"
        elif FIRST in self.kept:
            first = "cached"
        elif self.moving is not None:
            first = FrozenAdapter(FIRST)
        elif FIRST in self.fixed:
            first = self.fixed[FIRST].network
        second = None
        if SECOND in self.fixed:
            second = "cached" if SECOND in self.kept else self.fixed[SECOND].network
        return {"reference": first, "second": second}


def open_references(settings: TrainSettings, objective: Objective, vlm: VLM) -> References:
    """The references of these settings, adapters loaded beside the policy's. Raises `UserError` where one does not
    go with the model."""
    read = "reference" in objective.reads

    def load(source: str) -> VLM:
        other = load_vlm(
            source,
            dtype=settings.dtype,
            quantize=settings.quantize,
            device=vlm.device,
            video_input=settings.video_input,
            trust_remote_code=settings.trust_remote_code,
            allow_network=settings.allow_network,
        )
        check_same_inputs(vlm, other)
        return replace(other, processor=vlm.processor)

    given = {FIRST: settings.reference, SECOND: settings.references.second if settings.references is not None else None}
    moves = settings.reference.moving if settings.reference is not None else None
    fixed = {
        name: FixedReference(name, one, load)
        for name, one in given.items()
        if one is not None and (name == SECOND or moves is None)
    }
    for reference in fixed.values():
        reference.put_on(vlm)
    moving = None
    if moves is not None:
        moving = MovingReference(vlm, FIRST, moves)
    kept: tuple[ReferenceName, ...] = ()
    if settings.cache_reference:
        kept = ((FIRST,) if read else ()) + ((SECOND,) if SECOND in fixed else ())
    return References(fixed, moving, kept, read)


def check_same_inputs(vlm: VLM, other: VLM) -> None:
    """Raises `UserError` unless what is prepared for `vlm` (tokens, pixels) can be read by `other` as it stands."""
    first, second = Path(vlm.source).name, Path(other.source).name
    if other.family.model_type != vlm.family.model_type:
        what = f"{second} is a model of type {other.family.model_type}, {first} of type {vlm.family.model_type}"
    elif other.tokenizer.get_vocab() != vlm.tokenizer.get_vocab() or other.image_token_id != vlm.image_token_id:
        what = f"{second} and {first} have different tokens"
    elif _pixels(other) != _pixels(vlm):
        what = f"{second} and {first} prepare images differently"
    else:
        return
    raise UserError(f"{other.source} can't be the reference of {vlm.source}: {what}", hint="name a model of its kind")


def _pixels(vlm: VLM) -> dict[str, Any]:
    found: dict[str, Any] = vlm.processor.image_processor.to_dict()
    return found
