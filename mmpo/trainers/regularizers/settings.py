"""Parameters of the regularizers, and which of them go together. No torch here: recipes import it.

A regularizer is a field of `RegularizerSettings`; `{}` switches it on with its defaults.
"""

from __future__ import annotations

from typing import Any

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from mmpo.settings import Settings


class SamSettings(Settings):
    """Sharpness-aware minimization (Foret et al. 2021, arXiv:2010.01412; adaptive: Kwon et al. 2021, 2102.11600)."""

    rho: float | None = Field(
        default=None, gt=0, description="Length of the ascent step. Left out: 0.05, and 2 where it is adaptive."
    )
    adaptive: bool = Field(default=False, description="Steps in proportion to each weight, rho w^2 g / |w g|.")

    @property
    def radius(self) -> float:
        """`rho`, or its default."""
        return self.rho if self.rho is not None else 2.0 if self.adaptive else 0.05


class AwpSettings(Settings):
    """Adversarial weight perturbation (Wu et al. 2020, arXiv:2004.05884)."""

    gamma: float = Field(default=0.01, gt=0, description="Length of the ascent step over each matrix's own length.")


class RwpSettings(Settings):
    """Robust weight perturbation (Yu et al. 2022, arXiv:2205.14826): ascent on pairs of small loss only."""

    gamma: float = Field(default=0.01, gt=0, description="Length of the ascent step over that of the whole adapter.")
    threshold: float = Field(
        default=0.5,
        description="Ascend only on pairs whose loss is below it. 0.5 is for losses that start at log 2; the paper's "
        "1.7 of log 10 classes is the same share of the start.",
    )
    steps: int = Field(default=10, ge=1, description="Ascent steps at most; there are none left once no pair is below.")


class FadSettings(Settings):
    """Flatness-aware descent of orders zero and one (FAD, Zhang et al. 2023, arXiv:2307.11108)."""

    rho: float = Field(default=0.05, gt=0, description="Length of the ascent steps.")
    alpha: float = Field(default=0.5, ge=0, le=1, description="Share of zeroth order against first order.")
    beta: float = Field(default=1.0, ge=0, description="Weight of flatness against the loss.")


class GamSettings(Settings):
    """Gradient-norm aware minimization (Zhang et al. 2023, arXiv:2303.03108)."""

    rho: float = Field(default=0.02, gt=0, description="Length of the steps along gradients.")
    norm_rho: float = Field(default=0.2, gt=0, description="Length of the step that raises the gradient's norm.")
    mix: float = Field(default=0.03, ge=0, description="Weight of what is at right angles to the new gradient.")


class FlatLoraSettings(Settings):
    """Random noise on the merged weights in each forward pass (Flat-LoRA, Li et al. 2024, arXiv:2409.14396)."""

    rho: float = Field(
        default=0.05,
        gt=0,
        description="Length of a row's noise over that of the row, at the end; it rises by a cosine.",
    )


class LoraGgpoSettings(Settings):
    """Noise guided by weights and last gradients (LoRA-GGPO, Chang et al. 2025, arXiv:2502.14538; with momentum its
    revision LoRA-MGPO)."""

    sigma: float = Field(default=0.03, ge=0, description="Weight of the row's length in the noise.")
    beta: float = Field(default=0.01, ge=0, description="Weight of the squared length of the row's last gradient.")
    momentum: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="Above 0 an exponential average of the gradients takes the last one's place, as in LoRA-MGPO.",
    )

    @model_validator(mode="after")
    def _some_noise(self) -> LoraGgpoSettings:
        if not self.sigma and not self.beta:
            raise ValueError("sigma and beta are both 0, which is no noise")
        return self


class MesaSettings(Settings):
    """Divergence from an average of the adapter's past weights (MESA, Du et al. 2022, arXiv:2205.14083)."""

    lam: float = Field(default=0.3, gt=0, description="Weight of the divergence.")
    temperature: float = Field(
        default=5.0, gt=0, description="Softens both distributions; the term is times its square."
    )
    decay: float = Field(default=0.9998, ge=0, lt=1, description="Of the average, at every step.")


class SafSettings(Settings):
    """Divergence from the adapter of some epochs ago (SAF, Du et al. 2022, arXiv:2205.14083). The paper stores outputs;
    here the adapter is kept, a few times an epoch, and computes them again."""

    lam: float = Field(default=0.3, gt=0, description="Weight of the divergence.")
    temperature: float = Field(
        default=5.0, gt=0, description="Softens both distributions; the term is times its square."
    )
    epochs: float = Field(default=5.0, gt=0, description="How far back; before that many epochs there is no term.")


class PegoSettings(Settings):
    """The update's rows at right angles to the weights' (PEGO, Hu et al. 2024, arXiv:2407.15085), for one adapter."""

    lam: float = Field(default=1e-3, gt=0, description="Weight of the sum of |W0 dW^T|.")
    targets: list[str] = Field(
        default=["q_proj", "v_proj"], min_length=1, description="Names of the adapted layers that it is summed over."
    )


class MultiSampleDropoutSettings(Settings):
    """The mean loss over several dropout masks (Inoue 2019, arXiv:1905.09788) on the states that the head reads."""

    samples: int = Field(default=4, ge=2, le=100, description="How many masks.")
    p: float = Field(default=0.1, gt=0, lt=1, description="Share of the states' entries that a mask drops.")


PERTURBATIONS = ("sam", "awp", "rwp", "fad", "gam", "flat_lora", "lora_ggpo")
"""They perturb the same weights; a run has one at most."""
PASTS = ("mesa", "saf")
"""They compare with a past of the same adapter; a run has one at most."""


class RegularizerSettings(Settings):
    """Regularizers of the adapter, none by default. One of sam, awp, rwp, fad, gam, flat_lora and lora_ggpo, one of
    mesa and saf, pego and multi_sample_dropout go together."""

    sam: SamSettings | None = Field(default=None, description="The gradient a step uphill: flat minima.")
    awp: AwpSettings | None = Field(default=None, description="As sam, in proportion to each matrix.")
    rwp: RwpSettings | None = Field(default=None, description="As awp, uphill only for pairs already learnt.")
    fad: FadSettings | None = Field(default=None, description="As sam, with the flatness of the gradient's norm.")
    gam: GamSettings | None = Field(default=None, description="As sam, where the gradient's norm is larger.")
    flat_lora: FlatLoraSettings | None = Field(default=None, description="Noise in proportion to the merged weights.")
    lora_ggpo: LoraGgpoSettings | None = Field(default=None, description="Noise by weights and last gradients.")
    mesa: MesaSettings | None = Field(default=None, description="Stay close to an average of the past weights.")
    saf: SafSettings | None = Field(default=None, description="Stay close to the adapter of epochs ago.")
    pego: PegoSettings | None = Field(default=None, description="An update at right angles to the weights.")
    multi_sample_dropout: MultiSampleDropoutSettings | None = Field(
        default=None, description="The mean loss over several dropout masks."
    )

    @model_validator(mode="before")
    @classmethod
    def _none_is_empty(cls, values: Any) -> Any:
        if isinstance(values, dict) and (empty := [name for name, value in values.items() if value is None]):
            raise ValueError(f"{empty[0]} is empty: {{}} takes its defaults, and leaving it out switches it off")
        return values

    @model_serializer(mode="wrap")
    def _those_on(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        made: dict[str, Any] = dump(self)
        return {name: value for name, value in made.items() if value is not None}

    @model_validator(mode="after")
    def _go_together(self) -> RegularizerSettings:
        for group, what in ((PERTURBATIONS, "perturb the same weights"), (PASTS, "compare with the same past")):
            if len(chosen := [name for name in group if name in self.on]) > 1:
                raise ValueError(f"{' and '.join(chosen)} {what}: keep one of them")
        return self

    @property
    def on(self) -> tuple[str, ...]:
        """The names of those that are used."""
        return tuple(name for name in type(self).model_fields if getattr(self, name) is not None)
