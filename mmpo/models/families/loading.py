"""Loading a vision-language model: model, processor and family record in one value."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, cast, get_args

import torch
from peft import PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import AuxiliaryTrainingWrapper
from torch import nn
from transformers import (
    AutoModelForImageTextToText,
    BitsAndBytesConfig,
    PreTrainedModel,
)

from mmpo.data.video_input import VideoInput
from mmpo.errors import UserError
from mmpo.models.families.opening import LOADING, open_config, open_processor, unopened
from mmpo.models.families.records import Family
from mmpo.models.folder import check_adapter, check_fit, find_model
from mmpo.outside import naming
from mmpo.packages import BITSANDBYTES, require

DType = Literal["float32", "bfloat16", "auto"]
Quantization = Literal["none", "nf4"]

# What stays as it is when weights are quantized: tower, projector and head, everything but the decoder's layers.
_NOT_QUANTIZED = r"(?!.*(?:language_model|text_model)\.layers\.).*"


@dataclass
class _Described:
    """Stands for a model where none is run."""

    config: Any
    generation_config: Any


@dataclass
class VLM:
    """A loaded vision-language model with everything needed to feed it.

    `model` is the Hugging Face model, or the peft model around it; `source` is the folder or hub name it came from;
    `video_input` says how it gets videos.
    """

    model: PreTrainedModel | PeftModel
    processor: Any
    family: Family
    source: str
    video_input: VideoInput = "auto"
    _adapters: tuple[tuple[str, ...], list[Any]] | None = field(default=None, init=False, repr=False, compare=False)

    def without_weights(self) -> VLM:
        """A copy without the model, which still prepares prompts and images. Loader workers that don't start by fork
        are sent it: the model may be larger than the memory they have."""
        described = _Described(self.config, getattr(self.base, "generation_config", None))
        return replace(self, model=cast(Any, described))

    @property
    def base(self) -> PreTrainedModel:
        """The Hugging Face model itself, adapter layers included, without peft's wrapper."""
        model = self.model.get_base_model() if isinstance(self.model, PeftModel) else self.model
        return cast(PreTrainedModel, model)

    @property
    def backbone(self) -> nn.Module:
        """The model below the language-model head (tower, projector and language model)."""
        return self.base.model

    @property
    def head(self) -> nn.Module:
        return self.base.get_output_embeddings()

    @property
    def config(self) -> Any:
        return self.base.config

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        return cast(torch.Tensor, self.head.weight).dtype

    @property
    def tokenizer(self) -> Any:
        return self.processor.tokenizer

    @property
    def eos_id(self) -> int:
        """The token that ends a response."""
        if self.tokenizer.eos_token_id is None:
            raise UserError(
                f"{self.source}: the tokenizer has no end-of-sequence token",
                hint="set `eos_token` in tokenizer_config.json",
            )
        return int(self.tokenizer.eos_token_id)

    @property
    def end_ids(self) -> list[int]:
        """The tokens at which `model.generate` stops: some families end a turn with a token of its own."""
        ends = self.base.generation_config.eos_token_id
        if ends is None:
            return [self.eos_id]
        return [int(end) for end in ends] if isinstance(ends, (list, tuple)) else [int(ends)]

    @property
    def pad_id(self) -> int:
        pad = self.tokenizer.pad_token_id
        return int(pad) if pad is not None else self.eos_id

    @property
    def image_token_id(self) -> int:
        """The placeholder that stands for one vision feature."""
        for name in ("image_token_id", "image_token_index"):
            if (value := getattr(self.config, name, None)) is not None:
                return int(value)
        raise UserError(f"{self.source}: config.json names no image token", hint="set `image_token_id`")

    @property
    def visual_token_ids(self) -> tuple[int, ...]:
        """The placeholders of images and, in families that take them, of videos."""
        if not self.family.video_keys:
            return (self.image_token_id,)
        return self.image_token_id, int(self.config.video_token_id)

    @property
    def takes_videos(self) -> bool:
        """True if a video is shown as a video; else its frames are shown as images."""
        return takes_videos(self.family, self.video_input)

    @property
    def softcap(self) -> float | None:
        """The bound that the family's head puts on logits."""
        return getattr(self.config.get_text_config(), "final_logit_softcapping", None) if self.family.softcap else None

    @contextmanager
    def adapter_off(self) -> Iterator[None]:
        """The model as it was before its adapter: the reference of preference training, the "before" of an evaluation.

        Only switches the adapter layers. (peft's own context also rewrites `requires_grad` of the adapter weights,
        which would make a frozen adapter trainable on the way out.) Without an adapter nothing changes."""
        layers = [layer for layer in self._adapter_layers() if not layer._disable_adapters]
        for layer in layers:
            layer._disable_adapters = True
        try:
            yield
        finally:
            for layer in layers:
                layer._disable_adapters = False

    @contextmanager
    def adapter_of(self, name: str) -> Iterator[None]:
        """The model with the adapter that `load_beside` put there under `name`, in place of its own. As `adapter_off`,
        it switches layers and leaves `requires_grad` alone."""
        if name not in getattr(self.model, "peft_config", {}):
            raise UserError(f"{self.source}: there is no adapter {name!r} on the model")
        layers = self._adapter_layers()
        before = [(layer, layer._active_adapter, layer._disable_adapters) for layer in layers]
        try:
            for layer in layers:
                layer._active_adapter, layer._disable_adapters = [name], False
            yield
        finally:
            for layer, active, off in before:
                layer._active_adapter, layer._disable_adapters = active, off

    def _adapter_layers(self) -> list[Any]:
        """The layers that adapters sit on. Listing a large model's modules takes as long as a small forward, so they
        are listed once, and again when an adapter comes or goes."""
        adapters = tuple(self.model.peft_config) if isinstance(self.model, PeftModel) else ()
        if self._adapters is None or self._adapters[0] != adapters:
            kinds = BaseTunerLayer | AuxiliaryTrainingWrapper
            self._adapters = (adapters, [module for module in self.model.modules() if isinstance(module, kinds)])
        return self._adapters[1]


def load_vlm(
    source: str | Path,
    *,
    adapter: str | Path | None = None,
    dtype: DType = "float32",
    quantize: Quantization = "none",
    device: str | torch.device | None = None,
    video_input: VideoInput = "auto",
    trust_remote_code: bool = False,
    allow_network: bool = False,
) -> VLM:
    """Load model, processor and (optionally) a LoRA adapter.

    Weights come from safetensors files only; nothing is unpickled. Without `allow_network` only local folders and the
    local hub cache are read. `quantize` "nf4" keeps the decoder layers' weights in four bits, for QLoRA (Dettmers et
    al. 2023, arXiv:2305.14314). Raises `UserError` with the remedy where something is missing, unsafe or unsupported.
    """
    source = str(source)
    config, family = open_config(source, trust_remote_code=trust_remote_code, allow_network=allow_network)
    takes_videos(family, video_input)  # before the weights: it may be refused
    device = torch.device(device or default_device())
    weights: dict[str, Any] = {"dtype": _torch_dtype(dtype)}
    if quantize != "none":
        weights |= _four_bits(dtype, config, device)
    processor = open_processor(source, trust_remote_code=trust_remote_code, allow_network=allow_network)
    try:
        model: Any = AutoModelForImageTextToText.from_pretrained(
            source,
            use_safetensors=True,
            trust_remote_code=trust_remote_code,
            local_files_only=not allow_network,
            **weights,
        )
    except LOADING as error:
        raise unopened(source, error, allow_network) from error
    if quantize != "none" and not _quantized_layers(model):
        raise UserError(f"{source}: no decoder layer was found to quantize", hint="quantize: none")
    for layer in _quantized_layers(model):
        # On some CPUs an evaluation would repack the weights, and what is repacked passes no gradient on.
        layer.support_avx512bf16_for_cpu = False
    if adapter is not None:
        model = attach_adapter(model, adapter)
    if quantize == "none":
        model.to(device)
    model.eval()
    return VLM(model=model, processor=processor, family=family, source=source, video_input=video_input)


def takes_videos(family: Family, video_input: VideoInput) -> bool:
    """True if a model of this family gets videos as videos. Raises `UserError` where it must but can't."""
    if video_input not in get_args(VideoInput):
        raise UserError(f"video_input={video_input!r}", hint=f"one of {', '.join(get_args(VideoInput))}")
    if video_input == "native" and not family.video_keys:
        raise UserError(f"{family.name} takes no videos", hint="video_input: frames shows them as lists of images")
    return bool(family.video_keys) and video_input != "frames"


def modules_alone(source: str) -> VLM:
    """The modules of a model on this machine by its configuration alone, on the meta device and without a processor: to
    look up their names and shapes. Raises `UserError` where transformers can't make them."""
    config, family = open_config(source)
    try:
        with torch.device("meta"):
            model: Any = AutoModelForImageTextToText.from_config(config)
    except LOADING as error:
        raise unopened(source, error, False) from error
    return VLM(model=model, processor=None, family=family, source=source)


def attach_adapter(model: PreTrainedModel, adapter: str | Path) -> PeftModel:
    """Put a saved LoRA adapter on a model. Raises `UserError` if the folder isn't an adapter or is stored as a
    pickle.
    """
    check_adapter(adapter)
    with _fitting(model, adapter):
        return PeftModel.from_pretrained(model, str(adapter), is_trainable=False)


def load_beside(vlm: VLM, adapter: str | Path, name: str) -> None:
    """Put a further saved LoRA adapter on a model that has one, frozen and without dropout. It does nothing until
    `VLM.adapter_of(name)` switches to it. Raises `UserError` as `attach_adapter` does, and for one that is more than
    LoRA matrices: the rest of it would be in the model for good."""
    model = vlm.model
    assert isinstance(model, PeftModel), "a further adapter goes beside one"
    check_adapter(adapter, matrices_alone=True)
    with _fitting(vlm.base, adapter):
        model.load_adapter(str(adapter), adapter_name=name, is_trainable=False, torch_device=str(vlm.device))
    keep_beside(vlm, name)


def keep_beside(vlm: VLM, name: str) -> None:
    """Freeze the adapter of that name, take its dropout out, and see to it that the model's own one is in use. (peft
    has a new layer use the adapter that it was made for.)"""
    active = list(cast(Any, vlm.model).active_adapters)
    for layer in vlm._adapter_layers():
        layer._active_adapter = active
        if name in getattr(layer, "lora_dropout", {}):
            layer.lora_dropout[name] = nn.Identity()
    for parameter_name, parameter in vlm.model.named_parameters():
        if f".{name}." in parameter_name and "lora_" in parameter_name:
            parameter.requires_grad_(False)


@contextmanager
def _fitting(model: PreTrainedModel, adapter: str | Path) -> Iterator[None]:
    """Turns the errors of an adapter that was trained on another model into a `UserError`."""
    name = str(model.config._name_or_path)  # empty for a model that was made, not loaded
    if name and (base := find_model(name)) is not None:
        check_fit(adapter, base, name)
    try:
        with naming(adapter, "a LoRA adapter of this model"):
            yield
    except RuntimeError as error:  # sizes that don't fit, of a model whose folder is not known
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(f"{adapter}: cannot be put on this model: {first}", hint="was it trained on it?") from error


def default_device() -> torch.device:
    """The first accelerator of this machine, else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("cpu")


def _four_bits(dtype: DType, config: Any, device: torch.device) -> dict[str, Any]:
    """Arguments of `from_pretrained` for NF4 weights with quantized scales; products in the model's dtype."""
    require("quantize: nf4", BITSANDBYTES)
    compute = _torch_dtype(dtype)
    if not isinstance(compute, torch.dtype):
        compute = config.get_text_config().dtype or torch.float32
    quantized = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=compute,
        llm_int8_skip_modules=[_NOT_QUANTIZED],
    )
    return {"quantization_config": quantized, "device_map": {"": device}}


def _quantized_layers(model: Any) -> list[Any]:
    return [module for module in model.modules() if type(module).__name__ == "Linear4bit"]


def _torch_dtype(dtype: DType) -> torch.dtype | str:
    known: dict[str, torch.dtype | str] = {"float32": torch.float32, "bfloat16": torch.bfloat16, "auto": "auto"}
    if dtype not in known:
        raise UserError(f"unknown dtype {dtype!r}", hint=f"one of {', '.join(known)}")
    return known[dtype]
