"""Pictures that would take minutes to decode are put aside; photographs are not."""

from __future__ import annotations

import io
import time

import numpy as np
import pytest
from PIL import Image

from mmpo.errors import Quarantined
from mmpo.files import picture_cost
from mmpo.files.images import load_image, portable_image


def photograph(width: int = 640, height: int = 480, **options: object) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 255, (height // 8, width // 8, 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).resize((width, height)).save(out, "JPEG", quality=85, **options)
    return out.getvalue()


def with_scans(count: int, side: int = 2048) -> bytes:
    """A progressive JPEG whose last scan, which refines nothing, stands there `count` times."""
    out = io.BytesIO()
    Image.new("RGB", (side, side), (90, 120, 60)).save(out, "JPEG", progressive=True)
    data = out.getvalue()
    last = data.rindex(b"\xff\xda")
    return data[:last] + data[last:-2] * count + b"\xff\xd9"


def with_comments(size: int) -> bytes:
    data = photograph(64, 64)
    segment = b"\xff\xfe\xff\xff" + b"x" * 65533
    return data[:2] + segment * (size // 65533) + data[2:]


def gif_with_comment(size: int) -> bytes:
    out = io.BytesIO()
    Image.new("P", (32, 32)).save(out, "GIF")
    data = out.getvalue()
    header = 13 + 3 * 2 ** ((data[10] & 7) + 1) if data[10] & 128 else 13
    return data[:header] + b"\x21\xfe" + (b"\xff" + b"c" * 255) * (size // 255) + b"\0" + data[header:]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (with_scans(3000), "too_many_scans"),
        (with_scans(101, 64), "too_many_scans"),
        (with_comments(50 << 20), "too_much_metadata"),
    ],
    ids=["scans", "scans of a small picture", "comments"],
)
def test_costly_pictures_are_put_aside_at_once(data: bytes, reason: str) -> None:
    started = time.thread_time()
    for decode in (load_image, portable_image):
        with pytest.raises(Quarantined) as caught:
            decode(data)
        assert caught.value.reason == reason
    assert time.thread_time() - started < 2


def test_what_goes_on_for_too_long_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow joins the parts of a GIF's comment one by one: without an end, minutes for 60 MB."""
    monkeypatch.setattr(picture_cost, "MAX_SECONDS", 0.3)
    data = gif_with_comment(60 << 20)
    started = time.thread_time()
    with pytest.raises(Quarantined, match="too_slow"):
        load_image(data)
    assert time.thread_time() - started < 3


def test_photographs_pass() -> None:
    thumbnails = photograph(comment=b"\xff\xda" * 20)
    for data in (photograph(), photograph(progressive=True), thumbnails, with_scans(30, 512), with_comments(8 << 20)):
        assert load_image(data).mode == "RGB"
    assert load_image(gif_with_comment(1 << 16)).size == (32, 32)
