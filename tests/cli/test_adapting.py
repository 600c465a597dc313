"""Training adapters from the command."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import pytest
from peft import AutoPeftModelForSequenceClassification

from fullrank.tasks.examples import TASKS

from ..adapt.folders import encoder_folder, labelled_file

SMALL = ("--epochs", 4, "--batch-size", 8, "--target-modules", "query,value")


@pytest.fixture
def model(folders):
    return encoder_folder(folders / "model")


@pytest.fixture
def data(folders):
    return labelled_file(folders / "train.tsv")


def test_an_adapter_is_trained_measured_and_saved(fullrank, model, data, folders):
    outcome = fullrank("adapt", model, "--method", "hydra", "--rank", 2, "--data", data, *SMALL, "-o", "adapter")
    assert outcome.code == 0
    assert "hydra on" in outcome.out
    assert "accuracy" in outcome.out
    assert "parameters trained in the adapter" in outcome.out
    report = json.loads((folders / "adapter" / "report.json").read_text())
    assert report["after"]["loss"] < report["before"]["loss"]
    AutoPeftModelForSequenceClassification.from_pretrained(folders / "adapter", num_labels=2)


def test_json_and_a_file_to_test_on(fullrank, model, data, folders):
    test = labelled_file(folders / "test.tsv", 6)
    outcome = fullrank("adapt", model, "--data", data, "--test", test, "--budget", 300, *SMALL, "-o", "a", "--json")
    assert outcome.json["test_examples"] == 6
    assert outcome.json["adapter_parameters"] == 256
    assert outcome.json["method"] == "lora"


def test_a_comparison(fullrank, model, data, folders):
    outcome = fullrank(
        "compare-adapters", "--model", model, "--data", data, "--methods", "lora, hydra", "--budget", 300,
        "--seeds", "0,1", *SMALL, "-o", "comparison.svg", "-o", "comparison.json",
    )  # fmt: skip
    assert outcome.code == 0
    assert "300 trainable parameters, 2 seeds" in outcome.out
    assert "lora" in outcome.out
    assert json.loads((folders / "comparison.json").read_text())["metric"] == "accuracy"
    assert "<svg" in (folders / "comparison.svg").read_text()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--method", "lorra"), "there is no adapter method 'lorra'; did you mean 'lora'"),
        (("--data", "sst"), "there is no data set 'sst'; did you mean sst2?"),
        (("--data", "none.tsv"), "none.tsv: No such file"),
        (("--task", "regression"), "needs the field 'score'; it has text, label"),
        (("--rank", 2, "--budget", 9), "rank=2 and budget=9: give one of them"),
        (("--budget", 1), "budget=1: lora trains at least"),
        (("--learning-rate", 0), "learning_rate=0.0: a positive number is needed"),
        (("--device", "tpu"), "device='tpu': 'cpu' and 'cuda' are accepted"),
        (("--target-modules", "nothing"), "lora does not fit BertForSequenceClassification: No modules were targeted"),
        (("--rank", 17, "--method", "loldu"), "loldu does not fit BertForSequenceClassification: r=17"),
    ],
)
def test_bad_input_is_one_sentence(fullrank, model, data, arguments, words):
    given = ["adapt", model, "-o", "adapter", *SMALL, *arguments]
    if "--data" not in arguments:
        given += ["--data", data]
    assert words in fullrank(*given).complaint


def test_a_folder_that_holds_something_is_refused_before_training(fullrank, model, data, folders):
    (folders / "mine").mkdir()
    (folders / "mine" / "notes.txt").write_text("mine")
    assert "mine holds something already" in fullrank("adapt", model, "--data", data, "-o", "mine").complaint


def test_no_model_there(fullrank, data):
    assert (
        "cannot be loaded for classification"
        in fullrank("adapt", "nowhere/at-all", "--data", data, "-o", "a").complaint
    )


def test_the_tasks_of_the_command_are_those_of_the_library(fullrank):
    outcome = fullrank("adapt", "m", "--data", "sst2", "-o", "a", "--task", "ranking")
    assert outcome.code == 2
    assert all(task in outcome.err for task in TASKS)


def test_stopped_training_leaves_nothing(model, data, folders):
    arguments = ["adapt", str(model), "--data", str(data), "--epochs", "100000", "-o", "adapter"]
    shown = {"OMP_NUM_THREADS": "1", "FORCE_COLOR": "1"}  # the progress bar, into a pipe too
    with subprocess.Popen(
        [sys.executable, "-m", "fullrank", *arguments], stderr=subprocess.PIPE, env=os.environ | shown
    ) as process:
        assert process.stderr is not None
        err = b""
        while b"/200000" not in err:  # its steps are counted: it trains
            read = os.read(process.stderr.fileno(), 1 << 16)
            assert read, err
            err += read
        process.send_signal(signal.SIGINT)
        err += process.communicate(timeout=60)[1]
    assert process.returncode == 130
    assert "Traceback" not in err.decode()
    assert not (folders / "adapter").exists()
