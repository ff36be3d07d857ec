"""Any image file in, plain RGB out. The one door through which pixels of unknown origin come into mmpo.

A file that can't be used raises `Quarantined("decode", reason)`; it never crashes a run and never becomes wrong pixels.
Reasons: missing, not_a_file, unreadable, empty, not_an_image, corrupt, truncated, too_many_pixels, extreme_shape,
unsupported_mode, path_escape, too_many_scans, too_much_metadata, too_slow.
"""

from __future__ import annotations

import io
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError

from mmpo.errors import Quarantined
from mmpo.files.paths import inside
from mmpo.files.picture_cost import Timed, check_metadata, check_scans

MAX_PIXELS = 50_000_000
MAX_ASPECT = 200  # a 1 x 50,000 strip is a small file, until a processor resizes its short side to 336 pixels
# Pillow also opens formats that run other programs (EPS) or hold no pixels; only these are let in.
FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "PPM", "JPEG2000", "AVIF")
# How files begin, and what stands near the end of a whole one.
SIGNATURES = {
    b"\xff\xd8\xff": b"\xff\xd9",
    b"\x89PNG": b"IEND",
    b"GIF8": b";",
    b"RIFF": b"",
    b"BM": b"",
    b"II*\0": b"",
    b"MM\0*": b"",
    b"\0\0\0\x0cjP": b"",
}
PORTABLE_FORMATS = ("JPEG", "PNG", "WEBP")
WHITE = (255, 255, 255)

_pillow_flags = threading.Lock()


def load_image(
    source: bytes | str | Path, *, root: str | Path | None = None, max_pixels: int = MAX_PIXELS
) -> Image.Image:
    """Decode to an RGB image that stands upright, on white where it was transparent, first frame where it moves.

    `source` is encoded bytes or a path. With `root` the path comes from a file that is not trusted: it must be relative
    and must stay below `root`, links included. 16-bit grey is scaled by its full range, so the same value always gives
    the same grey.
    """
    data = read_image(source, root=root)
    with _opened(data, max_pixels) as image:
        return _to_rgb(image)


def portable_image(
    source: bytes | str | Path, *, root: str | Path | None = None, max_pixels: int = MAX_PIXELS
) -> bytes:
    """Bytes to embed in a dataset: the file as it is where every reader gets the same pixels from it, else a PNG.

    Decodes the whole image either way, so what comes back is known to be good.
    """
    data = read_image(source, root=root)
    with _opened(data, max_pixels) as image:
        plain = image.format in PORTABLE_FORMATS and image.mode in ("RGB", "L") and "transparency" not in image.info
        plain = plain and getattr(image, "n_frames", 1) == 1 and _orientation(image) == 1
        return data if plain else encode_image(_to_rgb(image))


def read_image(source: bytes | str | Path, *, root: str | Path | None = None) -> bytes:
    """The encoded bytes of a source, read under the same path rules as `load_image`; nothing is decoded."""
    if isinstance(source, bytes):
        data = source
    else:
        path = inside(root, str(source)) if root is not None else Path(source)
        try:
            if not path.exists():
                raise Quarantined("decode", "missing", str(source))
            if not path.is_file():
                raise Quarantined("decode", "not_a_file", str(source))
            data = path.read_bytes()
        except OSError as error:  # no permission, a broken disk, a name too long to be one
            raise Quarantined("decode", "unreadable", f"{str(source)[:200]}: {error.strerror}") from None
    if not data:
        raise Quarantined("decode", "empty", "no bytes" if isinstance(source, bytes) else str(source))
    return data


def encode_image(image: Image.Image, format: str = "PNG") -> bytes:
    """The same pixels give the same bytes (for one version of Pillow): fixed settings, no metadata. PNG or JPEG."""
    if format not in ("PNG", "JPEG"):
        raise ValueError(f"format must be PNG or JPEG, got {format!r}")
    bare = Image.frombytes(image.mode, image.size, image.tobytes())  # leaves EXIF, profiles and comments behind
    out = io.BytesIO()
    if format == "PNG":
        bare.save(out, "PNG", compress_level=6)
    else:
        bare.convert("RGB").save(out, "JPEG", quality=95, subsampling=0)
    return out.getvalue()


@cache
def _formats() -> tuple[str, ...]:
    """Those of FORMATS that this build of Pillow has."""
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def open_picture(data: bytes) -> Image.Image:
    """The header of a picture, within the limits of `picture_cost`. Raises what Pillow raises, and Quarantined."""
    check_metadata(data)
    return Image.open(Timed(data), formats=_formats())


@contextmanager
def _opened(data: bytes, max_pixels: int) -> Iterator[Image.Image]:
    """Open, check the size before any pixel is decoded, then decode fully; Pillow's many errors become our reasons."""
    try:
        with open_picture(data) as image:
            width, height = image.size
            if width <= 0 or height <= 0:
                raise Quarantined("decode", "empty", f"{width}x{height}")
            if width * height > max_pixels:
                raise Quarantined("decode", "too_many_pixels", f"{width}x{height} is over {max_pixels}")
            if max(width, height) > MAX_ASPECT * min(width, height):
                raise Quarantined("decode", "extreme_shape", f"{width}x{height}")
            check_scans(data, width * height)
            with _strict_pillow():
                image.load()
            yield image
    except Quarantined:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise Quarantined("decode", "too_many_pixels", str(error)) from None
    except UnidentifiedImageError:
        known = data.startswith(tuple(SIGNATURES))
        raise Quarantined("decode", _broken(data, "") if known else "not_an_image", f"{len(data)} bytes") from None
    except MemoryError:
        raise Quarantined("decode", "too_many_pixels", "out of memory") from None
    except Exception as error:  # Pillow's plugins raise whatever they meet, from OSError to struct.error
        raise Quarantined("decode", _broken(data, str(error)), f"{type(error).__name__}: {error}") from None


def _broken(data: bytes, message: str) -> str:
    """Cut short, or damaged? Pillow may say so, the end mark may be missing, or a RIFF file be shorter than it says."""
    if any(word in message.lower() for word in ("truncated", "unexpected end")) or len(data) < 32:
        return "truncated"
    end = next((end for start, end in SIGNATURES.items() if data.startswith(start)), b"")
    riff_size = 8 + int.from_bytes(data[4:8], "little") if data.startswith(b"RIFF") else 0
    return "truncated" if end not in data[-64:] or len(data) < riff_size else "corrupt"


@contextmanager
def _strict_pillow() -> Iterator[None]:
    """Some libraries set LOAD_TRUNCATED_IMAGES for the whole process, which turns missing data into grey pixels."""
    with _pillow_flags:
        before = ImageFile.LOAD_TRUNCATED_IMAGES
        ImageFile.LOAD_TRUNCATED_IMAGES = False
        try:
            yield
        finally:
            ImageFile.LOAD_TRUNCATED_IMAGES = before


def _to_rgb(image: Image.Image) -> Image.Image:
    orientation = _orientation(image)
    rgb = _flatten(image)
    rgb.info.clear()
    if orientation != 1:
        # Only the orientation is carried over, so that exif_transpose has nothing else to trip over.
        rgb.getexif()[ORIENTATION] = orientation
        rgb = ImageOps.exif_transpose(rgb)
        rgb.info.clear()
    return rgb


ORIENTATION = 0x0112


def _orientation(image: Image.Image) -> int:
    """EXIF orientation 1 … 8; 1 (upright) where there is none or the block can't be read."""
    try:
        value = image.getexif().get(ORIENTATION, 1)
    except Exception:
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _flatten(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        return _sixteen_bit(image)
    if image.mode == "F":
        raise Quarantined("decode", "unsupported_mode", "floating-point pixels have no agreed range")
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        colours = image.convert("RGBA")
        canvas = Image.new("RGBA", colours.size, (*WHITE, 255))
        return Image.alpha_composite(canvas, colours).convert("RGB")
    return image.copy() if image.mode == "RGB" else image.convert("RGB")


def _sixteen_bit(image: Image.Image) -> Image.Image:
    values = np.asarray(image).astype(np.int64)
    if values.min() < 0 or values.max() > 65535:
        raise Quarantined("decode", "unsupported_mode", "grey values beyond 16 bits have no agreed range")
    return Image.fromarray(((values * 255 + 32767) // 65535).astype(np.uint8), "L").convert("RGB")
