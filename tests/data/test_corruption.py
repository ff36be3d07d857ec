"""Corruptions: published constants, seeds, sizes, and what each leaves of a picture."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from mmpo.data.corruption import ON_PICTURES, ON_TENSORS, Corruption, generator, noise_schedule
from mmpo.errors import UserError


@pytest.fixture
def picture() -> Image.Image:
    ramp = np.linspace(0, 255, 64 * 48 * 3).reshape(48, 64, 3).astype(np.uint8)
    return Image.fromarray(ramp)


def test_the_schedule_has_the_published_values() -> None:
    schedule = noise_schedule()
    assert schedule[[500, 800, 999]] == pytest.approx([0.744799, 0.218102, 0.081249], abs=1e-6)
    assert np.sqrt([schedule[500], 1 - schedule[500]]) == pytest.approx([0.863, 0.505], abs=5e-4)


@pytest.mark.parametrize("kind", sorted(ON_PICTURES))
def test_pictures_keep_their_size_and_follow_the_seed(kind: str, picture: Image.Image) -> None:
    corrupt = Corruption(kind)  # type: ignore[arg-type]
    first, again, other = (corrupt.picture(picture, generator(0, name, 0)) for name in ("a", "a", "b"))
    assert first.size == picture.size and first.mode == "RGB"
    assert np.array_equal(first, again) and not np.array_equal(first, other) and not np.array_equal(first, picture)
    later = corrupt.picture(picture, generator(0, "a", 1))
    assert not np.array_equal(first, later), "another epoch, another picture"
    assert np.array_equal(corrupt.tensor(np.ones(3), generator(0, "a", 0)), np.ones(3))


@pytest.mark.parametrize("kind", sorted(ON_TENSORS))
def test_tensors_keep_shape_and_type(kind: str, picture: Image.Image) -> None:
    corrupt = Corruption(kind)  # type: ignore[arg-type]
    pixels = np.random.default_rng(0).standard_normal((3, 16, 16)).astype(np.float32)
    found = corrupt.tensor(pixels, generator(0, "a", 0))
    assert found.shape == pixels.shape and found.dtype == np.float32
    assert np.array_equal(found, corrupt.tensor(pixels, generator(0, "a", 0)))
    assert corrupt.picture(picture, generator(0, "a", 0)) is picture


def test_diffusion_adds_the_noise_of_its_step() -> None:
    pixels = np.full((3, 200, 200), 2.0, dtype=np.float32)
    found = Corruption("diffusion", {"step": 800}).tensor(pixels, generator(0, "a", 0))
    assert found.mean() == pytest.approx(2 * np.sqrt(0.218102), abs=0.02)
    assert found.std() == pytest.approx(np.sqrt(1 - 0.218102), abs=0.02)
    assert not Corruption("black").tensor(pixels, generator(0, "a", 0)).any()


def test_a_small_crop_has_its_own_limits() -> None:
    board = np.zeros((600, 800, 3), dtype=np.uint8)
    board[..., 0] = np.arange(800)[None, :] * 250 / 800
    board[..., 1] = np.arange(600)[:, None] * 250 / 600
    shown = np.asarray(Corruption("small_crop").picture(Image.fromarray(board), generator(0, "a", 0)))
    wide, high = (np.ptp(shown[..., channel]) / 250 for channel in (0, 1))
    assert wide == pytest.approx(320 / 800, abs=0.02) and high == pytest.approx(240 / 600, abs=0.02)


def test_a_crop_shows_at_most_a_fifth() -> None:
    board = np.zeros((100, 100, 3), dtype=np.uint8)
    board[..., 0] = np.arange(100)[None, :] * 2
    board[..., 1] = np.arange(100)[:, None] * 2
    for seed in range(40):
        shown = np.asarray(Corruption("crop").picture(Image.fromarray(board), generator(seed, "a", 0)))
        wide, high = (np.ptp(shown[..., channel]) / 200 for channel in (0, 1))
        assert 0 < (wide + 0.01) * (high + 0.01) < 0.23


def test_the_pixel_mask_replaces_its_share(picture: Image.Image) -> None:
    masked = np.asarray(Corruption("pixel_mask", {"share": 0.5}).picture(picture, generator(0, "a", 0)))
    changed = (masked != np.asarray(picture)).any(-1).mean()
    assert changed == pytest.approx(0.5, abs=0.03)


@pytest.mark.parametrize(
    ("kind", "parameters", "words"),
    [("blur", {}, "no corruption"), ("crop", {"share": 1}, "least, most"), ("black", {"step": 1}, "it has none")],
)
def test_mistakes_are_named(kind: str, parameters: dict[str, float], words: str) -> None:
    with pytest.raises(UserError) as error:
        Corruption(kind, parameters)  # type: ignore[arg-type]
    assert words in f"{error.value.message} {error.value.hint}"


def test_a_step_outside_the_schedule_is_refused() -> None:
    with pytest.raises(UserError, match="0 to 999"):
        Corruption("diffusion", {"step": 1000}).tensor(np.zeros(3), generator(0, "a", 0))
