"""Settings of the text model that judges or writes. No torch and no network library here."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field, ValidationInfo, field_validator

from mmpo.errors import UserError
from mmpo.settings import Settings

RECORDED = "recorded"
"""The context in which settings are read back from a record (`deciding`), which keeps no address of a server."""


class ServerAccess(Settings):
    """How a server is reached: its key, the names it answers with, patience."""

    FREE: ClassVar[frozenset[str]] = frozenset(
        {
            "base_url", "url", "api_key_env", "cache_name", "concurrency", "timeout", "retries", "first_wait",
            "longest_wait", "give_up_after", "batch_size",
        }
    )  # fmt: skip
    """Settings of access and speed: work may continue with other values (see `mmpo.resuming`)."""

    api_key_env: str | None = Field(
        default=None, description="server: NAME of the environment variable that holds the key. Never the key itself."
    )
    accept_models: list[str] = Field(
        default=[],
        description="server: other model names that a reply may carry. A reply that names any other model is refused.",
    )
    cache_name: str | None = Field(
        default=None,
        min_length=1,
        description="server: name under which replies are cached in place of the address, for a server that moves.",
    )
    extra: dict[str, Any] = Field(
        default={},
        description="server: further fields of each request, e.g. {top_p: 0.9}; null leaves a usual field out "
        "(some hosted models take max_completion_tokens instead of max_tokens).",
    )
    concurrency: int = Field(default=8, ge=1, description="server: requests under way at the same time.")
    timeout: float = Field(default=120.0, gt=0, description="server: seconds until a try is given up.")
    retries: int = Field(
        default=6, ge=0, description="server: further tries after time-outs, lost connections and 408, 409, 429, 5xx."
    )
    first_wait: float = Field(
        default=1.0, ge=0, description="server: seconds before the first retry; doubled for each further, with jitter."
    )
    longest_wait: float = Field(
        default=120.0, gt=0, description="server: longest pause before a retry. A Retry-After beyond it ends the tries."
    )
    give_up_after: int | None = Field(
        default=20,
        ge=1,
        description="server: stop with an error after so many failed requests in a row, or if none of fewer works, for "
        "then the server or its settings are at fault. Empty: never.",
    )


class ChatSettings(ServerAccess):
    """A text model: on an OpenAI-compatible server, or loaded here."""

    backend: Literal["server", "local"] = Field(
        description="`server`: any OpenAI-compatible one (vLLM, `transformers serve`, hosted). `local`: a transformers "
        "text model in this process."
    )
    model: str = Field(
        min_length=1,
        description="server: the exact model name to ask for, a dated one where there is one. "
        "local: a model folder, or a Hugging Face id that is already in the local cache.",
    )
    base_url: str | None = Field(
        default=None,
        validate_default=True,
        description="server: its address, e.g. http://127.0.0.1:8000/v1. Nothing is sent without it.",
    )
    dtype: Literal["float32", "bfloat16", "auto"] = Field(
        default="auto", description="local: number format; auto is the model's own."
    )
    batch_size: int = Field(default=8, ge=1, description="local: requests computed together.")

    @field_validator("base_url")
    @classmethod
    def _address(cls, value: str | None, info: ValidationInfo) -> str | None:
        backend = info.data.get("backend")
        if backend == "server" and value is None and info.context != RECORDED:
            raise ValueError("a server needs an address, for example http://127.0.0.1:8000/v1")
        if backend == "local" and value is not None:
            raise ValueError("a local model has no address; leave it out, or set `backend: server`")
        return value


class SamplerSettings(ServerAccess):
    """The server that answers in place of the model in this process: any OpenAI-compatible one that sees pictures."""

    backend: Literal["server"] = Field("server", description="vLLM, SGLang, `transformers serve` or the like.")
    url: str | None = Field(None, validate_default=True, description="Its address, e.g. http://127.0.0.1:8000/v1.")
    model: str = Field(min_length=1, description="The name that the server gives the model without adapter.")
    adapter: str | None = Field(
        None, min_length=1, description="The name that the server gives the adapter; evaluations ask it for `after`."
    )
    concurrency: int = Field(
        64,
        ge=1,
        description="Most requests under way at the same time. Fewer at first: more while replies come, half after a "
        "time-out, 429 or 503.",
    )
    max_failed: float = Field(
        0.02,
        ge=0,
        le=1,
        description="Share of the questions that may stay without a reply after all tries (they are in errors.jsonl); "
        "more ends the build. An evaluation needs them all.",
    )

    @field_validator("url")
    @classmethod
    def _has_address(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is None and info.context != RECORDED:
            raise ValueError("a server needs an address, for example http://127.0.0.1:8000/v1")
        return value

    @property
    def names(self) -> list[str]:
        """The models that are asked, as the server calls them."""
        return list(dict.fromkeys(filter(None, (self.model, self.adapter))))

    def chat(self, name: str) -> ChatSettings:
        """The settings of a chat with the model that the server calls `name`."""
        if self.url is None:
            raise UserError(f"{name}: the address of its server is not in the record of an earlier build")
        shared = {key: getattr(self, key) for key in ServerAccess.model_fields}
        shared["accept_models"] = [*self.accept_models, f"{name}@main"]  # as `transformers serve` writes it
        return ChatSettings(backend="server", base_url=self.url, model=name, **shared)
