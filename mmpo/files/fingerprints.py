"""Digests of files, so that nothing made with other weights, or for another picture, is ever reused."""

from __future__ import annotations

import hashlib
from pathlib import Path

from mmpo.errors import UserError

_MODEL_FILES = (".safetensors", ".json", ".jinja", ".txt", ".model")


def folder_fingerprint(folder: Path) -> str:
    """SHA-256 over names and contents of the weights, configuration, tokenizer and template files of a model or
    adapter folder.
    """
    total = hashlib.sha256()
    files = sorted(path for path in folder.iterdir() if path.is_file() and path.suffix in _MODEL_FILES)
    if not files:
        raise UserError(f"{folder}: no model files")
    for path in files:
        total.update(f"{path.name}:{file_fingerprint(path)}\n".encode())
    return total.hexdigest()


def file_fingerprint(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def model_folder(source: str) -> Path:
    """The folder of a model's files: the given one, or its snapshot in the local Hugging Face cache; else UserError."""
    folder = Path(source)
    if folder.is_dir():
        return folder
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(source, local_files_only=True))
    except (HFValidationError, LocalEntryNotFoundError):
        raise UserError(
            f"{source}: no such model folder, and it is not in the local Hugging Face cache",
            hint="check the path, or download the model first",
        ) from None
