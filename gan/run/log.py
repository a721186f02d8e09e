"""Reports of a run: TensorBoard events, log.jsonl, sample grids and the terminal."""

import json
import math
import re
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Column
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.custom_scalar import summary as custom_scalar
from tensorboard.plugins.hparams import api as hparams

from gan.data.images import to_picture
from gan.files import first_line, write_atomically
from gan.run.health import ADVICE, Status

PLAIN_LINE_SECONDS = 10.0  # between two lines where there is no terminal
# The losses with bce if the discriminator cannot tell real from generated images.
REFERENCES = {"loss/reference_ln2": math.log(2), "loss/reference_2ln2": 2 * math.log(2)}
# What TensorBoard says of a scalar: by its name in log.jsonl, else by the metric of a
# quality score, else by the part of the name before "/".
DESCRIPTIONS = {
    "loss/g": "Generator loss. With bce, ln 2 = 0.693 is where D says 1/2 everywhere.",
    "loss/d": "Discriminator loss, real + generated. With bce, 2 ln 2 = 1.386 is where "
    "D says 1/2 everywhere; far below, D wins.",
    "loss/d_real": "Part of the discriminator loss that comes from real images.",
    "loss/d_fake": "Part of the discriminator loss that comes from generated images.",
    "loss": "A loss with bce if the discriminator cannot tell real from generated.",
    "d/prob_real": "Mean D(x), the probability D gives to real images.",
    "d/prob_fake": "Mean D(G(z)), the probability D gives to generated images.",
    "fcd": "Fréchet distance of features; lower is better, the floor is real images.",
    "kcd": "Kernel distance of features; lower is better, the floor is real images.",
    "density": "How densely samples lie among real images; real images: about 1.",
    "coverage": "Fraction of real images with a sample nearby; higher is better.",
    "diversity": "Distance between samples, divided by that of real images.",
    "duplicates": "Fraction of samples that nearly equal another sample.",
    "class_tv": "Difference of the mixtures of classes: 0 equal, 1 disjoint.",
    "num_classes": "Number of classes that the samples have.",
    "swd": "Distance of patches at one level of the pyramid; lower is better.",
    "copies": "Median distance of samples to their nearest training images, at 14 to "
    "27 px, divided by that of new real images. Healthy: about 1 or more; below 0.7, "
    "samples may be memorised; 0: copies.",
    "imaging_gain_db": "What an upsampling leaves of low frequencies, in dB of their "
    "size; stage 1 is the last one. Real images lie between real_low and real_high.",
    "fixed_pattern_levels": "Pattern of an upsampling that is the same in every "
    "sample, in grey levels; stage 1 is the last one. Real images lie between real_low "
    "and real_high.",
    "eta": "Imbalance of the phases of a kernel; balanced: 0.",
    "gap/batch_vs_moving": "Mean difference in grey levels between samples normalised "
    "by the statistics of their batch and by the moving statistics.",
    "gap/raw_vs_ema": "Mean difference in grey levels between samples of the current "
    "and of the averaged generator.",
    "grad_norm": "Norm of all gradients of a network.",
    "lr": "Learning rate.",
    "alarm": "0 ok, 1 collapsing, 2 G-wins, 3 D-wins, 4 diverged.",
    "speed": "Mean over the steps since the last value, without compilation.",
    "time": "Seconds since the start of this process, by kind of work.",
    "memory": "Peak memory of the GPU, or of this process without one.",
}
# TensorBoard sorts groups of charts by name. A number before the name puts first what
# people look at first.
RANKS = {
    **{"loss": 1, "samples": 2, "d": 3, "quality": 4, "copies": 4},
    **{"imaging_gain_db": 5, "fixed_pattern_levels": 5, "eta": 6, "gap": 6},
    **{"grad_norm": 7, "lr": 7, "alarm": 8, "speed": 9, "time": 9, "memory": 9},
}
# What the HParams page compares runs by, and the headings there.
COMPARED = {
    "quality/fcd": "FCD",
    "quality/coverage": "coverage",
    "quality/swd mean": "SWD",
    "copies/coarse": "copies",
}
SCORE = re.compile(r"([a-z_]+?)(?:_n\d+|\d+k)?/(.+)-validation(-floor)?")
# Titles of the charts of scalars, by the tags in it, which are regular expressions.
CHARTS = {
    "1.loss/[gd]$ 1.loss/reference_.*": "losses; 0.693 and 1.386: D cannot tell real "
    "from generated (bce)",
    "4.quality/fcd.*": "distance of the samples; floor: real images",
    "4.quality/swd.mean.*": "distance of patches x 1000, mean over levels; floor: real "
    "images",
    "4.copies/.*": "distance to training images; new images: 1; memorised: below 0.7",
    "4.quality/coverage.*": "fraction of real images with a sample nearby; floor: real "
    "images",
    "5.imaging_gain_db/.*": "checkerboard: imaging gain in dB, with the band of real "
    "images",
    "5.fixed_pattern_levels/.*": "checkerboard: fixed pattern in levels, with the band "
    "of real images",
}


class RunLog:
    """Writes the reports of a run; a full disk costs entries, never the training."""

    def __init__(
        self, directory: Path, num_steps: int, console: Console | None = None
    ) -> None:
        self.directory, self.num_steps = directory, num_steps
        self.console = console = console or Console(quiet=True)
        self._failed: set[str] = set()
        self._last_line = -math.inf
        self._alarm = "ok"
        self._grid_is_announced = False
        # On a narrow terminal the end of the description is cut off.
        whole = Column(no_wrap=True)
        rest = Column(no_wrap=True, overflow="ellipsis", ratio=1)
        self._progress = Progress(
            TextColumn("step {task.completed}/{task.total}", table_column=whole),
            BarColumn(bar_width=8),
            TimeRemainingColumn(compact=True, table_column=whole),
            TextColumn("{task.description}", table_column=rest),
            console=console,
            expand=True,
            disable=not console.is_terminal,
        )
        self._task = self._progress.add_task("starting", total=num_steps)

    def __enter__(self) -> "RunLog":
        self._writer = tf.summary.create_noop_writer()
        self._guard("TensorBoard", self._open)
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()
        self._guard("TensorBoard", self._writer.close)

    def say(self, text: str) -> None:
        """Shows one message above the progress display."""
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def begin(self, step: int, settings: dict[str, dict[str, Any]], text: str) -> None:
        """Logs settings and layers; removes lines of steps that are done again."""
        self._guard("log.jsonl", lambda: self._truncate(step))
        self._guard("TensorBoard", lambda: self._start_session(step + 1))
        self._progress.update(self._task, completed=max(step, 0))

        def write() -> None:
            pairs = [(f"{s}.{k}", v) for s, t in settings.items() for k, v in t.items()]
            lines = ["|setting|value|", "|---|---|", *(f"|{k}|{v}|" for k, v in pairs)]
            tf.summary.text("config", "\n".join(lines))
            tf.summary.text("layers", f"```\n{text}\n```")
            # HParams takes single values only.
            single = {k: str(v) if isinstance(v, tuple) else v for k, v in pairs}
            hparams.hparams_config(
                hparams=[hparams.HParam(key) for key in single],
                metrics=[
                    hparams.Metric(tensorboard_tag(name), display_name=heading)
                    for name, heading in COMPARED.items()
                ],
            )
            hparams.hparams(single, trial_id=self.directory.name)
            charts = custom_scalar.pb(chart_layout()).SerializeToString()
            tf.summary.experimental.write_raw_pb(charts, step=0)

        self._events(step, write)

    def scalars(self, step: int, values: dict[str, float]) -> None:
        """Writes named scalars to log.jsonl and TensorBoard."""
        # JSON has no infinity, which is the gradient norm of a skipped float16 step.
        line = {k: round(v, 7) if math.isfinite(v) else None for k, v in values.items()}
        self._line({"step": step, **line})
        self._events(step, lambda: write_scalars(values))

    def losses(self, step: int, values: dict[str, float]) -> None:
        """Writes the metrics of the step, with the reference lines of the losses."""
        self.scalars(step, values)
        self._events(step, lambda: write_scalars(REFERENCES))

    def status(self, step: int, status: Status, say: bool = True) -> None:
        """Records the state of the run whenever it changes."""
        if status.state == self._alarm:
            return
        self._alarm = status.state
        text = f"{status.state}: {status.reason}".removesuffix(": ")
        if say:
            self.say(f"alarm at step {step}: {text}")
        if say and status.state in ADVICE:
            self.say(f"what to do: {ADVICE[status.state]}; see docs/normal.md")
        self._line({"step": step, "alarm": text})
        self._events(step, lambda: tf.summary.text("alarm", text))

    def picture(self, step: int, name: str, image: np.ndarray) -> None:
        """Writes a picture, uint8 (height, width, channels), to TensorBoard."""
        tag = tensorboard_tag(name)
        self._events(step, lambda: tf.summary.image(tag, image[None]))

    def grid(self, step: int, image: np.ndarray) -> None:
        """Stores the sample grid of `step` as a file and in TensorBoard."""
        path = self.directory / "samples" / f"step-{step:08d}.png"
        save = to_picture(image).save
        self._guard("sample grids", lambda: write_atomically(path, save))
        if step > 1 and not self._grid_is_announced:
            self._grid_is_announced = True
            self.say(f"samples: {path}, and more beside it as training goes on")
        self.picture(step, "samples/ema", image)

    def histograms(self, step: int, variables: list[Any]) -> None:
        """Writes the distribution of each variable to TensorBoard."""
        for variable in variables:
            write = partial(tf.summary.histogram, variable.path, variable.value)
            self._events(step, write)

    def progress(self, step: int, values: dict[str, float]) -> None:
        """Updates the display; without a terminal, prints a line every few seconds."""
        text = (
            f"loss d {values['loss/d']:.3f} g {values['loss/g']:.3f}  "
            f"D(x) {values['d/prob_real']:.2f} D(G(z)) {values['d/prob_fake']:.2f}  "
            f"{values['speed/images_per_second']:.0f} images/s"
        )
        text += f"  {self._alarm}" if self._alarm != "ok" else ""
        self._progress.update(self._task, completed=step, description=text)
        now = time.monotonic()
        due = now - self._last_line >= PLAIN_LINE_SECONDS or step == self.num_steps
        if not self.console.is_terminal and due:
            self._last_line = now
            left = (self.num_steps - step) * values["speed/seconds_per_step"]
            self.say(f"step {step}/{self.num_steps}  {text}  {left / 60:.1f} min left")

    def _open(self) -> None:
        self._writer = tf.summary.create_file_writer(str(self.directory))

    def _start_session(self, step: int) -> None:
        """Tells TensorBoard to forget what earlier files say of `step` and later."""
        start = SessionLog(status=SessionLog.START)
        event = Event(wall_time=time.time(), step=step, session_log=start)
        # No function of tf.summary writes such an event. A file that could not be
        # opened has no writer.
        if (writer := getattr(self._writer, "_resource", None)) is not None:
            tf.raw_ops.ImportEvent(writer=writer, event=event.SerializeToString())

    def _events(self, step: int, write: Callable[[], Any]) -> None:
        """Calls `write`, whose summaries go to the event file as those of `step`."""

        def write_there() -> None:
            with self._writer.as_default(step=np.int64(step)):
                write()

        self._guard("TensorBoard", write_there)

    def _line(self, values: dict[str, Any]) -> None:
        """Appends a line to log.jsonl."""

        def write() -> None:
            with (self.directory / "log.jsonl").open("a", encoding="utf-8") as file:
                file.write(json.dumps(values, allow_nan=False) + "\n")

        self._guard("log.jsonl", write)

    def _truncate(self, step: int) -> None:
        """Removes lines after `step`, and a half-written last line, from log.jsonl."""
        path = self.directory / "log.jsonl"
        if not path.exists():
            return
        kept = []
        text = path.read_text(encoding="utf-8", errors="replace")
        if text and step < 0:
            self.say("note: state/ has no checkpoint; training starts at step 0 again")
        for line in text.splitlines(keepends=True):
            try:
                if json.loads(line)["step"] <= step and line.endswith("\n"):
                    kept.append(line)
            except (ValueError, KeyError, TypeError, RecursionError):
                continue
        write_atomically(path, lambda p: p.write_text("".join(kept), encoding="utf-8"))

    def _guard(self, what: str, write: Callable[[], Any]) -> None:
        """Calls `write`; an error of the disk is shown once for each kind of report."""
        try:
            write()
        except (OSError, tf.errors.OpError) as error:
            if what not in self._failed:
                self._failed.add(what)
                reason = f"{what} cannot be written ({first_line(error)})"
                self.say(f"warning: {reason}; training goes on")


def write_scalars(values: Mapping[str, float]) -> None:
    """Writes named numbers to the current event file."""
    for name, value in values.items():
        # TensorFlow keeps 0.7 kB for every Python number that it turns into a tensor.
        number, tag = np.float32(value), tensorboard_tag(name)
        tf.summary.scalar(tag, number, description=describe(name))


def tensorboard_tag(name: str) -> str:
    """The tag in TensorBoard of a name in log.jsonl.

    The scores of samples are in the group "quality"; what else their names say is in
    their descriptions.
    """
    if score := SCORE.fullmatch(name):
        metric, level, floor = score.groups()
        level = f" {level}" if metric == "swd" else ""
        name = f"quality/{metric}{level}{' floor' if floor else ''}"
    group = name.partition("/")[0]
    return f"{RANKS[group]} {name}" if group in RANKS else name


def describe(name: str) -> str | None:
    """What TensorBoard says of the scalar `name`."""
    score = SCORE.fullmatch(name)
    group = score[1] if score else name.partition("/")[0]
    text = DESCRIPTIONS.get(name, DESCRIPTIONS.get(group))
    return f"{text} In log.jsonl: {name}." if score else text


def chart_layout() -> layout_pb2.Layout:
    """The custom-scalars page: charts of scalars with their reference lines."""
    multiline, chart = layout_pb2.MultilineChartContent, layout_pb2.Chart
    charts = [
        chart(title=title, multiline=multiline(tag=tags.split()))
        for tags, title in CHARTS.items()
    ]
    category = layout_pb2.Category(title="with reference lines", chart=charts)
    return layout_pb2.Layout(category=[category])
