"""A real vision-language model behind a loopback server, by transformers alone: chat template, `generate`, log-probs.

    with serving_model(folder, {"base": None, "tuned": adapter}) as server: ...

Each name is the model with that adapter, or without one. What mmpo computes shares no code with it.
"""

from __future__ import annotations

import base64
import io
import threading
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

from tests.chat.server import ChatServer


class ServedModel:
    """Makes chat completions. `several`: honours `n`; `log_probs`: honours `logprobs`."""

    def __init__(
        self, folder: Path, names: Mapping[str, Path | None], *, several: bool = True, log_probs: bool = True
    ) -> None:
        self.processor = AutoProcessor.from_pretrained(folder)
        self.model: Any = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()
        self.names, self.several, self.log_probs = dict(names), several, log_probs
        self.lock = threading.Lock()
        for name, adapter in self.names.items():
            if adapter is None:
                continue
            if isinstance(self.model, PeftModel):
                self.model.load_adapter(str(adapter), adapter_name=name)
            else:
                self.model = PeftModel.from_pretrained(self.model, str(adapter), adapter_name=name)

    def listed(self) -> list[dict[str, Any]]:
        return [{"id": name, "object": "model", "created": id(object()), "owned_by": "tests"} for name in self.names]

    @torch.no_grad()
    def complete(self, body: dict[str, Any]) -> dict[str, Any]:
        name = body["model"]
        with self.lock:
            adapter = self.names[name]
            if adapter is not None:
                self.model.set_adapter(name)
            off = adapter is None and isinstance(self.model, PeftModel)
            with self.model.disable_adapter() if off else nullcontext():
                choices = self._choices(body)
        usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
        return {"id": "1", "object": "chat.completion", "created": 0, "model": name, "choices": choices, "usage": usage}

    def _choices(self, body: dict[str, Any]) -> list[dict[str, Any]]:
        pictures: list[Image.Image] = []
        messages = [{**message, "content": _parts(message["content"], pictures)} for message in body["messages"]]
        begun = bool(body.get("continue_final_message"))
        text = self.processor.apply_chat_template(
            messages, add_generation_prompt=not begun, continue_final_message=begun, tokenize=False
        )
        inputs = self.processor(text=text, images=pictures or None, return_tensors="pt", add_special_tokens=False)
        temperature = body["temperature"]
        if temperature:
            torch.manual_seed(body["seed"])
        out = self.model.generate(
            **inputs,
            max_new_tokens=body["max_tokens"],
            do_sample=temperature > 0,
            temperature=temperature or None,
            top_p=body.get("top_p", 1.0) if temperature else None,
            top_k=0 if temperature else None,
            num_return_sequences=body.get("n", 1) if self.several else 1,
            output_logits=True,
            return_dict_in_generate=True,
        )
        new = out.sequences[:, inputs["input_ids"].shape[1] :]
        logps = torch.stack(out.logits, dim=1).float().log_softmax(-1)
        return [self._choice(row, ids, logps[row], body) for row, ids in enumerate(new.tolist())]

    def _choice(self, row: int, ids: list[int], logps: torch.Tensor, body: dict[str, Any]) -> dict[str, Any]:
        tokenizer = self.processor.tokenizer
        ends = {tokenizer.eos_token_id, *_as_list(self.model.generation_config.eos_token_id)}
        end = next((place for place, token in enumerate(ids) if token in ends), None)
        kept = ids if end is None else ids[:end]
        choice: dict[str, Any] = {
            "index": row,
            "message": {"role": "assistant", "content": tokenizer.decode(kept, skip_special_tokens=True)},
            "finish_reason": "length" if end is None else "stop",
        }
        if body.get("logprobs") and self.log_probs:
            content = []
            for place, token in enumerate(kept or ids[:1]):
                top = logps[place].topk(body["top_logprobs"])
                likely = [self._token(int(one), float(value)) for value, one in zip(*top, strict=True)]
                content.append({**self._token(token, float(logps[place, token])), "top_logprobs": likely})
            choice["logprobs"] = {"content": content}
        return choice

    def _token(self, token: int, logp: float) -> dict[str, Any]:
        text = self.processor.tokenizer.decode([token])
        return {"token": text, "logprob": logp, "bytes": list(text.encode())}


def serving_model(
    folder: Path,
    names: Mapping[str, Path | None],
    *,
    several: bool = True,
    log_probs: bool = True,
    fault: Callable[[str, int], str | None] | None = None,
) -> ChatServer:
    """A loopback server with this model."""
    served = ServedModel(folder, names, several=several, log_probs=log_probs)
    return ChatServer(fault=fault, complete=served.complete, models=served.listed)


def _parts(content: Any, pictures: list[Image.Image]) -> list[dict[str, Any]]:
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    parts = []
    for part in content:
        if part["type"] == "image_url":
            data = base64.b64decode(part["image_url"]["url"].partition(",")[2])
            pictures.append(Image.open(io.BytesIO(data)).convert("RGB"))
            parts.append({"type": "image"})
        else:
            parts.append(part)
    return parts


def _as_list(value: Any) -> list[int]:
    return value if isinstance(value, list) else [value]
