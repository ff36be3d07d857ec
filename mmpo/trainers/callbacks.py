"""Callbacks of training: metrics to a file, progress to `mmpo.progress`, sample answers during evaluation."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from torch.distributed.fsdp import FSDPModule
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from mmpo.files.atomic import JsonLines, read_jsonl
from mmpo.progress import ProgressTask, task
from mmpo.trainers.samples import SampleQuestions
from mmpo.trainers.schedule import Schedule
from mmpo.trainers.sharding import gathered_root

logger = logging.getLogger(__name__)


class AlignedLogs(TrainerCallback):
    """Close the logging window at every checkpoint and at the end, so that a resumed run logs the same averages as one
    that was never interrupted."""

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> TrainerControl:
        if control.should_save or control.should_training_stop:
            control.should_log = True
        return control


class _Listener(TrainerCallback):
    """Gets every line of metrics, of a logging window (it has `loss`) or an evaluation, in the process that writes."""

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        if state.is_world_process_zero and logs and "train_runtime" not in logs:  # that is `Trainer`'s own summary
            self.on_metrics(state.global_step, logs)

    def on_metrics(self, step: int, logs: Mapping[str, Any]) -> None:
        raise NotImplementedError


class MetricsFile(_Listener):
    """`metrics.jsonl`: one row per logging window and per evaluation. Rows after the step at which a run resumes are
    removed: those steps are done again."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._log: JsonLines | None = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if state.is_world_process_zero:
            self._log = reopened(self.path, state.global_step)

    def on_metrics(self, step: int, logs: Mapping[str, Any]) -> None:
        if self._log is not None:
            self._log.append({"step": step, **logs})
            self._log.sync()

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self._log is not None:
            self._log.close()


class Progress(_Listener):
    """Steps, with loss and accuracy as a note, to `mmpo.progress`. Train inside a `with` block: an error then closes
    the task as not finished."""

    def __init__(self) -> None:
        self._open = ExitStack()
        self._task: ProgressTask | None = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if state.is_world_process_zero:
            self._task = self._open.enter_context(task("training", state.max_steps))
            if state.global_step:
                self._task.advance(state.global_step)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if self._task is not None:
            self._task.advance()

    def on_metrics(self, step: int, logs: Mapping[str, Any]) -> None:
        if self._task is not None and "loss" in logs:
            accuracy = logs.get("rewards/accuracies")
            note = f"loss {logs['loss']:.3f}" + (f", accuracy {accuracy:.2f}" if accuracy is not None else "")
            self._task.advance(0, note)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._open.close()
        self._task = None

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *error: Any) -> None:
        self._open.__exit__(*error)


class EpochClock(TrainerCallback):
    """`Trainer` counts the whole schedule as one epoch; people count passes over their pairs."""

    def __init__(self, schedule: Schedule) -> None:
        self.schedule = schedule

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        state.epoch = self.schedule.epoch(state.global_step)


class SamplesFile(TrainerCallback):
    """`samples.jsonl`: at every evaluation, what policy and base model answer to the same few questions. One process
    answers; where FSDP cuts the weights up, each use of them waits for all, so that all answer the same and one writes.
    That was not tried with ZeRO-3: there are no samples then, and a line says so."""

    def __init__(self, path: Path, sampler: SampleQuestions) -> None:
        self.path = path
        self.sampler = sampler

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if state.is_world_process_zero:
            reopened(self.path, state.global_step).close()

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if not (state.is_world_process_zero or self.sampler.sharded):
            return
        if self.sampler.sharded and not isinstance(kwargs["model"], FSDPModule):
            if state.is_world_process_zero:
                logger.warning("no sample answers under ZeRO-3; samples: {n: 0} leaves this line out")
            return
        with gathered_root(kwargs["model"]):
            rows = self.sampler()
        if state.is_world_process_zero:
            with JsonLines(self.path) as log:
                for row in rows:
                    log.append({"step": state.global_step, **row})


def reopened(path: Path, step: int) -> JsonLines:
    """A log of rows with a `step`, cut back to what a run that stands after `step` steps has written; empty at step
    0."""
    log = JsonLines(path)
    rows: Sequence[dict[str, Any]] = list(read_jsonl(path))
    keep = next((i for i, row in enumerate(rows) if row["step"] > step), len(rows)) if step else 0
    if keep < len(rows):
        log.truncate(keep)
    return log
