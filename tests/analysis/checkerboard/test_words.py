"""Sentences say what the numbers beside them say."""

import re

import numpy as np
import pytest

from analysis.checkerboard.controls import PLANTED, draw, plant, read_images
from analysis.checkerboard.words import (
    ADVICE,
    decibels,
    describe,
    is_visible,
    strongest,
)


@pytest.mark.parametrize(
    ("percent", "expected"), [(100, 0), (10, -20), (1, -40), (0, -120)]
)
def test_decibels(percent, expected):
    assert decibels(percent) == pytest.approx(expected)


@pytest.fixture(scope="module")
def read_sets(prepared):
    """Readings of each planted pattern, a weak one, and real images."""
    random = np.random.default_rng(5)
    images = draw(2000, prepared, random)
    found = {
        name: read_images(plant(planted, images, random), prepared)
        for name, planted in PLANTED.items()
    }
    return found | {"real": read_images(images, prepared)}


def test_no_sentence_contradicts_its_table(read_sets):
    for name, readings in read_sets.items():
        text = " ".join(describe(readings))
        patterns = strongest(readings)
        assert ("No pattern" in text) == (not patterns), name
        assert ("it is visible" in text) == any(map(is_visible, patterns)), name
        assert (ADVICE in text) == any(map(is_visible, patterns)), name
        for reading in patterns:
            assert reading.frequency.name in text, name
            gain = reading.imaging_gain_percent
            assert (f"with {gain.samples.value:.2g} %" in text) == gain.found, name
            fixed = reading.fixed_pattern_levels
            assert (f"part is {fixed.samples.value:.2g}" in text) == fixed.found, name


def test_levels_in_a_sentence_and_the_word_visible_agree(read_sets):
    for readings in read_sets.values():
        text = " ".join(describe(readings))
        for levels, word in re.findall(r"With ([\d.]+) .*? in all it is (\w+)", text):
            assert (float(levels) > 1) == (word == "visible") or float(levels) == 1


def test_without_strides_periods_are_named_and_no_upsampling(read_sets):
    text = " ".join(describe(read_sets["1 level everywhere"], known_strides=False))
    assert "a period of 2 pixels" in text
    assert "the last upsampling" not in text
