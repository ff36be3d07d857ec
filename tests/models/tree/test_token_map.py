"""Token maps against the models themselves: with attention switched off in the tower, a token's feature depends on the
pixels of its own cell alone, so changing a box of the picture must change the tokens that the map puts there.
"""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from PIL import Image

from mmpo.data.layouts.geometry import Box, canvas_size, cells, inner_box
from mmpo.data.layouts.token_grid import GridView, TokenMap
from mmpo.models.families.loading import VLM
from mmpo.models.families.prompts import process_images
from mmpo.models.families.vision import encode_images
from mmpo.models.tree.token_map import token_map
from tests.tiny import llava_processor, tiny_image, tiny_llava
from tests.tiny_families import TINY

MAPPED = [name for name in TINY if name not in ("mistral3-window", "paligemma2", "gemma3")]
SIZES = [(112, 84), (60, 130), (56, 56), (151, 97)]
OUTPUT = re.compile(r"(?:self_attn|attn|attention|self_attention)\.(?:out_proj|o_proj|proj|projection_layer)\.")


def local(vlm: VLM) -> VLM:
    """The model with a tower in which no patch sees another."""
    silenced = 0
    for name, parameter in vlm.base.named_parameters():
        if re.search("vision|visual|tower", name) and OUTPUT.search(name):
            parameter.data.zero_()
            silenced += 1
    assert silenced
    return vlm


def features(vlm: VLM, picture: Image.Image, several: bool = False) -> torch.Tensor:
    processed = process_images(vlm, [picture], several=several)
    with torch.no_grad():
        encoded = encode_images(vlm, processed.tensors, frozen=True)
    assert encoded is not None
    return encoded.pooler_output[0]


@pytest.mark.parametrize(("name", "several"), [*((name, False) for name in MAPPED), ("llava_onevision", True)])
@pytest.mark.parametrize("size", SIZES)
def test_tokens_change_where_the_map_says(name: str, several: bool, size: tuple[int, int]) -> None:
    vlm = local(TINY[name]())
    picture = tiny_image(1, size)
    processed = process_images(vlm, [picture], several=several)
    places = token_map(vlm, size, processed, 0)
    plain = features(vlm, picture, several)
    assert len(plain) == places.count
    assert len(np.concatenate([view.tokens.ravel() for view in places.views])) == places.real.sum()
    width, height = size
    for left, top in ((0, 0), (1, 0), (0, 1), (1, 1)):  # each quarter of the picture
        x, y = left * width // 2, top * height // 2
        pixels = np.array(picture)
        pixels[y : y + height // 2, x : x + width // 2] = np.random.default_rng(2).integers(0, 256, 3)
        change = (features(vlm, Image.fromarray(pixels), several) - plain).norm(dim=-1).numpy()
        weights = places.weights(Box(x, y, x + width // 2, y + height // 2))
        inside, outside = weights > 0.9, (weights < 0.01) & places.real
        if inside.any() and outside.any():  # a crop may leave nothing of a quarter, one token may stand for all
            assert change[inside].min() > 1.3 * change[outside].max(), (left, top)
        else:
            assert max(view.tokens.size for view in places.views) < 16


def padded(size: tuple[int, int], side: int = 24) -> TokenMap:
    edge = max(size)
    x, y = (edge - size[0]) // 2, (edge - size[1]) // 2
    view = GridView(np.arange(side * side).reshape(side, side), Box(-x, -y, edge - x, edge - y))
    return TokenMap(side * side, size, (view,))


@pytest.mark.parametrize(
    ("n", "columns", "rows"),
    [
        (2, [(0, 11.49), (12.51, 24)], [(6.77, 18.26)]),
        (3, [(0, 7.55), (8.22, 15.78), (16.45, 24)], [(8.56, 16.11)]),
        (4, [(0.49, 11.51), (12.49, 23.51)], [(0.98, 12), (12.98, 24)]),
        (6, [(0, 7.55), (8.22, 15.78), (16.45, 24)], [(4.45, 12), (12.67, 20.22)]),
        (9, [(0.33, 7.67), (8.33, 15.67), (16.33, 23.67)], [(0.66, 8), (8.66, 16), (16.66, 24)]),
    ],
)
def test_collages_on_llavas_grid(n: int, columns: list[tuple[float, float]], rows: list[tuple[float, float]]) -> None:
    """The table of image interiors in token units, from the sums of the exact weights."""
    places = padded(canvas_size(n))
    for number, cell in enumerate(cells(n)):
        i, j = divmod(number, len(columns))
        weights = places.weights(cell).reshape(24, 24)
        assert weights.sum(1).max() == pytest.approx(columns[j][1] - columns[j][0], abs=0.02)
        assert weights.sum(0).max() == pytest.approx(rows[i][1] - rows[i][0], abs=0.02)
        across = np.nonzero(weights.sum(0))[0]
        assert (int(columns[j][0]), int(np.ceil(columns[j][1])) - 1) == (across[0], across[-1])
        block = places.block(n, number)
        assert block.sum() == 576 / n
        assert ((weights.ravel() > 0) & (block == 0)).sum() == 0, "no picture reaches into another's block"


def test_the_block_of_the_third_of_four() -> None:
    block = padded(canvas_size(4)).block(4, 2).reshape(24, 24)
    assert block[12:, :12].all() and block.sum() == 144


def test_uneven_grids_give_their_remainder_to_the_first() -> None:
    block = TokenMap(25, (9, 9), (GridView(np.arange(25).reshape(5, 5), Box(0, 0, 9, 9)),)).block(4, 0).reshape(5, 5)
    assert block[:3, :3].all() and block.sum() == 9


def test_the_middle_is_sixteen_of_twenty_four() -> None:
    middle = padded((640, 480)).middle().reshape(24, 24)
    assert middle[4:20, 4:20].all() and middle.sum() == 256
    box = inner_box((640, 480), (640, 480))
    exact = padded((640, 480)).weights(box).reshape(24, 24)
    assert exact.sum(1).max() == pytest.approx(16.8) and exact.sum(0).max() == pytest.approx(12.6)


def test_padding_and_cropping_are_seen() -> None:
    vlm = tiny_llava()  # crops the middle
    picture = tiny_image(0, (100, 50))
    places = token_map(vlm, picture.size, process_images(vlm, [picture]), 0)
    assert places.seen(Box(0, 0, 20, 50)) == 0 and places.seen(Box(30, 0, 70, 50)) == 1
    assert places.seen(Box(0, 0, 50, 50)) == pytest.approx(0.5)
    from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil

    processor = llava_processor()
    processor.image_processor = LlavaImageProcessorPil(
        do_pad=True, size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28}
    )
    square = VLM(vlm.model, processor, vlm.family, "padding")
    places = token_map(square, picture.size, process_images(square, [picture]), 0)
    assert places.seen(Box(0, 0, 20, 50)) == 1
    grid = places.weights(Box(0, 0, 100, 50)).reshape(4, 4)
    assert grid[0].sum() == grid[3].sum() == 0 and grid[1:3].sum() == 8


def test_density_is_drawn_where_the_token_is() -> None:
    places = padded((40, 20), side=4)
    values = np.zeros(16)
    values[4] = 1.0  # second row, first column
    drawn = places.picture(values, (20, 40))
    assert drawn[5, 5] > 0 and drawn[5, 15] == 0 and drawn[15, 5] == 0
