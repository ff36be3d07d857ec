"""Views of `mmpo inspect` on run folders, scorecards, photos, adapters and model folders, detected by their files."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import typer

from mmpo.cli import console
from mmpo.errors import Quarantined, UserError
from mmpo.files.atomic import read_json
from mmpo.progress_display import duration

PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff", ".jp2", ".avif", ".ppm")
_LOOKED_AT = 2000


def kind_of(path: Path) -> Callable[[Path], dict[str, Any]] | None:
    """The function that shows this file or folder; None where it is none of these."""
    if path.is_file():
        if path.suffix.lower() in PICTURES:
            return photo
        return scorecard if path.name.startswith("scorecard") and path.suffix in (".json", ".md") else None
    if (path / "recipe.yaml").is_file():
        return run_folder
    if any((path / "data").glob("candidates-*.parquet")):
        return candidates
    if (path / "scorecard.json").is_file():
        return scorecard
    if (path / "adapter_config.json").is_file():
        return adapter
    if (path / "config.json").is_file():
        return model
    pictures = _pictures(path)
    if pictures and (list(path.glob("*.json*")) or len({_size(one) for one in pictures[:20]}) > 1):
        return photos
    return None


def inspect_folder(path: Path, *, as_json: bool, frames: str | None, out: Path | None, **others: Any) -> None:
    """Print the view that `kind_of` gives for it."""
    if frames is not None or out is not None or others.get("ids"):
        raise UserError(f"{path}: --frames belongs to videos, --id and --out to pairs", hint=f"mmpo inspect {path}")
    show = kind_of(path)
    assert show is not None
    shown = show(path)
    if as_json:
        typer.echo(json.dumps(shown, indent=2, ensure_ascii=False, default=str))
        return
    text = shown.pop("text", None)
    console.heading(str(path))
    for name, value in shown.items():
        console.line(f"{name}: {value}")
    if text:
        console.out.print(text)


def run_folder(path: Path) -> dict[str, Any]:
    """The steps of a run, and where their results are."""
    from mmpo.eval.statistics.rounds import RoundsTable
    from mmpo.recipes import OUTPUTS
    from mmpo.recipes.schema import SECTIONS
    from mmpo.recipes.source import parse
    from mmpo.runs import RunFolder

    recipe = parse((path / "recipe.yaml").read_text(encoding="utf-8"), str(path / "recipe.yaml")).data
    run = RunFolder(path)
    shown: dict[str, Any] = {"run of": recipe.get("name")}
    sections = [section for section in SECTIONS if recipe.get(section) is not None]
    for name in _in_rounds(path) if recipe.get("rounds") is not None else sections:
        step = run.step(name)
        record = step.record()
        took = f", took {duration(record['seconds'])}" if "seconds" in record else ""
        shown[name] = {"absent": "not begun", "started": "begun, not complete"}.get(step.state, step.state) + took
    for name, place in OUTPUTS.items():
        if (path / place).exists():
            shown[name.partition(".")[2]] = f"{path / place} (mmpo inspect {path / place})"
    if (path / "eval" / "scorecard.md").exists():
        shown["scorecard"] = f"{path / 'eval' / 'scorecard.md'} (mmpo inspect {path / 'eval'})"
    if (path / "rounds.md").exists():
        shown["rounds"] = path / "rounds.md"
        shown["text"] = RoundsTable.model_validate(read_json(path / "rounds.json"))
    return shown


def _in_rounds(path: Path) -> list[str]:
    """The steps of rounds that a run folder has, in the order in which they are done."""
    order = ["build", "select", "train", "eval", "merge"]
    found = [file.parent.name.partition("-") for file in path.glob("*-*/step.json")]
    known = [(int(number), order.index(section)) for section, _, number in found if section in order]
    return [f"{order[section]}-{number}" for number, section in sorted(known)]


def scorecard(path: Path) -> dict[str, Any]:
    """A scorecard as the evaluation printed it."""
    from mmpo.eval.statistics.scorecard import Scorecard

    file = path / "scorecard.json" if path.is_dir() else path.with_suffix(".json")
    if not file.is_file():
        return {"text": path.read_text(encoding="utf-8")}
    try:
        card = Scorecard.model_validate(read_json(file))
    except ValueError as error:
        raise UserError(f"{file}: not a scorecard of mmpo ({str(error).splitlines()[0]})") from None
    return {"model": card.model, "adapter": card.adapter, "text": card}


def candidates(path: Path) -> dict[str, Any]:
    """What a folder of candidates holds: counts, verdicts, how good the sources are, and the first responses."""
    from mmpo.data_builders.candidates.tables import CandidateTables

    tables = CandidateTables(path)
    card = tables.card
    shown: dict[str, Any] = {
        "candidates of": f"{card['settings']['model']} about {card['settings']['images']}",
        "photos": f"{len(tables.images):,}",
    }
    for name, table in card["counts"].items():
        shown[name] = ", ".join(f"{what} {count:,}" for what, count in table.items())
    shown["calibrated"] = "yes, on controls" if card["evidence"]["calibrated"] else "no"
    for number, warning in enumerate(card["warnings"], start=1):
        shown[f"warning {number}"] = warning
    first = next(iter(tables), None)
    if first is not None:
        verdicts = ", ".join(f"{name} {found.verdict}" for name, found in first.opinions.items())
        said = [
            f"  {one.sample}: {one.text}" + (f" ({one.why_not})" if one.why_not else "") for one in first.candidates
        ]
        shown["text"] = "\n".join([f"{first.image}: {verdicts or 'nothing claimed'}", *said[:6]])
    if (path / "pictures").is_dir():
        shown["verdicts drawn"] = path / "pictures"
    return shown


def adapter(path: Path) -> dict[str, Any]:
    """Base model, rank and size of an adapter."""
    from mmpo.models.folder import check_adapter, header

    config = check_adapter(path)
    stored = header(path / "adapter_model.safetensors")
    return {
        "adapter of": config.get("base_model_name_or_path"),
        "rank": config.get("r"),
        "alpha": config.get("lora_alpha"),
        "matrices": sum(".lora_A." in name for name in stored),
        "parameters": f"{_parameters(stored):,}",
    }


def model(path: Path) -> dict[str, Any]:
    """Type, size and number formats of a model."""
    from mmpo.models.folder import check_model, weights

    config = check_model(path, str(path), processor=False)
    stored = weights(path, str(path))
    formats = Counter(tensor.dtype for tensor in stored.values())
    return {
        "model type": config.get("model_type"),
        "parameters": f"{_parameters(stored):,}",
        "number formats": ", ".join(f"{name} ({count} tensors)" for name, count in formats.most_common()),
    }


def photo(path: Path) -> dict[str, Any]:
    """One picture as mmpo reads it. For a picture that can't be used, the reason."""
    from mmpo.files.images import load_image

    try:
        image = load_image(path)
    except Quarantined as error:
        return {"cannot be used": error}
    return {"picture": f"{image.width} x {image.height}, upright, as RGB", "bytes": f"{path.stat().st_size:,}"}


def photos(path: Path) -> dict[str, Any]:
    """The number and sizes of a folder's pictures, and the files that may annotate them."""
    pictures = _pictures(path)
    sizes = [size for one in pictures if (size := _size(one)) is not None]
    shown: dict[str, Any] = {"pictures": f"{len(pictures):,}"}
    if sizes:
        widths, heights = [w for w, _ in sizes], [h for _, h in sizes]
        shown["sizes"] = f"{min(widths)} to {max(widths)} wide, {min(heights)} to {max(heights)} high"
    if len(sizes) < len(pictures):
        shown["cannot be opened"] = len(pictures) - len(sizes)
    if files := sorted(one.name for one in path.glob("*.json*")):
        shown["annotation files may be"] = ", ".join(files[:8])
    return shown


def _pictures(path: Path) -> list[Path]:
    return sorted(one for one in path.iterdir() if one.suffix.lower() in PICTURES)[:_LOOKED_AT]


def _size(path: Path) -> tuple[int, int] | None:
    from PIL import Image

    try:
        with Image.open(path) as image:
            return image.size
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None


def _parameters(stored: Mapping[str, Any]) -> int:
    total = 0
    for tensor in stored.values():
        count = 1
        for side in tensor.shape:
            count *= side
        total += count
    return total
