"""Pictures are known by their pixels, whatever file they stand in."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

from PIL import Image

from mmpo.data.image_digests import FILE, digests_of_pairs, pixel_digest, read_digests, write_digests
from mmpo.data.pair import PreferencePair
from mmpo.data.shards import PairWriter
from mmpo.files.images import load_image
from tests.tiny import tiny_image


def encoded(image: Image.Image, form: str, **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, form, **options)  # type: ignore[arg-type]
    return out.getvalue()


def test_one_picture_in_many_files() -> None:
    picture = tiny_image(3)
    turned = Image.Exif()
    turned[274] = 6
    files = [
        encoded(picture, "PNG"), encoded(picture, "BMP"), encoded(picture, "WEBP", lossless=True),
        encoded(picture.convert("RGBA"), "PNG"),
        encoded(picture.transpose(Image.Transpose.ROTATE_90), "PNG", exif=turned),
    ]  # fmt: skip
    assert len({pixel_digest(load_image(file)) for file in files}) == 1
    others = [tiny_image(4), picture.resize((picture.width, 30)), picture.rotate(180)]
    assert pixel_digest(load_image(files[0])) not in {pixel_digest(other) for other in others}
    flat = [Image.new("RGB", size) for size in ((2, 6), (3, 4))]
    assert pixel_digest(flat[0]) != pixel_digest(flat[1])


def test_the_pictures_of_pairs(tmp_path: Path) -> None:
    png = [encoded(tiny_image(number), "PNG") for number in range(3)]
    (tmp_path / "beside.bmp").write_bytes(encoded(tiny_image(1), "BMP"))

    def pair(number: int, image: bytes | str) -> PreferencePair:
        return PreferencePair.simple(id=f"p{number}", image=image, question="?", chosen="Yes.", rejected="No.")

    clip = replace(
        pair(9, png[0]), images=[], videos=[{"frames": [png[2], png[1]], "times": [0.0, 1.0]}],
        prompt=[{"role": "user", "content": [{"type": "video"}, {"type": "text", "text": "?"}]}],
    )  # fmt: skip
    with PairWriter(tmp_path, recipe={}) as writer:
        writer.add(pair(0, png[0]), pair(1, png[0]), pair(2, "beside.bmp"), pair(3, "gone.png"), clip)
    found = digests_of_pairs(tmp_path)
    assert len(found) == 3 and {pixel_digest(load_image(data)) for data in png[:2]} < found
    assert pixel_digest(load_image(png[2])) not in found, "a frame is not the clip"
    assert read_digests(tmp_path) is None
    write_digests(tmp_path, found)
    assert read_digests(tmp_path) == digests_of_pairs(tmp_path) == found
    (tmp_path / FILE).write_text("abc\n")
    assert digests_of_pairs(tmp_path) == {"abc"}
