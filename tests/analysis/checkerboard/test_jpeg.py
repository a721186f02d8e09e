"""JPEG's blocks are found after JPEG, and in nothing else."""

import io

import numpy as np
import pytest
from PIL import Image

from analysis.checkerboard.controls import random_fields
from analysis.checkerboard.jpeg import log_ratio, measure_blocks
from analysis.checkerboard.measurement import measure_samples
from analysis.samples import make_samples


@pytest.fixture(scope="module")
def pictures():
    return random_fields(300, 3, np.random.default_rng(0))


def through_jpeg(image, quality):
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "JPEG", quality=quality)
    return np.asarray(Image.open(stream))


@pytest.mark.parametrize("quality", [30, 60])
def test_blocks_of_jpeg_are_found(pictures, quality):
    compressed = np.stack([through_jpeg(i, quality) for i in pictures[150:]])
    found = measure_blocks(compressed, pictures[:150])
    assert found.found, found


def test_samples_of_a_run_were_never_saved_as_jpeg(real):
    images, _ = real
    compressed = np.stack([through_jpeg(i[..., 0], 20) for i in images[:600]])
    reference = make_samples(images[600:1600], "real", "data set", {})
    for source, found in (("folder", True), ("run", False)):
        samples = make_samples(compressed[..., None], "some", source, {})
        measured = measure_samples(samples, reference, (2, 2))
        assert measured.facts["jpeg_blocks"]["found"] is found
        assert any("JPEG" in line for line in measured.sentences) is found


def test_other_images_have_none(pictures, real):
    for images in (pictures, real[0][:2000], np.zeros((20, 32, 32, 1), np.uint8)):
        assert not measure_blocks(images[::2], images[1::2]).found


def test_edges_at_fixed_places_are_no_blocks(real):
    """The negative control: alone, clothes would seem to have blocks."""
    clothes = real[0][:2000]
    assert abs(log_ratio(clothes)[0]) > 0.02
    assert measure_blocks(clothes[::2], clothes[1::2]).ratio == pytest.approx(
        1, abs=0.05
    )


def test_a_pattern_of_two_or_four_pixels_is_none(pictures):
    columns = np.arange(64)[None, None, :, None]
    for period in (2, 4):
        wave = 12 * np.cos(2 * np.pi * columns / period)
        striped = np.clip(pictures * 0.8 + 25 + wave, 0, 255).astype(np.uint8)
        found = measure_blocks(striped[150:], pictures[:150])
        assert found.ratio == pytest.approx(1, abs=0.03)
        assert not found.found
