"""A film as a picture: PNG, JPEG and the like as they are, DICOM with its window and the right way round.

DICOM: the modality rescale, then the VOI look-up table or window (the first one; without any the full range of values),
then 8 bits; MONOCHROME1 is inverted so that air is dark. Multi-frame files, colour and broken files are quarantined.
Only pixels come out: no name, date or other header field does.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mmpo.errors import Quarantined
from mmpo.files.images import MAX_PIXELS, encode_image, portable_image, read_image
from mmpo.packages import PYDICOM, require

_REASONS = {"less than expected": "truncated", "missing dependencies": "no_decoder"}
"""Words of pydicom's errors for pixels that it can't give, and our reason for each."""


def film(source: bytes | str | Path, *, root: str | Path | None = None) -> bytes:
    """The encoded picture (PNG or JPEG) of a film file. Raises Quarantined("decode", reason) where there is none."""
    data = read_image(source, root=root)
    return dicom_picture(data) if is_dicom(data) else portable_image(data)


def is_dicom(data: bytes) -> bool:
    """True if the bytes begin as DICOM files do: a preamble of 128 bytes, then DICM."""
    return data[128:132] == b"DICM"


def dicom_picture(data: bytes) -> bytes:
    """A DICOM file's single greyscale frame as PNG bytes."""
    return encode_image(Image.fromarray(dicom_pixels(data), "L").convert("RGB"))


def dicom_pixels(data: bytes) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """The frame as it should look, [rows, columns] of 8-bit grey; dark is little signal (air)."""
    require("reading DICOM files", PYDICOM)
    import pydicom

    try:
        dataset = pydicom.dcmread(io.BytesIO(data))
        rows, columns = int(dataset.get("Rows", 0) or 0), int(dataset.get("Columns", 0) or 0)
    except Exception as error:  # pydicom raises what it met
        raise Quarantined("decode", "corrupt", f"DICOM: {type(error).__name__}: {error}") from None
    frames = int(dataset.get("NumberOfFrames", 1) or 1)
    photometric = str(dataset.get("PhotometricInterpretation", ""))
    if not rows or not columns or "PixelData" not in dataset:
        raise Quarantined("decode", "no_pixels", "a DICOM file without an image")
    if frames != 1:
        raise Quarantined("decode", "multi_frame", f"{frames} frames")
    if rows * columns > MAX_PIXELS:
        raise Quarantined("decode", "too_many_pixels", f"{columns}x{rows} is over {MAX_PIXELS}")
    if photometric not in ("MONOCHROME1", "MONOCHROME2"):
        raise Quarantined("decode", "unsupported_mode", f"photometric interpretation {photometric or 'missing'}")
    try:
        grey = _displayed(dataset)
    except Exception as error:
        reason = next((name for words, name in _REASONS.items() if words in str(error)), "corrupt")
        raise Quarantined("decode", reason, f"DICOM pixels: {type(error).__name__}: {error}"[:300]) from None
    if grey.ndim != 2 or not np.isfinite(grey).all():
        raise Quarantined("decode", "unsupported_mode", f"pixels of shape {grey.shape}")
    if grey.max() <= grey.min():
        raise Quarantined("decode", "blank", "every pixel has the same value")
    if photometric == "MONOCHROME1":
        grey = 1 - grey
    return (grey * 255 + 0.5).astype(np.uint8)


def _displayed(dataset: Any) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Display values from 0 to 1 (DICOM PS3.3 C.11.2): a look-up table goes before a window, both after the rescale."""
    from pydicom.pixels import apply_modality_lut, apply_voi_lut

    values = np.asarray(apply_modality_lut(dataset.pixel_array, dataset))
    if "VOILUTSequence" in dataset:
        bits = int(dataset.VOILUTSequence[0].LUTDescriptor[2])
        return np.asarray(apply_voi_lut(values, dataset, prefer_lut=True), dtype=np.float64) / (2**bits - 1)
    values = values.astype(np.float64)
    if dataset.get("WindowWidth") is None or dataset.get("WindowCenter") is None:
        inside = values[~_padding(dataset)]
        low, high = (float(inside.min()), float(inside.max())) if inside.size else (0.0, 0.0)
        return np.clip((values - low) / max(high - low, 1e-12), 0, 1)
    center, width = _first(dataset.WindowCenter), _first(dataset.WindowWidth)
    shape = str(dataset.get("VOILUTFunction") or "LINEAR")
    if shape == "SIGMOID":
        return np.asarray(1 / (1 + np.exp(-4 * (values - center) / width)), dtype=np.float64)
    if shape == "LINEAR":  # C.11-1: the window of width w covers w - 1 steps
        center, width = center - 0.5, width - 1
    return np.clip((values - center) / max(width, 1e-12) + 0.5, 0, 1)


def _padding(dataset: Any) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Pixels that only fill the rectangle (PS3.3 C.7.5.1.1.2); they must not decide the contrast of the others."""
    stored = dataset.pixel_array
    value = dataset.get("PixelPaddingValue")
    if value is None:
        return np.zeros(stored.shape, dtype=bool)
    low, high = sorted((value, dataset.get("PixelPaddingRangeLimit", value)))
    return np.asarray((stored >= low) & (stored <= high))


def _first(value: Any) -> float:
    return float(value[0] if hasattr(value, "__len__") and not isinstance(value, str) else value)
