"""The hub as a process: its address, its port, and a kill in the middle of a run."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from fullrank import papers
from fullrank.hub.store import Store


@contextmanager
def _served(runs: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    command = [sys.executable, "-m", "fullrank", "serve", "--port", "0", "--runs", str(runs)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as hub:
        assert hub.stdout is not None
        try:
            line = hub.stdout.readline()
            found = re.search(r"http://\S+", line)
            assert found, line + hub.stdout.read()
            yield hub, found.group()
        finally:
            hub.kill()


def _json(address: str) -> Any:
    with urllib.request.urlopen(address, timeout=20) as answer:
        return json.load(answer)


def _post(address: str, **fields: str) -> str:
    body = urllib.parse.urlencode(fields).encode()
    with urllib.request.urlopen(address, body, timeout=20) as answer:
        return answer.geturl()


def test_a_killed_hub_leaves_a_run_that_is_resumed(tmp_path: Path) -> None:
    with _served(tmp_path) as (hub, address):
        job = _post(f"{address}/papers/rankme/runs", scale="smoke")
        deadline = time.monotonic() + 60
        while _json(f"{job}.json")["progress"]["done"] < 3:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        assert _json(f"{address}/runs.json")["runs"][0]["status"] == "running"
        hub.send_signal(signal.SIGKILL)
        hub.wait(20)
    with _served(tmp_path) as (_, address):
        runs = _json(f"{address}/runs.json")["runs"]
        assert [run["status"] for run in runs] == ["interrupted"]
        assert (
            _json(f"{address}/{urllib.parse.urlsplit(job).path}.json".replace("//jobs", "/jobs"))["state"]
            == "interrupted"
        )
        with urllib.request.urlopen(f"{address}/runs/rankme/{runs[0]['run']}", timeout=20) as page:
            assert "Resume" in page.read().decode()
        again = _post(f"{address}/papers/rankme/runs", scale="smoke")
        deadline = time.monotonic() + 120
        while (state := _json(f"{again}.json"))["state"] in ("waiting", "running"):
            assert time.monotonic() < deadline
            time.sleep(0.2)
        assert state["state"] == "finished"
        assert state["run"] == runs[0]["run"]
        finished = _json(f"{address}/runs/rankme/{state['run']}.json")
        assert finished["status"] == "finished"
        name = next(iter(finished["result"]["figures"]))
        with urllib.request.urlopen(f"{address}/runs/rankme/{state['run']}/figures/{name}.svg", timeout=20) as figure:
            assert figure.headers["content-type"] == "image/svg+xml"
            assert b"<svg" in figure.read()


def test_ctrl_c_ends_it_cleanly_and_a_second_hub_is_refused(tmp_path: Path) -> None:
    with _served(tmp_path) as (hub, address):
        second = [sys.executable, "-m", "fullrank", "serve", "--port", "0", "--runs", str(tmp_path)]
        refused = subprocess.run(second, capture_output=True, text=True, timeout=60)
        assert refused.returncode == 2
        assert "another hub serves" in refused.stderr
        assert "Traceback" not in refused.stderr
        assert _json(f"{address}/index.json")["papers"]
        hub.send_signal(signal.SIGINT)
        assert hub.stdout is not None
        assert "Traceback" not in hub.stdout.read()
        assert hub.wait(20) in (0, 130)


@pytest.mark.parametrize("ending", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
def test_a_hub_that_is_stopped_interrupts_its_job_and_the_run_alike(tmp_path: Path, ending: signal.Signals) -> None:
    with _served(tmp_path) as (hub, address):
        job = _post(f"{address}/papers/rankme/runs", scale="smoke")
        deadline = time.monotonic() + 60
        while not _json(f"{job}.json")["progress"]["done"]:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        hub.send_signal(ending)
        hub.wait(20)
    (run,) = papers.list_runs("rankme", tmp_path)
    (found,) = Store(tmp_path / ".hub" / "hub.sqlite").jobs()
    assert (run.status, found.state) == ("interrupted", "interrupted")


def test_a_port_in_use_is_said(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        command = [sys.executable, "-m", "fullrank", "serve", "--port", str(port), "--runs", str(tmp_path)]
        refused = subprocess.run(command, capture_output=True, text=True, timeout=60, env=dict(os.environ))
    assert refused.returncode == 2
    assert f"port {port}" in refused.stderr
    assert "in use" in refused.stderr
    assert "Traceback" not in refused.stderr


@pytest.mark.parametrize("models", ["missing", "file"])
def test_a_folder_of_models_must_be_there(tmp_path: Path, models: str) -> None:
    from fullrank.hub import Settings

    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="is not a folder"):
        Settings(tmp_path, (tmp_path / models,))
