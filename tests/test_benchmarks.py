"""The benchmarks compare what they say; the times that they find are not tested."""

import sys
import textwrap

import click
import numpy as np
import pytest

from analysis.checkerboard.controls import PLANTED
from benchmarks import (
    floor,
    overhead,
    predicted_and_measured,
    rivals,
    spectra,
    startup,
)
from benchmarks.candidates import (
    CANDIDATES,
    NETWORKS,
    VARIANTS,
    load_settings,
    network_products,
)
from benchmarks.rival_meters import (
    OURS,
    PUBLISHED,
    Comparison,
    azimuthal_meter,
    azimuthal_profiles,
    compare_meters,
    dct_meter,
    make_table,
    mean_dct,
    neighbour_meter,
    neighbour_residuals,
    retired_meter,
    spectral_map_db,
    spectral_map_meter,
)
from benchmarks.time_to_quality import (
    RECIPES,
    number_of_steps,
    read_recipes,
    settings,
)
from benchmarks.worker import Unavailable, Worker
from config.schema import DataConfig
from gan.data.dataset import load_dataset
from gan.models import build_discriminator, build_generator
from gan.run.environment import prepare_tensorflow

prepare_tensorflow()
G_MACS = 100 * 12544 + 49 * 25 * 256 * 128 + 49 * 25 * 128 * 64 + 196 * 25 * 64 * 1
D_MACS = 196 * 25 * 1 * 64 + 49 * 25 * 64 * 128 + 6272
G_WEIGHTS = 100 * 12544 + 2 * (12544 + 128 + 64) + 25 * (256 * 128 + 128 * 64 + 64)
D_WEIGHTS = 25 * 64 + 64 + 25 * 64 * 128 + 128 + 6272 + 1
# Of PyTorch's example at 64 pixels; ours has biases in the discriminator.
G64_WEIGHTS, D64_WEIGHTS = 3_576_704, 2_765_568


def num_weights(model):
    return sum(int(np.prod(weight.shape)) for weight in model.trainable_weights)


def test_multiply_accumulates_of_a_step_are_those_counted_by_hand():
    products = network_products("tutorial")
    forward = {"G": 0, "D": 0}
    for product in products:
        if product.kind == floor.FORWARD:
            forward[product.network] += product.macs
    assert forward == {"G": G_MACS, "D": D_MACS} == {"G": 51_744_000, "D": 10_355_072}
    # Each layer has three products, but the first input of a network needs no gradient.
    # D has real and generated images; the generator needs the gradient of the latter.
    g_step = 3 * G_MACS - 100 * 12544
    d_step = 6 * D_MACS - 196 * 25 * 64
    assert floor.step_macs(products) == g_step + d_step == 215_794_432
    assert floor.step_macs(products, inside=True) < floor.step_macs(products)


def test_batch_normalisation_in_the_discriminator_takes_one_more_pass():
    """Forward and kernels twice, inputs twice and once more; of the images once."""
    products = network_products("dcgan64")
    counts: dict[str, list[int]] = {}
    for product in products:
        counts.setdefault(product.layer_name, []).append(product.count)
    assert counts.pop("G base_dense") == [1, 1]
    assert counts.pop("D stage1_conv") == [2, 2, 1]
    for name, found in counts.items():
        assert found == ([1, 1, 1] if name.startswith("G") else [2, 2, 3]), name


def test_taps_on_the_padding_are_left_out():
    """On one axis, 7 pixels have 5 taps each; 3 + 4 + 5 + 5 + 5 + 4 + 3 are inside."""
    stage1 = next(
        p for p in network_products("tutorial") if p.layer.name == "stage1_conv"
    )
    assert stage1.macs_inside == 29**2 * 256 * 128


@pytest.mark.parametrize(
    "network", ["tutorial", pytest.param("dcgan64", marks=pytest.mark.slow)]
)
def test_every_form_of_a_product_gives_the_same_result(network):
    for product in network_products(network):
        ways = floor.forms(product, batch_size=2)
        results = [
            function(*arguments).numpy() for function, arguments in ways.values()
        ]
        for other in results[1:]:
            np.testing.assert_allclose(other, results[0], rtol=1e-3, atol=1e-3)


def test_the_sum_counts_each_product_and_takes_the_fastest_form():
    products = [p for p in network_products("tutorial") if p.layer.name == "logits"]
    seconds = {p.name: {"a": 3.0, "b": 1.0} for p in products}
    assert [p.count for p in products] == [2, 2, 2]
    assert floor.seconds_of_products(products, seconds) == 6.0
    assert floor.seconds_of_layers(products, {"D logits": 3.0}) == 6.0


def test_the_pass_of_a_layer_has_the_gradients_that_are_needed():
    layers = floor.compile_layers(network_products("tutorial"), batch_size=2)
    assert len(layers) == 7
    # Noise and real images need no gradient.
    counts = {name: len(function()) for name, function in layers.items()}
    firsts = {"G base_dense", "D stage1_conv"}
    assert counts == {name: 2 if name in firsts else 3 for name in layers}


def test_rivals_train_the_network_of_this_project():
    model = load_settings("tutorial").model
    for builders, weights in (
        ((rivals.build_generator, lambda: build_generator(model)), G_WEIGHTS),
        ((rivals.build_discriminator, lambda: build_discriminator(model)), D_WEIGHTS),
    ):
        assert [num_weights(build()) for build in builders] == [weights, weights]
    assert num_weights(rivals.build_generator(64)) == G64_WEIGHTS
    assert num_weights(rivals.build_discriminator(64)) == D64_WEIGHTS
    model = load_settings("dcgan64").model
    assert num_weights(build_generator(model, 64, 3)) == G64_WEIGHTS
    biases = sum(model.discriminator_widths) + 1
    assert num_weights(build_discriminator(model, 64, 3)) == D64_WEIGHTS + biases


def test_the_network_in_pytorch_has_as_many_weights():
    pytest.importorskip("torch")
    from benchmarks import rival_torch

    counts = [
        sum(weight.numel() for weight in build(network).parameters())
        for network in NETWORKS
        for build in (rival_torch.build_generator, rival_torch.build_discriminator)
    ]
    assert counts == [G_WEIGHTS, D_WEIGHTS, G64_WEIGHTS, D64_WEIGHTS]


@pytest.mark.parametrize("make", [rivals.tutorial_loop, rivals.keras_fit])
def test_a_step_of_a_rival_changes_both_networks(make, eagerly, monkeypatch):
    built = []

    def keep(build):
        def kept(image_size):
            built.append(build(image_size))
            return built[-1]

        return kept

    for name in ("build_generator", "build_discriminator"):
        monkeypatch.setattr(rivals, name, keep(getattr(rivals, name)))
    noise = np.random.default_rng(0).integers(0, 256, (8, 28, 28, 1), np.uint8)
    burst = make(noise, 4)
    weights = [weight for model in built for weight in model.trainable_weights]
    before = [weight.numpy() for weight in weights]
    burst(1)
    assert len(built) == 2
    for weight, old in zip(weights, before, strict=True):
        assert not np.array_equal(weight.numpy(), old), weight.path


def test_a_worker_answers_with_seconds_memory_and_result():
    code = "from benchmarks.worker import serve; serve(lambda n: 2 * n)"
    with Worker([sys.executable, "-c", code]) as worker:
        for count in (1, 5):
            reply = worker.run(count)
            assert reply["seconds"] > 0 and reply["peak_bytes"] > 2**20
            assert reply["result"] == 2 * count


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("from benchmarks.worker import answer; answer({'error': 'no GPU'})", "no GPU"),
        ("", "without an answer"),
    ],
)
def test_a_worker_that_cannot_work_gives_the_reason(code, message):
    with pytest.raises(Unavailable, match=message):
        Worker([sys.executable, "-c", code])


def test_each_variant_of_ours_is_a_candidate():
    assert set(VARIANTS) < set(CANDIDATES)


def test_shares_are_of_the_wall_time_between_two_lines():
    line = {"time/step_seconds": 1.0, "time/log_seconds": 0.5, "loss/d": 1.0}
    last = {"time/step_seconds": 9.0, "time/log_seconds": 0.7, "time/new_seconds": 0.3}
    seconds = overhead.between((2.0, line), (12.0, last))
    assert seconds == pytest.approx(
        {"step": 8.0, "log": 0.2, "new": 0.3, "unaccounted": 1.5}
    )
    assert sum(seconds.values()) == pytest.approx(10.0)


def script(text):
    return [sys.executable, "-c", textwrap.dedent(text)]


def test_lines_of_losses_are_recorded_when_they_appear(tmp_path):
    log = tmp_path / "log.jsonl"
    writes = f"""
        import time
        for line in ('{{"gap": 1}}', '{{"loss/d": 1, "step": 1}}', '{{"loss/d": 2}}'):
            open({str(log)!r}, "a").write(line + chr(10))
            time.sleep(0.2)
    """
    lines, wall = overhead.follow(script(writes), log)
    assert [values["loss/d"] for _, values in lines] == [1, 2]
    assert 0.15 < lines[1][0] - lines[0][0] < wall
    with pytest.raises(click.ClickException, match="no such flag"):
        overhead.follow(script("raise SystemExit('no such flag')"), log)


def test_a_program_is_killed_after_the_last_event(tmp_path):
    events = {name: lambda folder, n=name: (folder / n).exists() for name in "ab"}
    touches = f"""
        import pathlib, time
        for name in "ab":
            pathlib.Path({str(tmp_path)!r}, name).touch()
            time.sleep(0.2)
        time.sleep(100)
    """
    seconds = startup.wait_for(script(touches), tmp_path, events)
    assert 0 < seconds["a"] < seconds["b"] < 50
    with pytest.raises(click.ClickException, match="ended too early"):
        startup.wait_for(script("pass"), tmp_path, {"c": lambda folder: False})


@pytest.fixture(scope="module")
def real():
    return load_dataset(DataConfig(limit=4000), "test")


CHECKER = 1 - 2 * (np.indices((28, 28)).sum(axis=0) % 2)[..., None]
ROWS = 1 - 2 * (np.arange(28) % 2)[:, None, None]  # +1 and -1 in turns down
CONSTANT = np.full((20, 28, 28, 1), 128.0)


def test_the_azimuthal_profile_does_not_change_with_a_checkerboard(real):
    images = np.rint(real.images_uint8[:500] * 0.9 + 12.75)
    profiles = [
        azimuthal_profiles(i.astype(np.uint8)) for i in (images, images + 8 * CHECKER)
    ]
    assert profiles[0].shape == (500, 18)
    assert np.abs(profiles[0] - profiles[1]).max() < 1e-9
    meter = azimuthal_meter(images)
    assert meter(images + 8 * CHECKER) < 1e-9
    assert meter(images + 8 * ROWS) == pytest.approx(0.12, abs=0.05)
    # Noise without any pattern changes it most.
    assert meter(images + np.random.default_rng(0).normal(0, 20, images.shape)) > 1


def test_the_spectral_map_of_white_noise_is_zero_db():
    noise = np.random.default_rng(0).normal(128, 20, (500, 28, 28, 1))
    found = spectral_map_db(noise, noise.mean(), noise.std())
    assert found.shape == (112, 57)
    assert np.abs(found).max() < 1.5
    twice = 128 + 2 * (noise - 128)
    # Noise of twice the size has 20 log10(2) dB more everywhere.
    assert spectral_map_meter(noise)(twice) == pytest.approx(6.02, abs=0.01)


def test_the_spectral_map_flattens_a_checkerboard(real):
    """8 levels rise by 21 dB before smoothing, but smoothing takes 4 dB or more."""
    images = np.rint(real.images_uint8[:2000] * 0.9 + 12.75)
    maps = [
        spectral_map_db(i, images.mean(), images.std())
        for i in (images, images + 8 * CHECKER)
    ]
    # At 112x57, (1/2, 1/2) is at [56, 56].
    rise = maps[1][56, 56] - maps[0][56, 56]
    assert rise == pytest.approx(21.4 + 0.9, abs=1)  # 0.9: contrast times 0.9
    smooth = spectral_map_meter(images)(images + 8 * CHECKER)
    assert 5 < smooth < rise - 4


def test_the_mean_dct_has_81_percent_of_a_sign_change_in_its_last_coefficient():
    found = mean_dct(CONSTANT + 2 * CHECKER)
    # (-1)^n of length 28 and power 28, on each of two axes.
    assert abs(found[27, 27]) == pytest.approx(2 * 0.81 * 28, rel=0.01)
    assert found[0, 0] == pytest.approx(128 * 28)
    meter = dct_meter(CONSTANT + 2 * CHECKER)
    assert meter(CONSTANT + 8 * CHECKER) == pytest.approx(np.log(4), abs=1e-6)


def test_the_mean_dct_does_not_see_signs_that_differ_between_images():
    signs = np.resize([1, -1], (20, 1, 1, 1))
    assert dct_meter(CONSTANT)(CONSTANT + 8 * signs * CHECKER) < 1e-6


def test_neighbours_differ_by_twice_a_checkerboard():
    assert neighbour_residuals(CONSTANT + 3 * CHECKER) == pytest.approx([6, 6, 0])
    assert neighbour_residuals(CONSTANT + 3 * ROWS) == pytest.approx([0, 6, 6])
    assert neighbour_meter(CONSTANT)(CONSTANT + 3 * CHECKER) == pytest.approx(6)


def test_the_retired_meter_reads_the_amplitude_and_adds_lacks_as_negative(real):
    for pattern in (CHECKER, ROWS, CHECKER * np.resize([1, -1], (20, 1, 1, 1))):
        meter = retired_meter(CONSTANT)
        assert meter(CONSTANT + 3 * pattern) == pytest.approx(3, rel=1e-3)
    both = retired_meter(CONSTANT)(CONSTANT + 3 * CHECKER + 4 * ROWS)
    assert both == pytest.approx(5, rel=1e-3)
    images = np.rint(real.images_uint8 * 0.9 + 12.75)
    assert retired_meter(images + 3 * CHECKER)(images) == pytest.approx(-3, abs=0.3)


@pytest.fixture(scope="module")
def comparison(real):
    return compare_meters(real.images_uint8, num_images=600)


@pytest.mark.slow  # the comparison takes about a minute
def test_every_meter_reads_every_control(comparison):
    names = {*PUBLISHED, OURS}
    assert set(comparison.nulls) == set(comparison.limits) == names
    assert set(PLANTED) < set(comparison.values)
    assert {"blur", "gamma 1.4", "two levels"} < set(comparison.values)
    for numbers in comparison.values.values():
        assert set(numbers) == names and np.isfinite(list(numbers.values())).all()
    assert make_table(comparison).row_count == len(comparison.values) + 1


@pytest.mark.slow  # the comparison takes about a minute
def test_no_meter_calls_real_images_a_pattern(comparison):
    for name, null in comparison.nulls.items():
        assert null < comparison.limits[name], name


@pytest.mark.slow  # the comparison takes about a minute
def test_what_fools_the_other_meters_does_not_fool_this_one(comparison):
    blind = "azimuthal profile, deviations"
    assert comparison.cell("two levels", blind).endswith("above null")
    harmless = set(comparison.values) - set(PLANTED)
    found = {
        control
        for control, numbers in comparison.values.items()
        if numbers[OURS] > comparison.limits[OURS]
    }
    assert not harmless & found
    assert {"1 level everywhere", "3 levels in the left half"} <= found
    # 4 levels that the retired meter cannot tell from sharper images.
    hidden = comparison.values["4 levels, sign differs between halves"]
    retired = "retired A, levels"
    assert hidden[retired] < comparison.limits[retired]


def test_the_number_is_followed_by_its_null_and_what_it_means():
    found = Comparison({"m": 0.5}, {"m": 2.0}, {str(x): {"m": x} for x in (0.4, 1, 3)})
    cells = [found.cell(control, "m") for control in found.values]
    assert cells == ["0.40 (0.50)", "1.00 (0.50) above null", "3.00 (0.50) found"]


def test_all_ways_to_take_a_mean_spectrum_agree(real):
    images = real.images_uint8[:300]
    expected = spectra.numpy_loop(images)
    for method in (spectra.sums, spectra.chunked_spectrum):
        assert method(images) == pytest.approx(expected, rel=1e-4)
    seconds = spectra.time_in_turn(images[:20], rounds=2)
    assert set(seconds) == set(spectra.METHODS)
    assert all(len(times) == 2 for times in seconds.values())


def test_memory_does_not_grow_with_the_number_of_images():
    # How the threads overlap changes the peak by about 2 megabytes; the images
    # themselves, kept as grey levels, would take 56.
    few, many = (spectra.peak_megabytes(number) for number in (2000, 20_000))
    assert many - few < 10


def prediction(run, frequency, predicted, measured, low):
    """A row of `predicted_and_measured`."""
    return {
        "run": run,
        "method": run,
        "step": 1,
        "frequency": frequency,
        "stage": 1,
        "on_axis": frequency.startswith("(0"),
        "reading": "imaging_gain_percent",
        "measured": measured,
        "low": low,
        "high": 2 * measured,
        "predictor": "probe",
        "predicted": predicted,
    }


def test_predictions_are_compared_off_the_axes_where_something_is_measured():
    rows = [
        prediction("a", "(1/2, 1/2)", 2.0, 1.0, 0.5),
        prediction("b", "(1/2, 1/2)", 9.0, 3.0, 2.0),
        prediction("c", "(1/2, 1/2)", 4.0, 2.0, 0.0),  # it may be 0: no ratio
        prediction("a", "(1/4, 1/2)", 8.0, 1.0, 0.5),
        prediction("a", "(0, 1/2)", 100.0, 1.0, 0.5),
    ]
    shown = predicted_and_measured.chosen(rows, "probe", "imaging_gain_percent")
    count, ratios, rank = predicted_and_measured.agreement(shown)
    assert (count, ratios, rank) == (3, [3.0, 2.0, 8.0], pytest.approx(1.0))
    equal = [row | {"predicted": 1.0} for row in shown]
    assert np.isnan(predicted_and_measured.agreement(equal)[2])
    # Without points there is nothing to compare.
    assert predicted_and_measured.agreement([])[0] == 0
    assert len(predicted_and_measured.draw(rows).axes) == 6


def test_a_recipe_of_the_record_says_its_steps():
    recipes = read_recipes(["short: --steps 900", "large: --batch-size 64 --steps 500"])
    rates = {"short": 0.02, "large": 0.05}
    assert number_of_steps(recipes, rates) == {"short": 900, "large": 500}
    assert settings(recipes["large"]).train.batch_size == 64
    for text in (
        "short: --seed 1",
        "short --steps 900",
        "short: --steps",
        "s: --steps x",
    ):
        with pytest.raises(click.UsageError, match="expected a name"):
            read_recipes([text])


def test_a_recipe_without_steps_gets_those_of_its_time():
    """The default does 33,750 steps; steps that take ten times as long, a tenth."""
    rates = {"default": 0.03, "default, 1/20": 0.03, "tutorial": 0.3}
    steps = number_of_steps(RECIPES, rates)
    assert steps == {"default": 33_750, "default, 1/20": 1688, "tutorial": 3375}
