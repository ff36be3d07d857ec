"""Putting a trainable LoRA adapter on a vision-language model."""

from __future__ import annotations

import re
from dataclasses import replace

from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn

from mmpo.errors import UserError
from mmpo.models.families.loading import VLM
from mmpo.trainers.settings import LoraSettings


def add_lora(vlm: VLM, settings: LoraSettings) -> VLM:
    """`vlm` with a fresh adapter; everything else is frozen. Its weights are float32 whatever the model's dtype.

    The adapter starts as the identity (B = 0), so the first evaluation is that of the model itself.
    """
    if isinstance(vlm.model, PeftModel):
        raise UserError(f"{vlm.source}: the model carries an adapter already", hint="merge it into the model first")
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha if settings.alpha is not None else 2 * settings.rank,  # type: ignore[arg-type]
        lora_dropout=settings.dropout,
        target_modules=target_pattern(vlm, settings.targets),
        task_type="CAUSAL_LM",
    )
    for parameter in vlm.base.parameters():
        parameter.requires_grad_(False)
    return replace(vlm, model=get_peft_model(vlm.base, config))


def target_pattern(vlm: VLM, targets: str | list[str]) -> str:
    """The regular expression over module names that peft stores with the adapter. Raises `UserError` if nothing fits.

    Names, not a list of modules: so the saved adapter opens on any copy of the model.
    """
    linear = [name for name, module in vlm.base.named_modules() if isinstance(module, nn.Linear)]
    language = _language_model_name(vlm)
    inside = [name for name in linear if name.startswith(f"{language}.")]
    leaves = sorted({name.rpartition(".")[2] for name in inside})
    if targets == "language_model":
        wanted = leaves
    elif targets == "all":
        leaves = sorted({name.rpartition(".")[2] for name in linear if vlm.base.get_submodule(name) is not vlm.head})
        return rf".*\.({'|'.join(leaves)})"
    elif isinstance(targets, str):
        head = [name for name, module in vlm.base.named_modules() if module is vlm.head]
        matched = [name for name in linear if re.fullmatch(targets, name)]
        if not matched:
            raise UserError(
                f"lora.targets: {targets!r} matches no linear layer", hint=f"names look like {linear[-2]!r}"
            )
        if set(matched) & set(head):
            raise UserError("lora.targets: the language-model head can't be adapted", hint="leave lm_head out")
        named = (name for name, module in vlm.base.named_modules() if not isinstance(module, nn.Linear))
        if other := next((name for name in named if re.fullmatch(targets, name)), None):
            raise UserError(
                f"lora.targets: {targets!r} matches {other}, which is no linear layer",
                hint="let it end with the names of layers: …(q_proj|v_proj|fc1)",
            )
        return targets
    else:
        if unknown := sorted(set(targets) - set(leaves)):
            raise UserError(
                f"lora.targets: no linear layer {', '.join(unknown)} in the language model",
                hint=f"it has {', '.join(leaves)}",
            )
        wanted = targets
    if not wanted:
        raise UserError(f"{vlm.source}: the language model has no linear layers", hint="set lora.targets")
    return rf".*{re.escape(language.rpartition('.')[2])}\..*\.({'|'.join(wanted)})"


def adapted_layers(vlm: VLM, settings: LoraSettings) -> list[str]:
    """The full names of the layers that `add_lora` would put an adapter on. Raises `UserError` as `target_pattern`."""
    pattern = re.compile(target_pattern(vlm, settings.targets))
    linear = (name for name, module in vlm.base.named_modules() if isinstance(module, nn.Linear))
    return [name for name in linear if pattern.fullmatch(name)]


def _language_model_name(vlm: VLM) -> str:
    decoder = vlm.base.get_decoder()
    return next(name for name, module in vlm.base.named_modules() if module is decoder)
