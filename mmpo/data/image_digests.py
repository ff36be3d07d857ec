"""Digests of the pixels of all pictures in a set of pairs, so that an evaluation notices those it was trained on.

Pixels are compared, not files: a picture stays the same under another name, with other metadata, or encoded again
without loss, as a build does with what not every reader decodes alike. Scaled or compressed again, it is another one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from PIL import Image

from mmpo.data.pair import Video
from mmpo.data.reader import read_pairs
from mmpo.errors import Quarantined, UserError
from mmpo.files.atomic import write_text
from mmpo.files.images import load_image

FILE = "images.sha256"
"""Beside pairs, and in the folder of an adapter that was trained on them: one digest a line, sorted. The name has no
suffix of a model's files, so an adapter's fingerprint does not change with it."""
BLOCK = 256

PixelDigests = tuple[bytes | str, ...]
"""An image, or the frames of a clip: encoded bytes or paths."""


def pixel_digest(image: Image.Image) -> str:
    """Of an RGB image as `load_image` gives it: its size and pixels, 32 hexadecimal digits of SHA-256."""
    digest = hashlib.sha256(f"{image.width}x{image.height}".encode())
    digest.update(image.tobytes())
    return digest.hexdigest()[:32]


def frames_digest(digests: Iterable[str]) -> str:
    """Of a video: the digests of the frames shown, in order."""
    return hashlib.sha256("+".join(digests).encode()).hexdigest()[:32]


def digests_of_pairs(folder: str | Path) -> frozenset[str]:
    """The pictures and shown clips of the training split, read from the file beside the pairs or, without one, from
    the pairs. What can't be decoded, and videos that are not stored as frames, have none. UserError without pairs."""
    folder = Path(folder)
    kept = read_digests(folder)
    if kept is not None:
        return kept
    shown = (group for pair in read_pairs(folder) for group in shown_in(pair.images, pair.videos))
    return frozenset(digests_of(shown, folder))


def read_digests(folder: Path) -> frozenset[str] | None:
    """The digests that `write_digests` wrote; None if there is no such file. UserError if it can't be read."""
    try:
        return frozenset((folder / FILE).read_text(encoding="ascii").split())
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{folder / FILE} can't be read: {error}", hint="delete it; it is made again") from None


def write_digests(folder: Path, digests: Iterable[str]) -> None:
    write_text(folder / FILE, "".join(f"{digest}\n" for digest in sorted(digests)))


def digests_of(shown: Iterable[PixelDigests], root: Path) -> Iterator[str]:
    """The digests of images, and of clips as their frames, whose paths start in `root`; each of a kind once. What
    can't be decoded has none."""

    def digest(source: bytes | str) -> str:
        try:
            return pixel_digest(load_image(source, root=root))
        except Quarantined:
            return ""

    seen: set[bytes] = set()
    waiting: list[PixelDigests] = []
    with ThreadPoolExecutor() as pool:

        def done() -> Iterator[str]:
            singles = pool.map(digest, (source for group in waiting for source in group))
            for group in waiting:
                found = [next(singles) for _ in group]
                if all(found):
                    yield found[0] if len(found) == 1 else frames_digest(found)
            waiting.clear()

        for group in shown:
            key = hashlib.sha256(b"\0".join(s if isinstance(s, bytes) else s.encode() for s in group)).digest()
            if key not in seen:
                seen.add(key)
                waiting.append(group)
            if len(waiting) >= BLOCK:
                yield from done()
        yield from done()


def shown_in(images: Iterable[bytes | str], videos: Iterable[Video] | None) -> Iterator[PixelDigests]:
    """Each image, and the stored frames of each video."""
    yield from ((image,) for image in images)
    yield from filter(None, (tuple(video.get("frames") or ()) for video in videos or ()))
