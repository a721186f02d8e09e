"""The page of `explore` in a headless browser: its arithmetic, and its use by keys."""

import json
import re
import shutil
import subprocess
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from analysis.__main__ import main
from analysis.checkerboard.kernels import phase_gains
from analysis.commands.explore import PAGE
from analysis.geometry.arithmetic import (
    chain_margins,
    chain_overlap,
    chain_shift,
    conv_axis,
    conv_transpose_axis,
    onnx_transpose_axis,
)
from analysis.geometry.formulas import REFUSED

DOCS = Path(__file__).parents[3] / "docs"
NUM_SETTINGS = 12_000
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
OFFLINE = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic"),
    *("--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync"),
)
needs_browser = pytest.mark.skipif(not CHROMIUM, reason="no Chromium on this machine")


def run_page(page, folder, address=""):
    """The text that a page writes into the element `found`, as JSON."""
    file = folder / "page.html"
    file.write_text(page, encoding="utf-8")
    done = subprocess.run(
        [
            CHROMIUM,
            *OFFLINE,
            f"--user-data-dir={folder / 'profile'}",
            *("--virtual-time-budget=10000", "--dump-dom", f"file://{file}{address}"),
        ],
        capture_output=True,
        text=True,
        timeout=120,
    )
    found = re.search(r'<pre id="found">(.*?)</pre>', done.stdout, re.DOTALL)
    assert found, done.stderr[-2000:]
    return json.loads(found[1].replace("&gt;", ">").replace("&amp;", "&"))


def write_found(code):
    """A script that writes the value of an expression into the page."""
    return f"""<script>
    const found = document.createElement("pre");
    found.id = "found";
    found.textContent = JSON.stringify({code});
    document.body.append(found);
    </script>"""


def random_setting(random):
    kind = str(random.choice(["transpose", "transpose", "conv"]))
    rules = ["same", "valid", "torch"] + ["upper", "lower"] * (kind == "transpose")
    given = kind == "transpose" and random.random() < 0.5
    return {
        "kind": kind,
        "rule": str(random.choice(rules)),
        "input": int(random.integers(1, 13)),
        "kernel": int(random.integers(1, 10)),
        "stride": int(random.integers(1, 5)),
        "dilation": int(random.choice([1, 1, 2, 3])),
        "padding": int(random.integers(0, 9)),
        "outputPadding": int(random.integers(0, 4)) if given else None,
    }


def expected_axis(it):
    """The geometry by arithmetic.py, and the texts of its problems."""
    shape = it["input"], it["kernel"], it["stride"]
    op, dilation, rule = it["outputPadding"], it["dilation"], it["rule"]
    padding = it["padding"] if rule == "torch" else rule
    if it["kind"] == "conv":
        axis = conv_axis(*shape, padding, dilation)
    elif rule in ("upper", "lower"):
        axis = onnx_transpose_axis(*shape, f"SAME_{rule.upper()}", op or 0, dilation)
    else:
        axis = conv_transpose_axis(*shape, padding, op, dilation)
    problems = [[problem.code, problem.text] for problem in axis.problems]
    if rule in ("same", "valid") and it["stride"] > 1 and dilation > 1:
        problems.insert(0, ["refused", REFUSED])
    return axis, problems


FACTS = """((axis) => ({
    problems: axis.problems.map(({code, text}) => [code, text]),
    sizes: [axis.output, axis.before, axis.after],
    terms: axis.terms.map(pairs => pairs.slice().sort((a, b) => a[1] - b[1])),
    cells: axis.cells, order: axis.order, step: axis.step,
    phases: tapsByPhase(axis), shift: shiftOf(axis), margins: margins(axis, [0, 0]),
}))"""


@needs_browser
def test_the_page_computes_what_the_library_computes(tmp_path):
    random = np.random.default_rng(0)
    settings = [random_setting(random) for _ in range(NUM_SETTINGS)]
    arithmetic = re.search(
        r'<script id="arithmetic">.*?</script>', PAGE.read_text("utf-8"), re.DOTALL
    )
    code = f"({json.dumps(settings)}).map(axisOf).map({FACTS})"
    page = f"<!DOCTYPE html><body>{arithmetic[0]}{write_found(code)}</body>"
    found = run_page(page, tmp_path)
    counts = Counter()
    for setting, facts in zip(settings, found, strict=True):
        axis, problems = expected_axis(setting)
        assert facts["problems"] == problems, setting
        counts[setting["kind"], setting["rule"], bool(problems)] += 1
        if problems:
            continue
        steps = axis.three_steps()
        sizes = [axis.output_size, axis.pad_before, axis.effective_pad_after]
        assert facts == {
            "problems": [],
            "sizes": sizes,
            "terms": [[list(pair) for pair in pairs] for pairs in axis.terms],
            "cells": list(steps.cells),
            "order": list(steps.kernel_order),
            "step": steps.step,
            "phases": list(axis.taps_by_phase()),
            "shift": axis.shift_px,
            "margins": list(axis.clean_margins()),
        }, setting
    # Every rule of both operations ran, and was refused where it can be.
    assert len(counts) >= 14 and min(counts.values()) > 20


@needs_browser
def test_chains_phase_gains_and_lines(tmp_path):
    layers = [(4, 5, 2), (8, 4, 2), (16, 3, 3)]
    axes = [conv_transpose_axis(*layer) for layer in layers]
    kernel = np.random.default_rng(1).normal(size=(5, 5))
    given = [
        {
            **{"kind": "transpose", "rule": "same", "dilation": 1, "padding": 0},
            **{"outputPadding": None, "input": i, "kernel": k, "stride": s},
        }
        for i, k, s in layers
    ]
    code = f"""(() => {{
        const gains = phaseGains({json.dumps(kernel.tolist())}, [2, 2]);
        return {{chain: chain(({json.dumps(given)}).map(axisOf)), gains,
            lines: [[0, 1], [1, 0], [1, 1]].map(([a, b]) => lineOf(gains, a, b))}};
    }})()"""
    found = run_page(
        PAGE.read_text("utf-8").replace("</body>", f"{write_found(code)}</body>"),
        tmp_path,
    )
    assert found["chain"] == {
        "overlap": chain_overlap(axes),
        "shift": chain_shift(axes),
        "border": list(chain_margins(axes)),
    }
    gains = phase_gains(kernel[:, :, None, None], (2, 2))[:, :, 0, 0]
    np.testing.assert_allclose(found["gains"], gains)
    lines = np.abs(np.fft.fft2(gains)) / np.abs(gains.sum())
    expected = [lines[0, 1], lines[1, 0], lines[1, 1]]
    np.testing.assert_allclose(found["lines"], expected)


USE = """(() => {
    const press = (id, value) => {
        const box = document.getElementById(id);
        box.focus();
        box.value = value;
        for (const type of ["input", "change"])
            box.dispatchEvent(new Event(type, {bubbles: true}));
    };
    const text = id => document.getElementById(id).textContent;
    const seen = {};
    seen.start = text("result");
    press("input", 7); press("kernel", 5);
    seen.keras = [text("result"), text("code")];
    press("rule", "torch"); press("padding", 2); press("outputPadding", 1);
    seen.torch = [text("result"), text("others")];
    seen.bounds = [document.getElementById("outputPadding").max, state.outputPadding];
    document.getElementById("free").click();
    press("outputPadding", 3);
    seen.refused = text("result");
    document.getElementById("free").click();
    seen.lowered = state.outputPadding;
    document.getElementById("add").click(); document.getElementById("add").click();
    seen.stack = text("stack");
    document.querySelector("[data-example^='4x4']").click();
    seen.matrix = document.querySelectorAll("#picture table.cells").length;
    seen.title = document.querySelectorAll("#picture > div > div")[2].textContent;
    const weight = document.querySelector("[data-w='0']");
    weight.value = "10"; weight.dispatchEvent(new Event("change", {bubbles: true}));
    seen.sum = text("about");
    const boxes = [...document.querySelectorAll("[data-answer]")];
    const answers = [14, 13, 1, 1, 16, 3, 6];
    boxes.forEach((box, n) => { box.value = answers[n]; answer(box); });
    seen.verdicts = boxes.map((_, n) => text(`verdict${n}`));
    boxes[2].value = "2"; answer(boxes[2]);
    seen.wrong = text("verdict2");
    seen.address = location.hash;
    const unlabelled = [...document.querySelectorAll("input, select")].filter(
        box => !box.labels.length && !box.ariaLabel);
    seen.unlabelled = unlabelled.length;
    return seen;
})()"""


@needs_browser
def test_the_page_in_use(tmp_path):
    page = PAGE.read_text("utf-8").replace("</body>", f"{write_found(USE)}</body>")
    seen = run_page(page, tmp_path)
    assert seen["start"].startswith("4 to 8 px")
    assert seen["keras"][0].startswith("7 to 14 px")
    assert "1 px cut off at the start, 2 px at the end" in seen["keras"][0]
    assert 'Conv2DTranspose(filters, 5, strides=2, padding="same")' in seen["keras"][1]
    # PyTorch has no such layer, so its code crops one without padding.
    assert (
        "ConvTranspose2d(in_channels, out_channels, 5, stride=2, padding=0)"
        in (seen["keras"][1])
    )
    assert "y[:, :, 1:15, 1:15]" in seen["keras"][1]
    assert "pads=[1, 1, 2, 2]" in seen["keras"][1]
    assert "2 px cut off at the start, 1 px at the end" in seen["torch"][0]
    assert "14 of 14 outputs differ: output n is your output n-1" in seen["torch"][1]
    assert seen["bounds"] == ["1", 1]
    assert "PyTorch refuses output_padding 3: choose 0..1" in seen["refused"]
    assert seen["lowered"] == 1
    assert "14 to 28" in seen["stack"] and "1.5 px" in seen["stack"].replace("-", "")
    assert seen["matrix"] == 4
    assert seen["title"] == "C: 4 rows (outputs), 16 columns (inputs)"
    assert "Output 0,0 = 1·10 + 2·2 + 3·3 + 5·4" in seen["sum"]
    assert seen["verdicts"] == ["✓ right"] * 7 and seen["wrong"] == "✗ not yet"
    assert "kind=conv" in seen["address"] and "w=10" in seen["address"]
    assert seen["unlabelled"] == 0
    # The address alone brings everything back; one that makes no sense is ignored.
    code = "[JSON.stringify(state), document.getElementById('about').textContent]"
    page = PAGE.read_text("utf-8").replace("</body>", f"{write_found(code)}</body>")
    again, about = run_page(page, tmp_path, seen["address"])
    assert json.loads(again)["stack"] != [] and about == seen["sum"]
    address = "#input=99&rule=best&stack=[{}]&step=x"
    odd, _ = run_page(page, tmp_path, address)
    assert json.loads(odd)["input"] == 4 and json.loads(odd)["stack"] == []


def test_the_page_needs_no_network_and_is_small(tmp_path):
    text = PAGE.read_text("utf-8")
    assert len(text.encode()) < 500_000
    assert not re.search(r"https?:|//cdn|@import|src=|url\(|fetch\(|<link", text)
    out = tmp_path / "page.html"
    result = CliRunner().invoke(main, ["explore", "--out", str(out)])
    assert result.exit_code == 0 and out.read_text("utf-8") == text
    assert (DOCS / "explorer.html").read_text("utf-8") == text
    folder = CliRunner().invoke(main, ["explore", "--out", str(tmp_path / "no" / "x")])
    assert folder.exit_code == 1 and folder.output.startswith("Error: ")
