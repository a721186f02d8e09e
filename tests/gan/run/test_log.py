import errno
import io
import json
import math
import shutil
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from rich.console import Console
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.plugin_event_accumulator import (
    EventAccumulator as TensorBoardReader,
)
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from config.loader import to_dict
from config.schema import Config
from gan.run.folder import RunFolder, read_run
from gan.run.log import RunLog, describe, tensorboard_tag
from gan.step import METRICS
from gan.training import train

VALUES = dict.fromkeys(METRICS, 0.5) | {
    "speed/images_per_second": 100.0,
    "speed/seconds_per_step": 0.64,
}


@pytest.fixture
def log(tmp_path):
    (tmp_path / "samples").mkdir()
    return RunLog(tmp_path, 100, Console(file=io.StringIO(), width=200))


def said(log):
    return log.console.file.getvalue()


def lines(directory):
    text = (directory / "log.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


def events(directory):
    found = EventAccumulator(str(directory), size_guidance={"tensors": 0})
    found.Reload()
    return found


def pixels(path):
    with Image.open(path) as picture:
        return np.asarray(picture)


def tensors(found, tag):
    return [(e.step, tf.make_ndarray(e.tensor_proto)) for e in found.Tensors(tag)]


def test_scalars_are_the_same_in_both_logs(trained):
    stored, found = lines(trained), events(trained)
    losses = [line for line in stored if "loss/g" in line]
    assert [line["step"] for line in losses] == list(range(1, 13))
    assert set(METRICS) < set(losses[0])
    for name in ("loss/g", "loss/d", "grad_norm/d", "d/prob_real", "lr/g"):
        shown = tensors(found, tensorboard_tag(name))
        assert [step for step, _ in shown] == list(range(1, 13))
        for line, (_, value) in zip(losses, shown, strict=True):
            assert line[name] == pytest.approx(float(value), abs=1e-6)
    # The rates fall in the second half: 2e-4 x 1/6 at the last step.
    assert losses[-1]["lr/g"] == pytest.approx(2e-4 / 6, abs=1e-7)
    assert losses[5]["loss/d"] == pytest.approx(
        losses[5]["loss/d_real"] + losses[5]["loss/d_fake"], abs=1e-6
    )


def test_times_are_kept_apart(trained):
    last = [line for line in lines(trained) if "loss/g" in line][-1]
    kinds = {"compile", "input", "step", "evaluate", "checkpoint", "log"}
    assert {f"time/{kind}_seconds" for kind in kinds} < set(last)
    seconds = last["speed/seconds_per_step"]
    assert last["speed/images_per_second"] == pytest.approx(8 / seconds, rel=1e-3)
    assert seconds < last["time/compile_seconds"]
    assert 100 < last["memory/peak_mib"] < 100_000


def test_tensorboard_shows_grids_settings_layers_and_reference_lines(trained):
    found = events(trained)
    assert {float(v) for _, v in tensors(found, "1 loss/reference_ln2")} == {
        np.float32(math.log(2))
    }
    assert float(tensors(found, "1 loss/reference_2ln2")[0][1]) == (
        np.float32(2 * math.log(2))
    )
    for name in ("2 samples/ema", "2 samples/raw"):
        pictures = tensors(found, name)
        assert [step for step, _ in pictures] == [0, 6, 12]
        width, height, png = pictures[-1][1]
        assert (int(width), int(height)) == (86, 86)  # 3 x 28 and two gaps
    np.testing.assert_array_equal(
        tf.io.decode_png(tensors(found, "2 samples/ema")[-1][1][2])[..., 0],
        pixels(trained / "samples" / "step-00000012.png"),
    )
    text = tensors(found, "config")[0][1].item().decode()
    assert "|train.batch_size|8|" in text
    assert "stage2_upsample" in tensors(found, "layers")[0][1].item().decode()
    plugins = {
        tag: found.SummaryMetadata(tag).plugin_data.plugin_name
        for tag in found.Tags()["tensors"]
    }
    assert "hparams" in plugins.values() and "custom_scalars" in plugins.values()
    assert "ln 2 = 0.693" in found.SummaryMetadata("1 loss/g").summary_description
    scalars = [tag for tag, plugin in plugins.items() if plugin == "scalars"]
    assert len(scalars) > 20
    for tag in scalars:
        assert found.SummaryMetadata(tag).summary_description, tag


@pytest.mark.parametrize(
    ("name", "tag"),
    [
        ("fcd1k/fmnist-v1-0260e8a0-validation", "4 quality/fcd"),
        ("fcd1k/fmnist-v1-0260e8a0-validation-floor", "4 quality/fcd floor"),
        ("class_tv_n955/x-validation", "4 quality/class_tv"),
        ("num_classes/x-validation", "4 quality/num_classes"),
        ("swd_n955/16px-validation-floor", "4 quality/swd 16px floor"),
        ("swd1k/mean-validation", "4 quality/swd mean"),
        ("copies/coarse", "4 copies/coarse"),
        ("time/step_seconds", "9 time/step_seconds"),
        ("stage2_upsample/kernel", "stage2_upsample/kernel"),
    ],
)
def test_what_people_look_at_first_is_first(name, tag):
    assert tensorboard_tag(name) == tag
    if tag[0] == "4":
        assert name in describe(name) or name == "copies/coarse"


def test_histograms_only_on_request(trained, log):
    assert not any("kernel" in tag for tag in events(trained).Tags()["tensors"])
    variable = keras.Variable([1.0, 2.0], name="kernel")
    with log:
        log.histograms(3, [variable])
    assert variable.path in events(log.directory).Tags()["tensors"]


@pytest.mark.parametrize(("step", "kept"), [(-1, []), (4, [2, 4]), (9, [2, 4, 6])])
def test_lines_of_steps_that_are_done_again_are_dropped(log, step, kept):
    path = log.directory / "log.jsonl"
    text = "".join(json.dumps({"step": s, "v": 1}) + "\n" for s in (2, 4, 6))
    path.write_text(text + 'null\n[]\n{"no": 1}\n{"step": 8, "v"')
    with log:
        log.begin(step, to_dict(Config()), "layers")
        assert [line["step"] for line in lines(log.directory)] == kept
        log.scalars(10, {"v": 2.0})
    assert lines(log.directory)[-1] == {"step": 10, "v": 2.0}


def test_infinity_is_null_since_json_has_no_word_for_it(log):
    """As the gradient norm of a float16 step that loss scaling skipped."""

    def refuse(constant):
        raise ValueError(constant)

    with log:
        log.scalars(1, {"grad_norm/g": np.inf, "loss/g": 0.5, "grad_norm/d": np.nan})
    text = (log.directory / "log.jsonl").read_text()
    line = json.loads(text, parse_constant=refuse)
    assert line == {"step": 1, "grad_norm/g": None, "loss/g": 0.5, "grad_norm/d": None}
    assert tensors(events(log.directory), "7 grad_norm/g") == [(1, np.inf)]


def test_a_log_full_of_garbage_does_not_stop_a_run(log):
    (log.directory / "log.jsonl").write_bytes(
        b"\xff\xfe\x00\n" + b"[" * 100_000 + b'\n{"step": 1}\n'
    )
    with log:
        log.begin(5, to_dict(Config()), "layers")
    assert lines(log.directory) == [{"step": 1}]


def test_a_full_disk_costs_lines_and_one_warning_each(log, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    opened = Path.open
    monkeypatch.setattr(
        Path,
        "open",
        lambda path, *a, **k: (
            full() if path.name == "log.jsonl" else opened(path, *a, **k)
        ),
    )
    monkeypatch.setattr("gan.run.log.write_atomically", full)
    with log:
        log.begin(0, to_dict(Config()), "layers")
        for step in (1, 2, 3):
            log.losses(step, VALUES)
            log.grid(step, np.zeros((4, 4, 1), np.uint8))
    text = said(log)
    assert text.count("warning: log.jsonl cannot be written (") == 1
    assert text.count("warning: sample grids cannot be written (") == 1
    assert "No space left on device); training goes on" in text
    assert "TensorBoard" not in text  # that one still worked
    assert len(tensors(events(log.directory), "1 loss/g")) == 3


def test_a_disk_that_refuses_tensorboard_is_one_warning(log, monkeypatch):
    def full(*_, **__):
        raise tf.errors.ResourceExhaustedError(None, None, "No space left\nat x.cc:1")

    with log:
        for name in ("scalar", "image", "text", "histogram"):
            monkeypatch.setattr(tf.summary, name, full)
        log.begin(0, to_dict(Config()), "layers")
        log.losses(1, VALUES)
        log.picture(1, "p", np.zeros((4, 4, 1), np.uint8))
        log.losses(2, VALUES)
    assert said(log).count("warning: ") == 1
    assert "TensorBoard cannot be written (No space left); training" in said(log)
    assert [line["step"] for line in lines(log.directory)] == [1, 2]


def anonymous_kib():
    """Memory of this process that no file backs."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux only")
def test_a_long_log_takes_no_memory(log):
    """Python numbers given to TensorFlow would stay: 2 MiB for these lines."""
    with log:
        for step in range(220):
            if step == 100:
                before = anonymous_kib()
            log.scalars(step, {f"s{k}": step + k / 32 for k in range(24)})
        assert anonymous_kib() - before < 1_000


def test_tensorboard_that_cannot_even_start_is_one_warning(log, monkeypatch):
    def full(*_, **__):
        raise tf.errors.PermissionDeniedError(None, None, "read-only")

    monkeypatch.setattr(tf.summary, "create_file_writer", full)
    with log:
        log.begin(0, to_dict(Config()), "layers")
        log.losses(1, VALUES)
    assert said(log).count("warning: TensorBoard cannot be written (read-only)") == 1
    assert lines(log.directory)[0]["loss/g"] == 0.5


def test_without_a_terminal_a_line_appears_every_few_seconds(log, monkeypatch):
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    with log:
        for step, now[0] in ((1, 0.0), (2, 9.9), (3, 10.0), (4, 12.0), (100, 12.1)):
            log.progress(step, VALUES)
    shown = said(log).splitlines()
    assert [line.split()[1] for line in shown] == ["1/100", "3/100", "100/100"]
    assert "loss d 0.500 g 0.500  D(x) 0.50 D(G(z)) 0.50  100 images/s" in shown[0]
    assert "1.1 min left" in shown[0]  # 99 steps of 0.64 s


def test_messages_are_not_read_as_markup(log):
    log.say("[red]/a[b]/c[/x]")
    assert said(log) == "[red]/a[b]/c[/x]\n"


def test_colour_grids_are_stored_as_such(log):
    grid = np.arange(4 * 5 * 3, dtype=np.uint8).reshape(4, 5, 3)
    with log:
        log.grid(7, grid)
    path = log.directory / "samples" / "step-00000007.png"
    np.testing.assert_array_equal(pixels(path), grid)


@pytest.mark.reported
def test_tensorboard_shows_steps_that_are_done_again_once(run, images, monkeypatch):
    """As after a kill at step 12: it goes on after step 10 and logs 11 and 12 again."""

    def again(step):
        shutil.rmtree(run / "state" / f"step-{step:08d}")
        with RunFolder(run) as folder:
            train(read_run(run).config, images, folder)
        found = TensorBoardReader(str(run), tensor_size_guidance={"scalars": 0})
        found.Reload()
        return [[event.step for event in found.Tensors(tag)] for tag in tags]

    tags = "1 loss/g", "2 samples/ema", "config"
    assert again(12) == [[*range(1, 13)], [0, 6, 12], [-1, 10]]
    # The negative control: without the event that starts a session.
    monkeypatch.setattr(RunLog, "_start_session", lambda *_: None)
    assert again(12)[:2] == [[*range(1, 13), 11, 12], [0, 6, 12, 12]]


def test_the_trial_in_tensorboard_has_the_name_of_the_folder(trained):
    found = events(trained)
    data = found.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    assert HParamsPluginData.FromString(data).session_start_info.group_name == "tiny"


def test_runs_are_compared_by_their_quality(trained):
    found = events(trained)
    data = found.SummaryMetadata("_hparams_/experiment").plugin_data.content
    experiment = HParamsPluginData.FromString(data).experiment
    assert experiment.metric_infos[0].name.tag == "4 quality/fcd"
    assert "train.batch_size" in {info.name for info in experiment.hparam_infos}
