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

from mmpo.data.images import MAX_PIXELS, encode_image, portable_image, read_image
from mmpo.errors import Quarantined, UserError

DICOM_SUFFIXES = (".dcm", ".dicom", ".ima", "")


def film(source: bytes | str | Path, *, root: str | Path | None = None) -> bytes:
    """The encoded picture (PNG or JPEG) of a film file. Raises Quarantined("decode", reason) where there is none."""
    data = read_image(source, root=root)
    return dicom_picture(data) if is_dicom(data) else portable_image(data)


def is_dicom(data: bytes) -> bool:
    """Whether the bytes begin as DICOM files do: a preamble of 128 bytes, then DICM."""
    return data[128:132] == b"DICM"


def dicom_picture(data: bytes) -> bytes:
    """A DICOM file's single greyscale frame as PNG bytes."""
    return encode_image(Image.fromarray(dicom_pixels(data), "L").convert("RGB"))


def dicom_pixels(data: bytes) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """The frame as it should look, [rows, columns] of 8-bit grey; dark is little signal (air)."""
    try:
        import pydicom
        from pydicom.pixels import apply_modality_lut, apply_voi_lut
    except ImportError:
        raise UserError("reading DICOM files needs pydicom", hint='pip install "mmpo[radiology]"') from None
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
        values = np.asarray(apply_voi_lut(apply_modality_lut(dataset.pixel_array, dataset), dataset), dtype=np.float64)
    except Exception as error:
        reason = "truncated" if "length of the pixel data" in str(error) else "corrupt"
        raise Quarantined("decode", reason, f"DICOM pixels: {type(error).__name__}: {error}"[:300]) from None
    if values.ndim != 2 or not np.isfinite(values).all():
        raise Quarantined("decode", "unsupported_mode", f"pixels of shape {values.shape}")
    low, high = float(values.min()), float(values.max())
    if high <= low:
        raise Quarantined("decode", "blank", "every pixel has the same value")
    grey = (values - low) / (high - low)
    if photometric == "MONOCHROME1":
        grey = 1 - grey
    return (grey * 255 + 0.5).astype(np.uint8)
