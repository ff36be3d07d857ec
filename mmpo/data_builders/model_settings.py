"""Settings that every build with a model has. No torch here."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from mmpo.chat.settings import SamplerSettings
from mmpo.settings import Settings


class ModelLoading(Settings):
    """How a build loads its model."""

    FREE: ClassVar[frozenset[str]] = frozenset({"allow_network"})

    dtype: Literal["float32", "bfloat16", "auto"] = Field("float32", description="Number format of the model.")
    allow_network: bool = Field(False, description="Fetch the model from the hub if it is not on this machine.")
    trust_remote_code: bool = Field(False, description="Run code that comes with the model.")
    sampler: SamplerSettings | None = Field(
        None,
        description="The server that answers for the model (docs/servers.md). Left out: the model in this process.",
    )
