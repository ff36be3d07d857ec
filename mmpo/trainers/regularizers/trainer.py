"""A trainer whose steps regularizers can take over."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Trainer

from mmpo.models.scoring.pairs import PairBatch
from mmpo.models.scoring.score import PairScorer
from mmpo.objectives.term import Term, per_pair
from mmpo.trainers.averages import Averages
from mmpo.trainers.regularizers.engine import Regularization
from mmpo.trainers.regularizers.settings import RegularizerSettings
from mmpo.trainers.schedule import Schedule
from mmpo.trainers.step import BatchLoss
from mmpo.types import PairLogps


class RegularizedTrainer(Trainer):
    """`transformers.Trainer`, whose `_regularization`, if there is one, stands between the backward passes of a step
    and its clipping."""

    checkpoint_root: Path
    schedule: Schedule
    scorer: PairScorer
    _window: Averages
    _step_losses: list[BatchLoss]
    _regularization: Regularization | None = None

    def regularize(self, settings: RegularizerSettings | None) -> None:
        """Regularize the steps from here on; with none on, nothing changes. Once a trainer, before it trains."""
        if settings is not None and settings.on:
            self._regularization = Regularization(settings, self)

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[list[Any], Any]:
        samples, items = super().get_batch_samples(epoch_iterator, num_batches, device)
        if samples and self._regularization is not None:
            self._regularization.begin(samples)
        return samples, items

    def training_step(self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Any = None) -> Tensor:
        if self._regularization is None:
            return super().training_step(model, inputs, num_items_in_batch)
        return self._regularization.training_step(super().training_step, model, inputs, num_items_in_batch)

    def _selected(self, terms: dict[str, tuple[float, Term]], batch: PairBatch) -> dict[str, tuple[float, Term]]:
        return terms if self._regularization is None else self._regularization.selected(terms, len(batch))

    def _regularized(self, loss: Tensor | None, logps: PairLogps, values: dict[str, Tensor]) -> Tensor:
        """A micro-batch's loss with the regularizers' terms, whose values join those of the objective's."""
        assert loss is not None  # an objective has at least one term
        if self._regularization is None:
            return loss
        loss, more = self._regularization.added(loss, logps)
        values |= more
        self._window.add_terms({f"loss/{name}": per_pair(value) for name, value in more.items()})
        return loss

    @contextmanager
    def passes_apart(self) -> Iterator[None]:
        """Passes inside are a regularizer's: what they compute is neither logged nor checked."""
        kept = self._window, self._step_losses
        self._window, self._step_losses = Averages(), []
        try:
            yield
        finally:
            self._window, self._step_losses = kept

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        super()._save_checkpoint(model, trial)
        if self._regularization is not None and self.args.should_save:
            self._regularization.save(self.checkpoint_root / f"checkpoint-{self.state.global_step}")

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if self._regularization is not None and checkpoint is not None:
            self._regularization.load(Path(checkpoint))
