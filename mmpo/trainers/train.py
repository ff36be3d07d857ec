"""One training run, from a folder of pairs to an adapter.

run_dir/
  settings.json       what the run was started with
  metrics.jsonl       a row per logging window and per evaluation
  samples.jsonl       answers of policy and base model at each evaluation
  rejects.jsonl       pairs that could not be used, with the reason
  ranks/              signs of life of several processes, while they train
  checkpoints/        whole checkpoints to resume from
  adapter/            the result: a plain peft adapter
  train_result.json   the result in numbers; written last
"""

from __future__ import annotations

import logging
import shutil
import warnings
from contextlib import nullcontext
from dataclasses import replace
from math import ceil
from pathlib import Path
from typing import cast

import torch
from accelerate import PartialState
from transformers import TrainerCallback, TrainingArguments
from transformers.trainer_callback import PrinterCallback

from mmpo.data.image_digests import digests_of_pairs, write_digests
from mmpo.data.shards import check_pairs
from mmpo.errors import UserError
from mmpo.files.atomic import read_json, replacing_folder, write_json
from mmpo.locks import in_own_folder
from mmpo.models.compat import enable_checkpointing
from mmpo.models.families.loading import VLM, load_vlm
from mmpo.models.families.vision import vision_is_frozen
from mmpo.models.scoring.score import PairBatch, PairScorer
from mmpo.objectives import Objective, build_objective
from mmpo.objectives.scoring import scoring_options
from mmpo.resuming import has_work
from mmpo.trainers import checkpoints
from mmpo.trainers.auxiliary import sample_digests
from mmpo.trainers.callbacks import MetricsFile, Progress, SamplesFile
from mmpo.trainers.collate import PairCollator
from mmpo.trainers.fitting import check_objective, check_sharding
from mmpo.trainers.groups import EncodedGroup, Groups, group_batch, group_digests
from mmpo.trainers.lora import add_lora
from mmpo.trainers.memory import MemoryEstimate, check_memory
from mmpo.trainers.moving import Moves
from mmpo.trainers.order import in_order
from mmpo.trainers.preference import PreferenceTrainer
from mmpo.trainers.ranks import Pulse, ending_with_launcher, naming_a_lost_process
from mmpo.trainers.references import References, open_references
from mmpo.trainers.samples import SampleQuestions
from mmpo.trainers.settings import TrainResult, TrainSettings
from mmpo.trainers.sharding import is_asked, is_cut, join_processes, loading_device, size
from mmpo.trainers.training_data import TrainingData, read_training_data

logger = logging.getLogger(__name__)


@in_own_folder
def train(settings: TrainSettings, run_dir: Path) -> TrainResult:
    """Train an adapter and leave everything in `run_dir`.

    Run again on the same folder, a stopped run continues where its newest whole checkpoint stands, to the same
    weights as if it had never stopped; a finished run returns its result. Under `accelerate launch` every process
    calls this. Raises `UserError` for settings that don't fit the model, the pairs or the run that is in the folder.
    """
    with warnings.catch_warnings(), ending_with_launcher(), naming_a_lost_process():
        # Notices of transformers, peft and torch about coming versions; nobody who trains can act on them.
        warnings.simplefilter("ignore", FutureWarning)
        state = join_processes()
        objective = build_objective(settings.objective)  # before anything slow: most mistakes are made here
        check_objective(settings, objective)
        check_sharding(settings)
        scoring_options(objective)
        if state.is_main_process:
            _open_folder(settings, Path(run_dir))
        state.wait_for_everyone()
        with Pulse(Path(run_dir) / "ranks", state.process_index, state.num_processes) as pulse:
            return _train(settings, Path(run_dir), state, objective, pulse)


def _train(
    settings: TrainSettings, run_dir: Path, state: PartialState, objective: Objective, pulse: Pulse
) -> TrainResult:
    if (run_dir / "train_result.json").exists():
        return TrainResult.model_validate(read_json(run_dir / "train_result.json"))

    for folder in filter(None, (settings.pairs, settings.eval_pairs)):
        check_pairs(folder)
    vlm = _policy(settings, loading_device(state))
    _warn_of_fixed_states(objective, vlm)
    references = open_references(settings, objective, vlm)
    data = read_training_data(settings, objective, vlm, references, run_dir / "rejects.jsonl", state)
    progress = Progress()
    trainer = _trainer(settings, run_dir, vlm, objective, references, data, progress, pulse)
    resumed_from = _resumable(run_dir, trainer)
    memory = _memory(vlm, trainer, data.groups, state)
    with progress:
        trainer.train(resume_from_checkpoint=str(resumed_from) if resumed_from is not None else None)
    result = _result(trainer, data, resumed_from, memory)
    _save(settings, run_dir, trainer, result)
    return result


def _policy(settings: TrainSettings, device: torch.device) -> VLM:
    """The model with a fresh adapter."""
    vlm = load_vlm(
        settings.model,
        dtype=settings.dtype,
        quantize=settings.quantize,
        device=device,
        video_input=settings.video_input,
        trust_remote_code=settings.trust_remote_code,
        allow_network=settings.allow_network,
    )
    if vlm.dtype == torch.float16:
        raise UserError(
            f"{settings.model}: its weights are float16, which overflows in training", hint="dtype: bfloat16"
        )
    torch.manual_seed(settings.seed)
    vlm = add_lora(vlm, settings.lora)
    if settings.gradient_checkpointing:
        enable_checkpointing(vlm.base)
    return vlm


def _trainer(
    settings: TrainSettings,
    run_dir: Path,
    vlm: VLM,
    objective: Objective,
    references: References,
    data: TrainingData,
    progress: Progress,
    pulse: Pulse,
) -> PreferenceTrainer:
    callbacks: list[TrainerCallback] = [MetricsFile(run_dir / "metrics.jsonl"), progress]
    sampler = SampleQuestions(vlm, data.store, data.eval_pairs.rows, settings.samples)
    if len(sampler):
        callbacks.append(SamplesFile(run_dir / "samples.jsonl", sampler))
    if references.moving is not None:
        callbacks.append(Moves(references.moving))
    scorer = PairScorer(
        vlm,
        sharing=settings.sharing,
        attention=settings.attention,
        hidden=objective.hidden,
        reads=objective.reads,
        options=scoring_options(objective),
        **references.for_scorer(),
    )
    trainer = PreferenceTrainer(
        scorer,
        training_arguments(settings, run_dir, evaluate=len(data.eval_pairs) > 0),
        objective=objective,
        collator=PairCollator(data.store, data.add_views),
        train_dataset=data.pairs,
        eval_dataset=data.eval_pairs if len(data.eval_pairs) else None,
        tokens_per_batch=settings.tokens_per_batch,
        group_images=settings.group_images,
        in_order=in_order(settings),
        keep_checkpoints=settings.keep_checkpoints,
        samples=data.samples,
        groups=data.groups,
        metadata={"data": data.digest()},
        callbacks=callbacks,
        pulse=pulse,
        moving=references.moving,
    )
    trainer.regularize(settings.regularizers)
    trainer.remove_callback(PrinterCallback)
    return trainer


def _warn_of_fixed_states(objective: Objective, vlm: VLM) -> None:
    if objective.hidden is not None and objective.hidden.layer == 0 and not _embeddings_train(vlm):
        logger.warning(
            "the spectral term reads layer 0, the embeddings, which nothing in this run changes: it has no gradient; "
            "layer: 1 is the first that the adapter reaches"
        )


def _memory(vlm: VLM, trainer: PreferenceTrainer, groups: Groups | None, state: PartialState) -> MemoryEstimate | None:
    """The memory that training will take, reported before it starts; None where wrappers will shard the weights."""
    if is_cut():
        return None
    pairs, collate = trainer.pairs, cast(PairCollator, trainer.data_collator)
    largest, _ = trainer.schedule.largest_batch()

    def beside(indices: list[int]) -> list[EncodedGroup]:
        assert groups is not None
        return groups.largest(ceil(groups.rate(len(pairs)) * len(indices)), shared=trainer.scorer.shared)

    def batch(indices: list[int]) -> PairBatch:
        made: PairBatch = collate([pairs[i] for i in indices])["batch"]
        if groups is not None:
            made = replace(made, groups=group_batch(beside(indices), groups.store, groups.others))
        return made.to(vlm.device)

    def tokens(indices: list[int]) -> int:
        own = [] if groups is None else beside(indices)
        return trainer.schedule.tokens(indices) + sum(one.tokens(shared=trainer.scorer.shared) for one in own)

    return check_memory(vlm, trainer.scorer, trainer.objective, batch, largest, tokens)


def _embeddings_train(vlm: VLM) -> bool:
    """True if anything below the first decoder layer has a gradient: tower, projector or the embedding table."""
    table = vlm.base.get_input_embeddings()
    return not vision_is_frozen(vlm) or any(parameter.requires_grad for parameter in table.parameters())


def training_arguments(settings: TrainSettings, run_dir: Path, *, evaluate: bool) -> TrainingArguments:
    """The `TrainingArguments` of these settings."""
    cuda = torch.cuda.is_available()
    never = 10**9  # `Trainer` still evaluates and saves after the last step
    return TrainingArguments(
        output_dir=str(run_dir / "checkpoints"),
        per_device_train_batch_size=settings.batch_size,
        per_device_eval_batch_size=settings.batch_size,
        gradient_accumulation_steps=settings.accumulation,
        num_train_epochs=settings.epochs,
        max_steps=settings.max_steps if settings.max_steps is not None else -1,
        learning_rate=settings.learning_rate,
        lr_scheduler_type=settings.scheduler,
        warmup_steps=settings.warmup,
        weight_decay=settings.weight_decay,
        max_grad_norm=settings.max_grad_norm,
        seed=settings.seed,
        bf16=cuda and settings.dtype == "bfloat16",
        use_cpu=not cuda,
        accelerator_config={"use_configured_state": is_asked("FSDP")},  # else `Trainer` would join the processes anew
        logging_steps=settings.logging_steps,
        eval_strategy="steps" if evaluate else "no",
        eval_on_start=evaluate,
        eval_steps=settings.eval_steps or never,
        save_strategy="steps",
        save_steps=settings.save_steps or never,
        dataloader_num_workers=settings.workers,
        ddp_find_unused_parameters=False,
        ddp_broadcast_buffers=False,
        disable_tqdm=True,
        report_to="none",
    )


def _open_folder(settings: TrainSettings, run_dir: Path) -> None:
    """Make the run folder, or check that the run in it was started with the same settings."""
    run_dir.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(run_dir / "ranks", ignore_errors=True)  # signs of life of processes that were killed
    file = run_dir / "settings.json"
    given = settings.model_dump(mode="json")
    if not settings.resume:
        for path in ("train_result.json", "metrics.jsonl", "samples.jsonl", "rejects.jsonl"):
            (run_dir / path).unlink(missing_ok=True)
        shutil.rmtree(run_dir / "checkpoints", ignore_errors=True)
        shutil.rmtree(run_dir / "adapter", ignore_errors=True)
    elif file.exists():
        before = read_json(file) if has_work(run_dir) else given
        changed = [key for key in given if key not in settings.FREE and before.get(key) != given[key]]
        if changed:
            what = ", ".join(f"{key} ({before.get(key)} → {given[key]})" for key in changed)
            raise UserError(
                f"{run_dir} holds a run with other settings: {what}",
                hint="use another run folder, or resume: false to start over",
            )
    write_json(file, given)
    checkpoints.remove_damaged(run_dir / "checkpoints")
    checkpoints.prune(run_dir / "checkpoints", settings.keep_checkpoints)


def _resumable(run_dir: Path, trainer: PreferenceTrainer) -> Path | None:
    """The checkpoint to continue from. Raises `UserError` if the pairs are no longer those it was trained on."""
    folder = checkpoints.newest(run_dir / "checkpoints")
    if folder is not None and (checkpoints.metadata_of(folder) or {}).get("data") != trainer.metadata["data"]:
        raise UserError(
            f"{run_dir} holds a run on other pairs", hint="use another run folder, or resume: false to start over"
        )
    return folder


def _result(
    trainer: PreferenceTrainer, data: TrainingData, resumed_from: Path | None, memory: MemoryEstimate | None
) -> TrainResult:
    history = trainer.state.log_history
    evals = [row for row in history if "eval_loss" in row]
    windows = [row for row in history if "loss" in row]
    return TrainResult(
        adapter="adapter",
        steps=trainer.state.global_step,
        epochs=round(trainer.schedule.epoch(trainer.state.global_step), 4),
        pairs=len(data.pairs),
        eval_pairs=len(data.eval_pairs),
        dropped=dict(sorted(data.dropped.items())),
        auxiliary=len(data.samples) if data.samples is not None else 0,
        auxiliary_dropped=dict(sorted(data.samples.dropped.items())) if data.samples is not None else {},
        groups=len(data.groups) if data.groups is not None else 0,
        groups_dropped=dict(sorted(data.groups.dropped.items())) if data.groups is not None else {},
        truncated=data.truncated,
        scaled_images=len(data.store.scaled),
        memory=memory.as_dict() if memory is not None else None,
        trainable_parameters=sum(size(p) for p in trainer.scorer.parameters() if p.requires_grad),
        first_eval=evals[0] if evals else None,
        last_eval=evals[-1] if evals else None,
        last_train=windows[-1],
        seconds=trainer.seconds,
        resumed_from=checkpoints.step_of(resumed_from) if resumed_from is not None else None,
    )


def _save(settings: TrainSettings, run_dir: Path, trainer: PreferenceTrainer, result: TrainResult) -> None:
    """Write the adapter, the result, and the digests of what the adapter was trained on, for its evaluations."""
    adapter = run_dir / "adapter"
    with replacing_folder(adapter, overwrite=True) if trainer.args.should_save else nullcontext(adapter) as beside:
        trainer.save_model(str(beside))
    trainer.accelerator.wait_for_everyone()
    if trainer.args.should_save:
        write_json(run_dir / "train_result.json", result.model_dump())
    trainer.accelerator.wait_for_everyone()
    if trainer.args.should_save:
        beside_pairs = sample_digests(settings.auxiliary) if settings.auxiliary is not None else frozenset()
        in_groups = group_digests(settings.groups) if settings.groups is not None else frozenset()
        write_digests(adapter, digests_of_pairs(settings.pairs) | beside_pairs | in_groups)
