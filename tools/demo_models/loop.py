"""Common parts of the demo models' trainings: optimizer, loop, schedule, resumable stages, parts of their losses, and
saving of the result."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import LlavaForConditionalGeneration, LlavaProcessor, PreTrainedTokenizerFast

from mmpo.files.atomic import replacing, write_json
from mmpo.models.folder import check_model

Reader = TypeVar("Reader", bound=nn.Module)
Report = Callable[[int, float, float], None]
"""Called after every step with: steps done, mean loss of the last 50, seconds since the loop began."""


def fit(
    loss_of: Callable[[int], Tensor],
    parameters: Sequence[Tensor],
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
    steps: range,
    report: Report,
) -> None:
    """One optimizer step on `loss_of(step)`, computed in bfloat16, for each of `steps`. The gradient of `parameters` is
    clipped to norm 1."""
    losses: list[float] = []
    began = time.monotonic()
    for step in steps:
        with torch.autocast("cpu", torch.bfloat16):
            loss = loss_of(step)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        losses = [*losses[-49:], loss.item()]
        report(step + 1, sum(losses) / len(losses), time.monotonic() - began)


def adam(parameters: Iterable[Tensor] | Iterable[dict[str, Any]], learning_rate: float) -> torch.optim.AdamW:
    """AdamW as all demo models are trained by it; a group of parameters may have a learning rate of its own."""
    return torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=0.02, betas=(0.9, 0.98))


def two_rates(model: nn.Module, learning_rate: float, tower_rate: float) -> torch.optim.AdamW:
    """AdamW with one learning rate for the vision tower and another for everything else."""
    tower = [p for n, p in model.named_parameters() if "vision_tower" in n]
    rest = [p for n, p in model.named_parameters() if "vision_tower" not in n]
    groups: list[dict[str, Any]] = [{"params": rest}, {"params": tower, "lr": tower_rate}]
    return adam(groups, learning_rate)


def cosine(step: int, steps: int, warmup: int) -> float:
    """Factor of the learning rate: a linear rise over `warmup` steps, then half a cosine down to 0.03."""
    if step < warmup:
        return (step + 1) / warmup
    done = (step - warmup) / max(1, steps - warmup)
    return 0.03 + 0.97 * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


def print_progress(stage: str, total: int, every: int = 25) -> Report:
    """Prints stage, step, loss and the time that is left, every so many steps and at the end."""
    begin = -1

    def report(step: int, loss: float, seconds: float) -> None:
        nonlocal begin
        begin = step - 1 if begin < 0 else begin  # a resumed training doesn't begin at 0
        if step % every == 0 or step == total:
            left = seconds / (step - begin) * (total - step) / 60
            print(f"{stage} {step}/{total}: loss {loss:.3f} ({seconds:.0f} s, {left:.0f} min left)", flush=True)

    return report


def save_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    """A safetensors file that is there whole or not at all."""
    with replacing(path) as partial:
        save_file({name: tensor.detach().contiguous().clone() for name, tensor in tensors.items()}, partial)


class Learner(nn.Module, Generic[Reader]):
    """A model and the heads on its tower's patches, which are thrown away in the end."""

    def __init__(self, model: LlavaForConditionalGeneration, reader: Callable[[int], Reader]) -> None:
        super().__init__()
        self.model = model
        self.reader = reader(model.model.vision_tower.config.hidden_size)


class Kept:
    """Training state in one safetensors file: the weights of `module` and both moments of Adam."""

    def __init__(self, path: Path, module: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        self.path, self.module, self.optimizer = path, module, optimizer

    def save(self, step: int) -> None:
        """Keep the state after `step` steps."""
        tensors = {f"model/{name}": value for name, value in self.module.state_dict().items()}
        for name, parameter in self.module.named_parameters():
            state = self.optimizer.state[parameter]
            if state:  # the tower's last norm is not on LLaVA's path and never has a gradient
                tensors |= {f"optimizer/{key}/{name}": state[key] for key in ("exp_avg", "exp_avg_sq")}
        save_tensors(self.path, {**tensors, "step": torch.tensor(step)})

    def restore(self) -> int:
        """Load what was kept, if there is anything; returns the number of steps done."""
        if not self.path.exists():
            return 0
        tensors = load_file(self.path)
        self.module.load_state_dict({n.removeprefix("model/"): t for n, t in tensors.items() if n.startswith("model/")})
        step = tensors["step"]
        for name, parameter in self.module.named_parameters():
            if f"optimizer/exp_avg/{name}" in tensors:
                moments = {key: tensors[f"optimizer/{key}/{name}"] for key in ("exp_avg", "exp_avg_sq")}
                self.optimizer.state[parameter] = {"step": step.float(), **moments}
        print(f"going on from step {int(step)}", flush=True)
        return int(step)


def run_stage(
    file: Path,
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    loss_of: Callable[[int], Tensor],
    *,
    steps: int,
    warmup: int,
    save_every: int = 100,
) -> None:
    """Train `module` in place on `loss_of(step)` until `steps` are done. `file` holds weights and Adam's moments of a
    stage that was begun, and is renewed every `save_every` steps; its name is printed with the progress."""
    kept = Kept(file, module, optimizer)
    begin = kept.restore()
    for group in optimizer.param_groups:  # what LambdaLR multiplies
        group["initial_lr"] = group["lr"]
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: cosine(step, steps, warmup), begin - 1)
    progress = print_progress(file.stem, steps)

    def report(step: int, loss: float, seconds: float) -> None:
        progress(step, loss, seconds)
        if step % save_every == 0 or step == steps:
            kept.save(step)

    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    fit(loss_of, parameters, optimizer, schedule, range(begin, steps), report)


def begin_training(out: Path, plan: Any, begin: Path | None = None) -> None:
    """Note what is trained in `out`. `UserError` where `begin`, the model to go on from, is none."""
    if begin is not None:
        check_model(begin, str(begin))
    write_json(out / "plan.json", {**asdict(plan), "begin": str(begin) if begin else None})


def word_tokens(tokenizer: PreTrainedTokenizerFast, words: Iterable[str]) -> Tensor:
    """The first token of every word as it stands inside a sentence [words]."""
    return torch.tensor([tokenizer.encode(f" {word}", add_special_tokens=False)[0] for word in words])


def read_after_images(
    model: LlavaForConditionalGeneration, images: Tensor, ids: Tensor, mask: Tensor, positions: Tensor | None = None
) -> Tensor:
    """Hidden states of the last layer [rows, tokens, width] with `images`, the projected features, in the places of the
    image tokens of `ids`."""
    embeddings = model.get_input_embeddings()(ids)
    is_image = (ids == model.config.image_token_id)[..., None]
    embeddings = embeddings.masked_scatter(is_image, images.to(embeddings.dtype))
    states: Tensor = model.model.language_model(
        inputs_embeds=embeddings, attention_mask=mask, position_ids=positions, use_cache=False
    ).last_hidden_state
    return states


def weighed_surprise(logits: Tensor, targets: Tensor, heavy: Tensor) -> Tensor:
    """Mean cross-entropy of tokens [n], of which the `heavy` ones [n] count five times. One token of an answer decides
    it, and the rest follows from grammar: weighing that token makes the model look for it sooner."""
    weights = 1 + 4 * heavy.float()
    loss = nn.functional.cross_entropy(logits.float(), targets, reduction="none")
    return (weights * loss).sum() / weights.sum()


def export(
    model: LlavaForConditionalGeneration, processor: LlavaProcessor, folder: Path, max_shard_size: str = "5GB"
) -> Path:
    """The finished model in the standard layout, weights in half precision to keep the file small."""
    for part in ("text_config", "vision_config"):
        # else a model that was loaded in float32 has that in its config, next to weights that are not
        getattr(model.config, part).dtype = None
    model.eval().to(torch.float16).save_pretrained(folder, max_shard_size=max_shard_size)
    processor.save_pretrained(folder)
    return folder
