"""A model before its weights are read: configuration, family, processor."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from transformers import AutoConfig, AutoProcessor

from mmpo.errors import UserError
from mmpo.models.families.records import Family, family_of
from mmpo.models.folder import check_model, find_model, no_such_model
from mmpo.outside.failures import FAILURES

LOADING: tuple[type[Exception], ...] = (*FAILURES, SafetensorError, ImportError)
"""Errors of libraries for broken configurations, weights and tokenizers, and for packages that are not installed."""


def open_config(source: str, *, trust_remote_code: bool = False, allow_network: bool = False) -> tuple[Any, Family]:
    """A model's configuration and family. Raises `UserError` for a model that is not there or can't be used."""
    folder = find_model(source)
    if folder is None and not allow_network:
        raise no_such_model(source)
    if folder is not None and folder == Path(source):
        check_model(folder, source, processor=False)
    try:
        config = AutoConfig.from_pretrained(
            source, trust_remote_code=trust_remote_code, local_files_only=not allow_network
        )
    except FAILURES as error:
        raise unopened(source, error, allow_network) from error
    return config, family_of(config)


def open_processor(source: str, *, trust_remote_code: bool = False, allow_network: bool = False) -> Any:
    """A model's processor, which has a tokenizer. Raises `UserError`, also where a package that the family's processor
    needs is not installed."""
    try:
        processor = AutoProcessor.from_pretrained(
            source, trust_remote_code=trust_remote_code, local_files_only=not allow_network
        )
    except LOADING as error:
        raise unopened(source, error, allow_network) from error
    if not hasattr(processor, "tokenizer"):
        raise UserError(
            f"{source}: no processor with a tokenizer was found", hint="the folder needs processor_config.json"
        )
    return processor


def family_in(source: str | Path, *, trust_remote_code: bool = False) -> Family:
    """The family of a model on this machine, from its configuration alone."""
    return open_config(str(source), trust_remote_code=trust_remote_code)[1]


def unopened(source: str, error: Exception, allow_network: bool) -> UserError:
    """The error for a model that transformers could not open."""
    first_line = (str(error).strip().splitlines() or [type(error).__name__])[0]
    if isinstance(error, ImportError):
        hint = "some families' processors need torchvision or num2words: pip install 'mmpo[families]'"
    elif Path(source).exists():
        hint = "the folder needs config, weights, tokenizer and processor files"
    elif allow_network:
        hint = "check the name and the connection"
    else:
        hint = "download the model first, or allow network access"
    return UserError(f"{source}: can't be loaded: {first_line}", hint=hint)
