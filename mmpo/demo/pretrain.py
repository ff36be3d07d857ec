"""Train the demo LLaVA from scratch: first the tower learns to see, then the whole model learns to speak carelessly.

Everything follows from the seed. Progress is saved every few minutes as safetensors; run again after an interruption,
it goes on from there.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import LlavaForConditionalGeneration, LlavaProcessor

from mmpo.data.atomic import write_text
from mmpo.demo.architecture import IMAGE_TOKENS
from mmpo.demo.assemble import build_model, build_processor
from mmpo.demo.see import train_tower
from mmpo.demo.speak import Batch, Row, batch_loss, decisive_tokens, make_batch, name_tokens, several_row, single_row
from mmpo.demo.training import cosine, export, fit, print_progress, save_tensors, two_rates


@dataclass(frozen=True)
class Plan:
    """How long and how fast. `see_*` is the tower's stage, `speak_*` the whole model's; every eighth batch has
    several pictures a row.
    """

    seed: int = 7
    see_steps: int = 1100
    see_batch: int = 64
    speak_steps: int = 1900
    speak_batch: int = 32
    learning_rate: float = 1e-3
    tower_rate: float = 2.5e-4
    warmup: int = 100
    save_every: int = 100


def pretrain(out: Path, plan: Plan) -> Path:
    """Train by `plan` into the folder `out` and return the folder of the finished model (`out/model`)."""
    out.mkdir(parents=True, exist_ok=True)
    write_text(out / "plan.json", json.dumps(asdict(plan), indent=2))
    if not (out / "processor").exists():
        build_processor().save_pretrained(out / "processor")
    processor = LlavaProcessor.from_pretrained(out / "processor")
    model = build_model(processor, plan.seed)
    tower_file = out / "tower.safetensors"
    if not tower_file.exists():
        share = train_tower(
            model.model.vision_tower,
            steps=plan.see_steps,
            batch=plan.see_batch,
            seed=plan.seed,
            report=print_progress("see", plan.see_steps, every=50),
        )
        print(f"the tower names {share:.1%} of the object patches", flush=True)
        save_tensors(tower_file, dict(model.model.vision_tower.state_dict()))
    model.model.vision_tower.load_state_dict(load_file(tower_file))
    _speak(model, processor, out, plan)
    return export(model, processor, out / "model")


def _speak(model: LlavaForConditionalGeneration, processor: LlavaProcessor, out: Path, plan: Plan) -> None:
    optimizer = two_rates(model, plan.learning_rate, plan.tower_rate)

    def factor(step: int) -> float:
        return cosine(step, plan.speak_steps, plan.warmup)

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
    begin = _restore(model, optimizer, out / "speak.safetensors")
    schedule.last_epoch = begin
    for group, base in zip(optimizer.param_groups, schedule.base_lrs, strict=True):
        group["lr"] = base * factor(begin)
    names, decisive = name_tokens(processor.tokenizer), decisive_tokens(processor.tokenizer)
    show = print_progress("speak", plan.speak_steps)

    def loss_of(step: int) -> Tensor:
        batch = _batch(processor, plan, step)
        with torch.autocast("cpu", torch.bfloat16):
            return batch_loss(model, batch, names, decisive)

    def report(step: int, loss: float, seconds: float) -> None:
        show(step, loss, seconds)
        if step % plan.save_every == 0 or step == plan.speak_steps:
            _checkpoint(model, optimizer, step, out / "speak.safetensors")

    model.train()
    fit(loss_of, list(model.parameters()), optimizer, schedule, range(begin, plan.speak_steps), report)


def _batch(processor: LlavaProcessor, plan: Plan, step: int) -> Batch:
    """Batch number `step`. Twice as many rows as needed are drawn, sorted by length and halved, so that little is
    padding.
    """
    pair, half = divmod(step, 2)
    tokenizer = processor.tokenizer
    if pair % 8 == 7:
        size = plan.speak_batch // 3
        rows = [several_row((plan.seed, 3, step * size + i)) for i in range(size)]
    else:
        rows = _drawn(plan, pair)[half * plan.speak_batch : (half + 1) * plan.speak_batch]
    return make_batch(rows, tokenizer, IMAGE_TOKENS)


@lru_cache(maxsize=1)
def _drawn(plan: Plan, pair: int) -> list[Row]:
    """The rows of two batches, shortest first."""
    rows = [single_row((plan.seed, 2, pair * 2 * plan.speak_batch + i)) for i in range(2 * plan.speak_batch)]
    return sorted(rows, key=lambda row: sum(len(turn.question) + len(turn.answer) + 16 for turn in row[2]))


def _checkpoint(model: nn.Module, optimizer: torch.optim.Optimizer, step: int, path: Path) -> None:
    """Weights and both moments of Adam in one file."""
    tensors = {f"model/{name}": value for name, value in model.state_dict().items()}
    for name, parameter in model.named_parameters():
        if not optimizer.state[parameter]:  # the tower's last norm is not on LLaVA's path and never has a gradient
            continue
        tensors |= {f"optimizer/{key}/{name}": optimizer.state[parameter][key] for key in ("exp_avg", "exp_avg_sq")}
    tensors["step"] = torch.tensor(step)
    save_tensors(path, tensors)


def _restore(model: nn.Module, optimizer: torch.optim.Optimizer, path: Path) -> int:
    """Loads a checkpoint if there is one; returns the number of steps done."""
    if not path.exists():
        return 0
    tensors = load_file(path)
    model.load_state_dict({n.removeprefix("model/"): t for n, t in tensors.items() if n.startswith("model/")})
    step = tensors["step"]
    for name, parameter in model.named_parameters():
        if f"optimizer/exp_avg/{name}" not in tensors:
            continue
        moments = {key: tensors[f"optimizer/{key}/{name}"] for key in ("exp_avg", "exp_avg_sq")}
        optimizer.state[parameter] = {"step": step.float(), **moments}
    print(f"going on from step {int(step)}", flush=True)
    return int(step)


def main() -> None:
    """`python -m mmpo.demo.pretrain OUT [--steps N]`."""
    import argparse

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path, help="working folder; the model ends up in OUT/model")
    parser.add_argument("--see-steps", type=int, default=Plan.see_steps, help="steps of the tower's stage")
    parser.add_argument("--speak-steps", type=int, default=Plan.speak_steps, help="steps of the whole model's stage")
    arguments = parser.parse_args()
    print("done:", pretrain(arguments.out, Plan(see_steps=arguments.see_steps, speak_steps=arguments.speak_steps)))


if __name__ == "__main__":
    main()
