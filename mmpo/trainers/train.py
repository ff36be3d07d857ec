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

import hashlib
import logging
import shutil
import warnings
from contextlib import ExitStack, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Literal, cast

import torch
from accelerate import DistributedType, PartialState
from transformers import TrainerCallback, TrainingArguments
from transformers.trainer_callback import PrinterCallback

from mmpo.data.image_digests import digests_of_pairs, write_digests
from mmpo.data.shards import PairDataset, Rejects, check_pairs, read_pairs
from mmpo.errors import UserError
from mmpo.files.atomic import read_json, replacing_folder, write_json
from mmpo.locks import in_own_folder
from mmpo.models.compat import enable_checkpointing
from mmpo.models.families.loading import VLM, load_vlm
from mmpo.models.families.vision import vision_is_frozen
from mmpo.models.scoring.score import PairBatch, PairScorer
from mmpo.objectives import Objective, build_objective
from mmpo.progress import track
from mmpo.resuming import has_work
from mmpo.trainers import checkpoints
from mmpo.trainers.auxiliary import Samples, encode_samples, sample_digests
from mmpo.trainers.callbacks import MetricsFile, Progress, SamplesFile
from mmpo.trainers.collate import EncodedPairs, PairCollator, encode_pairs
from mmpo.trainers.fitting import check_objective
from mmpo.trainers.holdout import hold_out
from mmpo.trainers.images import ImageStore
from mmpo.trainers.lora import add_lora
from mmpo.trainers.memory import MemoryEstimate, check_memory
from mmpo.trainers.preference import PreferenceTrainer
from mmpo.trainers.ranks import Pulse, ending_with_launcher
from mmpo.trainers.reference import ReferenceLogps, cached_reference, with_reference
from mmpo.trainers.samples import SampleQuestions
from mmpo.trainers.schedule import cut
from mmpo.trainers.settings import TrainResult, TrainSettings
from mmpo.trainers.views.view_maker import view_maker
from mmpo.trainers.views.views import PERTURBED

logger = logging.getLogger(__name__)


@in_own_folder
def train(settings: TrainSettings, run_dir: Path) -> TrainResult:
    """Train an adapter and leave everything in `run_dir`.

    Run again on the same folder, a stopped run continues where its newest whole checkpoint stands, to the same
    weights as if it had never stopped; a finished run returns its result. Under `accelerate launch` every process
    calls this. Raises `UserError` for settings that don't fit the model, the pairs or the run that is in the folder.
    """
    with warnings.catch_warnings(), ending_with_launcher():
        # Notices of transformers, peft and torch about coming versions; nobody who trains can act on them.
        warnings.simplefilter("ignore", FutureWarning)
        state = PartialState(
            cpu=not torch.cuda.is_available()
        )  # given explicitly, or processes without a GPU never join the group
        objective = build_objective(settings.objective)  # before anything slow: most mistakes are made here
        check_objective(settings, objective)
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
    vlm = load_vlm(
        settings.model,
        dtype=settings.dtype,
        quantize=settings.quantize,
        device=state.device,
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

    store = ImageStore(vlm, settings.image_cache_mb * 2**20, settings.max_pixels)
    rejects_file = run_dir / "rejects.jsonl" if state.is_main_process else None
    everything, eval_pairs = _read(settings, objective, vlm, store, rejects_file)
    pairs = everything
    if eval_pairs is None:
        with ExitStack() as stack:
            rejects = stack.enter_context(Rejects(rejects_file)) if rejects_file is not None else None
            pairs, eval_pairs = hold_out(
                everything,
                settings.eval_fraction,
                settings.seed,
                images=lambda row: store.originals(row.all_images),
                on_reject=rejects.add if rejects is not None else None,
            )
        everything = replace(everything, dropped=everything.dropped + pairs.dropped)
    if not len(pairs):
        raise UserError(
            f"{settings.pairs}: no pair left to train on ({_reasons(everything)})", hint=f"see {run_dir}/rejects.jsonl"
        )

    samples = _read_samples(settings, vlm, store, rejects_file)
    maker = view_maker(settings, objective, vlm, store, [*pairs.rows, *eval_pairs.rows])
    if maker is not None:
        pairs, eval_pairs = (
            replace(some, rows=[replace(row, view_tokens=maker.extra_tokens(row)) for row in some.rows])
            for some in (pairs, eval_pairs)
        )

    cached = settings.cache_reference and objective.needs_reference
    if cached:
        pairs = _with_cached_reference(settings, settings.pairs, vlm, pairs, store, state)
        if len(eval_pairs):
            eval_pairs = _with_cached_reference(
                settings, settings.eval_pairs or settings.pairs, vlm, eval_pairs, store, state
            )
    reference: Literal["adapter_off", "cached", "none"] = (
        "none" if not objective.needs_reference else "cached" if cached else "adapter_off"
    )

    progress = Progress()
    callbacks: list[TrainerCallback] = [MetricsFile(run_dir / "metrics.jsonl"), progress]
    sampler = SampleQuestions(vlm, store, eval_pairs.rows, settings.samples)
    if len(sampler):
        callbacks.append(SamplesFile(run_dir / "samples.jsonl", sampler))
    trainer = PreferenceTrainer(
        PairScorer(
            vlm,
            sharing=settings.sharing,
            reference=reference,
            attention=settings.attention,
            hidden=objective.hidden,
            kl=objective.needs_kl,
        ),
        training_arguments(settings, run_dir, evaluate=len(eval_pairs) > 0),
        objective=objective,
        collator=PairCollator(store, maker.add if maker is not None else None),
        train_dataset=pairs,
        eval_dataset=eval_pairs if len(eval_pairs) else None,
        tokens_per_batch=settings.tokens_per_batch,
        group_images=settings.group_images,
        keep_checkpoints=settings.keep_checkpoints,
        samples=samples,
        metadata={"data": data_digest(pairs) + (samples.digest() if samples is not None else "")},
        callbacks=callbacks,
        pulse=pulse,
    )
    if objective.hidden is not None and objective.hidden.layer == 0 and not _embeddings_train(vlm):
        logger.warning(
            "the spectral term reads layer 0, the embeddings, which nothing in this run changes: it has no gradient; "
            "layer: 1 is the first that the adapter reaches"
        )
    trainer.remove_callback(PrinterCallback)
    resumed_from = _resumable(run_dir, trainer)
    memory = _memory(vlm, trainer, state)
    with progress:
        trainer.train(resume_from_checkpoint=str(resumed_from) if resumed_from is not None else None)
    result = _finish(trainer, run_dir, everything, eval_pairs, resumed_from, len(store.scaled), memory)
    if trainer.args.should_save:  # so that an evaluation of the adapter knows what it was trained on
        beside = sample_digests(settings.auxiliary) if settings.auxiliary is not None else frozenset()
        write_digests(run_dir / "adapter", digests_of_pairs(settings.pairs) | beside)
    return result


def _memory(vlm: VLM, trainer: PreferenceTrainer, state: PartialState) -> MemoryEstimate | None:
    """The memory that training will take, reported before it starts; None where wrappers will shard the weights."""
    if state.distributed_type not in (DistributedType.NO, DistributedType.MULTI_GPU, DistributedType.MULTI_CPU):
        return None
    pairs, collate = trainer.pairs, cast(PairCollator, trainer.data_collator)
    largest, _ = trainer.schedule.largest_batch()

    def batch(indices: list[int]) -> PairBatch:
        made: PairBatch = collate([pairs[i] for i in indices])["batch"]
        return made.to(vlm.device)

    return check_memory(vlm, trainer.scorer, trainer.objective, batch, largest, trainer.schedule.tokens)


def _with_cached_reference(
    settings: TrainSettings, folder: Path, vlm: VLM, pairs: EncodedPairs, store: ImageStore, state: PartialState
) -> EncodedPairs:
    """The pairs with reference log-probs from `folder/reference`, computed first where they are missing."""
    parent = folder / "reference"
    shared = settings.sharing != "off" and vlm.family.sharing and settings.tokens_per_batch is not None
    parts = pairs.parts(vlm) if shared else None
    batches = cut(pairs.lengths, settings.batch_size, settings.tokens_per_batch, parts)
    how = {"sharing": settings.sharing, "attention": settings.attention}
    cached_reference(vlm, pairs, store, parent, batches, how, rank=state.process_index, world=state.num_processes)
    state.wait_for_everyone()
    return with_reference(pairs, ReferenceLogps.open(parent, vlm), store)


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


def data_digest(pairs: EncodedPairs) -> str:
    """A fingerprint of what is trained on: ids, tokens, token weights and images, in order."""
    digest = hashlib.blake2b(digest_size=16)
    for row in pairs.rows:
        digest.update(repr((row.id, row.all_images)).encode())
        for tensor in (row.prompt, row.chosen, row.rejected, row.chosen_weights, row.rejected_weights):
            digest.update(b"" if tensor is None else tensor.numpy().tobytes())
    return digest.hexdigest()


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


def _read(
    settings: TrainSettings, objective: Objective, vlm: VLM, store: ImageStore, rejects_file: Path | None
) -> tuple[EncodedPairs, EncodedPairs | None]:
    """Both sets of pairs as token ids; the second is None if it is to be held out of the first."""
    rejects = None
    if rejects_file is not None:
        rejects_file.unlink(missing_ok=True)
        rejects = Rejects(rejects_file)

    def read(folder: Path, label: str) -> EncodedPairs:
        return encode_pairs(
            vlm,
            track(read_pairs(folder), label),
            store,
            root=folder,
            max_response_tokens=settings.max_response_tokens,
            max_tokens=settings.max_tokens,
            max_pixels_per_pair=settings.max_pixels_per_pair,
            token_weights=settings.token_weights,
            words=any(PERTURBED in name for name in objective.views),
            dataset=PairDataset(folder),
            on_reject=rejects.add if rejects is not None else None,
        )

    try:
        pairs = read(settings.pairs, "reading pairs")
        return pairs, read(settings.eval_pairs, "reading evaluation pairs") if settings.eval_pairs is not None else None
    finally:
        if rejects is not None:
            rejects.close()


def _read_samples(settings: TrainSettings, vlm: VLM, store: ImageStore, rejects_file: Path | None) -> Samples | None:
    if settings.auxiliary is None:
        return None
    with ExitStack() as stack:
        rejects = stack.enter_context(Rejects(rejects_file)) if rejects_file is not None else None
        return encode_samples(
            vlm,
            settings.auxiliary,
            store,
            max_response_tokens=settings.max_response_tokens,
            on_reject=rejects.add if rejects is not None else None,
        )


def _resumable(run_dir: Path, trainer: PreferenceTrainer) -> Path | None:
    """The checkpoint to continue from. Raises `UserError` if the pairs are no longer those it was trained on."""
    folder = checkpoints.newest(run_dir / "checkpoints")
    if folder is not None and (checkpoints.metadata_of(folder) or {}).get("data") != trainer.metadata["data"]:
        raise UserError(
            f"{run_dir} holds a run on other pairs", hint="use another run folder, or resume: false to start over"
        )
    return folder


def _finish(
    trainer: PreferenceTrainer,
    run_dir: Path,
    everything: EncodedPairs,
    eval_pairs: EncodedPairs,
    resumed_from: Path | None,
    scaled: int,
    memory: MemoryEstimate | None,
) -> TrainResult:
    history = trainer.state.log_history
    evals = [row for row in history if "eval_loss" in row]
    windows = [row for row in history if "loss" in row]
    result = TrainResult(
        adapter="adapter",
        steps=trainer.state.global_step,
        epochs=round(trainer.schedule.epoch(trainer.state.global_step), 4),
        pairs=len(trainer.pairs),
        eval_pairs=len(eval_pairs),
        dropped=dict(sorted((everything.dropped + eval_pairs.dropped).items())),
        auxiliary=len(trainer.samples) if trainer.samples is not None else 0,
        auxiliary_dropped=dict(sorted(trainer.samples.dropped.items())) if trainer.samples is not None else {},
        truncated=everything.truncated + eval_pairs.truncated,
        scaled_images=scaled,
        memory=memory.as_dict() if memory is not None else None,
        trainable_parameters=sum(p.numel() for p in trainer.scorer.parameters() if p.requires_grad),
        first_eval=evals[0] if evals else None,
        last_eval=evals[-1] if evals else None,
        last_train=windows[-1],
        seconds=trainer.seconds,
        resumed_from=checkpoints.step_of(resumed_from) if resumed_from is not None else None,
    )
    adapter = run_dir / "adapter"
    with replacing_folder(adapter, overwrite=True) if trainer.args.should_save else nullcontext(adapter) as beside:
        trainer.save_model(str(beside))
    trainer.accelerator.wait_for_everyone()
    if trainer.args.should_save:
        write_json(run_dir / "train_result.json", result.model_dump())
    trainer.accelerator.wait_for_everyone()
    return result


def _reasons(pairs: EncodedPairs) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in sorted(pairs.dropped.items())) or "the folder is empty"
