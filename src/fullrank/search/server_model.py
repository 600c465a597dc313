"""Language models behind any server that speaks OpenAI's protocol."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import Any
from urllib.parse import urlsplit

from fullrank._optional import require
from fullrank.search.language_model import before, estimated_tokens
from fullrank.search.run import at_least_one
from fullrank.search.server import Failure, Server

_OPENAI = "api.openai.com"


class ServerModel:
    """A language model on a server: OpenAI, vLLM, llama.cpp, Ollama, LiteLLM and whatever else speaks their protocol.

    Nothing is asked before the first completion. A key goes to no other server than its own: that of the environment
    variable OPENAI_API_KEY only to api.openai.com, that of FULLRANK_API_KEY to any `base_url` that is given here.

    Args:
        base_url: such as "http://localhost:8000/v1".
        model: its name there; by default the only one that the server offers.
        api_key: see above; servers at home need none.
        chat: whether prompts are messages of a conversation, or texts to be continued (for models without instruction
            tuning).
        timeout: seconds that one try of a request may take.
        retries: tries after the first, where the server is busy (429), failing (5xx) or out of reach. It is asked again
            when its Retry-After says, up to two minutes, or after a growing pause.
        concurrency: requests at a time.
        max_input_tokens: of a prompt, counted as a third of its bytes, for want of the server's tokenizer.

    Raises:
        MissingExtra: the openai client is not installed.
        ValueError: a `base_url` that is none, or a number out of range.
    """

    def __init__(
        self,
        base_url: str,
        model: str | None = None,
        api_key: str | None = None,
        *,
        chat: bool = True,
        timeout: float = 60.0,
        retries: int = 3,
        concurrency: int = 4,
        max_input_tokens: int | None = None,
    ) -> None:
        self._openai: Any = require("openai", "servers")
        at_least_one(concurrency, "concurrency")
        self._at_openai = urlsplit(base_url).hostname == _OPENAI
        variable = "OPENAI_API_KEY" if self._at_openai else "FULLRANK_API_KEY"
        self._key = api_key or os.environ.get(variable, "")
        self._server = Server(
            base_url,
            timeout,
            retries,
            secret=self._key,
            remedy=f"api_key=..., or the environment variable {variable}",
            argument="base_url",
            example="http://localhost:8000/v1",
        )
        self.base_url, self.chat, self.timeout = base_url, chat, timeout
        self.retries, self.concurrency, self.max_input_tokens = retries, concurrency, max_input_tokens
        self._model = model

    def __repr__(self) -> str:
        return f"ServerModel({self._server.url!r}, model={self._model!r})"

    def __getstate__(self) -> dict[str, Any]:
        raise TypeError("a ServerModel holds a key and connections, and cannot be copied or pickled: make another one")

    @property
    def model(self) -> str:
        """The model's name on the server; asked from it if none was given.

        Raises:
            ValueError: the server offers several models, or none.
            ConnectionError, TimeoutError, RuntimeError: see `complete`.
        """
        if self._model is None:
            offered = self._ask(lambda client: [entry.id for entry in client.models.list()])
            if len(offered) != 1:
                names = ", ".join(offered[:10]) or "none"
                raise ValueError(f"{self._server.url} offers the models {names}; name one of them: model=...")
            self._model = offered[0]
        return self._model

    def complete(
        self,
        prompts: Sequence[str],
        *,
        max_new_tokens: int = 128,
        temperature: float = 0.0,
        stop: Sequence[str] = (),
        seed: int = 0,
    ) -> list[str]:
        """See `LanguageModel.complete`; up to `concurrency` requests at a time.

        Raises:
            ConnectionError: the server is out of reach.
            TimeoutError: it gave no answer in time.
            PermissionError: it does not accept the key.
            RuntimeError: it refused, or answered with something that is no completion.
        """
        if not prompts:
            return []
        options: dict[str, Any] = {"model": self.model, "temperature": temperature}
        options["max_completion_tokens" if self._at_openai and self.chat else "max_tokens"] = max_new_tokens
        if stop:
            options["stop"] = list(stop[:4])  # more are not accepted; `before` cuts at them all

        def ask(number: int) -> str:
            sampled = {"seed": seed + number} if temperature > 0 else {}  # the same prompt twice gives two samples
            return before(self._completion(prompts[number], options | sampled), stop)

        pool = ThreadPoolExecutor(min(self.concurrency, len(prompts)))
        try:
            return list(pool.map(ask, range(len(prompts))))
        finally:
            pool.shutdown(cancel_futures=True)  # after a failure the rest is not asked

    def close(self) -> None:
        """Close the connections; the next completion opens others."""
        if "_client" in self.__dict__:
            self.__dict__.pop("_client").close()

    def count_tokens(self, text: str) -> int:
        """An estimate that is rather too high; see `estimated_tokens`."""
        return estimated_tokens(text)

    def input_limit(self, max_new_tokens: int) -> int | None:
        """`max_input_tokens`, which the server does not tell."""
        return self.max_input_tokens

    @cached_property
    def _client(self) -> Any:
        account = {} if self._at_openai else {"organization": "", "project": ""}  # not those of the environment
        return self._openai.OpenAI(
            base_url=self.base_url,
            api_key=self._key or "none",
            timeout=self.timeout,
            max_retries=self.retries,
            **account,
        )

    def _completion(self, prompt: str, options: dict[str, Any]) -> str:
        if self.chat:
            messages = [{"role": "user", "content": prompt}]
            answer = self._ask(lambda client: client.chat.completions.create(messages=messages, **options))
        else:
            answer = self._ask(lambda client: client.completions.create(prompt=prompt, **options))
        try:
            text = answer.choices[0].message.content if self.chat else answer.choices[0].text
        except (AttributeError, IndexError, TypeError):
            text = None
        if not isinstance(text, str):
            raise RuntimeError(
                f"{self._server.url} answered with something that is no completion; does it speak OpenAI's protocol "
                f"({'chat/completions' if self.chat else 'completions'})?"
            )
        return text

    def _ask(self, request: Any) -> Any:
        """What the server answers, or one sentence about why it does not."""
        openai = self._openai
        try:
            return request(self._client)
        except openai.APITimeoutError:
            failure = Failure("time-out")
        except openai.APIConnectionError as error:
            failure = Failure("connection", str(error.__cause__ or ""))
        except openai.APIStatusError as error:
            failure = Failure("status", str(error), error.status_code)
        except (openai.OpenAIError, ValueError, AttributeError, TypeError) as error:  # no JSON, or another
            failure = Failure("unreadable", str(error))
        raise self._server.error(failure)
