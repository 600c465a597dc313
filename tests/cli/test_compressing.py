"""Compressing models from the command."""

from __future__ import annotations

import json

import pytest
import torch
from transformers import AutoModelForSequenceClassification

import fullrank as library

from ..adapt.folders import encoder_folder, labelled_file

SMALL = ("--num-samples", 16, "--max-length", 8)


@pytest.fixture
def model(folders):
    return encoder_folder(folders / "model")


@pytest.fixture
def data(folders):
    return labelled_file(folders / "train.tsv")


def test_a_model_is_compressed_proven_and_saved(fullrank, model, data, folders):
    outcome = fullrank("compress", model, "--data", data, "--keep", 0.5, "--recover", 1, *SMALL, "-o", "small")
    assert outcome.code == 0, outcome.err
    assert "fwsvd:" in outcome.out
    assert "recovered" in outcome.out
    report = json.loads((folders / "small" / "report.json").read_text())
    assert report["disk_after"] < report["disk_before"]
    assert {"accuracy", "loss"} == set(report["recovered"])
    assert [row["batch"] for row in report["latency"]] == [1, 32]
    ids = torch.tensor([[3, 4, 5]])
    loaded = library.load(folders / "small")
    again = AutoModelForSequenceClassification.from_pretrained(folders / "small")
    torch.testing.assert_close(loaded(input_ids=ids).logits, again(input_ids=ids).logits)


@pytest.mark.parametrize(
    "size", [("--rank", 3), ("--energy", 0.5), ("--budget", "1.5k"), ("--method", "whiten", "--keep", 0.4)]
)
def test_every_way_to_say_how_small(fullrank, model, data, size):
    outcome = fullrank("compress", model, "--data", data, *size, *SMALL, "-o", "small", "--json")
    assert outcome.code == 0, outcome.err
    compression = outcome.json["compression"]
    assert compression["parameters_after"] < compression["parameters_before"]


def test_the_scales_of_a_quantised_model_are_shared_as_asked(fullrank, model, data, folders):
    size = ("--method", "rtn", "--bits", 8, "--group-size", -1)
    outcome = fullrank("compress", model, "--data", data, *size, *SMALL, "-o", "small", "--json")
    assert outcome.code == 0, outcome.err
    assert outcome.json["compression"]["options"]["group_size"] == -1


def test_the_frontier_of_several_methods(fullrank, model, data, folders):
    outcome = fullrank(
        "compare-compressors", "--model", model, "--data", data, "--methods", "svd, whiten", "--keeps", "0.6,0.4",
        *SMALL, "-o", "frontier.svg", "-o", "frontier.csv",
    )  # fmt: skip
    assert outcome.code == 0, outcome.err
    assert "whiten" in outcome.out
    assert "<svg" in (folders / "frontier.svg").read_text()
    assert len((folders / "frontier.csv").read_text().splitlines()) == 5


def test_nothing_is_overwritten_and_wrong_arguments_are_told(fullrank, model, data, folders):
    (folders / "full").mkdir()
    (folders / "full" / "mine.txt").write_text("mine")
    outcome = fullrank("compress", model, "--data", data, "-o", "full")
    assert outcome.code == 2
    assert "holds something already" in outcome.err
    for arguments, words in (
        (("--keep", 0.5, "--rank", 3), "--keep and --rank exclude each other"),
        (("--budget", "many"), "--budget many: a number of parameters"),
        (("--keep", 1.5), "keep=1.5"),
        (("--method", "fwsdv"), "did you mean 'fwsvd'"),
        (("--exclude-modules", "query,key,value,dense"), "there is no layer to compress"),
    ):
        outcome = fullrank("compress", model, "--data", data, *arguments, *SMALL, "-o", "small")
        assert outcome.code == 2, arguments
        assert words in " ".join(outcome.err.split()), outcome.err
        assert "Traceback" not in outcome.err
    assert not (folders / "small").exists()
    outcome = fullrank("compare-compressors", "--model", model, "--data", data, "--keeps", "half", *SMALL)
    assert outcome.code == 2
    assert "numbers with commas" in outcome.err
