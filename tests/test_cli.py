"""Both programs as a user meets them; errors are one line and never a traceback."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

import train
from analysis.__main__ import main as analysis
from config.schema import DataConfig
from gan.__main__ import main as gan
from gan.__main__ import parse_seeds, slerp
from gan.data.dataset import load_dataset
from gan.data.images import tile
from gan.run.folder import RunFolder, read_run
from gan.sampling import open_run, sample

ROOT = Path(__file__).parents[1]


def call(command, *args):
    """Exit code and output of a command in this process."""
    result = CliRunner().invoke(command, [str(arg) for arg in args])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.output


def refused(command, *args):
    """The one line with which a command refuses."""
    code, output = call(command, *args)
    assert code != 0, output
    lines = [line for line in output.splitlines() if not line.startswith("note: ")]
    (line,) = [line for line in lines if line.lower().startswith("error: ")]
    assert lines[-1] == line and "Traceback" not in output
    return line


WITHOUT_TENSORFLOW = """
import sys
from click.testing import CliRunner
import train
from gan.__main__ import main as gan
cases = [
    (train.main, "--help", 0, "--max-minutes"),
    (train.main, "--dry-run --config smoke --upsample resize", 0, "budget: 30 steps"),
    (train.main, "--dry-run --epochs 2", 0, "budget: 7500 steps of 16 images"),
    (train.main, "--upsample nearest", 2, "'resize-nearest'"),
    (train.main, "--steps -5", 1, "Error: --steps: received -5"),
    (train.main, "--set train.epoch=1", 1, "did you mean train.epochs"),
    (train.main, "--config nope", 1, "Error: --config: cannot read 'nope'"),
    (train.main, "--run ../x", 1, "Error: --run: received '../x'"),
    (train.main, "--dataset /no/such/folder", 1, "no such folder or file"),
    (train.main, "--dry-run --dataset ../no/such", 1, "no such folder or file"),
    (gan, "--help", 0, "interpolate"),
    (gan, "--version", 0, "version 0."),
    (train.main, "--version", 0, "version 0."),
    (gan, "sample /no/run", 1, "Error: /no/run is not a run folder"),
    (gan, "video /no/run", 1, "Error: /no/run is not a run folder"),
    (gan, "sample --seeds x /no/run", 1, "Error: --seeds: received 'x'"),
    (gan, "list /no/folder", 1, "Error: /no/folder: no such folder"),
    (gan, "list config", 0, "no runs in config"),
    (gan, "remove --yes config", 1, "Error: config is not a run folder"),
    (train.main, "--resume /no/run", 1, "Error: /no/run: no run folder"),
    (gan, "augment", 1, "Error: received train.augment=none and data.flip=false"),
    (gan, "augment --set data.flip=true --out x.gif", 1, "expected .png"),
    (train.main, "--augment zoom", 2, "'zoom' is not one of 'none', 'colour'"),
]
for command, line, code, text in cases:
    result = CliRunner().invoke(command, line.split())
    assert (result.exit_code, text in result.output) == (code, True), result.output
print(sorted({"tensorflow", "keras"} & set(sys.modules)))
"""


def test_help_plan_and_refusals_do_not_wait_for_tensorflow():
    result = subprocess.run(
        [sys.executable, "-c", WITHOUT_TENSORFLOW],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert (result.stdout, result.stderr) == ("[]\n", "")


def test_a_dry_run_reads_the_pictures_of_a_folder(tmp_path):
    for n in range(3):
        Image.new("RGB", (40, 32), (90 * n, 0, 9)).save(tmp_path / f"{n}.png")
    (tmp_path / "x.png").write_text("no picture")
    code, output = call(train.main, "--dry-run", "--dataset", tmp_path, "--steps", 1)
    text = " ".join(output.split())
    assert code == 0 and "images: 3 images of" in text and "x.png" in text
    assert "budget: 1 step of 16 images" in text


@pytest.mark.reported
def test_a_single_picture_is_trained_on_and_not_observed(tmp_path, recwarn, eagerly):
    noise = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    (tmp_path / "one").mkdir()
    Image.fromarray(noise).save(tmp_path / "one" / "a.png")
    tiny = ("--config", "smoke", "--set", "train.steps_per_call=1", "--steps", 1)
    place = ("--dataset", tmp_path / "one", "--runs-dir", tmp_path, "--run", "r")
    code, output = call(train.main, *tiny, *place)
    assert code == 0 and "1 image -> " in output and "finished: 1 step;" in output
    assert "note: not observed: received 1 image, expected at least 24" in output
    assert output.count("not observed") == 1
    assert "python -m analysis quality" in output
    assert not [w for w in recwarn if "invalid value" in str(w.message)]


@pytest.mark.reported
def test_a_name_in_checkpoints_stands_for_the_folder_of_the_run(
    run, tmp_path, monkeypatch
):
    shutil.copytree(run, tmp_path / "checkpoints" / "mine")
    monkeypatch.chdir(tmp_path)
    code, output = call(gan, "check", "mine")
    assert code == 0 and "sound" in output
    assert call(analysis, "layers", "mine")[0] == 0
    assert "other is not a run folder" in refused(gan, "check", "other")
    (tmp_path / "mine").mkdir()  # what is there comes first
    assert "mine is not a run folder" in refused(gan, "check", "mine")


@pytest.mark.reported
def test_a_dry_run_says_all_and_writes_nothing(tmp_path):
    code, output = call(
        train.main, "--dry-run", "--runs-dir", tmp_path / "r", "--seed", 3
    )
    assert code == 0 and not (tmp_path / "r").exists()
    assert "fashion_mnist-transpose-seed3" in "".join(output.split())
    assert "train.g_learning_rate" in output and "0.0008" in output
    assert "budget: 33750 steps of 16 images" in output  # 9 x 60,000 / 16
    _, limited = call(train.main, "--dry-run", "--dataset", "[/x]", "--max-minutes", 3)
    assert "[/x]" in limited and "at most 3 minutes" in limited
    assert "images: [/x], which is looked up when training starts" in limited
    assert "budget: 9 passes over the images, in steps of 16 images" in limited
    _, emoji = call(train.main, "--dry-run", "--dataset", "emoji")
    assert "budget: 1075 steps of 16 images" in emoji  # 9 x 1911 / 16
    np.save(tmp_path / "own.npy", np.full((400, 48, 48), 255, np.uint8))
    _, own = call(train.main, "--dry-run", "--dataset", tmp_path / "own.npy")
    assert "budget: 225 steps of 16 images" in own  # 9 x 400 / 16


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ("--steps 0", "--steps: received 0, expected at least 1"),
        ("--steps 5 --epochs 1", "expected one of them"),
        ("--epochs nan", "train.epochs: received nan, expected float"),
        ("--epochs 0", "both 0: no budget"),
        ("--epochs 1e300", "train.epochs: received 1e+300, expected at most"),
        ("--max-minutes nan", "--max-minutes: received nan"),
        ("--max-minutes 0", "--max-minutes: received 0"),
        ("--batch-size 0", "train.batch_size: received 0, expected at least 1"),
        ("--seed -1", "run.seed: received -1, expected at least 0"),
        ("--upsample bilinear", "'--upsample': 'bilinear' is not one of 'transpose'"),
        ("--precision half", "'--precision': 'half' is not one of 'float32'"),
        ("--jit --set train.jit=maybe", "train.jit: received 'maybe', expected bool"),
        ("--dataset fashion_mnits", "nearest: fashion_mnist"),
        ("--config smok", "one of: dcgan64, emoji, fashion_mnist, mnist, smoke"),
        ("--set seed=1", "received key 'seed', expected section.key"),
        ("--run a/b", "--run: received 'a/b', expected letters"),
        ("--frobnicate", "No such option"),
    ],
)
def test_bad_flags_name_themselves(args, message):
    assert message in refused(train.main, *args.split())


def test_folders_without_a_readable_image_are_refused(tmp_path):
    (tmp_path / "a").mkdir()
    line = refused(train.main, "--dataset", tmp_path / "a")
    assert f"{tmp_path}/a" in line and "no image" in line.lower()
    (tmp_path / "a" / "torn.png").write_bytes(b"\x89PNG\r\n\x1a\n half")
    line = refused(train.main, "--dataset", tmp_path / "a", "--runs-dir", tmp_path)
    assert "torn.png" in line
    assert not [path for path in tmp_path.iterdir() if path.name != "a"]


@pytest.fixture
def preset(tmp_path, trained):
    """The settings of the tiny run as a preset."""
    config = json.loads((trained / "config.json").read_text())["config"]
    path = tmp_path / "tiny.toml"
    lines = []
    for section, table in config.items():
        lines.append(f"[{section}]")
        lines += [f"{key} = {json.dumps(value)}" for key, value in table.items()]
    path.write_text("\n".join(lines))
    return path


def pixels(path, frame=0):
    with Image.open(path) as picture:
        picture.seek(frame)
        return np.asarray(picture.convert("L"))


def num_frames(path):
    with Image.open(path) as picture:
        return picture.n_frames


def files(directory):
    return {
        path.relative_to(directory): path.read_bytes()
        for path in directory.rglob("*")
        if path.is_file() and "step-" in str(path)
    }


def test_the_same_command_on_a_finished_run_says_so(run, preset):
    before = files(run)
    again = ("--config", preset, "--runs-dir", run.parent, "--run", run.name)
    code, output = call(train.main, *again)
    assert code == 0 and "finished: 12 steps" in output
    assert files(run) == before


def test_a_run_in_use_changed_or_out_of_reach_is_refused(run, preset, monkeypatch):
    again = ("--config", preset, "--runs-dir", run.parent, "--run", run.name)
    before = files(run)
    line = refused(train.main, *again, "--seed", 5, "--set", "train.loss=hinge")
    assert "train.loss: bce -> hinge; run.seed: 0 -> 5" in line and "--run" in line
    line = refused(train.main, *again, "--set", "data.limit=128")
    assert "data.limit: 256 -> 128; the images of the data set have changed" in line
    assert "12 -> 7" in refused(train.main, *again, "--steps", 7)
    with RunFolder(run):
        assert f"in use by process {os.getpid()}" in refused(train.main, *again)
    line = refused(train.main, *again[:2], "--runs-dir", preset)  # below a file
    assert "cannot write to" in line and "--runs-dir" in line
    with monkeypatch.context() as patch:  # root may write everywhere
        patch.setattr(os, "access", lambda *_: False)
        assert "cannot write to" in refused(train.main, *again)
    assert files(run) == before
    (run / "config.json").write_text("{")
    assert "config.json is damaged" in refused(train.main, *again)


def test_a_disk_that_is_full_from_the_start_is_one_line(tmp_path, preset, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("gan.run.folder.write_atomically", full)
    line = refused(train.main, "--config", preset, "--runs-dir", tmp_path / "r")
    assert "No space left on device" in line


def test_a_run_whose_checkpoints_are_all_bad_does_not_start_over(run, preset):
    for path in run.glob("state/*/ckpt.index"):
        path.write_bytes(b"")
    again = ("--config", preset, "--runs-dir", run.parent, "--run", run.name)
    assert "no valid checkpoint is left" in refused(train.main, *again)
    assert "set aside earlier" in refused(train.main, *again)


def test_emoji_train_from_the_command(tmp_path, preset):
    sets = ("--set", "data.limit=64", "--dataset", "emoji", "--run", "emoji")
    args = ("--config", preset, *sets, "--runs-dir", tmp_path, "--no-observe")
    code, output = call(train.main, *args, "--steps", 2)
    assert code == 0 and "finished: 2 steps" in output
    assert "note: 1875 skin-tone variants" in output and "are few" not in output
    record, data = read_run(tmp_path / "emoji"), DataConfig("emoji", limit=64)
    assert record.dataset["name"] == "emoji"
    assert record.dataset["digest"] == load_dataset(data).digest
    assert sample(open_run(tmp_path / "emoji").generator, [0]).shape == (1, 64, 64, 3)


def test_a_budget_in_passes_over_few_images_gets_advice(tmp_path, monkeypatch):
    def stop(*_):
        raise OSError("stopped before the training")

    monkeypatch.setattr("gan.devices.make_strategy", stop)
    image = np.zeros((28, 28), np.uint8)
    np.save(tmp_path / "few.npy", np.stack([image, image, image + 255]))
    _, output = call(train.main, "--dataset", tmp_path / "few.npy", "--epochs", 32)
    (note,) = [line for line in output.splitlines() if line.startswith("note: ")]
    assert "3 images (1 of them" in note and "32 passes are only 6 steps" in note
    assert "--steps" in note
    # A budget in steps, or more images, get none.
    _, output = call(train.main, "--dataset", tmp_path / "few.npy", "--steps", 9)
    assert "stopped" in output and "are few" not in output
    _, output = call(train.main, "--set", "data.limit=10000")
    assert "stopped" in output and "are few" not in output


@pytest.mark.slow  # .ci/run does these two runs
@pytest.mark.parametrize("upsample", ["transpose", "resize"])
def test_the_smoke_preset_leaves_everything_behind(tmp_path, upsample):
    args = ("--config", "config/smoke.toml", "--upsample", upsample)
    code, output = call(train.main, *args, "--runs-dir", tmp_path)
    assert code == 0 and "finished: 30 steps" in output
    (directory,) = tmp_path.iterdir()
    full = {"resize": "resize-nearest"}.get(upsample, upsample)
    assert directory.name == f"fashion_mnist-{full}-seed0-smoke"
    assert (directory / "state" / "step-00000030" / "manifest.json").exists()
    assert (directory / "generator.keras").stat().st_size > 100_000
    assert list(directory.glob("events.out.tfevents.*"))
    for step in (0, 15, 30):
        grid = pixels(directory / "samples" / f"step-{step:08d}.png")
        assert grid.shape == (115, 115)  # 4 x 28 and three gaps
    lines = (directory / "log.jsonl").read_text().splitlines()
    assert json.loads(lines[-1])["step"] == 30
    facts = read_run(directory)
    assert facts.config.model.upsample == full
    assert facts.dataset["num_images"] == 60_000


def test_sample_writes_a_grid_an_archive_or_single_pictures(trained, tmp_path):
    expected = sample(open_run(trained).generator, [3, 5, 6])
    args = ("sample", trained, "--seeds", "3,5-6", "--out")
    code, output = call(gan, *args, tmp_path / "new" / "g.png")
    assert code == 0 and "3 images of step 12" in output
    large = np.kron(tile(expected)[..., 0], np.ones((6, 6), np.uint8))
    np.testing.assert_array_equal(pixels(tmp_path / "new" / "g.png"), large)
    assert call(gan, *args, tmp_path / "one.png", "--scale", 1)[0] == 0
    np.testing.assert_array_equal(pixels(tmp_path / "one.png"), large[::6, ::6])
    assert call(gan, *args, tmp_path / "s.npz")[0] == 0
    with np.load(tmp_path / "s.npz", allow_pickle=False) as stored:
        np.testing.assert_array_equal(stored["images"], expected)
        assert stored["seeds"].tolist() == [3, 5, 6] and stored["step"] == 12
    for _ in range(2):  # a second time over the first
        assert call(gan, *args, tmp_path / "folder")[0] == 0
    names = sorted(path.name for path in (tmp_path / "folder").iterdir())
    assert names == [f"seed-{seed:08d}.png" for seed in (3, 5, 6)]
    one = pixels(tmp_path / "folder" / names[1])
    np.testing.assert_array_equal(one, expected[1, ..., 0])
    code, output = call(gan, "sample", trained, "--n", 70, "--checkpoint", 5,
                        "--out", tmp_path / "n.npz")  # fmt: skip
    assert code == 0 and "70 images of step 5" in output


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ("sample RUN --checkpoint 7", "no usable checkpoint '7' (kept: 12, 10, 5)"),
        ("sample RUN --seeds 5-3", "--seeds: received '5-3'"),
        ("sample RUN --seeds 1 --n 2", "expected one of them"),
        ("sample RUN --n 0", "0 is not in the range"),
        ("sample RUN --scale 2 --out x.npz", "--scale: received with --out x.npz"),
        ("sample RUN --scale 0", "0 is not in the range"),
        ("sample RUN --out FILE/x/y.png", "Not a directory"),
        ("sample RUN --out FILE", "File exists"),
        ("interpolate RUN --seeds 4", "expected at least two"),
        ("sample RUN --out x.jpg", "expected .png or .npz or a folder (no suffix)"),
        ("interpolate RUN --out x.mp4", "expected .png or .gif or .webp"),
        ("video RUN --out x.mp4", "expected .gif or .webp"),
        ("export RUN --out x.h5", ".tflite or the folder of a SavedModel (no suffix)"),
    ],
)
def test_bad_requests_are_one_line(trained, tmp_path, args, message):
    (tmp_path / "file").write_text("")
    named = args.replace("RUN", str(trained)).replace("FILE", str(tmp_path / "file"))
    assert message in refused(gan, *named.split())


def test_interpolation_passes_through_its_stations(trained, tmp_path):
    ends = sample(open_run(trained).generator, [1, 2, 3])
    args = ("interpolate", trained, "--seeds", "1-3", "--frames", 5, "--out")
    assert call(gan, *args, tmp_path / "i.png", "--scale", 1)[0] == 0
    grid = pixels(tmp_path / "i.png")
    assert grid.shape == (2 * 29 - 1, 5 * 29 - 1)
    for row, column, end in ((0, 0, 0), (0, 4, 1), (1, 0, 1), (1, 4, 2)):
        y, x = 29 * row, 29 * column
        seen = grid[y : y + 28, x : x + 28].astype(int)
        assert np.abs(seen - ends[end, ..., 0]).max() <= 1
    for name in ("i.gif", "i.webp"):
        assert call(gan, *args, tmp_path / name)[0] == 0
        assert num_frames(tmp_path / name) >= 9  # GIF stores a repeated frame once
        assert pixels(tmp_path / name).shape == (280, 280)  # 10 times as large


def test_interpolation_keeps_to_the_arc():
    start, end = np.array([2.0, 0.0]), np.array([0.0, 2.0])
    half = np.sqrt(0.5)
    expected = 2 * np.array([[1, 0], [half, half], [0, 1]])
    np.testing.assert_allclose(slerp(start, end, 3), expected, atol=1e-6)
    np.testing.assert_allclose(slerp(start, start, 3), [start] * 3, atol=1e-6)
    assert slerp(start, end, 3).dtype == np.float32


def test_a_video_shows_the_grids_of_this_run_in_order_with_their_steps(run, tmp_path):
    (run / "samples" / "aaa.png").write_bytes(b"not one of its grids")
    args = "video", run, "--fps", 2, "--out"
    code, output = call(gan, *args, tmp_path / "v.webp")
    assert code == 0 and "3 grids" in output
    assert num_frames(tmp_path / "v.webp") == 3
    labels = []
    for frame, step in enumerate((0, 6, 12)):
        grid = pixels(run / "samples" / f"step-{step:08d}.png")
        shown = pixels(tmp_path / "v.webp", frame)
        side = 6 * len(grid)  # of 3 x 3 images of 28 px with gaps
        np.testing.assert_array_equal(shown[3:side:6, 3::6], grid)
        labels.append(shown[side:].tobytes())
        assert shown.shape == (side + 20, side) and shown[side:].max() > 200
    assert len(set(labels)) == 3
    assert call(gan, *args, tmp_path / "v.gif", "--scale", 4)[0] == 0
    durations = []
    with Image.open(tmp_path / "v.gif") as picture:
        assert picture.info["loop"] == 0 and picture.size == (4 * 86, 4 * 86 + 20)
        for frame in range(3):
            picture.seek(frame)
            durations.append(picture.info["duration"])
    assert durations == [500, 500, 2000]
    for path in (run / "samples").iterdir():
        path.unlink()
    assert "holds no grid yet" in refused(gan, "video", run)


def test_a_grid_that_is_damaged_or_a_bomb_is_one_line(run, tmp_path):
    grid = run / "samples" / "step-00000012.png"
    whole = bytearray(grid.read_bytes())
    whole[60] ^= 4
    large = Image.new("1", (10_000, 10_000))
    for damage in (lambda: grid.write_bytes(whole), lambda: large.save(grid)):
        damage()
        line = refused(gan, "video", run, "--out", tmp_path / "v.gif")
        assert f"{grid}: cannot be read (" in line
    assert not (tmp_path / "v.gif").exists()


def test_export_compares_after_a_reload(trained, tmp_path):
    code, output = call(gan, "export", trained, "--out", tmp_path / "new" / "g.keras")
    assert code == 0 and "at most 0 grey levels" in output
    assert "images = generator(" in output and "in [-1, 1]" in output
    assert (tmp_path / "new" / "g.keras").exists()


@pytest.mark.parametrize(
    ("text", "seeds"), [("0-3", [0, 1, 2, 3]), ("7", [7]), ("3, 5,8-9", [3, 5, 8, 9])]
)
def test_seeds_are_written_as_ranges(text, seeds):
    assert parse_seeds(text) == seeds


@pytest.mark.parametrize(
    "text", ["", "-1", "1-", "a", "1..3", "3-1", "0-99999999", "1e3"]
)
def test_other_texts_are_no_seeds(text):
    with pytest.raises(ValueError, match="--seeds: received"):
        parse_seeds(text)
