"""The page is complete and self-contained, and says when a control failed."""

import base64
import re
from html.parser import HTMLParser
from types import SimpleNamespace

import numpy as np
import pytest
from click.testing import CliRunner

from analysis.__main__ import main
from analysis.checkerboard import controls
from analysis.checkerboard.controls import Control
from analysis.checkerboard.frequencies import make_layout
from analysis.report.comparison import ComparedSource, load_sources
from analysis.report.figures import (
    ReportFigure,
    comparison_figures,
    display_gain,
    drawn_frequencies,
    image_figures,
    isolate_pattern,
)
from analysis.report.page import cautions, make_page
from analysis.samples import load_reference
from gan.data.dataset import BUNDLED_FILE

VOID = {"meta", "source", "img", "br"}
OLD_WORDS = "A_last", "A_prev", "delta PNR", "PNR", "mplitude"


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
    monkeypatch.setattr(controls, "run_controls", lambda *_, **__: iter(made))
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
    assert "passed all 2 of its" in text and "The meter failed" not in text
    assert "&lt;b&gt;&amp;" in text and "<b>" not in text
    for section in ("What was compared", "Spectra", "Controls"):
        assert section in text
    assert not any(word in re.sub(r"data:[^\"]+", "", text) for word in OLD_WORDS)


def sections(text: str) -> list[tuple[str, str, list[str]]]:
    """Of each source its verdict, its sentences, and the rows of its table."""
    answers = re.findall(r'<section class="answer.*?</section>', text, re.DOTALL)
    tables = re.findall(r"<details.*?</details>", text, re.DOTALL)
    found = []
    for answer, table in zip(answers, tables, strict=True):
        verdict = re.search(r"Pattern: ([a-z ]+)</p>", answer)[1]
        rows = re.findall(r"<tr(?! class=.heads).*?</tr>", table, re.DOTALL)
        found.append((verdict, answer, [re.sub("<[^>]+>", " ", row) for row in rows]))
    return found


def test_no_sentence_contradicts_the_table(page):
    text, _ = page
    verdicts = []
    for verdict, sentences, rows in sections(text):
        assert len(rows) == 9
        verdicts.append(verdict)
        marked = [row for row in rows if "*" in row]
        assert bool(marked) == ("No pattern locked" not in sentences)
        assert bool(marked) == (verdict != "none found")
        assert ("it is visible" in sentences) == (verdict == "visible")
        for row in rows:
            assert ("*" in row) == ("none found" not in row)
        for said in re.findall(
            r"was found at (\(.*?\))[^:]*: (.*?) in all it is", sentences
        ):
            (row,) = [row for row in marked if said[0] in row]
            for gain in re.findall(r"\((−\d+) dB", said[1]):
                assert f"{gain} (" in row
            for levels in re.findall(r"fixed part is ([\d.]+) grey", said[1]):
                shown = [float(n) for n in re.findall(r"(\d+\.\d+) \(", row)]
                assert any(n == pytest.approx(float(levels), rel=0.06) for n in shown)
    assert verdicts[1] == "visible"


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
    # Gains, fixed patterns, tiles, predictions, samples, patterns and two spectra.
    assert len(images) == 8 == text.count("<figcaption>")
    assert all(len(image["alt"]) > 20 for image in images)
    assert len(files) == len(images)
    assert text.count('media="(prefers-color-scheme: dark)"') == len(images)


@pytest.mark.reported
def test_a_failed_control_stands_at_the_top(sources, monkeypatch, tmp_path):
    monkeypatch.setattr(ReportFigure, "url", lambda figure, theme: theme)
    out = tmp_path / "x.html"
    inputs = sources / "<b>&.npz", "--reference", sources / "real.npz", "--out", out
    result = write_report(monkeypatch, False, *inputs)
    assert result.exit_code == 1
    assert result.stderr.strip() == "Error: failed controls: C2 tone"
    text = out.read_text(encoding="utf-8")
    assert text.index("The meter failed 1 of") < text.index("<h2")
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


def source(step: int, width: int) -> ComparedSource:
    samples = {"name": "x", "notes": [], "step": step}
    settings = {"model.upsample": width, "model.widths": width}
    measurement = SimpleNamespace(facts={"samples": samples})
    return ComparedSource("x", measurement, settings=settings)


def test_cautions_name_what_else_differs():
    first, second = source(100, 8), source(60, 16)
    found = " ".join(cautions([first, second]))
    assert "more than their upsampling: model.widths." in found
    assert "100 and 60 steps" in found
    assert cautions([first, first]) == []


def test_isolation_returns_the_pattern_alone():
    rows, columns = np.indices((28, 28))
    pattern = 3.0 * (-1) ** (rows + columns) + 2 * np.cos(np.pi * columns / 2)
    slow = 50 * np.cos(2 * np.pi * rows / 28) + 100
    channels = np.stack([slow + pattern, slow, slow - pattern], axis=2)
    found = isolate_pattern(channels[None], make_layout(28, 28, (2, 2)))[0]
    expected = np.stack([pattern, 0 * pattern, -pattern], axis=2)
    assert found == pytest.approx(expected, abs=1e-9)
    assert display_gain([pattern]) == 16  # 5 * 16 fits into 127, 5 * 32 does not


@pytest.mark.slow
def test_colour_images_with_three_upsamplings_have_a_page(tmp_path):
    random = np.random.default_rng(0)
    noise = random.normal(0, 1, (1600, 32, 32, 3)).cumsum(axis=1).cumsum(axis=2)
    noise /= noise.std(axis=(1, 2, 3), keepdims=True)
    images = np.clip(128 + 30 * noise, 0, 255)
    sign = 1 - 2 * (np.indices((32, 32)).sum(axis=0) % 2)
    images[1000:] += 5 * sign[..., None] * np.array([1, -1, 0])
    images = np.clip(np.rint(images), 0, 255).astype(np.uint8)
    np.savez(tmp_path / "real.npz", images=images[:1000])
    np.savez(tmp_path / "chroma.npz", images=images[1000:])
    reference = str(tmp_path / "real.npz")
    sources = load_sources([str(tmp_path / "chroma.npz")], reference=reference)
    assert sources[0].measurement.facts["strides"] == [2, 2, 2]
    assert len(drawn_frequencies(sources)) < len(sources[0].readings)
    real = load_reference(reference, sources[0].samples)
    for figure in [*comparison_figures(sources), *image_figures(sources, real)]:
        assert figure.draw() is not None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ReportFigure, "url", lambda figure, theme: theme)
        text, _ = make_page(sources, real, [])
    assert (
        '<td data-label="Period:">2 px</td>' in text
        and "last upsampling</td>" not in text
    )
    assert "repeats every 2, 4 or 8 pixels" in text
    assert "free in colour limit" in text
