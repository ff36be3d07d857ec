"""Model and adapter folders, judged by their files alone: names, headers and configurations. No torch here.

A safetensors file begins with the length of a JSON header (eight bytes, little-endian) that names every tensor with its
shape and place, so sizes can be compared and a cut download found without reading a weight.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from mmpo.errors import UserError
from mmpo.files.fingerprints import model_folder
from mmpo.outside import json_of

MAX_HEADER = 100_000_000
PROCESSORS = ("processor_config.json", "preprocessor_config.json", "video_preprocessor_config.json")
TOKENIZERS = (
    "tokenizer.json",
    "tokenizer.model",
    "vocab.json",
    "spiece.model",
    "tekken.json",
    "sentencepiece.bpe.model",
)


@dataclass(frozen=True)
class Tensor:
    """A stored tensor: its shape, and its number format in safetensors' words (`F32`, `BF16`, `U8` …)."""

    shape: tuple[int, ...]
    dtype: str


_WIDTH = {"F64": 8, "I64": 8, "F32": 4, "I32": 4, "F16": 2, "BF16": 2}


def stored_bytes(tensors: Mapping[str, Tensor]) -> int:
    """The bytes that tensors take on the disk."""
    return sum(_WIDTH.get(tensor.dtype, 1) * prod(tensor.shape) for tensor in tensors.values())


def find_model(source: str) -> Path | None:
    """The folder of a model on this machine: itself, or its snapshot in the hub's cache; None where there is none."""
    try:
        return model_folder(source)
    except UserError:
        return None


def no_such_model(source: str) -> UserError:
    """The error for a model that is nowhere on this machine."""
    if "://" in source:
        return UserError(f"{source}: an address; a model is a folder or a name", hint="the name is OWNER/MODEL")
    if source.startswith((".", "/", "~")) or len(Path(source).parts) > 2:
        return UserError(f"{source}: no such model folder", hint="check the path")
    return UserError(
        f"{source}: no such folder, and no such model in the local cache",
        hint="check the path; or download the model (hf download NAME), or set allow_network: true where the section "
        "has it",
    )


def check_model(folder: Path, source: str, *, processor: bool = True) -> dict[str, Any]:
    """The configuration of a model folder. Raises `UserError` for a missing or damaged configuration, weights that are
    pickles, missing or cut short, and (with `processor`) a missing processor or tokenizer."""
    if not (folder / "config.json").is_file():
        raise UserError(f"{source}: not a model folder (no config.json)", hint="give a folder saved by save_pretrained")
    config = _json(folder / "config.json", source)
    weights(folder, source)
    if processor and not any((folder / name).is_file() for name in PROCESSORS):
        raise UserError(
            f"{source}: no processor with a tokenizer was found (none of {', '.join(PROCESSORS[:2])})",
            hint="the folder needs the processor's files: AutoProcessor.save_pretrained writes them",
        )
    if processor and not any((folder / name).is_file() for name in TOKENIZERS):
        raise UserError(f"{source}: no tokenizer was found", hint="the folder needs tokenizer.json or tokenizer.model")
    return config


def weights(folder: Path, source: str) -> dict[str, Tensor]:
    """Every tensor of a model folder. Raises `UserError` for pickles and for missing, cut or damaged files."""
    files = sorted(folder.glob("*.safetensors"))
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        named = _json(index, source).get("weight_map")
        if not isinstance(named, dict):
            raise UserError(f"{index}: no `weight_map`", hint="is the download complete?")
        files = [folder / name for name in sorted(set(map(str, named.values())))]
        if missing := [file.name for file in files if not file.is_file()]:
            raise UserError(
                f"{source}: {len(missing)} of {len(files)} weight files are missing, the first is {missing[0]}",
                hint="download the model again",
            )
    if not files:
        pickles = sorted(path.name for path in (*folder.glob("*.bin"), *folder.glob("*.pt"), *folder.glob("*.pth")))
        if pickles:
            raise UserError(
                f"{source}: the weights are pickles ({', '.join(pickles[:3])}), which can run code when opened",
                hint="convert them to safetensors (save_pretrained does) and try again",
            )
        raise UserError(f"{source}: no *.safetensors file in the model folder", hint="is the download complete?")
    found: dict[str, Tensor] = {}
    for file in files:
        found |= header(file)
    return found


def header(file: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file. Raises `UserError` where it is none, or shorter than its header says."""
    try:
        size = file.stat().st_size
        with open(file, "rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            if size < 8 or length > min(size, MAX_HEADER):
                raise UserError(f"{file}: damaged or cut short, or no safetensors file", hint="get the file again")
            named = json_of(stream.read(length))
        entries = {name: entry for name, entry in named.items() if name != "__metadata__"}
        end = max((int(entry["data_offsets"][1]) for entry in entries.values()), default=0)
        found = {
            name: Tensor(tuple(int(n) for n in entry["shape"]), str(entry["dtype"])) for name, entry in entries.items()
        }
    except OSError as error:
        raise UserError(f"{file}: cannot be read: {error.strerror}") from error
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError) as error:
        raise UserError(f"{file}: damaged, or no safetensors file", hint="get the file again") from error
    if size < 8 + length + end:
        raise UserError(f"{file}: cut short: it has {size:,} of {8 + length + end:,} bytes", hint="get the file again")
    return found


def check_adapter(adapter: str | Path, *, matrices_alone: bool = False) -> dict[str, Any]:
    """The configuration of an adapter folder. Raises `UserError` if it isn't one, isn't LoRA, or is a pickle. With
    `matrices_alone` also if it brings whole modules, biases or tokens, which can't be switched as matrices can."""
    folder = Path(adapter)
    if not folder.is_dir():
        raise UserError(
            f"{folder}: no such adapter folder", hint="give the folder that training wrote: RUN/train/adapter"
        )
    if not (folder / "adapter_config.json").is_file():
        inside = next(
            (below for below in ("train/adapter", "adapter") if (folder / below / "adapter_config.json").is_file()), ""
        )
        hint = f"did you mean {folder / inside}?" if inside else "give the folder that training wrote"
        raise UserError(f"{folder}: not an adapter (no adapter_config.json)", hint=hint)
    if not (folder / "adapter_model.safetensors").is_file():
        raise UserError(
            f"{folder}: no adapter_model.safetensors",
            hint="adapters stored as pickles are not read; save it as safetensors",
        )
    config = _json(folder / "adapter_config.json", str(folder))
    if config.get("peft_type") != "LORA":
        raise UserError(f"{folder}: adapter type {config.get('peft_type')!r} is not supported", hint="use LoRA")
    more = [key for key in ("modules_to_save", "trainable_token_indices") if config.get(key)]
    more += ["bias"] if config.get("bias", "none") != "none" else []
    if matrices_alone and more:
        raise UserError(
            f"{folder}: the adapter has {' and '.join(more)}, and only LoRA matrices can be put beside another adapter",
            hint="merge it into the model (mmpo export --merge) and name that model",
        )
    header(folder / "adapter_model.safetensors")
    return config


def check_fit(adapter: str | Path, model: Path, source: str) -> None:
    """Compare an adapter's sizes with a model's. Raises `UserError` where it was trained on another one.

    A LoRA pair A [rank, in], B [out, rank] belongs to a weight [out, in]. Names of modules differ between versions of
    transformers in what stands before the layer's number, so a module is looked up by the part from there on.
    """
    stored = header(Path(adapter) / "adapter_model.safetensors")
    base = weights(model, source)
    by_end: dict[str, list[Tensor]] = {}
    for name, tensor in base.items():
        if name.endswith(".weight"):
            by_end.setdefault(_end(name.removesuffix(".weight")), []).append(tensor)
    if any(tensor.dtype in ("U8", "I8", "I32") for tensor in base.values()):
        return  # packed weights have other shapes
    modules: dict[str, dict[str, tuple[int, ...]]] = {}
    for name, tensor in stored.items():
        for part in ("lora_A", "lora_B"):
            before, found, _ = name.partition(f".{part}.")
            if found:
                modules.setdefault(before.removeprefix("base_model.model."), {})[part] = tensor.shape
    wrong: list[tuple[str, tuple[int, int], list[Tensor]]] = []
    absent: list[str] = []
    for module, sides in modules.items():
        first, second = sides.get("lora_A", ()), sides.get("lora_B", ())
        if len(first) != 2 or len(second) != 2:
            continue  # convolutions and embeddings
        wanted = (second[0], first[1])
        known = by_end.get(_end(module), [])
        if not known:
            absent.append(module)
        elif not any(tensor.shape == wanted for tensor in known):
            wrong.append((module, wanted, known))
    if wrong:
        hidden = next((one for one in wrong if one[0].rsplit(".", 1)[-1] in _READS_HIDDEN), None)
        if hidden is not None and all(hidden[1][1] != tensor.shape[-1] for tensor in hidden[2]):
            detail = f"hidden size {hidden[1][1]}, this one has {_hidden_size(model, source) or hidden[2][0].shape[-1]}"
        else:
            module, wanted, known = wrong[0]
            detail = f"{module} is {_size(wanted)}, in this one {_size(known[0].shape)}"
        raise UserError(f"{adapter}: trained on another model ({detail})", hint=_trained_on(Path(adapter)))
    if (absent and len(absent) == len(modules)) or any(".layers." in module for module in absent):
        raise UserError(
            f"{adapter}: trained on another model (this one has no {absent[0]})", hint=_trained_on(Path(adapter))
        )


_READS_HIDDEN = ("q_proj", "k_proj", "v_proj", "gate_proj", "up_proj", "qkv_proj", "query_key_value")


def _end(module: str) -> str:
    """The name of a module from its layer's number on, with the list that it is in."""
    parts = module.split(".")
    numbers = [place for place, part in enumerate(parts) if part.isdecimal()]
    return ".".join(parts[max(numbers[0] - 1, 0) :] if numbers else parts[-1:])


def _hidden_size(model: Path, source: str) -> int | None:
    config = _json(model / "config.json", source)
    text = config.get("text_config", config)
    size = text.get("hidden_size") if isinstance(text, Mapping) else None
    return size if isinstance(size, int) else None


def _trained_on(adapter: Path) -> str:
    base = _json(adapter / "adapter_config.json", str(adapter)).get("base_model_name_or_path")
    return f"its adapter_config.json names {base}" if base else "name the model that it was trained on"


def _size(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))


def _json(file: Path, source: str) -> dict[str, Any]:
    try:
        found = json_of(file.read_bytes())
    except OSError as error:
        raise UserError(f"{file}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise UserError(f"{file}: not valid JSON ({str(error)[:120]})", hint="get the file again") from error
    if not isinstance(found, dict):
        raise UserError(f"{file}: expected an object, found {type(found).__name__}", hint="get the file again")
    return found
