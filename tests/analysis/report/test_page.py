"""The page is complete and self-contained, and says when a control failed."""

import base64
import re
from html.parser import HTMLParser
from types import SimpleNamespace

import numpy as np
import pytest
from analysis.checkerboard.layout import Protocol, make_layout
from click.testing import CliRunner

from analysis.__main__ import main
from analysis.checkerboard import controls
from analysis.checkerboard.controls import Control
from analysis.report.comparison import Reading, Source, interval
from analysis.report.figures import ReportFigure, display_gain, isolate_pattern
from analysis.report.page import cautions
from gan.data.dataset import BUNDLED_FILE

VOID = {"meta", "source", "img", "br"}


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """A file of real images, and one of 500 images with a checkerboard."""
    folder = tmp_path_factory.mktemp("report")
    with np.load(BUNDLED_FILE, allow_pickle=False) as arrays:
        images = np.rint(arrays["test_images"][:2500] * 0.9 + 12.75).astype(np.uint8)
    sign = 1 - 2 * (np.indices((28, 28)).sum(axis=0) % 2)
    np.savez(folder / "real.npz", images=images[:2000])
    np.savez(folder / "<b>&.npz", images=(images[2000:] + 5 * sign).astype(np.uint8))
    return folder


def write_report(monkeypatch, outcome: bool, *arguments: object):
    made = [Control("C1 real", True, "0", "0"), Control("C2 tone", outcome, "1", "2")]
    monkeypatch.setattr(controls, "run_controls", lambda images: made)
    return CliRunner().invoke(main, ["report", *map(str, arguments)])


class Page(HTMLParser):
    """Collects images and checks that every tag is closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.images, self.open, self.ids, self.links = [], [], set(), set()
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        if tag not in VOID:
            self.open.append(tag)
        if tag == "img":
            self.images.append(found)
        if "id" in found:
            self.ids.add(found["id"])
        if tag == "a":
            self.links.add(found["href"].removeprefix("#"))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def page(sources, trained, tmp_path_factory) -> tuple[str, set[str]]:
    """The page of a run and a file, and the names of its figures."""
    folder = tmp_path_factory.mktemp("page")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ReportFigure, "save", lambda it, into: (into / it.name).touch())
        inputs = trained, sources / "<b>&.npz", "--reference", sources / "real.npz"
        options = "--n", 500, "--out", folder / "x.html", "--figures", folder / "f"
        result = write_report(patch, True, *inputs, *options)
    assert result.exit_code == 0, result.output
    files = {path.name for path in (folder / "f").iterdir()}
    return (folder / "x.html").read_text(encoding="utf-8"), files


def test_the_page_is_whole(page):
    text, _ = page
    parsed = Page(text)
    assert not parsed.open
    assert parsed.links <= parsed.ids
    assert "passed all 2 of its" in text and "Do not trust" not in text
    assert "&lt;b&gt;&amp;" in text and "<b>" not in text
    for section in ("What was compared", "Spectra", "Controls"):
        assert section in text


def test_the_page_needs_no_network_and_no_script(page):
    text, _ = page
    sources = re.findall(r'(?:src|srcset|href)="([^"]*)"', text)
    assert sources and all(s.startswith(("data:image/svg+xml", "#")) for s in sources)
    outside = re.sub(r"data:[^\"]+", "", text)
    assert not re.search(r"https?:|<script|@import|url\(", outside)
    for source in set(sources):
        if source.startswith("data:"):
            drawn = base64.b64decode(source.split(",", 1)[1])
            assert b"<svg" in drawn and b"<script" not in drawn


def test_every_figure_has_words_and_files(page):
    text, files = page
    images = Page(text).images
    assert len(images) == 7 == text.count("<figcaption>")
    assert all(len(image["alt"]) > 20 for image in images)
    assert len(files) == len(images)
    assert text.count('media="(prefers-color-scheme: dark)"') == len(images)


def test_a_failed_control_stands_at_the_top(sources, monkeypatch, tmp_path):
    monkeypatch.setattr(ReportFigure, "url", lambda figure, theme: theme)
    out = tmp_path / "x.html"
    inputs = sources / "<b>&.npz", "--reference", sources / "real.npz", "--out", out
    result = write_report(monkeypatch, False, *inputs)
    assert result.exit_code == 1
    assert result.stderr.strip() == "Error: failed controls: C2 tone"
    text = out.read_text(encoding="utf-8")
    assert text.index("Do not trust this page") < text.index("<h2")
    assert "passed all" not in text
    assert "Predicted and measured" not in text  # a file has no network


def test_a_saved_result_has_no_pictures(sources, monkeypatch, tmp_path):
    saved = tmp_path / "saved.npz"
    inputs = str(sources / "<b>&.npz"), "--reference", str(sources / "real.npz")
    CliRunner().invoke(main, ["spectra", *inputs, "--out", str(saved)])
    result = write_report(monkeypatch, True, saved)
    assert result.exit_code == 1
    assert "a saved result; a report needs the images" in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        ((2, 3, 4), "a pattern of 3.0 grey levels"),
        ((0.2, 0.4, 0.6), "a faint pattern of 0.4 grey levels"),
        ((-3, -2, -1), "no pattern: weaker"),
        ((-1, 0.2, 0.7), "one of more than 1.0 grey levels would show"),
        ((-1, 0.2, 1.7), "one of more than 1.7 grey levels would show"),
    ],
)
def test_sentences(limits, words: str):
    low, value, high = limits
    amplitude = interval({"low": low, "value": value, "high": high})
    assert amplitude.high == high
    reading = Reading("a_last", "last upsampling", 2, amplitude, amplitude, 1.0, {})
    assert words in reading.sentence


def source(step: int, width: int) -> Source:
    samples = {"name": "x", "notes": [], "step": step}
    settings = {"model.upsample": width, "model.widths": width}
    measurement = SimpleNamespace(summary={"samples": samples})
    return Source("x", measurement, settings=settings)


def test_cautions_name_what_else_differs():
    first, second = source(100, 8), source(60, 16)
    found = " ".join(cautions([first, second]))
    assert "more than their upsampling: model.widths." in found
    assert "100 and 60 steps" in found
    assert cautions([first, first]) == []


def test_isolation_returns_the_pattern_alone():
    layout = make_layout(28, 28, Protocol())
    rows, columns = np.indices((28, 28))
    pattern = 3.0 * (-1) ** (rows + columns) + 2 * np.cos(np.pi * columns / 2)
    slow = 50 * np.cos(2 * np.pi * rows / 28) + 100
    assert isolate_pattern((slow + pattern)[None], layout)[0] == pytest.approx(pattern)
    assert display_gain([pattern]) == 16  # 5 * 16 fits into 127, 5 * 32 does not
