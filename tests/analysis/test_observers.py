"""The observers on real images, on artifacts, on collapsed samples, and in a run."""

import json
from types import SimpleNamespace

import keras
import numpy as np
import pytest

from analysis.observers import (
    LOGGED_SCORES,
    CheckerboardObserver,
    QualityObserver,
)
from analysis.quality.reference import add_noise
from config.schema import DataConfig, UserError
from gan.data.dataset import latents_from_seeds, load_dataset
from gan.evaluation import Observation
from gan.run import checkpoint
from gan.run.environment import prepare_tensorflow
from gan.run.folder import RunFolder
from gan.sampling import open_run, renderer
from gan.state import build_state
from gan.training import train

prepare_tensorflow()

COPIES = "copies/coarse"
CHECKER = 1 - 2 * (np.indices((28, 28, 1)).sum(axis=0) % 2)


@pytest.fixture(scope="module")
def real(fashion_mnist) -> np.ndarray:
    return fashion_mnist.test.images_uint8


@pytest.fixture(scope="module")
def labels(fashion_mnist) -> np.ndarray:
    return fashion_mnist.test.labels


@pytest.fixture(scope="module")
def checkerboard_observer(real: np.ndarray) -> CheckerboardObserver:
    return CheckerboardObserver(real, (2, 2), num_images=500, picture_every=2)


@pytest.fixture(scope="module")
def quality_observer() -> QualityObserver:
    return QualityObserver(DataConfig(), num_images=500, first_step=100)


@pytest.fixture(scope="module")
def state() -> SimpleNamespace:
    """A generator of one balanced layer of stride 2 and one of stride 1."""
    layers = keras.layers
    stage = layers.Conv2DTranspose(
        1, 4, 2, "same", name="stage2_upsample", kernel_initializer="ones"
    )
    first = layers.Conv2DTranspose(1, 5, padding="same", name="stage1_conv")
    model = keras.Sequential([keras.Input((7, 7, 1)), first, stage])
    return SimpleNamespace(ema_generator=model)


def test_real_images_draw_a_line_inside_the_band(checkerboard_observer, state, real):
    scalars = checkerboard_observer.observe(0, real[-500:], state).scalars
    for tag in ("imaging_gain_db", "fixed_pattern_levels"):
        for stage in (1, 2):
            low, high = (
                scalars[f"{tag}/real_{side}_stage{stage}"] for side in ("low", "high")
            )
            assert low < scalars[f"{tag}/stage{stage}"] < high, (tag, stage)


@pytest.mark.parametrize(
    ("plant", "tag", "expected"),
    [
        (lambda x: x + 4 * CHECKER, "fixed_pattern_levels", 4),
        (lambda x: x * (1 + 0.04 * CHECKER), "imaging_gain_db", -28),
    ],
)
def test_a_checkerboard_leaves_the_band(
    plant, tag, expected, checkerboard_observer, state, real
):
    images = np.clip(np.rint(plant(real[-500:] * 0.9 + 12.75)), 0, 255)
    scalars = checkerboard_observer.observe(250, images.astype(np.uint8), state).scalars
    assert scalars[f"{tag}/stage1"] == pytest.approx(expected, rel=0.05)
    assert scalars[f"{tag}/stage1"] > scalars[f"{tag}/real_high_stage1"]
    assert scalars[f"{tag}/stage2"] < 1.5 * abs(scalars[f"{tag}/real_high_stage2"])
    assert all(isinstance(value, float) for value in scalars.values())


def test_only_layers_with_a_stride_have_an_index(
    checkerboard_observer, state, real: np.ndarray
):
    scalars = checkerboard_observer.observe(0, real[:500], state).scalars
    indices = {name: value for name, value in scalars.items() if name[:4] == "eta/"}
    assert indices == {"eta/stage2_upsample": pytest.approx(0, abs=1e-6)}


def test_a_picture_comes_at_every_second_evaluation(state, real: np.ndarray):
    observer = CheckerboardObserver(
        real[:2000], (2, 2), num_images=500, picture_every=2
    )
    seen = [observer.observe(step, real[:500], state).pictures for step in range(3)]
    assert [len(pictures) for pictures in seen] == [1, 0, 1]
    picture = seen[0]["spectrum"]
    assert picture.dtype == np.uint8
    assert picture.ndim == 3 and picture.shape[2] == 3
    assert picture.std() > 10


def test_constant_images_give_finite_numbers(checkerboard_observer, state):
    black = np.zeros((500, 28, 28, 1), np.uint8)
    scalars = checkerboard_observer.observe(1, black, state).scalars
    assert all(np.isfinite(value) for value in scalars.values())


def observe(observer, images, step=100):
    """Returns scores and floors by their short names, and the observation."""
    observation = observer.observe(step, images, None)
    names = {metric: observer.name(metric) for metric in LOGGED_SCORES}
    scores = {metric: observation.scalars[name] for metric, name in names.items()}
    floors = {m: observation.scalars[f"{name}-floor"] for m, name in names.items()}
    return scores, floors, observation


def alarm(observer, images, step=100):
    return observer.observe(step, images, None).alarm


def test_names_hold_number_network_and_reference(quality_observer):
    assert quality_observer.num_images == 500
    name = quality_observer.name("fcd")
    assert name == f"fcd_n500/{quality_observer.extractor.id}-validation"
    assert quality_observer.extractor.id.startswith("fmnist-v1-")


def test_test_images_score_near_the_floor_and_raise_no_alarm(quality_observer, real):
    scores, floors, observation = observe(quality_observer, real[:500])
    assert observation.alarm == ""
    assert observation.score == quality_observer.name("fcd")
    levels = [f"swd_n500/{level}-validation" for level in ("28px", "14px", "mean")]
    for level in levels:
        floor = observation.scalars[f"{level}-floor"]
        assert observation.scalars[level] == pytest.approx(floor, rel=1)
    assert scores["fcd"] == pytest.approx(floors["fcd"], rel=0.3)
    assert scores["coverage"] == pytest.approx(floors["coverage"], abs=0.05)
    assert scores["diversity"] == pytest.approx(1, abs=0.05)
    assert scores["num_classes"] == floors["num_classes"] == 10
    assert floors["class_tv"] < 0.15 and floors["duplicates"] == 0


def test_every_kind_of_collapse_is_named(quality_observer, real, labels):
    some = real[labels >= 7][:500]
    assert alarm(quality_observer, some) == "3 of 10 classes are left"
    assert alarm(quality_observer, real[labels < 7][:500]) == ""

    few = np.tile(real[:10], (50, 1, 1, 1))
    assert "100% of samples are near copies" in alarm(quality_observer, few)
    some = np.concatenate([real[:400], np.tile(real[400:410], (10, 1, 1, 1))])
    assert alarm(quality_observer, some) == "20% of samples are near copies"

    shirt = real[labels == 1][:1]
    rng = np.random.default_rng(0)
    noisy = np.clip(shirt + rng.normal(0, 9, (500, 28, 28, 1)), 0, 255)
    assert "diversity is 0." in alarm(quality_observer, noisy.astype(np.uint8))


def test_no_alarm_is_raised_before_the_first_step_for_it(quality_observer, real):
    few = np.tile(real[:10], (50, 1, 1, 1))
    assert alarm(quality_observer, few, step=99) == ""
    assert alarm(quality_observer, few, step=100) != ""


@pytest.mark.reported
def test_too_few_images_are_refused(tmp_path, real):
    np.savez(tmp_path / "few.npz", images=real[:20])
    with pytest.raises(UserError, match="received 16 training images, expected .* 20"):
        QualityObserver(DataConfig(str(tmp_path / "few.npz")))


def test_images_without_trained_weights_get_random_features(tmp_path, real):
    np.savez(tmp_path / "own.npz", images=real[:1000])
    observer = QualityObserver(DataConfig(str(tmp_path / "own.npz")))
    assert observer.name("fcd").startswith("fcd_n416/random-v1-")
    observation = observer.observe(5000, real[5000:5416], None)
    assert observation.alarm == ""
    # Random features are no reason to choose a checkpoint.
    assert observation.score == "swd_n416/mean-validation"
    assert observer.name("num_classes") not in observation.scalars
    few = np.resize(real[:10], (416, 28, 28, 1))
    assert "near copies" in alarm(observer, few, step=5000)


def test_few_images_in_colour_get_distances_of_patches(tmp_path, real):
    small, said = real[:120, 6:22, 6:22], []
    colour = np.concatenate([small, small // 2, 255 - small], axis=3)
    np.savez(tmp_path / "few.npz", images=colour)
    observer = QualityObserver(DataConfig(str(tmp_path / "few.npz")), said.append)
    assert "only 50 images can be compared" in said[0]
    fresh = real[200:250, 6:22, 6:22]
    fresh = np.concatenate([fresh, fresh // 2, 255 - fresh], axis=3)
    found = [observer.observe(5000, it, None) for it in (fresh, add_noise(fresh, 60))]
    score = "swd_n50/mean-validation"
    names = {score, "swd_n50/16px-validation"}
    assert set(found[0].scalars) == names | {f"{n}-floor" for n in names} | {COPIES}
    assert found[0].score == score and not found[1].alarm
    assert found[0].scalars[score] < 2 * found[0].scalars[f"{score}-floor"]
    assert found[1].scalars[score] > 3 * found[0].scalars[score]


def test_memorised_images_are_noticed_while_a_run_trains(quality_observer, real):
    images = load_dataset(DataConfig(limit=500)).images_uint8
    memorised = quality_observer.observe(0, images, None).scalars[COPIES]
    noisy = quality_observer.observe(0, add_noise(images, 5), None).scalars[COPIES]
    fresh = quality_observer.observe(0, real[-500:], None).scalars[COPIES]
    assert memorised == 0 < noisy < 0.7 < 0.9 < fresh < 1.1


@pytest.fixture(scope="module")
def observed(tiny, images, tmp_path_factory, quality_observer):
    """The folder of a run with both observers; otherwise it is the run `trained`."""
    directory = tmp_path_factory.mktemp("runs") / "run"
    config = tiny({"model.initializer_stddev": 0.2})
    spectrum = CheckerboardObserver(images.images_uint8, (2, 2), num_images=100)
    with RunFolder(directory) as folder:
        train(
            config,
            images,
            folder,
            make_observers=lambda: [spectrum, quality_observer],
        )
    return directory


def test_observers_change_nothing(tiny, trained, observed):
    state = build_state(tiny(), 28, 1)
    digests = [state.digest()]
    for directory in (trained, observed):
        checkpoint.restore_newest(directory / "state", state.checkpoint)
        digests.append(state.digest())
    assert digests[0] != digests[1] == digests[2]


def test_the_log_has_scores_floors_and_the_gap(observed, quality_observer):
    text = (observed / "log.jsonl").read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    fcd = quality_observer.name("fcd")
    for name in (fcd, f"{fcd}-floor"):
        assert [line["step"] for line in lines if name in line] == [0, 6, 12]
    gaps = [line for line in lines if "gap/batch_vs_moving" in line]
    assert [line["step"] for line in gaps] == [0, 6, 12]
    # Before the first step the average is the generator.
    assert gaps[0]["gap/raw_vs_ema"] == 0 < gaps[-1]["gap/raw_vs_ema"]
    # Moving statistics start at mean 0 and variance 1, far from those of a batch.
    assert gaps[0]["gap/batch_vs_moving"] > 0


def test_the_best_checkpoint_is_the_one_with_the_lowest_score(
    observed, quality_observer
):
    fcd = quality_observer.name("fcd")
    text = (observed / "log.jsonl").read_text()
    scores = {
        line["step"]: line[fcd]
        for line in map(json.loads, text.splitlines())
        if fcd in line and line["step"]
    }
    best = open_run(observed, "best")
    assert best.step == min(scores, key=scores.get)
    latents = latents_from_seeds(range(500), best.config.model.latent_dim)
    found, _, _ = observe(quality_observer, renderer(best.generator)(latents))
    assert found["fcd"] == pytest.approx(scores[best.step], abs=1e-5)


class FakeObserver:
    """Gives each evaluation the score that a test chooses."""

    num_images = 1

    def __init__(self, scores, name="score"):
        self.scores, self.name = scores, name

    def observe(self, step, images_uint8, state):
        value = self.scores.get(step, 9.0)
        return Observation({self.name: value}, score=self.name)


def test_a_resumed_run_remembers_the_best(tiny, images, tmp_path, eagerly):
    """The lowest score is kept, and the earlier of two equal ones.

    A NaN is not kept. A score with another name is not compared with the old one.
    """

    def kept(num_steps, scores, name="score"):
        config = tiny({"train.num_steps": num_steps, "run.evaluate_every_steps": 1})
        with RunFolder(tmp_path) as folder:
            observers = [FakeObserver(scores, name)]
            train(config, images, folder, make_observers=lambda: observers)
        (found,) = checkpoint.available(tmp_path / "best")
        return found[0], checkpoint.verify(found[1])["facts"]["value"]

    assert kept(3, {1: 3.0, 2: 2.0}) == (2, 2.0)
    assert kept(5, {4: 2.0, 5: float("nan")}) == (2, 2.0)
    assert kept(7, {6: 1.0, 7: 1.5}) == (6, 1.0)
    assert kept(8, {8: 4.0}, "another") == (8, 4.0)


@pytest.mark.slow
@pytest.mark.parametrize("rate", [2e-4, 2e-2])
def test_a_run_driven_into_collapse_is_noticed(tiny, tmp_path, rate):
    """Small networks on all images, the discriminator a hundred times too fast."""
    config = tiny(
        {
            "data.limit": 0,
            "model.generator_widths": [32, 16, 8],
            "model.discriminator_widths": [16, 32],
            "model.latent_dim": 100,
            "train.batch_size": 64,
            "train.d_learning_rate": rate,
            "train.num_steps": 800,
            "train.steps_per_call": 25,
            "run.log_every_steps": 800,  # so that the losses alone raise nothing
            "run.evaluate_every_steps": 100,
            "run.checkpoint_every_steps": 400,
        }
    )
    observer = QualityObserver(config.data, num_images=500, first_step=500)
    with RunFolder(tmp_path) as folder:
        data = load_dataset(config.data)
        outcome = train(
            config, data, folder, make_observers=lambda: [observer], on_alarm="stop"
        )
    if rate < 1e-3:
        assert (outcome.step, outcome.exit_code) == (800, 0)
    else:
        assert (outcome.step, outcome.exit_code) == (600, 3)
        assert "stopped by alarm collapsing" in outcome.stop
        assert "classes are left, diversity is 0." in outcome.stop
