"""Names that other trainers give to what a recipe sets (TRL's and transformers' arguments, LLaMA-Factory's, peft's),
and names that mmpo itself once gave."""

from __future__ import annotations

OTHER_NAMES: dict[str, str] = {
    "num_train_epochs": "epochs",
    "num_epochs": "epochs",
    "per_device_train_batch_size": "batch_size",
    "per_device_eval_batch_size": "batch_size",
    "per_gpu_train_batch_size": "batch_size",
    "train_batch_size": "batch_size",
    "micro_batch_size": "batch_size",
    "gradient_accumulation_steps": "accumulation",
    "grad_accumulation": "accumulation",
    "lr": "learning_rate",
    "lr_scheduler_type": "scheduler",
    "lr_scheduler": "scheduler",
    "warmup_ratio": "warmup (below 1 a share of all steps)",
    "warmup_steps": "warmup (from 1 on a number of steps)",
    "bf16": "dtype: bfloat16",
    "fp16": "dtype: bfloat16 (float16 overflows in training)",
    "fp32": "dtype: float32",
    "tf32": "dtype: float32",
    "torch_dtype": "dtype",
    "precision": "dtype",
    "load_in_4bit": "quantize: nf4",
    "bnb_4bit_quant_type": "quantize: nf4",
    "quantization_bit": "quantize: nf4",
    "loss_type": "the name under objective, e.g. objective: {ipo: {tau: 0.1}}",
    "pref_loss": "the name under objective, e.g. objective: {ipo: {tau: 0.1}}",
    "beta": "objective: {dpo: {beta: 0.1}}",
    "pref_beta": "objective: {dpo: {beta: 0.1}}",
    "label_smoothing": "objective: {cdpo: {eps: 0.1}}",
    "rpo_alpha": "objective: {dpo: {beta: 0.1}, sft: {weight: 1.0}}",
    "pref_ftx": "objective: {dpo: {beta: 0.1}, sft: {weight: 1.0}}",
    "simpo_gamma": "objective: {simpo: {gamma: 1.0}}",
    "cpo_alpha": "objective: {cpo: {alpha: 1.0}}",
    "reference_free": "an objective without a reference, e.g. objective: {simpo: {}}",
    "ref_model": "nothing: the reference is the model itself with its adapter off",
    "ref_model_path": "nothing: the reference is the model itself with its adapter off",
    "model_ref": "nothing: the reference is the model itself with its adapter off",
    "precompute_ref_log_probs": "cache_reference: true",
    "max_length": "max_tokens (prompt and response together)",
    "cutoff_len": "max_tokens (prompt and response together)",
    "max_seq_length": "max_tokens (prompt and response together)",
    "max_prompt_length": "max_tokens (prompts are never cut; pairs that do not fit are dropped and counted)",
    "max_completion_length": "max_response_tokens",
    "max_target_length": "max_response_tokens",
    "image_max_pixels": "max_pixels",
    "logging_dir": "nothing: metrics are written to train/metrics.jsonl in the run folder",
    "output_dir": "--out DIR on the command line",
    "run_name": "name, at the top of the recipe",
    "save_total_limit": "keep_checkpoints",
    "save_strategy": "save_steps",
    "eval_strategy": "eval_steps",
    "evaluation_strategy": "eval_steps",
    "val_size": "eval_fraction",
    "test_size": "eval_fraction",
    "resume_from_checkpoint": "resume",
    "overwrite_output_dir": "resume: false",
    "model_name_or_path": "model",
    "model_id": "model",
    "model_path": "model",
    "adapter_name_or_path": "adapter (under eval)",
    "dataset": "pairs (mmpo convert makes them)",
    "dataset_name": "pairs (mmpo convert makes them)",
    "train_dataset": "pairs (mmpo convert makes them)",
    "data_path": "pairs (mmpo convert makes them)",
    "train_file": "pairs (mmpo convert makes them)",
    "eval_dataset": "eval_pairs",
    "val_dataset": "eval_pairs",
    "use_peft": "nothing: an adapter is always trained; its settings are under lora",
    "finetuning_type": "nothing: an adapter is always trained; its settings are under lora",
    "lora_r": "lora: {rank: 16}",
    "lora_rank": "lora: {rank: 16}",
    "r": "rank",
    "lora_alpha": "lora: {alpha: 32}",
    "lora_dropout": "lora: {dropout: 0.05}",
    "lora_target": "lora: {targets: [q_proj, v_proj]}",
    "lora_target_modules": "lora: {targets: [q_proj, v_proj]}",
    "target_modules": "targets",
    "gradient_checkpointing_kwargs": "gradient_checkpointing: true",
    "gradient_clipping": "max_grad_norm",
    "dataloader_num_workers": "workers",
    "preprocessing_num_workers": "workers",
    "optim": "nothing: the optimizer is AdamW",
    "deepspeed": "nothing: accelerate launch --config_file FILE -m mmpo train RECIPE --out DIR",
    "fsdp": "nothing: accelerate launch --config_file FILE -m mmpo train RECIPE --out DIR",
    "remove_unused_columns": "nothing: columns are never dropped",
    "attn_implementation": "attention",
    "data_seed": "seed",
    "do_train": "the command: mmpo train",
    "do_eval": "the command: mmpo eval",
    "load_best_model_at_end": "nothing: the last step's adapter is kept, and checkpoints besides it",
}
"""Their name -> ours, or why there is none. Keys that are ours too (learning_rate, max_steps) are not listed."""

RENAMED: dict[str, str] = {
    "how": "mode",
    "checks": "correct, and the kinds of claim in it are object, count, color, place and relation",
}
"""Keys of mmpo 0.1 -> what they are called now."""


def ours(key: str) -> str | None:
    """A note on our name for another trainer's `key`, or one that was ours; None for any other word."""
    if key in RENAMED:
        return f"since mmpo 0.1 it is called {RENAMED[key]}"
    found = OTHER_NAMES.get(key)
    if found is None:
        return None
    if found.startswith("nothing: "):
        return f"there is no such setting: {found.removeprefix('nothing: ')}"
    return f"here it is {found}"
