"""The page of `explore` in a headless browser: its arithmetic, and its use by keys."""

import json
import os
import re
import select
import shutil
import subprocess
from collections import Counter
from contextlib import closing
from urllib.parse import urlencode

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


class Browser:
    """A headless Chromium that takes real key presses.

    It is driven by the DevTools protocol: JSON, separated by zero bytes, which Chromium
    reads from descriptor 3 and writes to descriptor 4. A KeyboardEvent made by a script
    would move neither the focus nor a slider.
    """

    CODES = {"Tab": 9, "Enter": 13, "ArrowLeft": 37, "ArrowRight": 39, "ArrowDown": 40}

    def __init__(self, folder):
        read, self.commands = os.pipe()
        self.answers, write = os.pipe()
        command = [CHROMIUM, *OFFLINE, f"--user-data-dir={folder / 'profile'}"]
        self.process = subprocess.Popen(
            ["bash", "-c", f'exec "$@" 3<&{read} 4>&{write}', "", *command]
            + ["--remote-debugging-pipe", "about:blank"],
            pass_fds=(read, write),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(read)
        os.close(write)
        self.received, self.num_sent, self.session = b"", 0, {}
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        given = self.send("Target.attachToTarget", targetId=target, flatten=True)
        self.session = {"sessionId": given["sessionId"]}

    def post(self, method, **params):
        self.num_sent += 1
        message = {"id": self.num_sent, "method": method, "params": params}
        os.write(self.commands, json.dumps(message | self.session).encode() + b"\0")

    def send(self, method, **params):
        """Posts a message and returns its answer; other messages are dropped."""
        self.post(method, **params)
        while True:
            while b"\0" not in self.received:
                assert select.select([self.answers], [], [], 60)[0], (
                    f"{method}: no answer"
                )
                more = os.read(self.answers, 1 << 20)
                assert more, f"{method}: Chromium ended"
                self.received += more
            text, self.received = self.received.split(b"\0", 1)
            answer = json.loads(text)
            if answer.get("id") == self.num_sent:
                assert "error" not in answer, answer
                return answer["result"]

    def run(self, code):
        given = {"expression": code, "returnByValue": True, "awaitPromise": True}
        done = self.send("Runtime.evaluate", **given)
        assert "exceptionDetails" not in done, done
        return done["result"].get("value")

    def press(self, *keys, shift=False):
        for key in keys:
            text = {"Enter": "\r"}.get(key, key if len(key) == 1 else "")
            code = self.CODES.get(key, ord(key[0]))
            event = {"key": key, "windowsVirtualKeyCode": code, "modifiers": 8 * shift}
            self.post("Input.dispatchKeyEvent", type="keyDown", text=text, **event)
            # Keys are handled in order, so only the last answer is awaited.
            send = self.send if key is keys[-1] else self.post
            send("Input.dispatchKeyEvent", type="keyUp", **event)

    def open(self, file, address=""):
        self.send("Page.navigate", url=f"file://{file}{address}")
        while self.run("document.readyState") != "complete":
            pass

    def close(self):
        self.process.terminate()
        self.process.wait(30)
        os.close(self.commands)
        os.close(self.answers)


# All sliders move with this setting, and the stack has a layer.
ADDRESS = "#" + urlencode(
    {
        **{"rule": "torch", "padding": 1, "outputPadding": 0, "view": "matrix"},
        "stack": '[{"kind":"transpose","rule":"same","input":4,"kernel":5,"stride":2,'
        '"padding":0,"outputPadding":null,"dilation":1}]',
    }
)
# Only the chosen radio button is reached by Tab, the others by arrows.
WALK = """
    const controls = () => [...document.querySelectorAll("a, button, input, select")]
        .filter(it => !it.disabled && (it.type !== "radio" || it.checked));
    const nameOf = it => it === document.body ? "nothing" :
        it.matches("h1, h2, legend") ? `part ${it.textContent}` :
        it.id || it.ariaLabel || it.name ||
        (it.dataset.answer ? `answer ${it.dataset.answer}` : it.textContent);
    const look = it => [it.value, it.checked, ["result", "about", "picture", "stack",
        "code", "exercises", "play"].map(id => byId(id).textContent).join()];
    const start = JSON.stringify(state);
    history.replaceState = () => {};  // so that the address, too, stays as it is
    let held, before;
    function hold() {
        held = document.activeElement;
        before = look(held);
        const {outlineStyle, outlineWidth} = getComputedStyle(held);
        const last = held.type === "range" ? held.value === held.max :
            held.selectedIndex === held.options?.length - 1;
        return {name: nameOf(held), kind: held.type || held.localName, last,
            answer: held.dataset.answer || "",
            outline: outlineStyle === "none" ? 0 : parseFloat(outlineWidth)};
    }
    /* What the keys did since hold(); the page and the focus are then as before. */
    async function compare(name) {
        const pause = () => new Promise(done => setTimeout(done, 50));
        for (let n = 0; n < 20 && "copy" in held.dataset; n++)  // the clipboard is slow
            if (look(held)[2] === before[2]) await pause();
        const verdict = byId(`verdict${held.dataset.answer}`)?.textContent;
        const seen = [...look(held).map((it, n) => it !== before[n]),
            nameOf(document.activeElement), verdict];
        if (timer) play();
        if (JSON.stringify(state) !== start) {
            readAddress();
            refresh();
        }
        controls().find(it => nameOf(it) === name)?.focus();
        return seen;
    }
"""
# By kind of control: the key that changes it, and the one when it is at its end.
KEYS = {
    "range": ("ArrowRight", "ArrowLeft"),
    "select-one": ("ArrowDown", "ArrowUp"),
    "checkbox": (" ", " "),
    "radio": ("ArrowLeft", "ArrowLeft"),
}
ANSWERS = ["14", "13", "1", "1", "16", "3", "6"]
# Controls that move the focus elsewhere; the other links move it to the part they name.
GOALS = {
    "Remove layer 1": "add",
    "Back to the top": "part Transposed convolution, step by step",
}


def use(browser, name, kind, last, answer):
    """Uses the control that has the focus by its keys; returns what is wrong."""
    if answer:
        browser.press(*ANSWERS[int(answer)])
    elif kind == "text":
        browser.press("9", "Tab")
        browser.press("Tab", shift=True)
    else:
        browser.press(KEYS.get(kind, ("Enter", "Enter"))[last])
    value, checked, output, focus, verdict = browser.run(f"compare({json.dumps(name)})")
    goal = GOALS.get(name, f"part {name}" if kind == "a" else name)
    faults = {
        "keeps its value": kind in ("range", "select-one", "text") and not value,
        "keeps its state": kind in ("checkbox", "radio") and not checked,
        "changes no output": kind not in ("checkbox", "a") and not output,
        "is not right": answer and verdict != "✓ right",
        f"the focus went to {focus}": focus != goal,
    }
    return [f"{name}: {fault}" for fault, found in faults.items() if found]


def faults_by_keyboard(browser, file, used=None):
    """Walks by Tab and uses the controls, or those named; returns what is wrong."""
    browser.open(file, ADDRESS)
    browser.run(WALK)
    expected = browser.run("controls().map(nameOf)")
    assert len(expected) == len(set(expected)) > 40
    reached, faults = [], []
    for _ in range(2 * len(expected)):
        browser.press("Tab")
        at = browser.run("hold()")
        if at["name"] == "nothing":
            break
        if (
            at["kind"] == "div"
        ):  # a box that scrolls, which a browser lets have the focus
            continue
        reached.append(at["name"])
        if at.pop("outline") < 2:
            faults.append(f"{at['name']}: no outline")
        if not used or at["name"] in used:
            faults += use(browser, **at)
    if reached != expected:
        missing = sorted(set(expected) - set(reached))
        faults.append(f"not reached: {missing}" if missing else f"order: {reached}")
    named = {"button", "checkbox", "combobox", "link", "radio", "slider", "textbox"}
    for node in browser.send("Accessibility.getFullAXTree")["nodes"]:
        role = node.get("role", {}).get("value")
        if role in named and not node.get("name", {}).get("value"):
            faults.append(f"{role}: no name")
    return faults


@needs_browser
def test_the_page_can_be_used_by_keyboard_alone(tmp_path):
    # A page with faults shows that the walk finds them.
    broken = PAGE.read_text("utf-8")
    for old, new in {
        '<button id="play"': '<button id="play" tabindex="-1"',
        "patch(box, next);\n}": "box.innerHTML = html;\n}",
        "if (target.id in SLIDERS) {": "if (target.id === 'kernel') return;\n\\0",
        "outline: 3px solid var(--ink)": "outline: 0",
    }.items():
        assert broken.count(old) == 1
        broken = broken.replace(old, new.replace("\\0", old))
    (tmp_path / "broken.html").write_text(broken, encoding="utf-8")
    with closing(Browser(tmp_path)) as browser:
        assert faults_by_keyboard(browser, PAGE) == []
        for width in (1280, 390, 320):
            size = {"width": width, "height": 800, "deviceScaleFactor": 1}
            browser.send("Emulation.setDeviceMetricsOverride", mobile=False, **size)
            assert browser.run("document.documentElement.scrollWidth") <= width, width
        used = ["kernel", "view"]
        faults = faults_by_keyboard(browser, tmp_path / "broken.html", used)
    assert [fault for fault in faults if "no outline" not in fault] == [
        "kernel: changes no output",
        "view: the focus went to nothing",
        "not reached: ['play']",
    ]
    assert "add: no outline" in faults


def test_the_page_needs_no_network_and_is_small(tmp_path):
    text = PAGE.read_text("utf-8")
    assert len(text.encode()) < 500_000
    assert not re.search(r"https?:|//cdn|@import|src=|url\(|fetch\(|<link", text)
    out = tmp_path / "page.html"
    result = CliRunner().invoke(main, ["explore", "--out", str(out)])
    assert result.exit_code == 0 and out.read_text("utf-8") == text
    folder = CliRunner().invoke(main, ["explore", "--out", str(tmp_path / "no" / "x")])
    assert folder.exit_code == 1 and folder.output.startswith("Error: ")
