"""The sides of the comparison. Each makes a function that does one training step and returns its loss.

`trl`             TRL's DPOTrainer: its data set, its collator, its step, the reference with the adapter off
`mmpo`            mmpo's collator, scorer and objective, the same reference, no image kept from earlier steps
`mmpo-cached`     the same with the reference log-probs computed before
`bound`           the arithmetic nobody can avoid over the same distinct tokens: one tower pass, a plain forward for the
                  reference, a plain forward and backward for the policy, ordinary causal attention, head at the
                  scored positions only; its inputs lie ready
`bound-cached`    the same without the reference's forward
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from benchmarks.speed.layouts import Layout, examples
from benchmarks.speed.models import Size, build
from mmpo.data.pair import PreferencePair
from mmpo.files.images import encode_image
from mmpo.models.families.loading import VLM
from mmpo.models.families.vision import encode_images, select_images, vision_modules
from mmpo.models.scoring.score import PairScorer
from mmpo.objectives import build_objective
from mmpo.trainers.collate import EncodedPairs, PairCollator, encode_pairs
from mmpo.trainers.images import ImageStore
from mmpo.trainers.memory import estimate_memory
from mmpo.trainers.schedule import Budget

LORA = r".*(language_model|text_model)\.layers.*\.(q|k|v|o|gate|up|down)_proj"


@dataclass(frozen=True)
class Setting:
    layout: Layout
    size: Size
    device: str = "cpu"
    dtype: torch.dtype = torch.float32

    def model(self) -> VLM:
        return build(self.layout.family, self.size, device=self.device, dtype=self.dtype)

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """What accelerate puts around a step in bfloat16."""
        if self.dtype == torch.float32:
            return contextlib.nullcontext()
        return torch.autocast(self.device, self.dtype)


@dataclass
class Side:
    """One contender: `step` does a training step; `vlm` is the model it trains."""

    step: Callable[[], float]
    vlm: VLM

    def tower(self) -> torch.nn.Module:
        return vision_modules(self.vlm)[0]


def trl_side(setting: Setting) -> Side:
    from datasets import Dataset
    from peft import LoraConfig
    from trl import DPOConfig, DPOTrainer

    vlm = setting.model()
    adapter = {k: v.clone() for k, v in vlm.model.state_dict().items() if "lora_" in k}
    base = vlm.model.unload()  # type: ignore[operator, union-attr]
    rows = examples(setting.layout)
    arguments = DPOConfig(
        output_dir=tempfile.mkdtemp(), report_to=[], per_device_train_batch_size=len(rows), max_length=None,
        bf16=setting.dtype == torch.bfloat16, gradient_checkpointing=setting.layout.checkpointing,
        use_cpu=setting.device == "cpu", disable_tqdm=True, beta=0.1,
    )  # fmt: skip
    trainer: Any = DPOTrainer(
        model=base,
        args=arguments,
        processing_class=vlm.processor,
        train_dataset=Dataset.from_list(rows),
        peft_config=LoraConfig(r=8, lora_alpha=16, lora_dropout=0.0, target_modules=LORA),
    )
    missing = trainer.model.load_state_dict(adapter, strict=False)
    if missing.unexpected_keys:
        raise RuntimeError(f"TRL's adapter has other weights: {missing.unexpected_keys[:3]}")
    trainer.model.train()
    # What train() does before its first step.
    trainer.current_gradient_accumulation_steps = 1
    if setting.layout.checkpointing:
        trainer.model.gradient_checkpointing_enable(trainer.args.gradient_checkpointing_kwargs)

    def step() -> float:
        batch = trainer.data_collator([trainer.train_dataset[i] for i in range(len(rows))])
        loss = trainer.training_step(trainer.model, batch)
        trainer.model.zero_grad(set_to_none=True)
        return loss.item()

    return Side(step, VLM(trainer.model, vlm.processor, vlm.family, vlm.source))


def trl_refuses_cache(setting: Setting) -> str:
    """What TRL says when its own cache of reference log-probs is asked for."""
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    vlm = setting.model()
    arguments = DPOConfig(
        output_dir=tempfile.mkdtemp(), report_to=[], bf16=False, use_cpu=True, precompute_ref_log_probs=True
    )
    rows = examples(setting.layout)
    try:
        DPOTrainer(vlm.base, args=arguments, processing_class=vlm.processor, train_dataset=Dataset.from_list(rows))
    except ValueError as error:
        return str(error)
    return ""


def encoded(setting: Setting, vlm: VLM) -> tuple[EncodedPairs, ImageStore]:
    """The pairs as mmpo holds them before training; images are decoded and prepared anew in each step."""
    pairs = []
    for number, row in enumerate(examples(setting.layout)):
        text = {"type": "text", "text": row["prompt"][0]["content"]}
        content = [*({"type": "image"} for _ in row["images"]), text]
        sides = {
            side: [{"role": "assistant", "content": [{"type": "text", "text": row[side][0]["content"]}]}]
            for side in ("chosen", "rejected")
        }
        pairs.append(
            PreferencePair(
                id=str(number),
                images=[encode_image(image) for image in row["images"]],
                prompt=[{"role": "user", "content": content}],
                **sides,
            )
        )
    store = ImageStore(vlm, 0)
    found = encode_pairs(vlm, pairs, store)
    if len(found) != len(pairs):
        raise RuntimeError(f"pairs were put aside: {found.dropped}")
    return found, store


def mmpo_side(setting: Setting, cached: bool = False) -> Side:
    vlm = setting.model()
    pairs, store = encoded(setting, vlm)
    collate = PairCollator(store)
    if cached:
        from dataclasses import replace

        scorer = PairScorer(vlm, sharing="on", reference="none").eval()
        with torch.no_grad(), vlm.adapter_off(), setting.autocast():
            found = scorer(collate(pairs.rows)["batch"].to(setting.device))
        sides = (found.chosen, found.rejected)
        pairs.rows = [
            replace(row, reference=tuple(side.policy[i][side.mask[i]].cpu() for side in sides))  # type: ignore[arg-type]
            for i, row in enumerate(pairs.rows)
        ]
    scorer = PairScorer(vlm, sharing="on", reference="cached" if cached else "adapter_off")
    objective = build_objective({"dpo": {"beta": 0.1}})
    if setting.layout.checkpointing:
        scorer.gradient_checkpointing_enable()
    scorer.train()

    def step() -> float:
        batch = collate(pairs.rows)["batch"].to(setting.device)
        with setting.autocast():
            logps = scorer(batch)
            loss = objective.loss(logps)
        loss.backward()
        metrics = torch.stack([term.mean for term in objective.metrics(logps).values()]).tolist()
        assert all(value == value for value in metrics)
        vlm.model.zero_grad(set_to_none=True)
        return loss.item()

    return Side(step, vlm)


def estimated_mib(setting: Setting) -> float:
    """What mmpo says before training that a step of this layout adds to the loaded model, optimizer states apart."""
    vlm = setting.model()
    pairs, store = encoded(setting, vlm)
    scorer = PairScorer(vlm, sharing="on")
    if setting.layout.checkpointing:
        scorer.gradient_checkpointing_enable()
    budget = Budget(pairs.lengths, pairs.parts(vlm))
    batch = PairCollator(store)(pairs.rows[:1])["batch"].to(setting.device)
    with setting.autocast():
        found = estimate_memory(vlm, scorer, batch, budget.tokens([0]), budget.tokens(range(len(pairs))))
    gradients = sum(p.nbytes for p in vlm.model.parameters() if p.requires_grad)
    return (found.activations + found.working + gradients) / 2**20


def bound_side(setting: Setting, cached: bool = False) -> Side:
    vlm = setting.model()
    pairs, store = encoded(setting, vlm)
    batch = PairCollator(store)(pairs.rows)["batch"].to(setting.device)
    trees = batch.shared(vlm.visual_token_ids).trees
    rows = [[token for segment in tree for token in segment.ids] for tree in trees]
    if len({len(row) for row in rows}) != 1:
        raise ValueError("the bound needs trees of one length")
    ids = torch.tensor(rows, device=setting.device)
    keep = sum(len(segment.ids) for segment in trees[0] if segment.scored)
    shown = [image for tree in trees for segment in tree for image in segment.images]
    places = torch.arange(ids.shape[1], device=setting.device).expand(len(rows), -1)
    if vlm.family.grid_positions:
        places = places.expand(3, -1, -1)
    if setting.layout.checkpointing:
        vlm.base.gradient_checkpointing_enable({"use_reentrant": False})
    vlm.model.train()

    def loss_of(features: Any) -> Tensor:
        states = vlm.backbone(
            input_ids=ids, position_ids=places, use_cache=False, **select_images(features, shown, vlm.family)
        ).last_hidden_state[:, -keep - 1 : -1]
        return torch.nn.functional.cross_entropy(vlm.head(states).flatten(0, 1).float(), ids[:, -keep:].flatten())

    def step() -> float:
        with setting.autocast():
            with torch.no_grad():
                features = encode_images(vlm, batch.image_inputs, frozen=True)
                if not cached:
                    with vlm.adapter_off():
                        loss_of(features)
            loss = loss_of(features)
        loss.backward()
        vlm.model.zero_grad(set_to_none=True)
        return loss.item()

    return Side(step, vlm)


SIDES: dict[str, Callable[[Setting], Side]] = {
    "trl": trl_side,
    "mmpo": mmpo_side,
    "mmpo-cached": lambda setting: mmpo_side(setting, cached=True),
    "bound": bound_side,
    "bound-cached": lambda setting: bound_side(setting, cached=True),
}
TRAINERS = ("trl", "mmpo", "mmpo-cached")
