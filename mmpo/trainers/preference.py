"""The preference trainer: `transformers.Trainer` with another batch, another loss and the schedule of `schedule.py`.

What comes from `Trainer`: optimizer, learning rate, devices and processes (accelerate, FSDP, DeepSpeed), checkpoints,
loggers. What is here:

* The model is the scorer, whose one forward holds vision, language model and head, so that wrappers see all of it.
* The loss of a step is `sum of values / sum of weights` over every pair of the step, whatever the cut into
  accumulation and processes. The weights are known before the first forward pass (they depend on the data alone), so
  each micro-batch contributes its values over the weight of the whole step.
* Evaluation divides in the same way, over the whole evaluation set.
* A loss or gradient that is not finite ends the run before it reaches the weights, and names the pairs.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import TrainerCallback, TrainingArguments

from mmpo.errors import UserError
from mmpo.models.scoring.pairs import blank_logps
from mmpo.models.scoring.score import PairBatch, PairScorer
from mmpo.objectives import Objective
from mmpo.objectives.groups import with_own_groups
from mmpo.objectives.stand_in import filled
from mmpo.progress import track
from mmpo.trainers import checkpoints
from mmpo.trainers.adapter_trainer import AdapterTrainer
from mmpo.trainers.auxiliary import PairsWithSamples, Samples, draw
from mmpo.trainers.averages import Averages
from mmpo.trainers.callbacks import AlignedLogs, EpochClock
from mmpo.trainers.clock import Clock
from mmpo.trainers.collate import EncodedPair, EncodedPairs, PairCollator
from mmpo.trainers.groups import Groups, rate_beside
from mmpo.trainers.moving import MovingReference
from mmpo.trainers.ranks import Pulse
from mmpo.trainers.schedule import Schedule, Shape, cut, numbered
from mmpo.trainers.sharding import whole
from mmpo.trainers.step import BatchLoss, StepRules, gather_step, refuse_non_finite
from mmpo.types import PairLogps

Totals = dict[str, float | Tensor]
"""The weight of a whole optimizer step, per term of the objective."""


class PreferenceTrainer(AdapterTrainer):
    """Trains the adapter of a `PairScorer` on encoded pairs.

    `args` are ordinary `TrainingArguments`; `per_device_train_batch_size` counts pairs. The steps of the run are laid
    out by `Schedule`, so `args.num_train_epochs` may be a fraction and a token budget may vary the number of pairs per
    step; `group_images` keeps pairs about the same images together, `in_order` all as they are. Auxiliary `samples` and
    `groups` of responses go with the pairs of a training step, as many as their settings say; evaluation is on pairs
    alone. `facts` are written into each checkpoint's completeness marker, and `keep_checkpoints` of them stay.
    """

    def __init__(
        self,
        model: PairScorer,
        args: TrainingArguments,
        *,
        objective: Objective,
        collator: PairCollator,
        train_dataset: EncodedPairs,
        eval_dataset: EncodedPairs | None = None,
        tokens_per_batch: int | None = None,
        group_images: bool = False,
        in_order: bool = False,
        keep_checkpoints: int = 2,
        samples: Samples | None = None,
        groups: Groups | None = None,
        metadata: Mapping[str, Any] | None = None,
        callbacks: list[TrainerCallback] | None = None,
        pulse: Pulse | None = None,
        moving: MovingReference | None = None,
    ) -> None:
        args = copy.copy(args)
        _ = args.device  # sets up the process group; DataParallel is never wanted: one process per device
        args._n_gpu = min(args._n_gpu, 1)
        self.schedule = Schedule(
            train_dataset.lengths,
            Shape(
                args.per_device_train_batch_size, args.gradient_accumulation_steps, args.world_size, tokens_per_batch
            ),
            seed=args.seed if args.data_seed is None else args.data_seed,
            epochs=args.num_train_epochs,
            max_steps=args.max_steps if args.max_steps > 0 else None,
            groups=train_dataset.image_groups if group_images else None,
            parts=train_dataset.parts(model._vlm) if model.shared else None,
            in_order=in_order,
        )
        args.max_steps, args.num_train_epochs = len(self.schedule), 1  # to `Trainer` the schedule is one long epoch
        args.remove_unused_columns = False
        args.logging_nan_inf_filter = False  # would hide what `refuse_non_finite` looks for, and wait for every batch
        args.save_total_limit = None  # `Trainer` removes old checkpoints before the new one is declared whole
        args.dataloader_pin_memory = False
        super().__init__(
            model=model,
            args=args,
            data_collator=collator,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            callbacks=[EpochClock(self.schedule), AlignedLogs(), *(callbacks or [])],
        )
        # `Trainer` then passes on what `get_batch_samples` returns and leaves the scale of the loss to `compute_loss`.
        self.model_accepts_loss_kwargs = True
        self.checkpoint_root = Path(str(self.args.output_dir))
        self.scorer = model
        self.pairs = train_dataset
        self.eval_pairs = eval_dataset
        self.objective: Objective = objective
        self.beside: list[Samples | Groups] = [drawn for drawn in (samples, groups) if drawn is not None]
        self.tokens_per_batch = tokens_per_batch
        self.keep_checkpoints = keep_checkpoints
        self.metadata = dict(metadata or {})
        self.moving = moving
        self.pulse = pulse or Pulse(self.checkpoint_root, 0, 1)
        self._clock = Clock()
        self._window = Averages()
        self._rules = StepRules(objective, self.args.seed)
        self._step_losses: list[BatchLoss] = []

    # -- data -------------------------------------------------------------------------------------------------------

    def get_train_dataloader(self) -> DataLoader[EncodedPair]:
        def mine(steps: Any) -> list[Any]:
            return [batch for step in steps for batch in step[self.args.process_index :: self.args.world_size]]

        batches = mine(numbered(self.schedule.steps, len(self.pairs)))
        data, collate = cast(Any, self.pairs), cast(Any, self.data_collator)
        for other in self.beside:
            sharded = self.is_fsdp_enabled or self.is_deepspeed_enabled
            rate = rate_beside(other, len(self.pairs), sharded=sharded, alone=self.objective.of_groups_alone)
            drawn = mine(draw(len(other), self.schedule, self.args.seed, rate, other.stage))
            batches = [list(zip(*both, strict=True)) for both in zip(batches, drawn, strict=True)]
            data, collate = PairsWithSamples(data, other), other.collator(collate)
        return self._loader(data, batches, collate)

    def _loader(self, data: Any, batches: list[Any], collate: Any = None) -> DataLoader[Any]:
        # Not prepared by accelerate: `batches` are this process's share already. The generator keeps the loader from
        # drawing on the global random state, which belongs to the model.
        return DataLoader(
            data,
            batch_sampler=batches,
            collate_fn=collate or self.data_collator,
            num_workers=self.args.dataloader_num_workers,
            persistent_workers=False,
            generator=torch.Generator().manual_seed(self.args.seed),
        )

    def _prepare_inputs(self, inputs: dict[str, Any]) -> dict[str, Any]:
        return {name: value.to(self.args.device) for name, value in inputs.items()}

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[list[Any], Any]:
        """The micro-batches of one optimizer step, and the weight of the whole step over all processes."""
        samples, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        self.pulse.further(f"step {self.state.global_step + 1}")
        if samples and self.objective.reads_step:
            self._look_at_step(samples)
        return samples, self._totals(samples) if samples else None

    @torch.no_grad()
    def _look_at_step(self, samples: list[dict[str, Any]]) -> None:
        """A pass over the whole step before its first loss, without gradient and dropout. What the losses read of all
        its pairs goes into each micro-batch; what they remember of all steps counts this one from here on."""
        model: nn.Module = self.model_wrapped
        was_training = model.training
        model.eval()
        now = self.objective.at(self._progress)
        own = []
        with self.compute_loss_context_manager():
            for sample in samples:
                own.append(now.statistics(model(batch=self._prepare_inputs(sample)["batch"])))
        model.train(was_training)
        steps = gather_step(own, self.accelerator)
        for sample, step in zip(
            samples, self._rules.look(now, steps, self.state.global_step + 1, training=True), strict=True
        ):
            sample["step"] = step

    def _totals(self, samples: list[dict[str, Any]]) -> Totals:
        totals: dict[str, float] = {}
        for sample in samples:
            batch: PairBatch = sample["batch"]
            step = sample["step"].to("cpu") if "step" in sample else None
            blank = replace(filled(blank_logps(batch)), step=step, progress=self._progress)
            for name, (_, term) in self.objective.terms(blank).items():
                weight = len(batch) if self.objective.unit(name) == "auxiliary" else float(term.weights.sum())
                totals[name] = totals.get(name, 0.0) + weight
        # A step may have nothing for a term (no phrase to contrast): the term is then 0, not 0 / 0.
        if self.accelerator.num_processes == 1:
            return {name: total or 1.0 for name, total in totals.items()}
        table = torch.tensor(list(totals.values()), dtype=torch.float32, device=self.args.device)
        table = self.accelerator.reduce(table, reduction="sum")
        return dict(zip(totals, torch.where(table > 0, table, 1.0).unbind(), strict=True))

    @property
    def _progress(self) -> float:
        """The share of the run's steps that are done."""
        return self.state.global_step / len(self.schedule)

    # -- loss -------------------------------------------------------------------------------------------------------

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """The micro-batch's share of the step's loss.

        Gradients add up over micro-batches and are averaged over processes, so the share is multiplied by the number of
        processes. Without `num_items_in_batch` the batch is a step of its own.
        """
        batch: PairBatch = inputs["batch"]
        totals: Totals = num_items_in_batch if num_items_in_batch is not None else self._totals([inputs])
        self.pulse.further()
        logps: PairLogps = model(batch=batch)
        self.pulse.further()
        logps = replace(logps, step=inputs.get("step"), state=self._rules.states, progress=self._progress)
        values: dict[str, Tensor] = {}
        loss: Tensor | None = None
        terms = self._selected(self.objective.terms(logps), batch)
        for name, (coefficient, term) in terms.items():
            values[name] = term.values.detach()
            share = coefficient * term.values.sum() / totals[name]
            loss = share if loss is None else loss + share
            if len(terms) > 1:
                self._window.add_terms({f"loss/{name}": term})
        loss = self._regularized(loss, logps, values)
        self._window.add_terms(self.objective.metrics(logps))
        own = {
            name: value for name, value in values.items() if name not in terms or self.objective.unit(name) == "pairs"
        }
        self._step_losses.append(BatchLoss(batch.ids, own, loss.detach()))
        loss = loss * self.accelerator.num_processes
        return (loss, logps) if return_outputs else loss

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> Any:
        norm = whole(super()._get_grad_norm(model, grad_norm))
        self._refuse_non_finite(norm)
        return norm

    def _refuse_non_finite(self, grad_norm: Any) -> None:
        """One look at the device per optimizer step, after all its backward passes and before the weights change."""
        losses, self._step_losses = self._step_losses, []
        refuse_non_finite(losses, grad_norm, self.state.global_step + 1, alone=self.accelerator.num_processes == 1)

    # -- metrics ----------------------------------------------------------------------------------------------------

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs:
            logs.update(self._window.drain(self.accelerator))
            began = (self.state.global_step - 1) / len(self.schedule)  # of the window's last step
            logs.update({f"schedule/{name}": value for name, value in self.objective.scheduled(began).items()})
            pairs, seconds = self._clock.lap(self.schedule.pairs_seen(self.state.global_step))
            logs["pairs_per_second"] = round(pairs / seconds, 3)
            logs["seconds"] = round(self._clock.seconds, 3)
        super().log(logs, start_time)

    @property
    def seconds(self) -> float:
        """Wall time of training and evaluation so far, earlier parts of a resumed run included."""
        return round(self._clock.seconds, 3)

    def evaluate(  # type: ignore[override]
        self,
        eval_dataset: EncodedPairs | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> dict[str, float]:
        """Loss and metrics over the whole set: sums over sums, every pair once, however many processes share the
        work."""
        pairs = eval_dataset if eval_dataset is not None else self.eval_pairs
        if pairs is None:
            raise UserError("there are no pairs to evaluate on", hint="give eval_dataset")
        with self._clock.pause(), self.pulse.apart("evaluation"):
            metrics = self._evaluate_pairs(pairs, metric_key_prefix)
            self.log(metrics)
            self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def _evaluate_pairs(self, pairs: EncodedPairs, prefix: str) -> dict[str, float]:
        began = time.perf_counter()
        parts = pairs.parts(self.scorer._vlm) if self.scorer.shared and self.tokens_per_batch else None
        batches = cut(pairs.lengths, self.args.per_device_eval_batch_size, self.tokens_per_batch, parts)
        mine = batches[self.args.process_index :: self.args.world_size]
        rounds = -(-len(batches) // self.args.world_size)
        # Sharded models need as many forward passes in every process; a pass too many is not counted.
        padded = (mine + batches)[:rounds]
        averages = Averages()
        coefficients: dict[str, float] = {}
        objective = self.objective.on_pairs_alone()
        model: nn.Module = self.model  # type: ignore[assignment]
        was_training = model.training
        model.eval()

        def count(logps: PairLogps, counted: bool) -> None:
            terms = objective.terms(logps)
            coefficients.update({name: coefficient for name, (coefficient, _) in terms.items()})
            averages.add_terms({f"loss/{name}": term for name, (_, term) in terms.items()}, float(counted))
            averages.add_terms(objective.metrics(logps), float(counted))

        with torch.no_grad():
            waiting: list[PairLogps] = []
            for i, inputs in enumerate(track(self._loader(pairs, padded), "evaluating", rounds)):
                logps = model(**self._prepare_inputs(inputs))
                logps = replace(logps, state=self._rules.states, progress=self._progress)
                logps = with_own_groups(logps) if objective.of_groups_alone else logps
                if objective.reads_step:
                    waiting.append(logps)
                else:
                    count(logps, i < len(mine))
            if waiting:  # the whole evaluation set is one step
                own = [objective.statistics(logps) for logps in waiting]
                own = [{k: v[: len(v) * (i < len(mine))] for k, v in one.items()} for i, one in enumerate(own)]
                steps = gather_step(own, self.accelerator)
                steps = self._rules.look(objective.at(self._progress), steps, 0, training=False)
                for i, (logps, step) in enumerate(zip(waiting, steps, strict=True)):
                    known = step.to(logps.chosen.policy.device) if i < len(mine) else None
                    count(replace(logps, step=known), i < len(mine))
        model.train(was_training)
        found = averages.drain(self.accelerator)
        loss = sum(coefficient * found.get(f"loss/{name}", 0.0) for name, coefficient in coefficients.items())
        if len(coefficients) == 1:
            found.pop(f"loss/{next(iter(coefficients))}", None)
        metrics = {f"{prefix}_{name}": value for name, value in {"loss": loss, **found}.items()}
        metrics[f"{prefix}_runtime"] = round(time.perf_counter() - began, 3)
        return metrics

    # -- checkpoints ------------------------------------------------------------------------------------------------

    def train(  # type: ignore[override]
        self, resume_from_checkpoint: str | bool | None = None, **kwargs: Any
    ) -> Any:
        """As `Trainer.train`; a path resumes exactly, `True` takes the newest whole checkpoint of `args.output_dir`."""
        if resume_from_checkpoint is True:
            newest = checkpoints.newest(self.checkpoint_root)
            resume_from_checkpoint = str(newest) if newest is not None else None
        if resume_from_checkpoint:
            metadata = checkpoints.metadata_of(Path(resume_from_checkpoint))
            if metadata is None:
                raise UserError(
                    f"{resume_from_checkpoint}: the checkpoint is not whole", hint="resume from an earlier one"
                )
            self.args.eval_on_start = False  # it was done before the first step
            step = checkpoints.step_of(Path(resume_from_checkpoint))
            self._rules = StepRules(self.objective, self.args.seed, metadata.get("states", {}))
            self._clock = Clock(float(metadata.get("seconds", 0.0)), self.schedule.pairs_seen(step))
        else:
            self._rules, self._clock = StepRules(self.objective, self.args.seed), Clock()
        return super().train(resume_from_checkpoint=resume_from_checkpoint or None, **kwargs)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        with self._clock.pause(), self.pulse.apart("checkpoint"):
            super()._save_checkpoint(model, trial)
            self.accelerator.wait_for_everyone()
            if self.args.should_save:
                root = self.checkpoint_root
                if self.moving is not None:
                    self.moving.save(root / f"checkpoint-{self.state.global_step}")
                metadata = {"step": self.state.global_step, "seconds": round(self._clock.seconds, 3), **self.metadata}
                if self._rules.states:
                    metadata["states"] = self._rules.as_json()
                checkpoints.mark_complete(root / f"checkpoint-{self.state.global_step}", **metadata)
                checkpoints.prune(root, self.keep_checkpoints)
