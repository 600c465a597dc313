"""What is refused before a compression begins."""

from __future__ import annotations

import math

import pytest

from fullrank.compress import compress_pretrained, proving
from fullrank.tasks import Examples

from ..adapt.folders import encoder_folder, labelled_file


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"method": "magic"}, "method='magic' is not known"),
        ({"method": "svd", "bits": 4}, "method 'svd' has no option 'bits'"),
        ({"method": "rtn", "bits": 9}, "bits=9"),
        ({"recover": math.inf}, "recover=inf: a number of epochs is accepted, 0 for none"),
        ({"recover": math.nan}, "recover=nan"),
        ({"recover": -1}, "recover=-1"),
        ({"recover": 1, "learning_rate": 0}, "learning_rate=0: a positive number is accepted"),
        ({"recover": 1, "learning_rate": math.nan}, "learning_rate=nan"),
        ({"data": Examples("poems", "causal-lm", (), (), ())}, "cannot be asked for causal-lm"),
    ],
)
def test_what_cannot_be_is_refused_before_the_model_is_loaded(asked, words, tmp_path, monkeypatch):
    monkeypatch.setattr(proving, "load_as_is", lambda folder: pytest.fail("the model was loaded"))
    data = labelled_file(tmp_path / "train.tsv")
    with pytest.raises(ValueError, match=words):
        compress_pretrained(encoder_folder(tmp_path / "model"), **({"data": data} | asked))


@pytest.mark.parametrize("content", ["{", "[]"])
def test_a_damaged_configuration_is_told(content, tmp_path):
    model = encoder_folder(tmp_path / "model")
    (model / "config.json").write_text(content)
    with pytest.raises(ValueError, match=r"config\.json is no configuration of a model: a JSON object is needed"):
        compress_pretrained(model, data=labelled_file(tmp_path / "train.tsv"))
