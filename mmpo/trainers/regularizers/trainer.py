"""A trainer whose steps regularizers can take over."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from transformers import Trainer

from mmpo.trainers.averages import Averages
from mmpo.trainers.regularizers.engine import Regularization
from mmpo.trainers.schedule import Schedule
from mmpo.trainers.step import BatchLoss


class RegularizedTrainer(Trainer):
    """`transformers.Trainer`, whose `_regularization`, if there is one, stands between the backward passes of a step
    and its clipping."""

    checkpoint_root: Path
    schedule: Schedule
    scorer: Any
    _window: Averages
    _step_losses: list[BatchLoss]
    _regularization: Regularization | None = None

    def training_step(self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Any = None) -> Tensor:
        if self._regularization is None:
            return super().training_step(model, inputs, num_items_in_batch)
        return self._regularization.training_step(super().training_step, model, inputs)

    @contextmanager
    def passes_apart(self) -> Iterator[None]:
        """Passes inside are a regularizer's: what they compute is neither logged nor checked."""
        kept = self._window, self._step_losses
        self._window, self._step_losses = Averages(), []
        try:
            yield
        finally:
            self._window, self._step_losses = kept
