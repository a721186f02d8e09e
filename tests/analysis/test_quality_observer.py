"""Quality while training: calibrated on real images, blind to none of the collapses."""

import json

import numpy as np
import pytest
import tensorflow as tf

from analysis.observers import SpectrumObserver
from analysis.quality.reference import real_images
from analysis.quality_observer import LOGGED, QualityObserver
from config.schema import DataConfig
from gan.data.dataset import latents_from_seeds, load_dataset
from gan.evaluation import Observation
from gan.run import checkpoint
from gan.run.environment import prepare_tensorflow
from gan.run.folder import RunFolder
from gan.sampling import open_run, renderer
from gan.state import build_state
from gan.training import train

prepare_tensorflow()


@pytest.fixture(scope="module")
def observer():
    return QualityObserver(DataConfig(), num_images=500, first_step=100)


@pytest.fixture(scope="module")
def real():
    """Test images and their labels."""
    _, test = real_images(DataConfig())
    return test.images_uint8, test.labels


def see(observer, images, step=100):
    """Scalars by short name, floors apart; and the observation."""
    seen = observer.observe(step, images, None)
    names = {metric: observer.name(metric) for metric in LOGGED}
    values = {metric: seen.scalars[name] for metric, name in names.items()}
    floors = {m: seen.scalars[f"{name}-floor"] for m, name in names.items()}
    return values, floors, seen


def test_names_tell_number_ruler_and_reference(observer):
    assert observer.num_images == 500
    name = observer.name("fcd")
    assert name == f"fcd_n500/{observer.extractor.id}-validation"
    assert observer.extractor.id.startswith("fmnist-v1-")


def test_unseen_images_score_near_the_floor_and_raise_nothing(observer, real):
    values, floors, seen = see(observer, real[0][:500])
    assert seen.alarm == "" and seen.score == observer.name("fcd")
    assert values["fcd"] == pytest.approx(floors["fcd"], rel=0.3)
    assert values["coverage"] == pytest.approx(floors["coverage"], abs=0.05)
    assert values["diversity"] == pytest.approx(1, abs=0.05)
    assert values["num_classes"] == floors["num_classes"] == 10
    assert floors["class_tv"] < 0.15 and floors["duplicates"] == 0


def test_every_kind_of_collapse_is_named(observer, real):
    images, labels = real
    some = images[labels >= 7][:500]
    assert see(observer, some)[2].alarm == "3 of 10 classes are left"
    assert see(observer, images[labels < 7][:500])[2].alarm == ""

    few = np.tile(images[:10], (50, 1, 1, 1))
    assert "100% of samples are near copies" in see(observer, few)[2].alarm
    some = np.concatenate([images[:400], np.tile(images[400:410], (10, 1, 1, 1))])
    assert see(observer, some)[2].alarm == "20% of samples are near copies"

    shirts = images[labels == 1][:1]
    rng = np.random.default_rng(0)
    noisy = np.clip(shirts + rng.normal(0, 9, (500, 28, 28, 1)), 0, 255)
    assert "diversity is 0." in see(observer, noisy.astype(np.uint8))[2].alarm


def test_at_first_every_generator_looks_collapsed(observer, real):
    few = np.tile(real[0][:10], (50, 1, 1, 1))
    assert see(observer, few, step=99)[2].alarm == ""
    assert see(observer, few, step=100)[2].alarm != ""


def test_too_few_images_are_said_to_be_too_few(tmp_path, real):
    np.savez(tmp_path / "few.npz", images=real[0][:50])
    with pytest.raises(ValueError, match="quality: received 41 training and 9 test"):
        QualityObserver(DataConfig(str(tmp_path / "few.npz")))


def test_images_without_a_trained_net_get_fixed_random_features(tmp_path, real):
    np.savez(tmp_path / "own.npz", images=real[0][:2000])
    observer = QualityObserver(DataConfig(str(tmp_path / "own.npz")))
    assert observer.name("fcd").startswith("fcd_n334/random-v1-")
    seen = observer.observe(5000, real[0][5000:5334], None)
    assert seen.alarm == "" and observer.name("num_classes") not in seen.scalars
    few = np.resize(real[0][:10], (334, 28, 28, 1))
    assert "near copies" in observer.observe(5000, few, None).alarm


@pytest.fixture(scope="module")
def observed(tiny, images, tmp_path_factory, observer):
    """Digest and folder of a run with all observers, and the digest without any."""
    digests, directories = [], []
    spectrum = SpectrumObserver(images.images_uint8, num_images=100)
    for observers in ([spectrum, observer], []):
        directory = tmp_path_factory.mktemp("runs") / "run"
        with RunFolder(directory) as folder:
            train(tiny(), images, folder, make_observers=observers.copy)
        state = build_state(tiny(), 28, 1)
        checkpoint.restore_newest(directory / "state", state.checkpoint)
        digests.append(state.digest())
        directories.append(directory)
    return digests, directories[0]


def test_looking_changes_nothing(observed):
    digests, _ = observed
    assert digests[0] == digests[1]


def test_the_log_has_scores_floors_and_the_gap(observed, observer):
    text = (observed[1] / "log.jsonl").read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    for name in (observer.name("fcd"), observer.name("fcd") + "-floor"):
        assert [line["step"] for line in lines if name in line] == [0, 6, 12]
    gaps = [line for line in lines if "gap/batch_vs_moving" in line]
    assert [line["step"] for line in gaps] == [0, 6, 12]
    # Before the first step the average is the generator.
    assert gaps[0]["gap/raw_vs_ema"] == 0 < gaps[-1]["gap/raw_vs_ema"]
    # Moving statistics start at mean 0 and variance 1, far from those of a batch.
    assert gaps[0]["gap/batch_vs_moving"] > 0


def test_the_best_checkpoint_is_the_one_with_the_lowest_score(observed, observer):
    _, directory = observed
    text = (directory / "log.jsonl").read_text()
    scores = {
        line["step"]: line[observer.name("fcd")]
        for line in map(json.loads, text.splitlines())
        if observer.name("fcd") in line and line["step"]
    }
    best = open_run(directory, "best")
    assert best.step == min(scores, key=scores.get)
    latents = latents_from_seeds(range(500), best.config.model.latent_dim)
    values, _, _ = see(observer, renderer(best.generator)(latents))
    assert values["fcd"] == pytest.approx(scores[best.step], abs=1e-5)


class Scored:
    """Gives each evaluation a score of its own choice."""

    num_images = 1

    def __init__(self, scores, name="score"):
        self.scores, self.name = scores, name

    def observe(self, step, images_uint8, state):
        value = self.scores.get(step, 9.0)
        return Observation({self.name: value}, score=self.name)


@pytest.fixture
def eagerly():
    """Steps without compilation: a few of them cost less than one trace."""
    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)


def test_a_resumed_run_remembers_the_best(tiny, images, tmp_path, eagerly):
    """Kept: the lowest, the earlier of two; not a NaN, nor a value of another ruler."""

    def kept(num_steps, scores, name="score"):
        config = tiny({"train.num_steps": num_steps, "run.evaluate_every_steps": 1})
        with RunFolder(tmp_path) as folder:
            train(config, images, folder, make_observers=lambda: [Scored(scores, name)])
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
