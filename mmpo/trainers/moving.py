"""TR-DPO's moving reference: every so many steps it becomes mix x policy + (1 - mix) x reference. Gorbatovski et al.
2024 (arXiv 2404.09656); mix 1 is its hard update.

It is an adapter beside the policy's, of weights W + B' A' where the policy's are W + s B A. What is mixed are the
weights, not the matrices (the product of two mixed matrices is not the mix of two products), and a sum of products is
a product again:

    mix s B A + (1 - mix) B' A'  =  [(1 - mix) B', mix s B] [A'; A]

Its rank grows with every move, until the oldest policies have faded to nothing in float32 and a singular value
decomposition takes them out.

Shapes: r the policy's rank, k the reference's, i and o the inputs and outputs of an adapted layer.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from mmpo.errors import UserError
from mmpo.models.families.loading import VLM, keep_beside
from mmpo.trainers.reference_settings import MovingReferenceSettings

FILE = "moving_reference.safetensors"
"""The reference's matrices in a checkpoint."""

_FADED = 1e-7
"""Share of a layer's largest singular value below which another is nothing in float32."""


class MovingReference:
    """The adapter `name` on the policy's model, at first the model itself."""

    def __init__(self, vlm: VLM, name: str, settings: MovingReferenceSettings) -> None:
        self._model, self.name, self.settings = vlm.model, name, settings
        assert isinstance(self._model, PeftModel), "a policy is a model with an adapter"
        self._own = self._model.active_adapters[0]
        config: Any = copy.deepcopy(self._model.peft_config[self._own])
        config.inference_mode = True
        with torch.random.fork_rng(devices=[]):  # the start of its A is drawn, and never matters
            self._model.add_adapter(name, config)
        keep_beside(vlm, name)
        for _, layer in self._layers():
            if not isinstance(layer.get_base_layer(), nn.Linear):
                raise UserError("a moving reference needs an adapter of linear layers alone", hint="set lora.targets")
            layer.scaling[name] = 1.0

    def _layers(self) -> Iterator[tuple[str, Any]]:
        for name, module in self._model.named_modules():
            if isinstance(module, LoraLayer) and self._own in module.lora_A:
                yield name, module

    def after_step(self, step: int) -> None:
        """Move, if the step that was just made is one to move after."""
        if step % self.settings.every == 0:
            self.move()

    @torch.no_grad()
    def move(self) -> None:
        mix = self.settings.mix
        for _, layer in self._layers():
            own = layer.scaling[self._own] * layer.lora_B[self._own].weight, layer.lora_A[self._own].weight
            b, a = mix * own[0], own[1].clone()
            if mix < 1:
                before = layer.lora_B[self.name].weight, layer.lora_A[self.name].weight
                b, a = torch.cat([(1 - mix) * before[0], b], dim=1), torch.cat([before[1], a])
                if len(a) > 4 * len(own[1]):
                    b, a = _narrower(b, a)
            self._set(layer, b, a)

    def _set(self, layer: Any, b: Tensor, a: Tensor) -> None:
        for part, weight in ((layer.lora_B[self.name], b), (layer.lora_A[self.name], a)):
            part.weight = nn.Parameter(weight.contiguous(), requires_grad=False)
            part.out_features, part.in_features = weight.shape
        layer.r[self.name] = len(a)

    # ---- checkpoints

    def save(self, folder: Path) -> None:
        """Write the matrices into a checkpoint."""
        found = {}
        for name, layer in self._layers():
            found[f"{name}.A"] = layer.lora_A[self.name].weight.contiguous()
            found[f"{name}.B"] = layer.lora_B[self.name].weight.contiguous()
        save_file(found, folder / FILE)

    def load(self, folder: Path) -> None:
        """Go on where the checkpoint stands. Raises `UserError` where it has no such reference, or another's."""
        if not (folder / FILE).is_file():
            raise UserError(
                f"{folder}: the checkpoint has no moving reference",
                hint="resume with the settings the run was started with",
            )
        found = load_file(folder / FILE)
        layers = dict(self._layers())
        if found.keys() != {f"{name}.{part}" for name in layers for part in "AB"}:
            raise UserError(
                f"{folder / FILE}: the reference in the checkpoint does not fit this run's adapter",
                hint="resume with the settings the run was started with",
            )
        for name, layer in layers.items():
            device = layer.lora_A[self._own].weight.device
            self._set(layer, found[f"{name}.B"].to(device), found[f"{name}.A"].to(device))


def _narrower(b: Tensor, a: Tensor) -> tuple[Tensor, Tensor]:
    """[o, k] and [k, i] with the same product and no more columns than it has rank, in float32."""
    left, first = torch.linalg.qr(b.double())
    right, second = torch.linalg.qr(a.double().T)
    u, values, v = torch.linalg.svd(first @ second.T, full_matrices=False)
    rank = max(1, int((values > _FADED * values[0]).sum()))
    root = values[:rank].sqrt()
    return ((left @ u[:, :rank]) * root).to(b.dtype), (root[:, None] * (v[:rank] @ right.T)).to(a.dtype)


class Moves(TrainerCallback):
    """Moves the reference after the steps that are due."""

    def __init__(self, reference: MovingReference) -> None:
        self._reference = reference

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self._reference.after_step(state.global_step)
