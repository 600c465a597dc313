"""A language model behind a server, against a server of the test's own."""

from __future__ import annotations

import logging
import pickle
import socket
import threading
import time
from contextlib import contextmanager

import pytest

from fullrank.search import Document
from fullrank.search.answers import BasicRAG
from fullrank.search.language_model import LanguageModel, Measured
from fullrank.search.server_model import ServerModel

from .fake_server import serving

pytest.importorskip("openai")
KEY = "sk-very-secret"


def said(text):
    return {
        "id": "1",
        "object": "chat.completion",
        "created": 0,
        "model": "m",
        "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}],
    }


def echo(request):
    return 200, {}, said(request["messages"][0]["content"].upper())


@contextmanager
def asking(server, **options):
    model = ServerModel(f"{server.url}/v1", "m", **{"retries": 0, **options})
    try:
        yield model
    finally:
        model.close()


@pytest.fixture(autouse=True)
def no_keys(monkeypatch):
    for name in ("OPENAI_API_KEY", "FULLRANK_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)


def test_prompts_become_messages_and_order_stays():
    with serving(echo) as server, asking(server) as model:
        assert isinstance(model, LanguageModel)
        assert isinstance(model, Measured)
        assert model.complete(["a", "b stop c", "d"], max_new_tokens=7, stop=["STOP"]) == ["A", "B ", "D"]
        assert model.complete([]) == []
        first = server.requests[0]
    assert first["path"] == "/v1/chat/completions"
    assert (first["model"], first["max_tokens"], first["temperature"], first["stop"]) == ("m", 7, 0.0, ["STOP"])
    assert "seed" not in first


def test_texts_to_be_continued():
    def reply(request):
        return (
            200,
            {},
            {
                "id": "1",
                "object": "text_completion",
                "created": 0,
                "model": "m",
                "choices": [{"index": 0, "finish_reason": "stop", "text": request["prompt"] + "!"}],
            },
        )

    with serving(reply) as server, asking(server, chat=False) as model:
        assert model.complete(["a"]) == ["a!"]
        assert server.requests[0]["path"] == "/v1/completions"


def test_samples_of_one_prompt_have_seeds_of_their_own():
    with serving(echo) as server, asking(server) as model:
        model.complete(["a"] * 3, temperature=0.7, seed=5)
        assert sorted(request["seed"] for request in server.requests) == [5, 6, 7]


def test_requests_at_a_time_are_bounded():
    def slow(request):
        time.sleep(0.05)
        return echo(request)

    with serving(slow) as server, asking(server, concurrency=3) as model:
        assert len(model.complete([str(n) for n in range(9)])) == 9
        assert 2 <= server.most <= 3


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_busy_server_is_asked_again_when_it_says(status):
    times = []

    def reply(request):
        times.append(time.monotonic())
        return (status, {"Retry-After": "0.2"}, {"error": {"message": "busy"}}) if len(times) == 1 else echo(request)

    with serving(reply) as server, asking(server, retries=2) as model:
        assert model.complete(["a"]) == ["A"]
    assert 0.2 <= times[1] - times[0] < 2


def test_a_server_that_stays_busy():
    with serving(lambda request: (429, {"Retry-After": "0.01"}, {"error": {"message": "slow down"}})) as server:
        with asking(server, retries=2) as model, pytest.raises(RuntimeError, match=r"refused with 429: .*slow down"):
            model.complete(["a"])
        assert len(server.requests) == 3


def test_after_a_failure_the_rest_is_not_asked():
    with (
        serving(lambda request: (400, {}, {"error": {"message": "no"}})) as server,
        asking(server, concurrency=2) as model,
        pytest.raises(RuntimeError, match="refused with 400"),
    ):
        model.complete(["a"] * 50)
    assert len(server.requests) < 25


def test_no_answer_in_time():
    free = threading.Event()

    def reply(request):
        free.wait(5)
        return echo(request)

    with serving(reply) as server:
        with (
            asking(server, timeout=0.1) as model,
            pytest.raises(TimeoutError, match=r"gave no answer within 0\.1 s, asked 1"),
        ):
            model.complete(["a"])
        free.set()


def test_nobody_there():
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/v1"
    model = ServerModel(url, "m", retries=0)
    with pytest.raises(ConnectionError, match=r"http://127.*/v1 is out of reach \(.*\); is the server running"):
        model.complete(["a"])
    model.close()


@pytest.mark.parametrize(
    "content",
    [
        {},
        {"choices": []},
        {"choices": [{"message": {"role": "assistant", "content": None}}]},
        {"choices": [{"message": None}]},
        {"choices": 3},
        [1, 2],
        "text",
        b"<html>proxy</html>",
        b"{broken",
    ],
)
def test_answers_that_are_none(content):
    with (
        serving(lambda request: (200, {}, content)) as server,
        asking(server) as model,
        pytest.raises(RuntimeError, match=r"no completion; does it speak|cannot be read"),
    ):
        model.complete(["a"])


def test_a_page_instead_of_an_answer():
    page = {"Content-Type": "text/html"}
    with (
        serving(lambda request: (200, page, b"<html>log in</html>")) as server,
        asking(server) as model,
        pytest.raises(RuntimeError, match="no completion; does it speak OpenAI's protocol"),
    ):
        model.complete(["a"])


def test_a_refusal_is_told_in_one_line():
    refusal = {"error": {"message": f"no model m\nfor {KEY}"}}
    with (
        serving(lambda request: (404, {}, refusal)) as server,
        asking(server, api_key=KEY) as model,
        pytest.raises(RuntimeError, match=r"refused with 404: .*no model m") as caught,
    ):
        model.complete(["a"])
    assert "\n" not in str(caught.value)
    assert KEY not in str(caught.value)


def test_keys_go_where_they_belong_and_are_never_told(monkeypatch, caplog):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("OPENAI_ORG_ID", "org-1")
    with caplog.at_level(logging.DEBUG), serving(echo) as server:
        with asking(server) as model:
            model.complete(["a"])
        monkeypatch.setenv("FULLRANK_API_KEY", "ours-1")
        with asking(server) as model:
            model.complete(["a"])
        with asking(server, api_key="given-1") as model:
            model.complete(["a"])
            assert "given-1" not in repr(model)
            with pytest.raises(TypeError, match="holds a key and connections"):
                pickle.dumps(model)
        assert [request["key"] for request in server.requests] == ["Bearer none", "Bearer ours-1", "Bearer given-1"]
        assert not any(request["account"] for request in server.requests)
    assert ServerModel("https://api.openai.com/v1", "m")._key == KEY
    assert not any(key in caplog.text for key in (KEY, "ours-1", "given-1"))


def test_a_key_that_is_not_accepted():
    refusal = {"error": {"message": f"bad key {KEY}"}}
    with (
        serving(lambda request: (401, {}, refusal)) as server,
        asking(server, api_key=KEY) as model,
        pytest.raises(PermissionError, match=r"does not accept the key \(401\)"),
    ):
        model.complete(["a"])


@pytest.mark.parametrize(
    ("names", "complaint"), [([], "offers the models none"), (["x", "y"], "offers the models x, y; name one of them")]
)
def test_the_only_model_needs_no_name(names, complaint):
    offered = {"object": "list", "data": [{"id": n, "object": "model", "created": 0, "owned_by": "o"} for n in names]}
    with serving(lambda request: (200, {}, offered)) as server:
        model = ServerModel(f"{server.url}/v1", retries=0)
        with pytest.raises(ValueError, match=complaint):
            model.complete(["a"])
        model.close()
        offered["data"] = [{"id": "only", "object": "model", "created": 0, "owned_by": "o"}]
        model = ServerModel(f"{server.url}/v1", retries=0)
        assert model.model == "only"
        model.close()


@pytest.mark.parametrize("content", [b"<html>log in</html>", [1], {"data": [1]}, "no", {"data": None}])
def test_names_that_cannot_be_read(content):
    with serving(lambda request: (200, {}, content)) as server:
        model = ServerModel(f"{server.url}/v1", retries=0)
        with pytest.raises((RuntimeError, ValueError), match=r"cannot be read|offers the models none"):
            model.complete(["a"])
        model.close()


def test_a_generator_on_a_server():
    with serving(lambda request: (200, {}, said(" Paris"))) as server, asking(server, max_input_tokens=200) as model:
        documents = [Document(f"d{n}", "Paris is the capital. " * 5) for n in range(9)]
        answer = BasicRAG(model).answer("Where?", documents)
        assert answer.text == "Paris"
        assert 0 < len(answer.sources) < 9


def test_bad_options():
    with pytest.raises(ValueError, match="base_url='localhost:8000' is no address"):
        ServerModel("localhost:8000")
    for name, value in (("timeout", 0.0), ("retries", -1), ("concurrency", 0)):
        with pytest.raises(ValueError, match=f"{name}={value} is not accepted"):
            ServerModel("http://localhost/v1", **{name: value})
