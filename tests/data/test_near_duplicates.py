"""Pictures that are near-duplicates, and the index that finds them."""

from __future__ import annotations

import io
import random

import numpy as np
import pytest
from PIL import Image

from mmpo.data.near_duplicates import NEAR, NearDuplicates, difference_hash


def hash_distance(one: str, other: str) -> int:
    return bin(int(one, 16) ^ int(other, 16)).count("1")


def picture(seed: int, size: tuple[int, int] = (200, 150)) -> Image.Image:
    """Smooth noise: large shapes, as photos have them."""
    small = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(small).resize(size, Image.Resampling.BICUBIC)


def test_the_bits_are_brighter_to_the_right_row_by_row() -> None:
    rising = Image.fromarray(np.tile(np.linspace(0, 255, 17).astype(np.uint8), (16, 1)), "L").convert("RGB")
    assert difference_hash(rising) == "f" * 64
    assert difference_hash(rising.transpose(Image.Transpose.FLIP_LEFT_RIGHT)) == "0" * 64
    half = np.zeros((16, 17), dtype=np.uint8)
    half[0, 1:] = 200  # one step up in the first row, between columns 0 and 1
    assert difference_hash(Image.fromarray(half, "L").convert("RGB")) == "8" + "0" * 63


@pytest.mark.parametrize("seed", range(5))
def test_a_copy_is_near_and_another_picture_is_not(seed: int) -> None:
    original = picture(seed)
    jpeg = io.BytesIO()
    original.save(jpeg, "JPEG", quality=60)
    for copy in (Image.open(jpeg).convert("RGB"), original.resize((400, 300)), original.resize((100, 75))):
        assert hash_distance(difference_hash(original), difference_hash(copy)) <= NEAR
    assert hash_distance(difference_hash(original), difference_hash(picture(seed + 100))) > 50


def test_the_index_finds_what_comparing_all_finds() -> None:
    rng = random.Random(0)
    hashes = [f"{rng.getrandbits(256):064x}" for _ in range(200)]
    index = NearDuplicates()
    for number, one in enumerate(hashes):
        index.add(one, str(number))
    assert len(index) == 200
    for number in range(200):
        for changed in (0, 1, NEAR, NEAR + 1):
            bits = sum(1 << bit for bit in rng.sample(range(256), changed))
            found = index.nearest(f"{int(hashes[number], 16) ^ bits:064x}")
            assert found == ((str(number), changed) if changed <= NEAR else None)


def test_of_equally_near_ones_the_first_counts() -> None:
    index = NearDuplicates()
    assert index.nearest("0" * 64) is None
    index.add("0" * 63 + "1", "b")
    index.add("0" * 63 + "2", "a")
    assert index.nearest("0" * 64) == ("b", 1)
