"""A small text model with a chat template, saved as users have theirs: random, or taught a few replies."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from tests.tiny import tiny_tokenizer

TEMPLATE = (
    "{% for m in messages %}{% if m['role'] == 'system' and m['content'] == 'refuse' %}"
    "{{ raise_exception('no such system message') }}{% endif %}"
    "{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}assistant:"
)


def save_text_model(folder: Path, replies: Mapping[str, str] | None = None) -> Path:
    """`replies` are taught by heart: what it says to these prompts."""
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)
    torch.manual_seed(3)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=256,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = LlamaForCausalLM(config)
    if replies:
        _teach(model, tokenizer, replies)
    model.save_pretrained(folder)
    return folder


def _teach(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, replies: Mapping[str, str]) -> None:
    rows = []
    for prompt, reply in replies.items():
        start = tokenizer(f"user: {prompt}\nassistant:", add_special_tokens=False)["input_ids"]
        end = [*tokenizer(reply, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
        rows.append((start + end, [-100] * len(start) + end))
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    model.train()
    for _ in range(400):
        losses = [model(input_ids=torch.tensor([ids]), labels=torch.tensor([labels])).loss for ids, labels in rows]
        optimizer.zero_grad()
        torch.stack(losses).sum().backward()
        optimizer.step()
        if max(loss.item() for loss in losses) < 0.01:
            break
    model.eval()
