"""The audit of PyTorch programs; dcgan.pt2 is the example's generator of 8 filters.

It was saved by PyTorch 2.13.0 and has no weights, so that it is read without PyTorch.
"""

import copy
import io
import json
import pickle
import random
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from analysis.__main__ import main
from analysis.geometry import arithmetic
from analysis.geometry.torch_layers import (
    audit_program,
    export_module,
    read_program,
)

DCGAN = Path(__file__).with_name("dcgan.pt2")
KERNELS = 100 * 64 + 64 * 32 + 32 * 16 + 16 * 8 + 8 * 3  # of 4x4 taps each


def errors(audits):
    return [f for audit in audits for f in audit.findings if f.level == "error"]


def arguments(program, name):
    """The arguments of each operator that has one of this name."""
    nodes = program["graph_module"]["graph"]["nodes"]
    return [item["arg"] for n in nodes for item in n["inputs"] if item["name"] == name]


def test_the_examples_generator_without_pytorch(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "torch", None)
    audits = audit_program(read_program(DCGAN))
    assert [a.output_shape[1:] for a in audits if a.axes] == [
        (64, 4, 4),
        (32, 8, 8),
        (16, 16, 16),
        (8, 32, 32),
        (3, 64, 64),
    ]
    assert [a.name for a in audits] == [str(n) for n in range(14)]
    assert sum(a.params for a in audits) == 16 * KERNELS + 2 * (64 + 32 + 16 + 8)
    # Each input pixel meets 16 taps of each pair of channels.
    sides = 1, 4, 8, 16, 32
    pairs = zip(sides, (100 * 64, 64 * 32, 32 * 16, 16 * 8, 8 * 3), strict=True)
    assert sum(a.macs for a in audits) == sum(16 * n * n * c for n, c in pairs)
    assert not errors(audits)
    assert {a.reason for a in audits if a.axes} == {
        "PyTorch is not installed, so its values were not computed"
    }
    assert all(a.as_predicted for a in audits if not a.axes)


def test_the_command_prints_it_and_refuses_what_belongs_elsewhere(tmp_path):
    run = CliRunner().invoke(main, ["layers", str(DCGAN), "--json"])
    assert run.exit_code == 0 and json.loads(run.output)["params"] > 16 * KERNELS
    for option in (["--lines"], ["--explicit-pads", str(tmp_path / "out.onnx")]):
        refused = CliRunner().invoke(main, ["layers", str(DCGAN), *option])
        assert refused.exit_code == 1 and "belong" in refused.output


@pytest.mark.parametrize(
    ("name", "value"), [("stride", [3, 3]), ("padding", [0, 0]), ("stride", [2, 1])]
)
def test_a_setting_that_was_changed_contradicts_the_stated_size(name, value):
    program = read_program(DCGAN)
    arguments(program, name)[-1]["as_ints"] = value
    assert [f.code for f in errors(audit_program(program))][:1] == ["E6"]


def test_other_files_are_refused_in_one_line(tmp_path):
    program = read_program(DCGAN)
    program["graph_module"]["graph"]["nodes"] = 5
    wrong_nodes = json.dumps(program)
    files = {
        "text.pt2": (b"no zip", "received another format"),
        "empty.pt2": (b"", "received another format"),
        "weights.pt": (
            zipped({"weights/data.pkl": b"x"}),
            "a zip file with 0 programs",
        ),
        "two.pt2": (zipped({"a/models/a.json": b"", "a/models/b.json": b""}), "with 2"),
        "nested.pt2": (zipped({"a/models/a.json": b"[" * 10**6}), "a damaged program"),
        "bytes.pt2": (zipped({"a/models/a.json": b"\xff"}), "a damaged program"),
        "list.pt2": (zipped({"a/models/a.json": b"[1]"}), "a damaged program"),
        "number.pt2": (zipped({"a/models/a.json": wrong_nodes}), "a damaged program"),
    }
    for name, (content, message) in files.items():
        (tmp_path / name).write_bytes(content)
        run = CliRunner().invoke(main, ["layers", str(tmp_path / name)])
        assert run.exit_code == 1 and message in run.output, run.output
        assert len(run.output.splitlines()) == 1


def test_a_name_cannot_control_the_terminal(tmp_path):
    program = read_program(DCGAN)
    metadata = program["graph_module"]["graph"]["nodes"][0]["metadata"]
    metadata["nn_module_stack"] = "x,[red]\x1b[31m\nname,torch.nn.X"
    file = tmp_path / "escape.pt2"
    file.write_bytes(zipped({"a/models/a.json": json.dumps(program)}))
    run = CliRunner().invoke(main, ["layers", str(file)])
    assert "[red]?[31m?name" in run.output and "\x1b[31m" not in run.output


class Opened:
    """A pickle that leaves a trace when it is read."""

    def __init__(self, trace):
        self.trace = trace

    def __reduce__(self):
        return Path.touch, (self.trace,)


def test_nothing_in_a_file_is_unpickled(tmp_path):
    trace, program = tmp_path / "trace", json.dumps(read_program(DCGAN)).encode()
    code = pickle.dumps(Opened(trace))
    file = tmp_path / "hostile.pt2"
    names = "a/data/sample_inputs/model.pt", "a/data/weights/weight_0"
    file.write_bytes(zipped({"a/models/a.json": program} | dict.fromkeys(names, code)))
    assert CliRunner().invoke(main, ["layers", str(file)]).exit_code == 0
    assert not trace.exists()
    pickle.loads(code)  # control: reading it does leave the trace
    assert trace.exists()


def test_damaged_programs_give_an_audit_or_one_line():
    whole, choose = read_program(DCGAN), random.Random(0)
    for _ in range(150):
        program = copy.deepcopy(whole)
        for _ in range(choose.randint(1, 3)):
            damage(program, choose)
        try:
            audits = audit_program(program)
        except ValueError as error:
            assert "\n" not in str(error)
        else:
            assert all("\n" not in audit.reason for audit in audits)


def damage(node, choose):
    """Removes or replaces one part, anywhere in the JSON."""
    while isinstance(node, dict | list) and node:
        keys = list(node) if isinstance(node, dict) else range(len(node))
        key = choose.choice(keys)
        if not isinstance(node[key], dict | list) or choose.random() < 0.2:
            if choose.random() < 0.5:
                del node[key]
            else:
                node[key] = choose.choice([None, -1, 10**9, "x", [], {}, [[]], True])
            return
        node = node[key]


def zipped(members):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return file.getvalue()


def random_layer(nn, choose, channels, rank):
    """One layer of PyTorch with random settings, and its number of channels."""

    def named(kind):
        return getattr(nn, f"{kind}{rank}d")

    kinds = "conv same transpose transpose pool mean up shuffle pad"
    kind = choose.choice(kinds.split())
    k, s, p = choose.randint(1, 5), choose.randint(1, 3), choose.randint(0, 2)
    d, g, out = choose.choice([1, 1, 2]), choose.choice([1, 2]), choose.choice([2, 4])
    if kind == "conv":
        return named("Conv")(channels, out, k, s, p, d, g), out
    if kind == "same":
        return named("Conv")(channels, out, k, 1, "same", d, g), out
    if kind == "transpose":
        added = choose.randint(0, max(s, d) - 1)
        return named("ConvTranspose")(channels, out, k, s, p, added, g, True, d), out
    if kind == "pool":
        pool = named("MaxPool")(k, s, min(p, k // 2), d, False, choose.random() < 0.5)
        return pool, channels
    if kind == "mean":
        pads = min(p, k // 2)
        return named("AvgPool")(k, s, pads, choose.random() < 0.5, False), channels
    if kind == "pad":
        border = choose.choice(["Reflection", "Replication", "Zero"])
        return named(f"{border}Pad")(p), channels
    if kind == "up":
        modes = ["nearest", {1: "linear", 2: "bilinear", 3: "trilinear"}[rank]]
        return nn.Upsample(scale_factor=s, mode=choose.choice(modes)), channels
    if rank == 2:
        return nn.Sequential(nn.Conv2d(channels, 8, 1), nn.PixelShuffle(2)), 2
    return nn.Identity(), channels


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
def test_random_modules_of_pytorch():
    torch = pytest.importorskip("torch")
    choose, num_checked = random.Random(0), 0
    for _ in range(60):
        rank, channels, layers = choose.choice([1, 2, 2, 3]), 2, []
        for _ in range(3):
            layer, channels = random_layer(torch.nn, choose, channels, rank)
            layers.append(layer)
        module = torch.nn.Sequential(*layers)
        inputs = torch.zeros(1, 2, *(choose.randint(4, 9) for _ in range(rank)))
        try:
            module(inputs)
        except (RuntimeError, ValueError):  # an illegal combination of settings
            continue
        audits = audit_program(export_module(module, [inputs]))
        for audit in audits:
            assert audit.as_predicted or "too many to run" in audit.reason, module
        assert sum(a.params for a in audits) == sum(
            p.numel() for p in module.parameters()
        )
        num_checked += sum(bool(audit.axes) for audit in audits)
    assert num_checked > 80


def test_a_wrong_place_of_the_values_is_found(monkeypatch):
    torch = pytest.importorskip("torch")
    true = arithmetic.conv_transpose_axis
    program = export_module(
        torch.nn.ConvTranspose2d(1, 1, 5, 2, 2, 1), [torch.zeros(1, 1, 7, 7)]
    )
    assert not errors(audit_program(program))
    monkeypatch.setattr(
        arithmetic,
        "conv_transpose_axis",
        lambda *settings: replace(true(*settings), pad_before=1, pad_after=2),
    )
    assert [f.code for f in errors(audit_program(program))] == ["E7"]


def test_modules_that_share_layers_skip_and_are_decomposed():
    torch = pytest.importorskip("torch")
    nn = torch.nn

    class UNet(nn.Module):
        def __init__(self):
            super().__init__()
            self.down, self.up = (
                nn.Conv2d(2, 2, 4, 2, 1),
                nn.ConvTranspose2d(2, 2, 4, 2, 1),
            )
            self.last = nn.Conv2d(4, 1, 3, padding=1)

        def forward(self, images):
            found = self.up(nn.functional.relu(self.down(images)))
            return self.last(torch.cat([self.up(self.down(found)), images], 1))

    fixed = torch.export.export(UNet(), (torch.zeros(2, 2, 8, 8),))
    for program in (fixed, fixed.run_decompositions()):
        audits = audit_program(saved(program))
        assert all(audit.as_predicted for audit in audits), audits
        shapes = [audit.output_shape[1:] for audit in audits if audit.axes]
        assert shapes == [(2, 4, 4), (2, 8, 8)] * 2 + [(1, 8, 8)]
        assert len({audit.name for audit in audits}) == len(audits)
        assert sum(a.params for a in audits) == 2 * (2 * 2 * 16 + 2) + 4 * 9 + 1


def test_sizes_that_a_program_leaves_open():
    torch = pytest.importorskip("torch")
    module = torch.nn.Sequential(
        torch.nn.ConvTranspose2d(2, 3, 4, 2, 1), torch.nn.ReLU()
    )
    dim = torch.export.Dim
    sides = {0: dim("n"), 2: dim("h", min=2), 3: dim("w", min=2)}
    program = saved(
        torch.export.export(module, (torch.zeros(2, 2, 8, 8),), dynamic_shapes=(sides,))
    )
    for size, shape in ((6, (3, 12, 12)), (None, (3, None, None))):
        audits = audit_program(program, size)
        assert [audit.output_shape[1:] for audit in audits] == [shape, shape]
        assert audits[0].as_predicted == bool(size)
    assert "give --input-size" in audits[0].reason


def misleading(torch):
    """Functions of maps, example inputs, and (products per image, are places known)."""
    up = torch.nn.ConvTranspose2d(4, 4, 4, 2, 1)
    grouped = torch.nn.ConvTranspose2d(4, 4, 4, 2, 1, groups=4)
    dense, shuffle = torch.nn.Linear(8, 8), torch.nn.PixelShuffle(2)
    maps, products = torch.zeros(1, 4, 8, 8), 64 * 16 * 16

    def moved_in_place(x):
        x = x.clone()
        x[:, :, 1:] = x[:, :, :-1].clone()
        return up(x)

    def rejoined(x):
        return up(x + x.flatten(2).flip(-1).view(x.shape))

    def without_gradients(x):
        with torch.no_grad():
            return up(x)

    return {
        "upsampling": (up, maps, products, True),
        "two images": (up, torch.zeros(2, 4, 8, 8), products, True),
        "groups": (grouped, maps, products // 4, True),
        "frames": (
            lambda x: up(x.flatten(0, 1)).unflatten(0, (2, 5)),
            torch.zeros(2, 5, 4, 8, 8),
            5 * products,
            True,
        ),
        "moved in place": (moved_in_place, maps, products, False),
        "rejoined": (rejoined, maps, products, False),
        "softmax of rows": (lambda x: up(x.softmax(-1)), maps, products, False),
        "hidden": (without_gradients, maps, 0, False),
        "tokens": (dense, torch.zeros(1, 16, 8), 16 * 64, False),
        "rows times maps": (
            lambda x: torch.ones(16, 8) @ x,
            maps,
            4 * 16 * 8 * 8,
            False,
        ),
        "vector": (lambda x: x @ torch.ones(8), torch.zeros(1, 8), 8, False),
        "shuffle of more axes": (shuffle, torch.zeros(1, 3, 4, 8, 8), 0, False),
        "shuffle of less": (shuffle, torch.zeros(4, 8, 8), 0, False),
        "bounds": (lambda x: x.clamp(min=torch.zeros(2, 1, 1, 1)), maps, 0, False),
        "other scale": (
            lambda x: torch.nn.functional.interpolate(x, scale_factor=2.05),
            torch.zeros(1, 1, 10, 10),
            0,
            False,
        ),
        "a number": (lambda x: up(x[None, None, None].expand(1, 4, 8, 8)),
                     torch.tensor(3.0), products, True),
    }  # fmt: skip


def test_what_moves_pixels_unseen_is_not_called_known():
    torch = pytest.importorskip("torch")

    class Module(torch.nn.Module):
        def __init__(self, function):
            super().__init__()
            self.function = function

        def forward(self, x):
            return self.function(x)

    for name, (function, inputs, macs, is_known) in misleading(torch).items():
        audits = audit_program(export_module(Module(function), [inputs]))
        assert not errors(audits), (name, audits)
        assert sum(audit.macs for audit in audits) == macs, name
        codes = [f.code for audit in audits for f in audit.findings]
        assert ("I2" in codes) == is_known, name
        texts = [f.text for a in audits for f in a.findings if f.code == "I4"]
        assert all(("no groups" in text) == (name == "groups") for text in texts)


def test_unused_parameters_and_what_is_not_fixed_are_named():
    torch = pytest.importorskip("torch")

    class Module(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.used = torch.nn.Conv2d(1, 1, 3)
            self.unused = torch.nn.Linear(3, 3)

        def forward(self, x):
            size = x.shape[2] * 2, x.shape[3] * 2
            self.used(x)
            return torch.nn.functional.interpolate(x, size).flatten(2)

    dim = torch.export.Dim
    program = saved(
        torch.export.export(
            Module(),
            (torch.zeros(1, 1, 8, 8),),
            dynamic_shapes=({2: dim("h", min=4), 3: dim("w", min=4)},),
        )
    )
    audits = audit_program(program, 8)
    assert sum(audit.params for audit in audits) == 10 + 12
    assert audits[-1].reason == "no operator uses them"
    reasons = {audit.type: audit.reason for audit in audits}
    assert "not fixed" in reasons["upsample_nearest2d"]
    assert "not fixed" in reasons["flatten"]
    assert not errors(audits) and "damaged" not in str(reasons)


def saved(program):
    file = io.BytesIO()
    __import__("torch").export.save(program, file)
    return read_program(file)
