"""What people look at: photos with their verdicts and the boxes they rest on, and the page of the folder."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from PIL import Image, ImageDraw, ImageFont

from mmpo.data_builders.candidates.judging import claims_of
from mmpo.data_builders.candidates.records import JudgedPicture
from mmpo.data_builders.candidates.settings import CandidatesMade
from mmpo.data_builders.units import count_table
from mmpo.files.atomic import write_bytes
from mmpo.files.images import encode_image, load_image

PICTURES = "pictures"
COLORS = {"present": "#1a7f37", "absent": "#cf222e", "uncertain": "#9a6700"}
SHOWN = 12
"""Most classes that are listed under a photo."""
WIDTH = 640


def draw_pictures(
    folder: Path, root: Path, shown: Iterable[tuple[JudgedPicture, Mapping[str, Any]]]
) -> list[tuple[str, str]]:
    """Write `pictures/00000.png` … into `folder`, one for each photo with its findings; (file, photo) of each. The
    folder of an earlier time goes."""
    shutil.rmtree(folder / PICTURES, ignore_errors=True)
    made: list[tuple[str, str]] = []
    for number, (picture, findings) in enumerate(shown):
        name = f"{PICTURES}/{number:05d}.png"
        write_bytes(folder / name, encode_image(drawn(picture, findings, load_image(picture.image, root=root))))
        made.append((name, picture.image))
    return made


def drawn(picture: JudgedPicture, findings: Mapping[str, Any], photo: Image.Image) -> Image.Image:
    """The photo with the boxes of all classes that were asked about, in the colour of the verdict, and below it a line
    for each class: verdict, and every source's own."""
    scale = WIDTH / photo.width
    photo = photo.resize((WIDTH, max(1, round(photo.height * scale))))
    lines = list(_lines(picture))
    font = ImageFont.load_default(14)
    canvas = Image.new("RGB", (WIDTH, photo.height + 8 + 18 * len(lines)), "white")
    canvas.paste(photo, (0, 0))
    pen = ImageDraw.Draw(canvas)
    for name, corners, score in _boxes(picture, findings):
        color = COLORS[picture.opinions[name].verdict]
        x1, y1, x2, y2 = (corner * scale for corner in corners)
        box = (
            min(max(x1, 0), WIDTH - 2),
            min(max(y1, 0), photo.height - 2),
            min(x2, WIDTH - 1),
            min(y2, photo.height - 1),
        )
        if box[2] <= box[0] or box[3] <= box[1]:
            continue
        pen.rectangle(box, outline=color, width=2)
        label = f"{name} {score:.2f}"
        behind = pen.textbbox((box[0] + 3, box[1] + 1), label, font=font)
        pen.rectangle((behind[0] - 2, behind[1] - 1, behind[2] + 2, behind[3] + 1), fill=color)
        pen.text((box[0] + 3, box[1] + 1), label, fill="white", font=font)
    for number, (text, verdict) in enumerate(lines):
        pen.text((6, photo.height + 4 + 18 * number), text, fill=COLORS[verdict], font=font)
    return canvas


def _boxes(
    picture: JudgedPicture, findings: Mapping[str, Any]
) -> Iterator[tuple[str, tuple[float, float, float, float], float]]:
    """(class, corners, score): of a class that is there the boxes that say so, of others the best one."""
    for own in findings.values():
        for name, (z, _, detail) in sorted(own.items()):
            boxes = detail.get("boxes") or []
            good = [box for box in boxes if z is not None and box[4] >= z / 2]
            for x1, y1, x2, y2, score in good if picture.opinions[name].verdict == "present" else boxes[:1]:
                yield name, (x1, y1, x2, y2), score


def _lines(picture: JudgedPicture) -> Iterator[tuple[str, str]]:
    claimed = claims_of(picture.candidates)
    order = sorted(picture.opinions, key=lambda name: (name not in claimed, name))
    for name in order[:SHOWN]:
        found = picture.opinions[name]
        by = ", ".join(
            f"{source} {one.verdict} {one.z:.2f}"
            if one.verdict is not None and one.z is not None
            else f"{source} abstains ({one.why})"
            for source, one in found.by.items()
        )
        said = sum(name in one.claims for one in picture.candidates)
        yield f"{name}: {found.verdict}   said by {said} of {len(picture.candidates)}   {by}", found.verdict
    if len(order) > SHOWN:
        yield f"and {len(order) - SHOWN} more classes", "uncertain"


def page(result: CandidatesMade, drawn_: Sequence[tuple[str, str]], settings: Mapping[str, Any]) -> str:
    """README.md of the folder, as the hub shows it: its header says which files are which table."""
    tables = [
        {"config_name": name, "data_files": f"data/{name}-*.parquet", **({"default": True} if not number else {})}
        for number, name in enumerate(("candidates", "claims"))
    ]
    header = yaml.safe_dump({"configs": tables}, sort_keys=False)
    recall = "" if result.recall_pool is None else f", and names {result.recall_pool:.0%} of what is known to be there"
    lines = [
        f"---\n{header}---",
        "# Candidates",
        "",
        f"{result.candidates_made:,} responses about {result.images_used:,} of {result.images:,} photos, and "
        f"{result.claims:,} classes that were checked. A greedy response has {result.words:.1f} words{recall}; "
        f"{result.absent_share:.0%} of them name something that is not there.",
        "",
        *(f"Warning: {warning}.\n" for warning in result.warnings),
        "Load a table with `datasets.load_dataset(FOLDER, 'candidates')` or `'claims'`.",
        "",
        count_table(result.counts),
    ]
    if drawn_:
        lines += ["", "## Verdicts with their evidence", "", "Green: there. Red: not there. Brown: uncertain."]
        lines += [f"\n`{name}`\n\n![{name}]({file})" for file, name in drawn_]
    recipe = yaml.safe_dump(dict(settings), sort_keys=False, allow_unicode=True).rstrip()
    return "\n".join([*lines, "", "## Settings", "", "```yaml", recipe, "```", ""])
