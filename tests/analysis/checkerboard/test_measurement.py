"""One measurement: whole on disk, strides from the model, few images refused."""

import dataclasses
import json

import numpy as np
import pytest

from analysis.checkerboard.frequencies import make_layout
from analysis.checkerboard.measurement import (
    load_measurement,
    measure_samples,
    phase_tile,
)
from analysis.samples import SampleError, make_samples, upsampling_strides
from config.schema import ModelConfig
from gan.models import build_generator


@pytest.fixture(scope="module")
def measured(real):
    images, labels = real
    samples = make_samples(images[:600], "some", "file", {})
    reference = dataclasses.replace(
        make_samples(images[:2000], "real", "data set", {}), labels=labels[:2000]
    )
    return measure_samples(samples, reference, (2, 2))


def test_equal_numbers_of_real_images_are_read_once(prepared):
    assert prepared.null(600) is prepared.null(600)
    assert prepared.null(9000).num_images == len(prepared.second_half) == 2500


def test_what_is_saved_is_what_is_loaded(measured, tmp_path):
    path = tmp_path / "m.npz"
    measured.save(path)
    loaded = load_measurement(path)
    plain = [json.loads(json.dumps(m.as_dict())) for m in (loaded, measured)]
    assert plain[0] == plain[1]
    assert loaded.readings == measured.readings
    for name, array in measured.arrays.items():
        assert np.array_equal(loaded.arrays[name], array)


def test_json_holds_each_reading_with_interval_and_real_images(measured):
    data = json.loads(json.dumps(measured.as_dict()))
    assert data["found"] is any(r.found for r in measured.readings)
    corner = next(a for a in data["alphas"] if (a["row"], a["column"]) == (0.5, 0.5))
    assert corner["stage"] == 1
    for name in ("imaging_gain_percent", "locked_share", "fixed_pattern_levels"):
        for numbers in (corner[name], corner[name]["real"]):
            assert numbers["low"] <= numbers["value"] <= numbers["high"]
    assert all(-0.5 <= a[k] <= 0.5 for a in data["alphas"] for k in ("row", "column"))


def test_other_files_are_no_result(tmp_path):
    path = tmp_path / "other.npz"
    np.savez(path, images=np.zeros((2, 28, 28), np.uint8))
    with pytest.raises(SampleError, match="not a result of `spectra`"):
        load_measurement(path)


def test_half_of_the_real_images_must_be_enough(real):
    samples = make_samples(real[0][:600], "some", "file", {})
    few = make_samples(real[0][:800], "few", "file", {})
    with pytest.raises(SampleError, match="expected at least 1000"):
        measure_samples(samples, few)


@pytest.mark.parametrize("upsample", ["transpose", "resize-bilinear", "subpixel"])
def test_strides_are_those_of_the_generator(upsample):
    assert upsampling_strides(build_generator(ModelConfig(upsample=upsample))) == (2, 2)


def test_strides_that_are_not_known_are_scanned(measured, real):
    samples = make_samples(real[0][:600], "some", "file", {})
    reference = make_samples(real[0][:2000], "real", "data set", {})
    result = measure_samples(samples, reference)
    assert result.facts["strides"] == [2, 2]
    assert not result.facts["known_strides"]


def test_the_tile_is_the_planted_pattern():
    rows, columns = np.indices((28, 28))
    pattern = 2.0 * (1 - 2 * ((rows + columns) % 2)) + np.cos(np.pi / 2 * rows)
    smooth = 100 + 30 * np.cos(2 * np.pi * rows / 28)
    tile = phase_tile((pattern + smooth)[..., None], make_layout(28, 28, (2, 2)))
    assert tile[..., 0] == pytest.approx(pattern[:4, :4], abs=1e-4)
