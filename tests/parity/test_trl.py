"""Loss and gradients beside TRL's DPOTrainer on the same examples: its collator, its step, its reference, against
ours.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from mmpo.models.families.loading import VLM
from mmpo.models.families.prompts import encode_prompt, encode_response, process_images
from mmpo.models.scoring.score import PairBatch, PairScorer
from mmpo.objectives import build_objective
from tests.models.pairs import worst_relative
from tests.tiny import add_lora, tiny_image, tiny_llava

trl = pytest.importorskip("trl", reason="TRL is not installed (pip install 'mmpo[bench]')")

EXAMPLES = [
    ("Describe the image.", "There is a dog on the table.", "There is a cat and a red cup."),
    ("Is there a dog in the image?", "No.", "Yes, there is a dog on the left of the house."),
    ("What colour is the ball?", "It is red, and behind the tree", "Blue"),
]


def trl_examples() -> list[dict[str, Any]]:
    return [
        {
            "images": [tiny_image(i)],
            "prompt": [{"role": "user", "content": question}],
            "chosen": [{"role": "assistant", "content": chosen}],
            "rejected": [{"role": "assistant", "content": rejected}],
        }
        for i, (question, chosen, rejected) in enumerate(EXAMPLES)
    ]


def our_batch(vlm: VLM) -> PairBatch:
    images = process_images(vlm, [tiny_image(i) for i in range(len(EXAMPLES))])
    prompts, chosen, rejected = [], [], []
    for i, (question, good, bad) in enumerate(EXAMPLES):
        messages = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question}]}]
        prompts.append(torch.tensor(encode_prompt(vlm, messages, [images.placeholders[i]])))
        chosen.append(torch.tensor(encode_response(vlm, good)))
        rejected.append(torch.tensor(encode_response(vlm, bad)))
    ids = [str(i) for i in range(len(EXAMPLES))]
    return PairBatch(ids, prompts, chosen, rejected, images.tensors, [[i] for i in range(len(EXAMPLES))])


def trl_trainer(folder: Path, loss_type: str, checkpointing: bool) -> Any:
    """A DPOTrainer over a tiny LLaVA whose adapter holds the same random weights as ours."""
    from datasets import Dataset
    from peft import LoraConfig

    vlm = add_lora(tiny_llava(), spread=0.1)
    adapter = {name: tensor.clone() for name, tensor in vlm.model.state_dict().items() if "lora_" in name}
    arguments = trl.DPOConfig(
        output_dir=str(folder),
        report_to=[],
        max_length=None,
        bf16=False,
        use_cpu=True,
        beta=0.3,
        loss_type=loss_type,
        label_smoothing=0.1 if loss_type in ("robust", "exo_pair") else 0.0,
        gradient_checkpointing=checkpointing,
    )
    trainer = trl.DPOTrainer(
        model=vlm.model.unload(),
        args=arguments,
        processing_class=vlm.processor,
        train_dataset=Dataset.from_list(trl_examples()),
        peft_config=LoraConfig(
            r=4, lora_alpha=8, lora_dropout=0.0, target_modules=r".*language_model.*\.(q|k|v|o|gate|up|down)_proj"
        ),
    )
    missing = trainer.model.load_state_dict(adapter, strict=False)
    assert not missing.unexpected_keys
    trainer.model.train()
    trainer.current_gradient_accumulation_steps = 1  # what train() sets before its first step
    return trainer


@pytest.mark.parametrize(
    ("loss_type", "spec", "checkpointing"),
    [
        ("sigmoid", {"dpo": {"beta": 0.3}}, False),
        ("sigmoid", {"dpo": {"beta": 0.3}}, True),
        ("ipo", {"ipo": {"tau": 0.3}}, False),
        ("hinge", {"hinge": {"beta": 0.3}}, False),
        ("nca_pair", {"nca_pair": {"beta": 0.3}}, False),
        ("sft", {"sft": {"per": "token"}}, False),
        ("robust", {"robust": {"beta": 0.3, "eps": 0.1}}, False),
        ("exo_pair", {"exo_pair": {"beta": 0.3, "eps": 0.1}}, False),
        ("bco_pair", {"bco_pair": {"beta": 0.3}}, False),
        ("sppo_hard", {"sppo_hard": {"beta": 0.3}}, False),
        ("aot", {"aot": {"beta": 0.3}}, False),
        ("aot_unpaired", {"aot": {"beta": 0.3, "paired": False}}, False),
        ("apo_zero", {"apo_zero": {"beta": 0.3}}, False),
        ("apo_down", {"apo_down": {"beta": 0.3}}, False),
        ("discopop", {"discopop": {"beta": 0.3, "tau": 0.05}}, False),
        ("sigmoid_norm", {"ln_dpo": {"beta": 0.3}}, False),
    ],
)
def test_loss_and_gradients_equal_trl(
    tmp_path: Path, loss_type: str, spec: dict[str, dict[str, Any]], checkpointing: bool
) -> None:
    trainer = trl_trainer(tmp_path, loss_type, checkpointing)
    their_loss = trainer.training_step(trainer.model, trainer.data_collator(trl_examples()))
    theirs = {name: p.grad for name, p in trainer.model.named_parameters() if p.grad is not None}

    vlm = add_lora(tiny_llava(), spread=0.1)
    scorer = PairScorer(vlm, sharing="on").train()
    if checkpointing:
        scorer.gradient_checkpointing_enable()
    objective = build_objective(spec)
    pairs = scorer(our_batch(vlm))
    loss = objective.loss(pairs)
    loss.backward()
    ours = {name: p.grad for name, p in vlm.model.named_parameters() if p.grad is not None}

    torch.testing.assert_close(loss.detach(), their_loss, rtol=1e-5, atol=1e-5)
    assert worst_relative(ours, theirs) < 1e-4
    logged = trainer._metrics["train"]
    names = ["logps/chosen", "logps/rejected", "mean_token_accuracy"]
    if loss_type == "sigmoid":
        names += ["rewards/chosen", "rewards/rejected", "rewards/margins", "rewards/accuracies"]
    for name in names:
        assert objective.metrics(pairs)[name].mean.item() == pytest.approx(logged[name][-1], abs=2e-4), name


def test_our_ids_are_trl_s_ids(tmp_path: Path) -> None:
    trainer = trl_trainer(tmp_path, "sigmoid", False)
    batch = trainer.data_collator(trl_examples())
    ours = our_batch(add_lora(tiny_llava()))
    n = len(EXAMPLES)
    for i in range(2 * n):
        row = batch["input_ids"][i][batch["attention_mask"][i].bool()]
        response = (ours.chosen_ids if i < n else ours.rejected_ids)[i % n]
        assert torch.equal(row, torch.cat([ours.prompt_ids[i % n], response]))
