"""The regularizers of a run around the trainer's steps.

The trainer hands over the micro-batches of a step before its first forward pass (`begin`), then each of them in turn
(`training_step`). After the last one the gradients are those of the whole step over all processes; what the first pass
logged stays, and further passes over the same micro-batches, each with the random state it had, take the gradient at
other weights. Only then is it clipped. Penalties of the weights alone are part of each of these gradients.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from mmpo.errors import UserError
from mmpo.objectives.term import Term
from mmpo.trainers.regularizers.awp import awp
from mmpo.trainers.regularizers.dropout import DropoutHook
from mmpo.trainers.regularizers.fad import fad
from mmpo.trainers.regularizers.flat_lora import flat_lora_rows
from mmpo.trainers.regularizers.gam import gam
from mmpo.trainers.regularizers.lora_ggpo import Slopes, followed, lora_ggpo_rows
from mmpo.trainers.regularizers.lora_layers import lora_matrices
from mmpo.trainers.regularizers.noise import NoiseHooks
from mmpo.trainers.regularizers.past import Average, Past, PastDivergence, Snapshots
from mmpo.trainers.regularizers.pego import pego_matrices, pego_penalty
from mmpo.trainers.regularizers.rwp import rwp
from mmpo.trainers.regularizers.sam import sam
from mmpo.trainers.regularizers.settings import RegularizerSettings
from mmpo.trainers.regularizers.vectors import Vector, weights_at
from mmpo.types import PairLogps

if TYPE_CHECKING:
    from mmpo.trainers.regularizers.trainer import RegularizedTrainer

STATE_FILE = "regularizers.safetensors"

MicroStep = Callable[[nn.Module, Any, Any], Tensor]
"""Forward and backward of one micro-batch, as `transformers.Trainer.training_step`."""


class Regularization:
    """What a run's regularizers hold, and where they act. Raises `UserError` for models they do not fit."""

    def __init__(self, settings: RegularizerSettings, trainer: RegularizedTrainer) -> None:
        if trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled:
            raise UserError(
                f"regularizers ({', '.join(settings.on)}) need whole weights, which FSDP and DeepSpeed cut up",
                hint="train without them, or leave train.regularizers out",
            )
        self.settings, self.trainer = settings, trainer
        self.named = {name: p for name, p in trainer.scorer.named_parameters() if p.requires_grad}
        self.parameters: list[nn.Parameter] = list(self.named.values())
        self.matrices = lora_matrices(trainer.scorer.model)
        seed = trainer.args.seed
        self.slopes: list[Slopes] | None = None
        self.noise: NoiseHooks | None = None
        self._base_rows: list[Tensor | None] | None = None
        if settings.flat_lora is not None or settings.lora_ggpo is not None:
            self.noise = NoiseHooks(self.matrices, seed)
        self.past: PastDivergence | None = None
        past = self._past()
        if past is not None:
            self.past = PastDivergence(past, trainer.scorer, self.parameters)
        self.penalized = []
        if settings.pego is not None:
            self.penalized = pego_matrices(settings.pego, self.matrices)
            if any(matrix.base is None for matrix in self.penalized):
                raise UserError(
                    "regularizers.pego reads the weights below the adapter, which are quantized here",
                    hint="quantize: none, or leave pego out",
                )
        self.dropout: DropoutHook | None = None
        if settings.multi_sample_dropout is not None:
            if trainer.scorer.cached:
                raise UserError(
                    "regularizers.multi_sample_dropout draws one mask for policy and reference; cached log-probs have "
                    "none",
                    hint="leave cache_reference out",
                )
            if trainer.scorer._vlm.family.features == "own":
                raise UserError(
                    "regularizers.multi_sample_dropout drops states below the head, which mmpo does not know of this "
                    "model",
                    hint="lora: {dropout: 0.05}, or leave multi_sample_dropout out",
                )
            self.dropout = DropoutHook(settings.multi_sample_dropout, trainer.scorer._vlm.backbone, seed)
        self.factor = 1.0
        self._below: float | None = None
        self._ascending = 0
        self._samples: list[Any] = []
        self._totals: Any = None
        self._states: list[Any] = []
        self._pairs: Tensor | float = 1.0

    def _past(self) -> Past | None:
        if self.settings.mesa is not None:
            return Average(self.settings.mesa)
        if self.settings.saf is None:
            return None
        schedule, epochs = self.trainer.schedule, self.settings.saf.epochs
        steps = len(schedule)
        lag = next((step for step in range(1, steps) if schedule.epoch(step) >= epochs), steps)
        return Snapshots(self.settings.saf, lag, steps)

    # ---- a step

    def begin(self, samples: list[Any]) -> None:
        """The micro-batches of the step that starts."""
        self._samples, self._states = samples, []
        weights = [parameter.detach() for parameter in self.parameters]
        if self.past is not None:
            self.past.past.begin(weights, self.trainer.state.global_step)
            pairs = torch.tensor([float(sum(len(sample["batch"]) for sample in samples))])
            accelerator = self.trainer.accelerator
            if accelerator.num_processes > 1:
                pairs = accelerator.reduce(pairs.to(self.trainer.args.device), reduction="sum")
            self._pairs = pairs.clamp_min(1.0)[0]
        if self.noise is not None:
            self._set_noise(self.noise)

    @torch.no_grad()
    def _set_noise(self, noise: NoiseHooks) -> None:
        noise.step = self.trainer.state.global_step
        if self._base_rows is None:
            self._base_rows = [None if m.base is None else m.base.to(m.a.dtype).square().sum(1) for m in self.matrices]
        flat, guided = self.settings.flat_lora, self.settings.lora_ggpo
        for number, (matrix, base) in enumerate(zip(self.matrices, self._base_rows, strict=True)):
            if flat is not None:
                noise.rows[number] = flat_lora_rows(flat, matrix, base, noise.step / len(self.trainer.schedule))
            elif guided is not None:
                slopes = self.slopes[number] if self.slopes is not None else None
                noise.rows[number] = lora_ggpo_rows(guided, matrix, base, slopes)

    def training_step(self, run: MicroStep, model: nn.Module, inputs: Any, totals: Any) -> Tensor:
        """One micro-batch of the step; after the last one, the step's gradient is replaced by the regularized one."""
        number = len(self._states)
        assert inputs is self._samples[number]
        self._totals = totals
        self._states.append(_random_state(self.trainer.args.device))
        loss = self._micro(run, model, number, last=number + 1 == len(self._samples))
        if number + 1 == len(self._samples):
            self._finish(run, model)
        return loss

    def _micro(self, run: MicroStep, model: nn.Module, number: int, *, last: bool) -> Tensor:
        masks = self.settings.multi_sample_dropout.samples if self.settings.multi_sample_dropout is not None else 1
        self.factor = 1.0 / masks
        total: Tensor | None = None
        for mask in range(masks):
            if self.dropout is not None:
                self.dropout.mask = (self.trainer.state.global_step, self.trainer.args.process_index, number, mask)
            compared = self.past.compared() if self.past is not None and self._below is None else nullcontext()
            with compared, nullcontext() if last and mask + 1 == masks else self._no_sync(model):
                loss = run(model, self._samples[number], self._totals)
            total = loss if total is None else total + loss
        if self.dropout is not None:
            self.dropout.mask = None
        assert total is not None
        return total

    def _no_sync(self, model: nn.Module) -> AbstractContextManager[Any]:
        made: AbstractContextManager[Any] = self.trainer.accelerator.no_sync(model)
        return made

    def _finish(self, run: MicroStep, model: nn.Module) -> None:
        """Take the passes that the perturbation needs, and leave its gradient in place of the first."""
        settings = self.settings
        device = self.trainer.args.device
        missing = [parameter.grad is None and self.settings.pego is None for parameter in self.parameters]
        first = self._taken()
        if first is None:
            return
        after = _random_state(device)
        weights: Vector = [parameter.detach() for parameter in self.parameters]

        def at(point: Vector) -> Vector:
            return self._again(run, model, point)

        result = first
        if settings.sam is not None:
            result = sam(settings.sam, weights, first, at)
        elif settings.awp is not None:
            result = awp(settings.awp, weights, first, at)
        elif settings.fad is not None:
            result = fad(settings.fad, weights, first, at)
        elif settings.gam is not None:
            result = gam(settings.gam, weights, first, at)
        elif settings.rwp is not None:
            result = rwp(
                settings.rwp, weights, at, lambda point, bound: self._of_small_losses(run, model, point, bound)
            )
        _set_random_state(after, device)
        if settings.lora_ggpo is not None:
            self._follow(result)
        scale = self._loss_scale
        for parameter, gradient, none in zip(self.parameters, result, missing, strict=True):
            parameter.grad = None if none else gradient * scale if scale != 1.0 else gradient

    def _again(self, run: MicroStep, model: nn.Module, point: Vector) -> Vector:
        """The gradient of the whole step at those weights; nothing of it is logged."""
        trainer = self.trainer
        with trainer.passes_apart(), weights_at(self.parameters, point):
            for number, state in enumerate(self._states):
                _set_random_state(state, trainer.args.device)
                self._micro(run, model, number, last=number + 1 == len(self._samples))
            found = self._taken()
        assert found is not None
        return found

    def _of_small_losses(self, run: MicroStep, model: nn.Module, point: Vector, bound: float) -> tuple[Vector, int]:
        """The gradient of the pairs whose loss there is below the bound, and how many they are in all processes."""
        self._below, self._ascending = bound, 0
        try:
            found = self._again(run, model, point)
        finally:
            self._below = None
        count = torch.tensor([float(self._ascending)], device=self.trainer.args.device)
        if self.trainer.accelerator.num_processes > 1:
            count = self.trainer.accelerator.reduce(count, reduction="sum")
        return found, int(count.item())

    @property
    def _loss_scale(self) -> float:
        scaler = self.trainer.accelerator.scaler
        return float(scaler.get_scale()) if scaler is not None else 1.0

    def _taken(self) -> Vector | None:
        """The gradients, unscaled, with those of the penalties, and none left behind; None if there is none."""
        found = [parameter.grad for parameter in self.parameters]
        for parameter in self.parameters:
            parameter.grad = None
        if all(gradient is None for gradient in found):
            return None
        scale = self._loss_scale
        vector = [
            torch.zeros_like(parameter) if gradient is None else gradient / scale if scale != 1.0 else gradient
            for parameter, gradient in zip(self.parameters, found, strict=True)
        ]
        if self.settings.pego is not None and self._below is None:
            with torch.enable_grad():
                penalty = pego_penalty(self.settings.pego, self.penalized)
                slopes = torch.autograd.grad(penalty, self.parameters, allow_unused=True)
            vector = [own if more is None else own + more for own, more in zip(vector, slopes, strict=True)]
        return vector

    def _follow(self, gradient: Vector) -> None:
        assert self.settings.lora_ggpo is not None
        of = {id(parameter): part for parameter, part in zip(self.parameters, gradient, strict=True)}
        before: list[Slopes] | list[None] = self.slopes if self.slopes is not None else [None] * len(self.matrices)
        self.slopes = [
            followed(self.settings.lora_ggpo, old, (of[id(matrix.a)].clone(), of[id(matrix.b)].clone()))
            for old, matrix in zip(before, self.matrices, strict=True)
        ]

    # ---- a loss

    def selected(self, terms: dict[str, tuple[float, Term]], pairs: int) -> dict[str, tuple[float, Term]]:
        """The terms; in the ascent of rwp, those of each pair, with only the pairs whose loss is below the bound."""
        if self._below is None:
            return terms
        own = {name: given for name, given in terms.items() if given[1].values.shape == (pairs,)}
        if not own:
            raise UserError("regularizers.rwp: no term of the objective has a loss of each pair", hint="use sam or awp")
        losses = torch.stack([coefficient * term.values.detach() for coefficient, term in own.values()]).sum(0)
        small = losses < self._below
        self._ascending += int(small.sum().item())
        return {
            name: (coefficient, term._replace(values=torch.where(small, term.values, torch.zeros_like(term.values))))
            for name, (coefficient, term) in own.items()
        }

    def added(self, loss: Tensor, logps: PairLogps) -> tuple[Tensor, dict[str, Tensor]]:
        """The micro-batch's share of the loss with the regularizers' terms, which are returned as well, [b] each."""
        values: dict[str, Tensor] = {}
        if self.past is not None:
            term = self.past.per_pair(logps)
            if term is not None:
                name = "mesa" if self.settings.mesa is not None else "saf"
                values[name] = term.detach()
                loss = loss + term.sum() / torch.as_tensor(self._pairs, device=term.device)
        return loss * self.factor, values

    # ---- checkpoints

    def save(self, folder: Path) -> None:
        """Write what later steps depend on, if anything."""
        if state := self._as_tensors():
            save_file({name: value.detach().contiguous().cpu() for name, value in state.items()}, folder / STATE_FILE)

    def load(self, folder: Path) -> None:
        """Read it again. Raises `UserError` where the checkpoint was made without these regularizers."""
        if self.past is None and self.settings.lora_ggpo is None:
            return
        if not (folder / STATE_FILE).exists():
            raise UserError(
                f"{folder}: the checkpoint holds nothing of the regularizers ({', '.join(self.settings.on)})",
                hint="resume with the settings the run was started with",
            )
        device = self.trainer.args.device
        state = {name: value.to(device) for name, value in load_file(str(folder / STATE_FILE)).items()}
        if self.settings.lora_ggpo is not None:
            self.slopes = [(state[f"slopes/{n}/a"], state[f"slopes/{n}/b"]) for n in range(len(self.matrices))]
        if self.past is not None:
            keys = dict.fromkeys(name.split("/")[1] for name in state if name.startswith("past/"))
            self.past.past.load({key: [state[f"past/{key}/{name}"] for name in self.named] for key in keys})

    def _as_tensors(self) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        for number, (a, b) in enumerate(self.slopes or ()):
            found |= {f"slopes/{number}/a": a, f"slopes/{number}/b": b}
        if self.past is not None:
            for key, weights in self.past.past.state().items():
                found |= {f"past/{key}/{name}": part for name, part in zip(self.named, weights, strict=True)}
        return found


def _random_state(device: torch.device) -> tuple[Tensor, Tensor | None]:
    return torch.get_rng_state(), torch.cuda.get_rng_state(device) if device.type == "cuda" else None


def _set_random_state(state: tuple[Tensor, Tensor | None], device: torch.device) -> None:
    torch.set_rng_state(state[0])
    if state[1] is not None:
        torch.cuda.set_rng_state(state[1], device)
