from __future__ import annotations

import json

import pytest
import torch
from peft import AutoPeftModelForCausalLM, AutoPeftModelForSequenceClassification
from transformers import AutoTokenizer

from fullrank.adapt import METHODS, AdaptReport, TrainingSettings, compare_adapters, fine_tune, load_examples

from .folders import decoder_folder, encoder_folder, labelled_file, sentences, table

pytestmark = pytest.mark.filterwarnings("ignore:the places will never be trained")
QUICK = TrainingSettings(epochs=6, batch_size=8, learning_rate=2e-2, head_learning_rate=2e-2)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return encoder_folder(tmp_path_factory.mktemp("encoder"))


@pytest.fixture(scope="module")
def decoder(tmp_path_factory):
    return decoder_folder(tmp_path_factory.mktemp("decoder"))


@pytest.fixture
def data(tmp_path):
    return labelled_file(tmp_path / "train.tsv")


@pytest.mark.parametrize("method", list(METHODS))
def test_learns_saves_and_loads_with_peft(method, encoder, data, tmp_path):
    options = {"target_modules": ["query", "value"]}
    tuned = fine_tune(encoder, data, method, rank=3, settings=QUICK, options=options)
    report = tuned.report
    assert report.after["accuracy"] > max(0.8, report.before["accuracy"])
    assert report.after["loss"] < report.before["loss"]
    assert report.metric == "accuracy"
    assert report.trainable_parameters > report.adapter_parameters > 0
    assert report.steps == len(tuned.record.losses) == 42
    assert report.memory["total"] == sum(report.memory[part] for part in ("activations", "gradients", "optimizer"))
    folder = tuned.save(tmp_path / "adapter")
    assert AdaptReport.load(folder / "report.json") == AdaptReport(**json.loads((folder / "report.json").read_text()))
    again = AutoPeftModelForSequenceClassification.from_pretrained(folder, num_labels=2)
    batch = AutoTokenizer.from_pretrained(folder)(["good film", "cold day"], return_tensors="pt")
    with torch.no_grad():
        torch.testing.assert_close(again(**batch).logits, tuned.model(**batch).logits)


def test_the_same_seed_gives_the_same_adapter_and_leaves_the_callers_randomness_alone(encoder, data):
    state = torch.get_rng_state()
    first, second = (fine_tune(encoder, data, "hydra", rank=2, settings=QUICK).record.losses for _ in range(2))
    assert first == second
    assert torch.equal(torch.get_rng_state(), state)
    other = TrainingSettings(epochs=6, batch_size=8, learning_rate=2e-2, head_learning_rate=2e-2, seed=1)
    assert fine_tune(encoder, data, "hydra", rank=2, settings=other).record.losses != first


def test_scores_and_pairs(encoder, tmp_path):
    scored = [{"text": text, "score": float(label == "up")} for label, text in sentences(48)]
    tuned = fine_tune(encoder, table(tmp_path / "scored.csv", scored), "lora", settings=QUICK)
    assert tuned.report.task == "regression"
    assert tuned.report.after["spearman"] > 0.7
    pairs = [
        {"first": text, "second": other, "score": float(label == again)}
        for (label, text), (again, other) in zip(sentences(48), sentences(48)[::-1], strict=True)
    ]
    paired = fine_tune(encoder, table(tmp_path / "pairs.tsv", pairs), "lora", settings=QUICK)
    assert set(paired.report.after) == {"spearman", "pearson", "loss"}
    named = [{"first": text, "second": "film", "label": label} for label, text in sentences(48)]
    assert fine_tune(encoder, table(tmp_path / "named.tsv", named), settings=QUICK).report.metric == "accuracy"


def test_a_language_model(decoder, tmp_path):
    text = tmp_path / "text.jsonl"
    text.write_text("\n".join(json.dumps({"text": f"{text} {text}"}) for _, text in sentences(40)))
    tuned = fine_tune(decoder, text, "hydra", rank=8, settings=QUICK, options={"target_modules": "all-linear"})
    assert tuned.report.task == "causal-lm"
    assert tuned.report.after["perplexity"] < tuned.report.before["perplexity"] / 1.2
    folder = tuned.save(tmp_path / "adapter")
    again = AutoPeftModelForCausalLM.from_pretrained(folder)
    ids = torch.tensor([[2, 10, 2, 10]])
    with torch.no_grad():
        torch.testing.assert_close(again(input_ids=ids).logits, tuned.model(input_ids=ids).logits)


def test_a_budget_in_place_of_a_rank(encoder, data):
    tuned = fine_tune(encoder, data, "lora", budget=400, settings=QUICK, options={"target_modules": ["query"]})
    assert tuned.report.configuration["r"] == 6  # 64 parameters a rank
    assert tuned.report.adapter_parameters == 384


def test_a_comparison_at_equal_size(encoder, data, tmp_path):
    settings = TrainingSettings(epochs=4, batch_size=8, head_learning_rate=2e-2)
    seen = []
    comparison = compare_adapters(
        encoder, data, ["lora", "hydra", "wara"], 300, seeds=(0, 1), settings=settings,
        options={"target_modules": ["query", "value"]}, on_progress=lambda *step: seen.append(step),
    )  # fmt: skip
    assert {row.method for row in comparison.methods} == {"lora", "hydra", "wara"}
    assert all(abs(row.parameters - 300) <= 128 for row in comparison.methods)
    assert [row.mean for row in comparison.methods] == sorted((row.mean for row in comparison.methods), reverse=True)
    assert all(len(row.quality) == 2 and row.seconds_per_step > 0 and row.memory > 0 for row in comparison.methods)
    assert [done for done, total, _ in seen if total] == sorted(done for done, total, _ in seen if total)
    assert {total for _, total, _ in seen} == {600}
    for suffix in ("json", "csv", "parquet", "svg"):
        assert comparison.save(tmp_path / f"comparison.{suffix}").stat().st_size > 100
    with pytest.raises(ValueError, match=r"comparison.pdf names no format: .*\.json, \.csv, \.parquet or \.svg"):
        comparison.save(tmp_path / "comparison.pdf")


def test_nothing_is_overwritten(encoder, data, tmp_path):
    tuned = fine_tune(encoder, data, settings=TrainingSettings(epochs=0.1))
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="kept holds something already"):
        tuned.save(tmp_path / "kept")
    assert [file.name for file in (tmp_path / "kept").iterdir()] == ["notes.txt"]


def test_a_report_of_another_layout(tmp_path):
    (tmp_path / "report.json").write_text('{"schema": 99}')
    with pytest.raises(ValueError, match="no adapter report of layout 1"):
        AdaptReport.load(tmp_path / "report.json")


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"method": "lorra"}, LookupError, "no adapter method 'lorra'; did you mean 'lora'"),
        ({"rank": 2, "budget": 100}, ValueError, "rank=2 and budget=100: give one of them"),
        ({"settings": QUICK, "learning_rate": 1e-3}, ValueError, "learning_rate=0.001: give it in `settings`"),
        ({"max_length": 1}, ValueError, "max_length=1: at least 2 tokens"),
        ({"max_length": 33}, ValueError, "max_length=33: BertForSequenceClassification reads at most 32 tokens"),
        ({"options": {"target_modules": ["nothing"]}}, ValueError, "No modules were targeted"),
    ],
)
def test_bad_arguments(arguments, error, words, encoder, data):
    with pytest.raises(error, match=words):
        fine_tune(encoder, data, **arguments)


def test_no_model_at_that_place(tmp_path, data):
    with pytest.raises(ValueError, match=r"cannot be loaded for classification: .*Hugging Face folder"):
        fine_tune(tmp_path, data)


def test_a_compressed_model_is_adapted_at_its_factors(encoder, data, tmp_path):
    from fullrank.compress import FixedRank, compress_pretrained

    compress_pretrained(encoder, "svd", str(data), output=tmp_path / "small", rank_rule=FixedRank(2))
    tuned = fine_tune(tmp_path / "small", data, "loca", rank=3, settings=QUICK)
    assert tuned.report.after["loss"] < tuned.report.before["loss"]
    layers = {path.rpartition(".")[2] for path, layer in tuned.model.named_modules() if hasattr(layer, "base_layer")}
    assert {"first", "second"} <= layers
    with pytest.raises(TypeError, match='of compressed layers it adapts the factors: target_modules "first,second"'):
        fine_tune(tmp_path / "small", data, "loca", settings=QUICK, options={"target_modules": ["query"]})


def test_bad_comparisons(encoder, data):
    examples = load_examples(data)
    with pytest.raises(ValueError, match=r"methods=.*one or more different"):
        compare_adapters(encoder, examples, ["lora", "lora"])
    with pytest.raises(ValueError, match="at least one is needed"):
        compare_adapters(encoder, examples, ["lora"], seeds=())
