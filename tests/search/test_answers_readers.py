"""Generators by a word."""

from __future__ import annotations

import pytest

from fullrank.search import BasicRAG, ChainOfThoughtRAG, ExtractiveReader, ServerModel, TransformersModel
from fullrank.search.readers import open_reader


def test_words_for_generators(tmp_path):
    sentence, span = open_reader(), open_reader("span")
    assert isinstance(sentence, ExtractiveReader)
    assert isinstance(span, ExtractiveReader)
    assert (sentence.unit, span.unit) == ("sentence", "span")
    home = open_reader(str(tmp_path), method="chain-of-thought-rag", local_files_only=True)
    assert isinstance(home, ChainOfThoughtRAG)
    assert isinstance(home.model, TransformersModel)


def test_an_address_is_a_server():
    pytest.importorskip("openai")
    far = open_reader("http://localhost:1/v1", "m", timeout=3.0)
    assert isinstance(far, BasicRAG)
    assert isinstance(far.model, ServerModel)
    assert (far.model.model, far.model.timeout) == ("m", 3.0)


def test_words_that_do_not_fit():
    with pytest.raises(ValueError, match="method='rag' is not known; accepted: basic-rag, "):
        open_reader(method="rag")
    with pytest.raises(ValueError, match="model='m' names a model on a server, but reader='span' is no address"):
        open_reader("span", "m")
    with pytest.raises(ValueError, match="timeout: options of a model, but reader='extractive' has none"):
        open_reader(timeout=1.0)
