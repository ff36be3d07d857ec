"""The model of a build: what its files hold, and how it is loaded to answer."""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Literal, Protocol

from mmpo.chat.served_models import served_identity
from mmpo.chat.settings import SamplerSettings
from mmpo.data.video_input import VideoInput
from mmpo.data_builders.units import RESULT, SOURCE
from mmpo.errors import UserError
from mmpo.files.atomic import read_json
from mmpo.files.fingerprints import folder_fingerprint, model_folder
from mmpo.models.families.loading import load_vlm
from mmpo.models.generation.answer import AnswerEngine
from mmpo.models.generation.answerer import Answerer
from mmpo.models.generation.served import open_served

TOKEN_BUDGET = 16384


class ModelSettings(Protocol):
    """The settings of a build that are about its model."""

    @property
    def dtype(self) -> Literal["float32", "bfloat16", "auto"]: ...

    @property
    def trust_remote_code(self) -> bool: ...

    @property
    def allow_network(self) -> bool: ...

    @property
    def max_new_tokens(self) -> int: ...

    @property
    def sampler(self) -> SamplerSettings | None: ...


def open_answerer(
    model: str,
    settings: ModelSettings,
    run_dir: Path,
    stack: ExitStack,
    *,
    token_budget: int = TOKEN_BUDGET,
    video_input: VideoInput = "auto",
) -> Answerer:
    """What answers for the model: a server, where the settings name one (closed with the stack), else the model itself,
    loaded. `token_budget` is how many tokens are computed together."""
    load = partial(
        load_vlm,
        model,
        dtype=settings.dtype,
        video_input=video_input,
        trust_remote_code=settings.trust_remote_code,
        allow_network=settings.allow_network,
    )
    if settings.sampler is not None:
        served = open_served(settings.sampler, run_dir, load=load, max_new_tokens=settings.max_new_tokens)
        return stack.enter_context(served)
    return AnswerEngine(load(), max_new_tokens=settings.max_new_tokens, token_budget=token_budget)


def model_contents(model: str, settings: ModelSettings, run_dir: Path, key: str) -> str | None:
    """The fingerprint of the model's files; of a server its identity. A finished build no longer needs a model that is
    gone: then it is read from `key` of its `source.json`."""
    try:
        if (sampler := settings.sampler) is not None:
            return served_identity(sampler, sampler.adapter or sampler.model)
        return folder_fingerprint(model_folder(model))
    except UserError:
        if (run_dir / RESULT).exists() and (run_dir / SOURCE).exists():
            before: str | None = read_json(run_dir / SOURCE).get(key)
            return before
        if not settings.allow_network or settings.sampler is not None:
            raise
    load_vlm(model, trust_remote_code=settings.trust_remote_code, allow_network=True)  # fetches it
    return folder_fingerprint(model_folder(model))
