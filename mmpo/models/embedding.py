"""Embeddings of texts by a model in a folder: a transformers encoder, or the layout of sentence-transformers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize
from transformers import AutoModel, AutoTokenizer

from mmpo.errors import UserError
from mmpo.files.fingerprints import folder_fingerprint
from mmpo.models.families.loading import default_device
from mmpo.models.families.opening import LOADING
from mmpo.models.folder import check_model
from mmpo.outside import json_of

_UNBOUNDED = 10**6
"""Tokenizers that know no longest text say so with a number above this."""


class TextEmbedder:
    """Unit vectors of texts: the mean of the last states over a text's tokens, or its first token's state where
    `1_Pooling/config.json` (sentence-transformers) says so. Longer texts are cut at their end. Weights come from
    safetensors files only. Raises `UserError` for a folder that is no such model, and for another pooling."""

    def __init__(self, folder: str | Path, *, device: torch.device | str | None = None) -> None:
        self.folder = Path(folder)
        check_model(self.folder, str(folder), processor=False)
        self.first = _first_token(self.folder)
        try:
            self._tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True)
            model: Any = AutoModel.from_pretrained(folder, local_files_only=True, use_safetensors=True)
        except LOADING as error:
            first = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise UserError(f"{folder}: can't be opened as a text model: {first}", hint="an encoder's folder") from None
        if getattr(model.config, "is_encoder_decoder", False) or hasattr(model.config, "vision_config"):
            raise UserError(f"{folder}: a model of type {model.config.model_type!r}, not an encoder of texts")
        # positions count from a text's start, which some tokenizers would pad
        self._tokenizer.padding_side = self._tokenizer.truncation_side = "right"
        if self._tokenizer.pad_token is None:
            self._tokenizer.pad_token = self._tokenizer.eos_token
        self._model = model.to(device or default_device()).eval()
        bounds = (_longest(self.folder), self._tokenizer.model_max_length, _positions(model.config))
        self.longest = min([int(bound) for bound in bounds if bound is not None and bound < _UNBOUNDED], default=512)
        self.identity = f"{self.folder.name}@{folder_fingerprint(self.folder)[:12]} {'first' if self.first else 'mean'}"

    @torch.no_grad()
    def embed(self, texts: Sequence[str], *, at_once: int = 32) -> Tensor:
        """Unit vectors [n, h], float32, on the CPU."""
        found = [self._embedded(list(texts[n : n + at_once])) for n in range(0, len(texts), at_once)]
        return torch.cat(found) if found else torch.zeros(0, self._model.config.hidden_size)

    def _embedded(self, texts: list[str]) -> Tensor:
        encoded = self._tokenizer(texts, padding=True, truncation=True, max_length=self.longest, return_tensors="pt")
        encoded = encoded.to(self._model.device)
        names = ("input_ids", "attention_mask")
        states = self._model(**{name: encoded[name] for name in names}).last_hidden_state.float()
        mask = encoded["attention_mask"][..., None].float()
        pooled = states[:, 0] if self.first else (states * mask).sum(1) / mask.sum(1).clamp_min(1)
        return normalize(pooled, dim=-1).cpu()


def _first_token(folder: Path) -> bool:
    file = folder / "1_Pooling" / "config.json"
    if not file.is_file():
        return False
    config = _object(file)
    modes = [name for name, on in config.items() if name.startswith("pooling_mode") and on is True]
    modes = modes or [f"pooling_mode_{config.get('pooling_mode', 'mean_tokens')}"]
    if modes not in (["pooling_mode_mean_tokens"], ["pooling_mode_cls_token"]):
        raise UserError(f"{file}: pooling by {' and '.join(modes)} is not supported", hint="mean_tokens or cls_token")
    return modes == ["pooling_mode_cls_token"]


def _longest(folder: Path) -> int | None:
    file = folder / "sentence_bert_config.json"
    found = _object(file).get("max_seq_length") if file.is_file() else None
    return found if isinstance(found, int) else None


def _positions(config: Any) -> int | None:
    found = getattr(config, "max_position_embeddings", None)
    # models of the RoBERTa family number positions from behind the padding token on
    behind = 1 + (config.pad_token_id or 0) if config.model_type in ("roberta", "xlm-roberta", "camembert") else 0
    return found - behind if isinstance(found, int) and found > 0 else None


def _object(file: Path) -> dict[str, Any]:
    try:
        found = json_of(file.read_bytes())
    except ValueError as error:
        raise UserError(f"{file}: not valid JSON ({str(error)[:120]})") from None
    if not isinstance(found, dict):
        raise UserError(f"{file}: expected an object, found {type(found).__name__}")
    return found
