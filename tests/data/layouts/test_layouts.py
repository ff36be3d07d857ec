"""Composed pictures, pixel by pixel."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from mmpo.data.layouts import Composer
from mmpo.data.layouts.compose import picture_in_picture
from mmpo.data.layouts.geometry import Box, canvas_size, cells, fitted, inner_box, label_origins, official_cell
from mmpo.data.layouts.noise import add_noise
from mmpo.errors import UserError

RED, BLUE = (200, 10, 10), (10, 10, 200)


def flat(size: tuple[int, int], colour: tuple[int, int, int] = RED, mode: str = "RGB") -> Image.Image:
    return Image.new("RGB", size, colour).convert(mode)


@pytest.mark.parametrize(
    ("n", "size"), [(2, (936, 488)), (3, (1424, 488)), (4, (936, 976)), (6, (1424, 976)), (9, (1424, 1464))]
)
def test_collage_sizes_and_every_pixel_of_the_cells(n: int, size: tuple[int, int]) -> None:
    colours = [(10 + 20 * k, 255 - 20 * k, 40) for k in range(n)]
    made = Composer().collage([flat((64, 64), colour) for colour in colours])
    pixels = np.asarray(made.picture)
    assert made.picture.size == canvas_size(n) == size
    covered = np.zeros(pixels.shape[:2], dtype=bool)
    for cell, region, colour in zip(cells(n), made.regions, colours, strict=True):
        x0, y0, x1, y1 = map(int, cell)
        assert cell == region and (x1 - x0, y1 - y0) == (448, 448)
        assert (pixels[y0:y1, x0:x1] == colour).all()
        covered[y0:y1, x0:x1] = True
    strips = np.zeros_like(covered)
    for x, y in label_origins(n):
        strips[y : y + 40, x : x + 428] = True
    assert (pixels[~covered & ~strips] == 255).all(), "everything else is white"
    for number, (x, y) in enumerate(label_origins(n)):
        strip = pixels[y : y + 40, x : x + 300]
        assert strip.min() == 0 and (strip[:, :, 0] == strip[:, :, 1]).all(), f"label {number + 1} is black on white"


def test_no_other_grids() -> None:
    with pytest.raises(UserError, match="collage of 5"):
        Composer().collage([flat((4, 4))] * 5)


def test_the_third_of_four() -> None:
    assert cells(4)[2][:2] == (0, 528) and label_origins(4)[2] == (20, 488)


def test_a_wide_picture_fills_the_top_of_its_cell() -> None:
    made = Composer().collage([flat((100, 50)), flat((10, 10), BLUE)])
    pixels = np.asarray(made.picture)
    assert made.regions[0] == Box(0, 40, 448, 264)
    assert (pixels[40:264, :448] == RED).all() and (pixels[264:488, :448] == 255).all()


def test_labels_differ_and_stay_the_same() -> None:
    first, second = (np.asarray(Composer().collage([flat((8, 8))] * 2).picture) for _ in range(2))
    assert (first == second).all()
    assert (first[:40, 20:440] != first[:40, 508:928]).any()


def test_resizing_is_lanczos_and_cached_cells_give_the_same_pixels() -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 130, 3), dtype=np.uint8))
    composer = Composer(kept_mib=2)
    pictures = [noise, flat((30, 60), BLUE)]
    plain = np.asarray(composer.collage(pictures).picture)
    expected = np.asarray(noise.resize((448, 310), Image.Resampling.LANCZOS))
    assert (plain[40:350, :448] == expected).all()
    for _ in range(2):
        assert (np.asarray(composer.collage(pictures, ["a", "b"]).picture) == plain).all()
    for number in range(12):
        composer.collage([flat((60, 60))] * 2, [number, -number - 1])
    assert composer._bytes <= 2 * 2**20
    assert (np.asarray(composer.collage(pictures, ["a", "b"]).picture) == plain).all()


@pytest.mark.parametrize(
    ("inner", "box"),
    [((640, 480), (96, 72, 544, 408)), ((100, 400), (278, 72, 362, 408)), ((1, 1), (152, 72, 488, 408))],
)
def test_picture_in_picture(inner: tuple[int, int], box: tuple[int, int, int, int]) -> None:
    made = picture_in_picture(flat((640, 480)), flat(inner, BLUE))
    pixels = np.asarray(made.picture)
    assert made.regions == (Box(0, 0, 640, 480), Box(*box)) and inner_box((640, 480), inner) == Box(*box)
    x0, y0, x1, y1 = box
    assert (pixels[y0:y1, x0:x1] == BLUE).all()
    pixels = pixels.copy()
    pixels[y0:y1, x0:x1] = RED
    assert (pixels == RED).all()


@pytest.mark.parametrize("mode", ["L", "P", "CMYK", "RGBA", "LA", "1"])
def test_other_modes_become_rgb_before_pasting(mode: str) -> None:
    made = picture_in_picture(flat((40, 40), (90, 90, 90), mode), flat((20, 20), BLUE))
    assert made.picture.mode == "RGB" and made.picture.getpixel((20, 20)) == BLUE
    assert Composer().collage([flat((40, 40), (90, 90, 90), mode)] * 2).picture.mode == "RGB"


def test_one_pixel_and_thin_pictures() -> None:
    assert fitted(1, 1) == (448, 448) and fitted(1, 9000) == (1, 448) and fitted(448, 300) == (448, 300)
    made = Composer().collage([flat((1, 1)), flat((1, 9000), BLUE)])
    assert made.regions[1] == Box(488, 40, 489, 488)
    assert picture_in_picture(flat((1, 1)), flat((3, 2))).regions[1].area == 1


def test_noise_stays_in_its_box_and_is_clipped() -> None:
    dark = flat((200, 100), (3, 3, 3))
    rng = np.random.default_rng(0)
    box = Box(50, 20, 150, 80)
    pixels = np.asarray(add_noise(dark, 40, rng, box)).astype(int)
    outside = np.ones(pixels.shape[:2], dtype=bool)
    outside[20:80, 50:150] = False
    assert (pixels[outside] == 3).all()
    inside = pixels[20:80, 50:150]
    assert inside.max() < 250 and (inside == 0).mean() > 0.4, "negative noise on dark pixels is clipped, not wrapped"
    middle = np.asarray(add_noise(flat((200, 200), (128, 128, 128)), 20, rng)).astype(int)
    assert middle.std() == pytest.approx(20, rel=0.05) and middle.mean() == pytest.approx(127.5, abs=0.5)
    wrapped = np.asarray(add_noise(dark, 20, rng, wrap=True))
    assert (wrapped > 200).mean() > 0.3, "the released code's bytes wrap around"


def test_official_noise_cells_are_an_integer_split() -> None:
    assert official_cell((1424, 976), 6, 4) == Box(474, 488, 948, 976)
