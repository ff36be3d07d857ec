"""mmpo inspect FILE"""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mmpo.cli.app import JsonOption, app
from mmpo.cli.visible import echo

if TYPE_CHECKING:
    from mmpo.video import VideoInfo

VIDEO = f"{__name__}:inspect_video"
PAIRS = "mmpo.cli.inspect_pairs:inspect_pairs"
FOLDER = "mmpo.cli.inspect_folders:inspect_folder"
VIDEO_SUFFIXES = (
    ".mp4 .m4v .mov .mkv .webm .avi .ts .mts .m2ts .mpg .mpeg .flv .ogv .wmv .gif .3gp .h264 .hevc .ivf .webp .apng"
)

INSPECTORS: dict[str, str] = {suffix: VIDEO for suffix in VIDEO_SUFFIXES.split()}
"""The function that shows files of a suffix, as `module:function`. It takes the path and the options of the command."""


def _worth_a_look(folder: Path) -> list[Path]:
    """Up to four folders, at most two levels below `folder`, that `mmpo inspect` can show."""
    from mmpo.cli.inspect_folders import kind_of

    below = [one for pattern in ("*", "*/*") for one in sorted(folder.glob(pattern)) if one.is_dir()][:200]
    return [one for one in below if any((one / "data").glob("*.parquet")) or kind_of(one)][:4]


@app.command("inspect")
def inspect(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A video, pairs, a run, a scorecard, photos, a model.")],
    as_json: JsonOption = False,
    frames: Annotated[
        str | None,
        typer.Option(metavar="N,N,…", help="Video: write these frames as PNG; -1 is the last one. Needs --out."),
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", metavar="DIR", help="Folder for frames or drawn pairs.")] = None,
    backend: Annotated[str, typer.Option(metavar="NAME", help="Video: auto, pyav, decord or torchcodec.")] = "auto",
    id: Annotated[
        list[str] | None, typer.Option("--id", metavar="ID", help="Pairs: draw this one. Repeatable. Needs --out.")
    ] = None,
    random: Annotated[
        int | None, typer.Option(min=1, max=1000, metavar="N", help="Pairs: show so many, differences marked.")
    ] = None,
) -> None:
    """Show what a file holds.

    Video: frames and times from the exact index (not from the header), size,
    rotation, codec, and what is unusual about it. Times count from the first
    frame.

    Pairs: their number and scores; with --id one pair as PNG and HTML: its
    pictures, their regions, where the model looked, the ratio and the
    threshold. Groups of responses: their numbers, sizes and scores.

    Candidates: counts, verdicts by source, and the first responses.

    Run folders, scorecards, photos, adapters and model folders: what they
    hold, from their files alone.

    [bold]Examples[/bold]

      mmpo inspect clip.mp4
      mmpo inspect clip.mp4 --frames 0,10,299 --out frames
      mmpo inspect clip.mp4 --json
      mmpo inspect runs/mine
      mmpo inspect runs/mine/build/pairs --random 20
      mmpo inspect runs/mia/build/pairs --id 000000123/sequence --out drawn
    """
    if random is not None:
        from mmpo.cli.inspect_pairs import show_random

        return show_random(file, random)
    inspector(file)(file, as_json=as_json, frames=frames, out=out, backend=backend, ids=id)


def inspector(file: Path) -> Callable[..., None]:
    """The function that shows `file`. Raises UserError where there is none."""
    from mmpo.errors import UserError

    if not file.exists():
        raise UserError(f"{file}: no such file")
    if file.is_dir() and any((file / "data").glob("candidates-*.parquet")):
        target: str | None = FOLDER
    elif file.is_dir() and any((file / "data").glob("*.parquet")):
        target = PAIRS
    elif file.is_file() and file.suffix.lower() in INSPECTORS:
        target = INSPECTORS[file.suffix.lower()]
    else:
        from mmpo.cli.inspect_folders import PICTURES, kind_of

        target = FOLDER if kind_of(file) else None
        if (
            target is None
            and file.is_dir()
            and any(one.suffix.lower() in (*PICTURES, ".gif") for one in file.iterdir())
        ):
            target = VIDEO  # a folder of frames
    if target is None:
        inside = _worth_a_look(file) if file.is_dir() else []
        what = "this folder" if file.is_dir() else file.suffix or "a file without suffix"
        raise UserError(
            f"{file}: nothing here can show {what}",
            hint=f"in it: {', '.join(f'mmpo inspect {one}' for one in inside)}"
            if inside
            else "it shows videos, pairs, candidates, run folders, scorecards, photos, adapters and models",
        )
    module, _, name = target.partition(":")
    found: Callable[..., None] = getattr(importlib.import_module(module), name)
    return found


def inspect_video(
    file: Path,
    *,
    as_json: bool,
    frames: str | None,
    out: Path | None,
    backend: str,
    ids: Sequence[str] | None = None,
) -> None:
    """Print what a video holds; write single frames of it."""
    from mmpo.cli import console
    from mmpo.errors import UserError
    from mmpo.video import VideoError, probe

    if ids:
        raise UserError("--id belongs to a folder of pairs", hint="mmpo inspect PAIRS --id ID --out DIR")
    numbers = None if frames is None else _numbers(frames)
    if (numbers is None) != (out is None):
        raise UserError("--frames and --out belong together", hint="mmpo inspect clip.mp4 --frames 0,10 --out frames")
    try:
        info = probe(file)
        written = [] if numbers is None or out is None else write_frames(file, numbers, out, backend)
    except VideoError as error:
        raise UserError(f"{file}: {error.message}", hint=f"{error.reason} ({type(error).__name__})") from error
    if as_json:
        echo(json.dumps({**asdict(info), **({"frames": written} if written else {})}, indent=2))
        return
    _show(file, info)
    for row in written:
        console.line(f"frame {row['index']} at {row['time']:.3f} s: {row['file']} ({row['backend']})")


def write_frames(file: Path, numbers: Sequence[int], out: Path, backend: str = "auto") -> list[dict[str, Any]]:
    """Write frames of a video as PNG files into `out`, with `frames.json` next to them; the rows of that file."""
    from typing import cast

    from PIL import Image

    from mmpo.files.atomic import write_bytes, write_json
    from mmpo.files.images import encode_image
    from mmpo.video import VideoBackend, read_frames

    read = read_frames(file, indices=numbers, backend=cast(VideoBackend, backend))
    rows = []
    for number, time, frame in zip(read.indices, read.times, read.array, strict=True):
        path = write_bytes(out / f"frame-{number:06d}.png", encode_image(Image.fromarray(frame)))
        rows.append({"index": number, "time": time, "file": str(path), "backend": read.report.backend})
    write_json(out / "frames.json", rows)
    return rows


def _numbers(text: str) -> list[int]:
    from mmpo.errors import UserError

    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise UserError(f"--frames {text}: expected frame numbers such as 0,10,299") from None


def _show(file: Path, info: VideoInfo) -> None:
    from rich.table import Table

    from mmpo.cli import console

    console.heading(str(file))
    table = Table(show_header=False, box=None, pad_edge=False, padding=(0, 2, 0, 2))
    rate = "variable, on average " if info.variable_rate else ""
    notes = [
        f"stored at {info.rotation} degrees, shown upright" if info.rotation else "",
        f"pixels are {info.sample_aspect}" if info.sample_aspect != "1:1" else "",
        "interlaced" if info.interlaced else "",
        "high dynamic range, not tone-mapped" if info.hdr else "",
    ]
    rows = [
        ("picture", f"{info.width} x {info.height}, {info.pix_fmt}"),
        ("frames", f"{info.n_frames}, {info.key_frames} of them key frames"),
        ("duration", f"{info.duration:.3f} s, starts at {info.start_time:.3f} s in the container"),
        ("rate", f"{rate}{info.avg_fps:.3f} frames a second"),
        ("codec", f"{info.codec} in {info.container}"),
        ("sound", "yes" if info.has_audio else "no"),
        *(("note", note) for note in notes if note),
        *(("warning", warning) for warning in info.warnings),
    ]
    for name, value in rows:
        table.add_row(name, value)
    console.out.print(table)
