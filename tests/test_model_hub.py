"""Whether a hub is in reach."""

from __future__ import annotations

import socket

import pytest

from fullrank._model_hub import only_local_files


@pytest.fixture(autouse=True)
def without_proxy(monkeypatch):
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


def test_a_folder_needs_no_hub(tmp_path, monkeypatch):
    monkeypatch.setattr(socket, "create_connection", lambda *_, **__: pytest.fail("the network was asked"))
    assert only_local_files(tmp_path)


def test_a_hub_that_answers_is_used_and_one_that_does_not_is_left_alone(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.getsockname()[1]}")
        assert not only_local_files("somebody/model")
    assert only_local_files("somebody/model")


def test_the_client_is_left_to_try_behind_a_proxy(monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("https_proxy", "http://proxy.example:3128")
    assert not only_local_files("somebody/model")
