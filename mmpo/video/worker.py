"""The helper process: reads requests from stdin, decodes, writes frames to stdout. See `subprocess_reader`.

Whatever a library prints goes to a scratch file instead, and what decord's decoder says there is taken as damage.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
from typing import IO, Any

import numpy as np

from mmpo.video.records import Limits, Pixels, as_json
from mmpo.video.stills import resized

CHUNK = 64 * 2**20
"""Bytes that decord holds as one batch."""


def main() -> None:
    """Serve until stdin ends. A request that takes `seconds` ends the process: the alarm needs no Python to run."""
    requests = sys.stdin.buffer
    replies = os.fdopen(os.dup(1), "wb")
    complaints = tempfile.TemporaryFile()  # noqa: SIM115 - open as long as the process lives
    for stream in (1, 2):
        os.dup2(complaints.fileno(), stream)
    for line in requests:
        request = json.loads(line)
        if hasattr(signal, "setitimer"):
            signal.setitimer(signal.ITIMER_REAL, float(request.pop("seconds")))
        else:
            request.pop("seconds")
        complaints.truncate(0)
        complaints.seek(0)
        try:
            reply, pixels = OPERATIONS[request.pop("op")](request, complaints)
        except MemoryError:
            reply, pixels = {"error": "out of memory", "kind": "VideoTooLarge"}, None
        except Exception as error:  # whatever a library raises on a broken file
            reply = {"error": " ".join(str(error).split())[:300], "kind": type(error).__name__}
            reply |= {"detail": getattr(error, "message", reply["error"])}
            pixels = None
        if pixels is not None:
            reply["shape"] = list(pixels.shape)
        replies.write(json.dumps(reply, default=as_json).encode() + b"\n")
        if pixels is not None:
            replies.write(np.ascontiguousarray(pixels).data.cast("B") if pixels.size else b"")
        replies.flush()
        if hasattr(signal, "setitimer"):
            signal.setitimer(signal.ITIMER_REAL, 0)


def read_with_decord(request: dict[str, Any], complaints: IO[bytes]) -> tuple[dict[str, Any], Pixels | None]:
    """`{path, frames, size, threads}` -> count, times of the frames and of the first one, and the frames."""
    import decord

    decord.logging.set_level(decord.logging.ERROR)
    size = request["size"]
    reader = decord.VideoReader(request["path"], decord.cpu(0), num_threads=request["threads"])
    try:
        count = len(reader)
        frames: list[int] = request["frames"]
        if frames and frames[-1] >= count:
            return {"count": count}, None
        times = [float(start) for start, _ in reader.get_frame_timestamp(frames)] if frames else []
        first = float(reader.get_frame_timestamp(0)[0])
        pixels: Pixels | None = None
        done, full = 0, 1
        while done < len(frames):
            step = 1 if done == 0 else max(1, CHUNK // full)
            batch = reader.get_batch(frames[done : done + step]).asnumpy()
            full = batch[0].nbytes
            if size is not None:  # its own scaling uses another filter
                batch = np.stack([resized(frame, tuple(size)) for frame in batch])
            if pixels is None:
                pixels = np.empty((len(frames), *batch.shape[1:]), dtype=np.uint8)
            pixels[done : done + len(batch)] = batch
            done += len(batch)
        reader.seek(0)  # else it goes on decoding in the background for as long as it lives
    finally:
        del reader
    sys.stderr.flush()
    complaints.seek(0, os.SEEK_END)
    if complaints.tell():
        complaints.seek(0)
        said = complaints.read(200).decode(errors="replace")
        raise RuntimeError(f"its decoder complains: {' '.join(said.split())}")
    return {"count": count, "times": times, "first": first}, pixels


def read_isolated(request: dict[str, Any], complaints: IO[bytes]) -> tuple[dict[str, Any], Pixels | None]:
    """A whole `read_frames` (or `probe`, with `probe: true`) in this process."""
    from dataclasses import asdict

    from mmpo.video import read
    from mmpo.video.records import Damage
    from mmpo.video.sampling import Sampling

    path = request.pop("path")
    limits = Limits(**request.pop("limits"))
    if request.pop("probe", False):
        return {"info": asdict(read.probe(path, limits=limits))}, None
    sampling, damage = Sampling(**request.pop("sampling")), Damage(**request.pop("on_error"))
    frames = read.read_frames(path, limits=limits, sampling=sampling, on_error=damage, **request)
    reply = {"info": asdict(frames.info), "report": asdict(frames.report)}
    return {**reply, "indices": frames.indices, "times": frames.times}, frames.array


OPERATIONS = {"decord": read_with_decord, "isolated": read_isolated}

if __name__ == "__main__":
    main()
