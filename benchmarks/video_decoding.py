"""Decoding and sampling: mmpo's reader beside a plain decord loop and a plain PyAV loop, on the same frames.

    python benchmarks/video_decoding.py                        # clips written on the spot
    python benchmarks/video_decoding.py CLIP.mp4 FOLDER/ …     # clips of yours
    python benchmarks/video_decoding.py --memory 1000          # resident memory and handles over so many clips

The plain loops are what data loaders usually do: decord's `get_batch` at linspace positions; PyAV decoding the whole
clip and keeping the same positions. Contenders take turns on each clip; every frame is compared, so a fast wrong answer
shows. Prints clips and frames a second, the ratio to each loop, and how many frames differ.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np

from mmpo.errors import in_one_line
from mmpo.video import probe, read_frames
from mmpo.video.sampling import linspace

Reader = Callable[[Path, int], np.ndarray]
CLIPS = {  # size, frames, options of x264
    "720p-b-frames": ((1280, 720), 250, {"g": "50", "preset": "veryfast", "crf": "23"}),
    "360p-b-frames": ((640, 360), 300, {"g": "250", "preset": "veryfast", "crf": "23"}),
    "360p-short-groups": ((640, 360), 300, {"g": "12", "preset": "veryfast", "crf": "23"}),
    "240p-no-b-frames": ((320, 240), 300, {"g": "60", "preset": "veryfast", "bf": "0"}),
}


def plain_decord(path: Path, num: int) -> np.ndarray:
    import decord

    reader = decord.VideoReader(str(path))
    frames: np.ndarray = reader.get_batch(linspace(len(reader), num)).asnumpy()
    reader.seek(0)
    return frames


def plain_pyav(path: Path, num: int) -> np.ndarray:
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        count = stream.frames
        wanted = set(linspace(count, num))
        kept = {i: frame.to_ndarray(format="rgb24") for i, frame in enumerate(container.decode(stream)) if i in wanted}
    return np.stack([kept[i] for i in linspace(count, num)])


def ours(path: Path, num: int) -> np.ndarray:
    return read_frames(path, num=num).array


def ours_pyav(path: Path, num: int) -> np.ndarray:
    return read_frames(path, num=num, backend="pyav").array


READERS: dict[str, Reader] = {
    "mmpo": ours,
    "mmpo pyav": ours_pyav,
    "decord loop": plain_decord,
    "pyav loop": plain_pyav,
}


def write_clip(path: Path, size: tuple[int, int], n: int, options: dict[str, str]) -> Path:
    """Moving shapes over noise: motion to code, and no two frames alike."""
    width, height = size
    noise = np.random.default_rng(0).integers(0, 60, (height, width, 3), dtype=np.uint8)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options=options)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for number in range(n):
            frame = np.roll(noise, number, axis=1)
            x, y = number * 7 % (width - 60), number * 3 % (height - 60)
            frame[y : y + 60, x : x + 60] = (220, 60, number % 256)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return path


def throughput(clips: list[Path], num: int, rounds: int) -> list[dict[str, object]]:
    rows = []
    for path in clips:
        reference = plain_pyav(path, num)
        seconds: dict[str, list[float]] = {name: [] for name in READERS}
        wrong = dict.fromkeys(READERS, 0)
        for turn in range(rounds + 1):
            for name, reader in READERS.items():
                started = time.perf_counter()
                frames = reader(path, num)
                if turn:  # the first round warms caches and starts the helper process
                    seconds[name].append(time.perf_counter() - started)
                off = np.abs(frames.astype(np.int16) - reference).mean(axis=(1, 2, 3))
                wrong[name] = int((off > 4).sum())
        middle = {name: statistics.median(values) for name, values in seconds.items()}
        row: dict[str, object] = {"clip": path.name, "num": num, "wrong": wrong}
        row["milliseconds"] = {name: round(value * 1000, 1) for name, value in middle.items()}
        row["frames_per_second"] = {name: round(num / value, 1) for name, value in middle.items()}
        row["speedup"] = {
            f"over the {name}": round(middle[name] / middle["mmpo"], 2) for name in ("decord loop", "pyav loop")
        }
        row["backend"] = read_frames(path, num=num).report.backend
        rows.append(row)
        print(json.dumps(row))
    return rows


def memory(clips: list[Path], count: int, num: int) -> list[dict[str, object]]:
    """Resident memory of this process and number of open handles, while `count` clips are read."""

    def resident() -> float:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20

    marks: list[dict[str, Any]] = []
    for number in range(count):
        read_frames(clips[number % len(clips)], num=num)
        if number % max(count // 10, 1) == 0 or number == count - 1:
            gc.collect()
            handles = len(os.listdir("/proc/self/fd"))
            marks.append({"clips": number + 1, "MiB": round(resident(), 1), "handles": handles})
            print(json.dumps(marks[-1]))
    tail = [mark["MiB"] for mark in marks[len(marks) // 5 :]]
    print(json.dumps({"growth_MiB_after_the_first_fifth": round(max(tail) - tail[0], 1)}))
    return marks


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clips", nargs="*", type=Path, help="video files, or folders of them")
    parser.add_argument("--num", type=int, nargs="+", default=[8, 32], help="frames sampled of each clip")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--memory", type=int, default=0, metavar="CLIPS", help="measure memory over so many reads")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write the rows here too")
    parser.add_argument("--tiny", action="store_true", help="small clips, to see that it runs")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        clips = [file for path in arguments.clips for file in (sorted(path.glob("*.*")) if path.is_dir() else [path])]
        if not clips:
            for name, (size, n, options) in CLIPS.items():
                shape, count = ((160, 96), n // 5) if arguments.tiny else (size, n)
                clips.append(write_clip(Path(folder) / f"{name}.mp4", shape, count, options))
        for path in clips:
            info = probe(path)
            print(f"# {path.name}: {info.width}x{info.height}, {info.n_frames} frames, {info.key_frames} key frames")
        if arguments.memory:
            rows = memory(clips, arguments.memory, arguments.num[0])
        else:
            rows = [row for num in arguments.num for row in throughput(clips, num, arguments.rounds)]
        if arguments.json:
            arguments.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    in_one_line(main)
