import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import transformers
from torch import nn

from fullrank.spectra import GradientSpectra, GradientSpectraCallback, RankMeCallback, rankme

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*RankMe cannot exceed", "ignore:.*common offset", "ignore:.*pin_memory.*:UserWarning"
)


class Encoder(nn.Module):
    """A self-supervised toy: representation, projector, and a loss that needs no labels."""

    def __init__(self, collapsed: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Dropout(0.5))
        self.projector = nn.Linear(8, 4)
        self.unused = nn.Linear(2, 2)
        if collapsed:
            with torch.no_grad():
                self.projector.weight[1:] = self.projector.weight[:1]
                self.projector.bias.zero_()

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        z = self.projector(self.body(x))
        return {"loss": (z.std(0) - 1).square().mean(), "z": z}

    def embeddings(self, x: torch.Tensor) -> torch.Tensor:
        self.eval()
        return self(x)["z"].detach()


def images(count: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, 6, generator=torch.Generator().manual_seed(seed))


def trainer(model: nn.Module, folder: Path, rows: torch.Tensor | None, **options) -> transformers.Trainer:
    callbacks = options.pop("callbacks", None)
    arguments = transformers.TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=8,
        per_device_eval_batch_size=16,
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
        dataloader_pin_memory=False,
        save_strategy="no",
        **options,
    )
    data = None if rows is None else [{"x": row} for row in rows]
    return transformers.Trainer(model, arguments, train_dataset=data, eval_dataset=data, callbacks=callbacks)


def logged(trained: transformers.Trainer, name: str) -> list[float]:
    return [entry[name] for entry in trained.state.log_history if name in entry]


def test_rankme_of_the_evaluation_set_is_logged_and_measured_in_eval_mode(tmp_path):
    model, rows = Encoder(), images(40)
    expected = pytest.approx(float(rankme(model.embeddings(rows))), rel=1e-5)
    callback = RankMeCallback("projector", rows.split(7))
    evaluated = trainer(model, tmp_path, rows, callbacks=[RankMeCallback("projector")])
    metrics = evaluated.evaluate()
    assert metrics["eval_rankme"] == expected
    assert logged(evaluated, "rankme") == [expected]
    model.train()
    callback.on_evaluate(evaluated.args, evaluated.state, None, model=model, metrics=metrics)
    assert metrics["eval_rankme"] == expected  # without dropout, all the same
    assert model.body.training
    assert not model.projector._forward_hooks


def test_rankme_at_every_evaluation_of_a_training_chooses_the_checkpoint(tmp_path):
    callback = RankMeCallback("projector")
    trained = trainer(
        Encoder(),
        tmp_path,
        images(40),
        callbacks=[callback],
        max_steps=6,
        eval_strategy="steps",
        eval_steps=2,
        metric_for_best_model="rankme",
        greater_is_better=True,
    )
    trained.train()
    steps = [entry["step"] for entry in trained.state.log_history if "rankme" in entry]
    assert steps == [2, 4, 6]
    assert len(set(logged(trained, "rankme"))) == 3  # the weights moved
    assert trained.state.best_metric == max(logged(trained, "rankme"))


def test_rankme_of_a_held_out_loader_and_several_layers(tmp_path):
    model, rows = Encoder(), images(30, seed=5)
    callbacks = [
        RankMeCallback("projector", [(part, "label") for part in rows.split(10)], name="rankme/projector"),
        RankMeCallback("projector", list(rows.split(10)), max_samples=20, name="rankme/first"),
        RankMeCallback("body", [{"x": rows}], embed=lambda output: output[:, :5], center=True, name="rankme/body"),
    ]
    metrics = trainer(model, tmp_path, images(16), callbacks=callbacks).evaluate()
    model.eval()
    body = model.body(rows).detach()
    assert metrics["eval_rankme/projector"] == pytest.approx(float(rankme(model.embeddings(rows))), rel=1e-5)
    assert metrics["eval_rankme/first"] == pytest.approx(float(rankme(model.embeddings(rows)[:20])), rel=1e-5)
    assert metrics["eval_rankme/body"] == pytest.approx(float(rankme(body[:, :5], center=True)), rel=1e-5)


def test_a_collapsed_projector_shows(tmp_path):
    collapsed = trainer(Encoder(collapsed=True), tmp_path, images(40), callbacks=[RankMeCallback("projector")])
    assert collapsed.evaluate()["eval_rankme"] == pytest.approx(1, abs=1e-3)


def test_a_trainer_logs_to_every_reporter(tmp_path):
    class Reporter(transformers.TrainerCallback):
        def __init__(self) -> None:
            self.seen: list[dict[str, float]] = []

        def on_log(self, args, state, control, logs=None, **kwargs) -> None:
            self.seen.append(dict(logs))

    reporter = Reporter()
    evaluated = trainer(Encoder(), tmp_path, images(40), callbacks=[reporter])
    evaluated.add_callback(RankMeCallback("projector", trainer=evaluated))
    value = evaluated.evaluate()["eval_rankme"]
    assert [seen["rankme"] for seen in reporter.seen if "rankme" in seen] == [value]
    assert logged(evaluated, "rankme") == [value]


@pytest.mark.parametrize(
    ("callback", "message"),
    [
        (lambda: RankMeCallback("head"), r"layer='head' is no module of Encoder; such are \['body'"),
        (lambda: RankMeCallback("unused"), "layer='unused' was not called"),
        (lambda: RankMeCallback("projector", embed=lambda output: output[0]), r"gives \(4,\), but RankMe needs"),
        (lambda: RankMeCallback("projector", embed=lambda output: [output]), "gives list, but RankMe needs"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_rankme_of_a_layer_that_cannot_be_measured(callback, message):
    model, arguments = Encoder(), SimpleNamespace(device=torch.device("cpu"))
    with pytest.raises(ValueError, match=message):
        callback().on_evaluate(arguments, None, None, model=model, eval_dataloader=[{"x": images(16)}])
    assert model.body.training
    assert not any(module._forward_hooks for module in model.modules())


def test_rankme_without_a_loader():
    callback = RankMeCallback("projector")
    with pytest.raises(ValueError, match="nothing to measure on"):
        callback.on_evaluate(None, None, None, model=Encoder(), eval_dataloader=None)


def llama() -> transformers.LlamaForCausalLM:
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=64,
        hidden_size=16,
        intermediate_size=24,
        num_attention_heads=2,
        num_hidden_layers=2,
        attention_dropout=0.1,
    )
    return transformers.LlamaForCausalLM(config)


def records(count: int, seed: int = 0) -> list[dict[str, list[int]]]:
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(1, 64, (count, 12), generator=generator)
    return [{"input_ids": row.tolist(), "labels": [-100] * 5 + row[5:].tolist()} for row in ids]


def language_trainer(folder: Path, *callbacks, steps: int) -> transformers.Trainer:
    made = trainer(llama(), folder, None, max_steps=steps, learning_rate=0.01)
    made.train_dataset = records(32, seed=1)
    for callback in callbacks:
        made.add_callback(callback)
    return made


def test_gradient_spectra_are_logged_while_training(tmp_path):
    callback = GradientSpectraCallback(records(3), every=2, metrics=["effective_rank"], similarities=[])
    trained = language_trainer(tmp_path, callback, steps=5)
    trained.train()
    assert list(callback.reports) == [2, 4]
    assert [len(report) for report in callback.reports.values()] == [3, 3]
    for kind in "qkvo":
        values = logged(trained, f"gradient_spectra/effective_rank/{kind}")
        means = [report.mean(by="projection")["effective_rank"] for report in callback.reports.values()]
        assert values == [float(mean["qkvo".index(kind)]) for mean in means]
        assert values[0] != values[1]


def test_gradient_spectra_leave_the_training_as_it_was(tmp_path):
    """Same weights, to the last bit, with and without the probe, dropout and all."""
    plain = language_trainer(tmp_path / "plain", steps=4)
    probed = language_trainer(tmp_path / "probed", GradientSpectraCallback(records(3), every=1), steps=4)
    probed.model.model.embed_tokens.requires_grad_(False)
    plain.model.model.embed_tokens.requires_grad_(False)
    for made in (plain, probed):
        torch.manual_seed(0)
        made.train()
    assert not probed.model.model.embed_tokens.weight.requires_grad
    for (name, first), second in zip(plain.model.named_parameters(), probed.model.parameters(), strict=True):
        assert torch.equal(first, second), name


def test_a_probe_of_texts_takes_the_trainers_tokenizer():
    class Letters:
        is_fast = False

        def __call__(self, text, truncation=False, max_length=None, return_offsets_mapping=False):
            return {"input_ids": [1 + ord(letter) % 60 for letter in text][:max_length]}

    model, pairs = llama().eval(), [("ab", "cde"), ("f", "ghij")]
    callback = GradientSpectraCallback(pairs, every=1)
    state = transformers.TrainerState(global_step=1)
    callback.on_step_end(None, state, None, model=model, processing_class=Letters())
    expected = GradientSpectra(model, Letters()).score(pairs).mean(by="projection")["nuclear_norm"]
    found = [state.log_history[0][f"gradient_spectra/nuclear_norm/{kind}"] for kind in "qkvo"]
    assert found == pytest.approx(expected.tolist(), rel=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"probe": []}, "probe is empty"),
        ({"probe": [("a", "b")], "every": 0}, "every=0: a number of steps"),
    ],
)
def test_bad_probes(options, message):
    with pytest.raises(ValueError, match=message):
        GradientSpectraCallback(**options)


@pytest.mark.distributed
def test_two_processes_share_a_probe_and_agree_with_one(tmp_path):
    """Each its stretch, gathered in the probe's order; every process ends with the report of all."""
    script = tmp_path / "two.py"
    script.write_text(
        """
import sys
import torch
import torch.distributed as dist
import transformers
from fullrank.spectra import GradientSpectraCallback, SpectraReport

def measure(path):
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=64, hidden_size=16, intermediate_size=24, num_attention_heads=2, num_hidden_layers=2
    )
    model = transformers.LlamaForCausalLM(config).double()
    ids = torch.randint(1, 64, (5, 14), generator=torch.Generator().manual_seed(0))
    probe = [{"input_ids": row[: 9 + i], "labels": row[: 9 + i]} for i, row in enumerate(ids)]
    callback = GradientSpectraCallback(probe, every=1, similarities=["adjacent"], keep_values=True)
    callback.on_step_end(None, transformers.TrainerState(global_step=1), None, model=model)
    callback.reports[1].save(path)

folder, rank = sys.argv[1], int(sys.argv[2])
if rank == 0:
    measure(f"{folder}/alone")
dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
measure(f"{folder}/together{rank}")
try:
    GradientSpectraCallback([("a", "b")])._share()
except ValueError as error:
    print(error)
dist.destroy_process_group()
"""
    )
    command = [sys.executable, "-W", "ignore", str(script), str(tmp_path)]
    processes = [subprocess.Popen([*command, rank], stdout=subprocess.PIPE, text=True) for rank in ("0", "1")]
    for process in processes:
        assert "probe has 1 samples for 2 processes" in process.communicate(timeout=200)[0]
        assert process.returncode == 0
    from fullrank.spectra import SpectraReport

    alone, *together = (SpectraReport.load(tmp_path / name) for name in ("alone", "together0", "together1"))
    for report in together:
        assert report.status == alone.status == ("ok",) * 5
        assert report.n_response_tokens.tolist() == alone.n_response_tokens.tolist() == [8, 9, 10, 11, 12]
        torch.testing.assert_close(report.metrics, alone.metrics, rtol=1e-6, atol=1e-12)
        torch.testing.assert_close(report.similarities, alone.similarities, rtol=1e-6, atol=1e-9)
        torch.testing.assert_close(report.loss, alone.loss, rtol=1e-6, atol=0)
        torch.testing.assert_close(report.values, alone.values, rtol=1e-6, atol=1e-9)
