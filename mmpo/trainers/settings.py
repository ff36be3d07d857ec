"""Settings and result of a training run. No torch here: recipes and the command line import it."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, Field, model_validator

from mmpo.data.video_input import VIDEO_INPUT, VideoInput
from mmpo.settings import FOLDER, MODEL, PAIRS, PATH, Settings
from mmpo.trainers.group_settings import GroupSettings, PerPair, rate_of
from mmpo.trainers.reference_settings import BASE, FurtherReferenceSettings, ReferenceSettings
from mmpo.trainers.regularizers.settings import RegularizerSettings
from mmpo.trainers.score_settings import ScoreSettings
from mmpo.trainers.view_settings import CorruptionSettings, DisturbanceSettings, PerturbationSettings

Scheduler = Literal["linear", "cosine", "constant", "constant_with_warmup"]


class LoraSettings(Settings):
    """The adapter that is trained; the model itself stays as it is."""

    rank: int = Field(default=16, ge=1, description="Rank of the update of each adapted matrix.")
    alpha: float | None = Field(
        default=None, gt=0, description="Scale of the update is alpha / rank. Left out: twice the rank."
    )
    dropout: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="Dropout in the adapter. At 0 the policy equals the reference before the first step.",
    )
    targets: str | list[str] = Field(
        default="language_model",
        description=(
            "What is adapted: `language_model` (all its linear layers, not the head), `all` (those of the vision tower "
            "and the projector too), a list of layer names inside the language model such as [q_proj, v_proj], or one "
            "regular expression over full module names."
        ),
    )


class AuxiliarySettings(Settings):
    """Ordinary image-text data learnt with the pairs. The loss is the objective's term `auxiliary`, whose `weight` is
    HA-DPO's lambda: what one sample counts against one pair."""

    data: Annotated[Path, PATH] = Field(
        description=(
            "Folder of pairs, whose chosen side is learnt; a file or folder of LLaVA conversations; or captions, as "
            "MiniGPT-4's filter_cap.json."
        )
    )
    images: Annotated[Path | None, FOLDER] = Field(
        default=None, description="Folder that image paths start from. Left out: the folder of `data`."
    )
    per_pair: PerPair = Field(
        default=1.0,
        description="Samples learnt for each pair: 1 as in HA-DPO; 0.25: one for every fourth pair. `once`: as many as "
        "there are, spread over an epoch of the pairs, so that the size of `data` decides how much it counts.",
    )
    allow_links: bool = Field(default=False, description="Follow links out of the folder of images (hub caches, DVC).")

    def rate(self, samples: int, pairs: int) -> Fraction:
        """Samples for each pair, of so many samples and training pairs."""
        return rate_of(self.per_pair, samples, pairs)

    @property
    def image_root(self) -> Path:
        """The folder that image paths start from."""
        return self.images or (self.data if self.data.is_dir() else self.data.parent)


class TokenWeightSettings(Settings):
    """Token weights from what differs between chosen and rejected (dense DPO, RLHF-V), for objectives that read them.
    A pair that brings weights of its own keeps them."""

    changed: float = Field(default=5.0, ge=0, description="Weight of a token that was changed; the others weigh 1.")
    min_match: int = Field(
        default=3, ge=1, description="Equal stretches shorter than this many tokens belong to the change around them."
    )
    insertions: bool = Field(
        default=False,
        description="Also weigh tokens that only one side has; the released code weighs what was replaced only.",
    )


class SampleBankSettings(Settings):
    """Responses that the reference model wrote to the pairs' prompts before training."""

    data: Annotated[Path, PATH] = Field(
        description="A JSON Lines file, or a folder of them: rows of `id`, a pair's, and `texts`, the responses."
    )


class SampleSettings(Settings):
    """Answers written during evaluation, by the policy and by the model without its adapter, to `samples.jsonl`."""

    n: int = Field(default=4, ge=0, description="How many evaluation images to answer about; 0 writes no samples.")
    prompts: list[str] | None = Field(
        default=None,
        min_length=1,
        description="Questions to ask about each of these images. Left out: each pair's own prompt.",
    )
    max_new_tokens: int = Field(default=64, ge=1, description="Longest answer, in tokens.")


class TrainSettings(Settings):
    """One training run: which model, which pairs, which objective, and how."""

    FREE: ClassVar[frozenset[str]] = frozenset(
        {"resume", "workers", "image_cache_mb", "keep_checkpoints", "allow_network", "report_to"}
    )
    """Settings that change neither the weights nor what is written; a run may be resumed with other values."""

    model: Annotated[str, MODEL] = Field(description="Model folder or hub name.")
    pairs: Annotated[Path, PAIRS] = Field(description="Folder of preference pairs, as `mmpo build` writes it.")
    eval_pairs: Annotated[Path | None, PAIRS] = Field(
        default=None, description="Folder of pairs to evaluate on. Left out: part of `pairs` is held out."
    )
    eval_fraction: float = Field(
        default=0.05,
        ge=0,
        lt=1,
        description=(
            "Share of `pairs` held out for evaluation, chosen by image so that no image is on both sides; 0 for none."
        ),
    )
    objective: dict[str, dict[str, Any]] = Field(
        default={"dpo": {"beta": 0.1}},
        min_length=1,
        description=(
            "Losses by name with their parameters; several are added, e.g. {dpo: {beta: 0.1}, sft: {weight: 0.5}}."
        ),
    )
    auxiliary: AuxiliarySettings | None = Field(
        default=None, description="Image-text data learnt with the pairs; with {auxiliary: {weight: 0.5}} above."
    )
    groups: GroupSettings | None = Field(
        default=None, description="Groups of scored responses learnt with the pairs, or alone; with nca, infonca."
    )
    token_weights: TokenWeightSettings | None = Field(
        default=None,
        description="Weigh the tokens in which chosen and rejected differ; with the objectives span_dpo, dense_dpo.",
    )
    scores: ScoreSettings | None = Field(
        default=None,
        description="The scores of the pairs that odpo, mappo, sppo and other objectives read. Left out: those of the "
        "usual names.",
    )
    parts: Literal["weights"] | None = Field(
        default=None,
        description="weights: where pairs have no scored steps or segments, the sentences of their responses stand in, "
        "scored by their token weights; with full_step_dpo, dpo_2d.",
    )
    samples_from: SampleBankSettings | None = Field(
        default=None, description="Responses that the reference wrote to the pairs' prompts; with typo."
    )
    corruption: CorruptionSettings | None = Field(
        default=None,
        description="The corrupted image of mdpo, rdpo, vdpo, image_preference. Left out: as the loss's authors do.",
    )
    perturbation: PerturbationSettings | None = Field(
        default=None, description="The perturbed question of tars and perturbed_dpo. Left out: the defaults."
    )
    disturbance: DisturbanceSettings | None = Field(
        default=None, description="The perturbed sequences of tars_official. Left out: the defaults."
    )
    reference: Annotated[ReferenceSettings | None, BASE] = Field(
        default=None, description="The reference. Left out, or `base`: the model without its adapter."
    )
    references: FurtherReferenceSettings | None = Field(
        default=None, description="Further references, {second: {adapter: PATH}} or {second: {model: NAME}}, with mrpo."
    )

    regularizers: RegularizerSettings | None = Field(
        default=None, description="Flatter minima, noise and orthogonality of the adapter, e.g. {sam: {rho: 0.05}}."
    )

    learning_rate: float = Field(default=5e-5, gt=0, description="Peak learning rate.")
    epochs: float = Field(default=1.0, gt=0, description="Passes over the pairs; not used if `max_steps` is set.")
    max_steps: int | None = Field(default=None, ge=1, description="Number of optimizer steps, instead of `epochs`.")
    batch_size: int = Field(
        default=8, ge=1, description="Pairs per process in one forward pass (an upper limit with `tokens_per_batch`)."
    )
    tokens_per_batch: int | None = Field(
        default=None,
        ge=1,
        description=(
            "Token budget of one forward pass. Tokens that its pairs have in common count once; without sharing, "
            "pairs times the longest pair, padding included. Left out: no budget."
        ),
    )
    order: Literal["shuffled", "given"] | None = Field(
        default=None,
        description=(
            "shuffled: a new random order in every pass; given: as the pairs stand in their folder. Left out: given "
            "for pairs that a curriculum of `mmpo select` put in order, else shuffled."
        ),
    )
    accumulation: int = Field(
        default=1, ge=1, description="Forward passes per optimizer step. The loss is exact whatever the split."
    )
    lora: LoraSettings = Field(default_factory=lambda: LoraSettings(), description="The adapter.")
    seed: int = Field(
        default=0, ge=0, description="Decides the adapter's start, the held-out pairs and the order of the data."
    )
    warmup: float = Field(
        default=0.05, ge=0, description="Warm-up of the learning rate: below 1 a share of all steps, else steps."
    )
    scheduler: Scheduler = Field(default="cosine", description="How the learning rate falls after the warm-up.")
    weight_decay: float = Field(default=0.0, ge=0, description="Weight decay of the adapter's matrices.")
    max_grad_norm: float = Field(
        default=1.0, ge=0, description="Gradients are scaled down to this norm; 0 leaves them as they are."
    )

    dtype: Literal["float32", "bfloat16", "auto"] = Field(
        default="float32",
        description="Number format of the model; the adapter and all sums of log-probabilities stay float32.",
    )
    quantize: Literal["none", "nf4"] = Field(
        default="none",
        description=(
            "nf4: the language model's frozen weights in four bits (QLoRA), for less memory; the adapter stays float32."
        ),
    )
    video_input: VideoInput = Field(default="auto", description=VIDEO_INPUT)
    gradient_checkpointing: bool = Field(
        default=False, description="Recompute activations in the backward pass: less memory, slower."
    )
    cache_reference: bool = Field(
        default=False,
        description=(
            "Compute the reference log-probs once, before training, and keep them in the folder of the pairs for every "
            "later run with the same model: about a quarter to a third less work per step."
        ),
    )
    group_images: bool = Field(
        default=False,
        description=(
            "Train pairs about the same image in the same batch: image and prompt are then computed once for all of "
            "them, which is much faster where an image has many pairs, but mixes a batch less."
        ),
    )
    sharing: Literal["auto", "on", "off"] = Field(
        default="auto",
        description="Run prompt and image once for both responses of a pair: where it is safe, always, or never.",
    )
    attention: Literal["auto", "plain", "dense", "flex", "varlen"] = Field(
        default="auto",
        description=(
            "How shared prompts are attended to: ordinary attention calls (plain), one call under a whole mask (dense, "
            "slow), one call of FlexAttention or of a variable-length kernel (CUDA); auto takes what works."
        ),
    )
    max_response_tokens: int | None = Field(
        default=None,
        ge=1,
        description=(
            "Longer responses are cut; prompts and images never are. Pairs left without a difference are dropped."
        ),
    )
    max_tokens: int | None = Field(
        default=None,
        ge=2,
        description=(
            "Longest prompt and response together. The response is cut to fit, never the prompt or an image; pairs "
            "whose prompt leaves no room, or without a difference after the cut, are dropped and counted."
        ),
    )
    max_pixels: int | None = Field(
        default=None,
        ge=1,
        description="Larger images are scaled down to this many pixels before the model's processor sees them.",
    )
    max_pixels_per_pair: int | None = Field(
        default=None,
        ge=1,
        description="All images that one side of a pair shows, together: where they have more, all are scaled alike.",
    )

    logging_steps: int = Field(
        default=10, ge=1, description="Steps per line of `metrics.jsonl`; values are averages over them."
    )
    report_to: list[Literal["tensorboard", "wandb", "trackio", "mlflow"]] = Field(
        default_factory=list,
        description="Services that get the metrics as well, through transformers; each needs its package.",
    )
    eval_steps: int | None = Field(
        default=None, ge=1, description="Steps between evaluations. Left out: before the first step and at the end."
    )
    save_steps: int | None = Field(
        default=100, ge=1, description="Steps between checkpoints; null for none before the end."
    )
    keep_checkpoints: int = Field(default=2, ge=1, description="How many complete checkpoints are kept.")
    resume: bool = Field(
        default=True,
        description=(
            "Continue from the newest complete checkpoint in the run folder; false starts over and removes them."
        ),
    )
    samples: SampleSettings = Field(
        default_factory=lambda: SampleSettings(), description="Answers written during evaluation."
    )

    workers: int = Field(
        default=0,
        ge=0,
        description="Processes that prepare batches during training; 0 prepares them in the training process.",
    )
    image_cache_mb: int = Field(
        default=1024,
        ge=0,
        description="Memory per process for prepared images, in MiB; beyond it they are prepared again.",
    )
    trust_remote_code: bool = Field(default=False, description="Let the model folder run its own Python code.")
    allow_network: bool = Field(default=False, description="Let the model be downloaded from the hub.")

    @model_validator(mode="after")
    def _one_order(self) -> TrainSettings:
        if self.order == "given" and self.group_images:
            raise ValueError("order: given and group_images are two orders; one can be")
        return self

    @model_validator(mode="after")
    def _warmup_fits(self) -> TrainSettings:
        if self.warmup >= 1 and self.warmup != int(self.warmup):
            raise ValueError("warmup: below 1 it is a share of all steps, from 1 on a whole number of steps")
        return self


class TrainResult(BaseModel):
    """The result of a run. Paths are relative to the run folder."""

    adapter: str = Field(
        description="The trained adapter: `PeftModel.from_pretrained` and `load_vlm(adapter=)` open it."
    )
    steps: int
    epochs: float
    pairs: int = Field(description="Pairs trained on.")
    eval_pairs: int = Field(description="Pairs evaluated on.")
    dropped: dict[str, int] = Field(description="Pairs not used, by reason; they are listed in rejects.jsonl.")
    auxiliary: int = Field(default=0, description="Auxiliary samples drawn from.")
    auxiliary_dropped: dict[str, int] = Field(default={}, description="Auxiliary samples not used, by reason.")
    groups: int = Field(default=0, description="Groups of responses drawn from.")
    groups_dropped: dict[str, int] = Field(default={}, description="Groups of responses not used, by reason.")
    truncated: int = Field(description="Responses cut to `max_response_tokens`.")
    scaled_images: int = Field(default=0, description="Images scaled down to `max_pixels` or `max_pixels_per_pair`.")
    memory: dict[str, int] | None = Field(
        default=None, description="Estimated bytes by kind, for the largest batch; null where weights are sharded."
    )
    trainable_parameters: int
    first_eval: dict[str, float] | None = Field(description="Evaluation before the first step.")
    last_eval: dict[str, float] | None = Field(description="Evaluation after the last step.")
    last_train: dict[str, float] = Field(description="The last line of training metrics.")
    seconds: float = Field(description="Wall time of training, all resumed parts together.")
    resumed_from: int | None = Field(
        description="Step at which this process continued; null if it started from the beginning."
    )
