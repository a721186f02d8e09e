"""Workers that end in every way, without TensorFlow: each is a line of Python."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gan.launch import Limits, WorkerLostError, environments, launch

ROOT = Path(__file__).parents[2]
LOST = WorkerLostError.exit_code
INDEX = """
import json, os, sys, time, signal
index = json.loads(os.environ["TF_CONFIG"])["task"]["index"]
"""


def launched(body, *, restarts=2, grace=0.3, workers=2):
    """Exit code, and what was said."""
    said = []
    limits = Limits(restarts, start_seconds=5, grace_seconds=grace)
    command = [sys.executable, "-c", INDEX + body]
    return launch(command, workers, limits, said.append), said


def test_each_worker_knows_all_addresses_and_its_own_place():
    configs = [json.loads(e["TF_CONFIG"]) for e in environments(3, 9.5)]
    assert [c["task"]["index"] for c in configs] == [0, 1, 2]
    assert all(c["cluster"] == configs[0]["cluster"] for c in configs)
    addresses = configs[0]["cluster"]["worker"]
    assert len(set(addresses)) == 3
    assert all(address.startswith("127.0.0.1:") for address in addresses)
    assert environments(1, 9.5)[0]["GAN_START_TIMEOUT_SECONDS"] == "9.5"


def test_success_is_success():
    assert launched("") == (0, [])


def test_a_worker_that_fails_by_itself_is_not_started_again(tmp_path):
    count = f"open({str(tmp_path)!r} + f'/{{os.getpid()}}', 'w')\n"
    code, said = launched(count + "sys.exit(3 if index else 0)")
    assert (code, said, len(list(tmp_path.iterdir()))) == (3, [], 2)


@pytest.mark.parametrize(
    ("end", "code", "cause"),
    [
        ("os.kill(os.getpid(), signal.SIGKILL)", 128 + 9, "SIGKILL"),
        (f"sys.exit({LOST})", LOST, "another worker has gone"),
    ],
)
def test_a_worker_that_dies_is_started_again_so_often_and_no_more(
    tmp_path, end, code, cause
):
    count = f"open({str(tmp_path)!r} + f'/{{os.getpid()}}', 'w')\n"
    received, said = launched(count + f"if index == 1: {end}")
    assert received == code and len(list(tmp_path.iterdir())) == 6
    again = f"a worker ended ({cause}); starting all again"
    assert said == [again, again, f"a worker ended ({cause}), after 2 restarts"]


def test_what_died_once_may_succeed(tmp_path):
    mark = str(tmp_path / "mark")
    body = (
        f"if index and not os.path.exists({mark!r}):\n"
        f"    open({mark!r}, 'w'); os.kill(os.getpid(), signal.SIGKILL)"
    )
    code, said = launched(body)
    assert code == 0 and len(said) == 1


@pytest.mark.parametrize(
    "stubborn",
    ["signal.signal(signal.SIGTERM, signal.SIG_IGN)", "os.kill(os.getpid(), 19)"],
    ids=["deaf to SIGTERM", "frozen"],
)
def test_the_others_are_killed_if_need_be(stubborn):
    body = f"if index: {stubborn}; time.sleep(60)\ntime.sleep(0.5); sys.exit(4)"
    start = time.monotonic()
    assert launched(body, grace=0.2) == (4, [])
    assert time.monotonic() - start < 30


def test_a_signal_reaches_every_worker_and_ends_the_launch(tmp_path):
    body = (
        "def note(number, _):\n"
        f"    open({str(tmp_path)!r} + f'/stopped{{index}}', 'w'); sys.exit(143)\n"
        "signal.signal(signal.SIGTERM, note)\n"
        f"open({str(tmp_path)!r} + f'/ready{{index}}', 'w'); time.sleep(60)"
    )
    command = [sys.executable, "-m", "gan", "launch", "--", sys.executable, "-c"]
    with subprocess.Popen([*command, INDEX + body], cwd=ROOT) as process:
        while len(list(tmp_path.glob("ready*"))) < 2:
            assert process.poll() is None
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGTERM)
        assert process.wait(60) == 143
    assert len(list(tmp_path.glob("stopped*"))) == 2


def test_a_command_that_is_not_there_gets_one_line():
    command = [sys.executable, "-m", "gan", "launch", "--", "no-such-program"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("Error: ") and len(done.stderr.splitlines()) == 1
