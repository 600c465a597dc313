from types import SimpleNamespace

import pytest
import torch
import transformers
from torch import nn
from torch.utils.checkpoint import checkpoint

from fullrank.spectra import GradientSpectra, SpectraReport
from fullrank.spectra.gradient_factors import GradientFactors, cosine

PROJECTIONS = ("q", "k", "v", "o")


def llama(heads=4, groups=2, layers=2, seed=0, **options):
    torch.manual_seed(seed)
    sizes = {"vocab_size": 96, "hidden_size": 32, "intermediate_size": 48, "max_position_embeddings": 128}
    config = transformers.LlamaConfig(
        num_attention_heads=heads, num_key_value_heads=groups, num_hidden_layers=layers, **sizes, **options
    )
    return transformers.LlamaForCausalLM(config).eval()


def sample(length, prompt, seed):
    ids = torch.randint(1, 96, (length,), generator=torch.Generator().manual_seed(seed))
    labels = ids.clone()
    labels[:prompt] = -100
    return ids, labels


@pytest.mark.golden("gradient-spectra")
@pytest.mark.parametrize("method", ["auto", "core", "dense"])
def test_golden(case, method):
    """Every sample of the case: loss, spectra, norms and cosines of the published script."""
    spec, tensors = case.spec, case.tensors
    build = getattr(transformers, spec["model"]["class"].split(".")[1].split()[0])
    config = build.config_class(**spec["model"]["config"], attn_implementation=spec["model"]["attn_implementation"])
    model = build(config)
    model.load_state_dict({key.removeprefix("param."): t for key, t in tensors.items() if key.startswith("param.")})
    metrics = ("nuclear_norm", "effective_rank", "frobenius", "mean", "max", "min")
    measure = GradientSpectra(
        model,
        metrics=metrics,
        similarities=("same_layer", "adjacent", "layers"),
        method=method,
        keep_values=True,
    )
    count = len(spec["samples"])
    report = measure.score(
        input_ids=[tensors[f"s{i}.input_ids"] for i in range(count)],
        labels=[tensors[f"s{i}.labels"] for i in range(count)],
    )
    assert report.status == ("ok",) * count
    tolerance = {"nuclear_norm": 1e-4, "frobenius": 1e-4, "effective_rank": 1e-3}
    for index, expected in enumerate(spec["samples"]):
        assert float(report.loss[index]) == pytest.approx(expected["loss"], rel=1e-5)
        for name, numbers in expected["matrices"].items():
            _, _, layer, _, projection, _ = name.split(".")
            at = index, int(layer), PROJECTIONS.index(projection[0])
            assert set(numbers) == set(metrics)
            for metric, value in numbers.items():
                limit = {"rel": tolerance[metric]} if metric in tolerance else {"abs": 2e-6}
                assert float(report.metrics[metric][at]) == pytest.approx(value, **limit), (name, metric)
            reference = tensors[f"s{index}.S.{name}"].double()
            found = report.values[index][name.removesuffix(".weight")]
            torch.testing.assert_close(found, reference, rtol=0, atol=2e-6 + 1e-4 * float(reference[0]))
        for layer, numbers in expected["cosine_sim_qkvo"].items():
            found = report.similarities["same_layer"][index, int(layer)].tolist()
            keys = ["q_proj_x_o_proj", "k_proj_x_v_proj"]
            assert set(numbers) == set(keys)
            assert found == pytest.approx([numbers[key] for key in keys], abs=2e-5)
        for column, kind in enumerate(PROJECTIONS):
            adjacent = report.similarities["adjacent"][index, :, column].tolist()
            assert adjacent == pytest.approx(expected["adjacent"][f"{kind}_proj"], abs=2e-5)
            full = report.similarities["layers"][index, column].float()
            torch.testing.assert_close(full, tensors[f"s{index}.cos.{kind}_proj"], rtol=0, atol=2e-5)


def test_gradients_are_those_of_autograd():
    model = llama()
    ids, labels = sample(20, 8, 0)
    model(input_ids=ids[None], labels=labels[None]).loss.backward()
    weight = model.model.layers[1].self_attn.v_proj.weight
    expected = torch.linalg.svdvals(weight.grad)
    report = GradientSpectra(model, keep_values=True).score(input_ids=[ids], labels=[labels])
    found = report.values[0]["model.layers.1.self_attn.v_proj"].float()
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


def test_a_batch_gives_each_sample_what_it_gets_alone():
    model = llama()
    samples = [sample(length, 5, seed) for seed, length in enumerate((12, 30, 12, 7))] + [sample(12, 5, 0)]
    ids, labels = [ids for ids, _ in samples], [labels for _, labels in samples]
    together = GradientSpectra(model).score(input_ids=ids, labels=labels, batch_size=5)
    alone = GradientSpectra(model).score(input_ids=ids, labels=labels, batch_size=1)
    for name, table in together.metrics.items():
        torch.testing.assert_close(table, alone.metrics[name], rtol=2e-3, atol=1e-5)
        torch.testing.assert_close(table[0], table[-1], rtol=2e-3, atol=1e-5)


def test_bounds():
    ids, labels = sample(24, 12, 3)
    report = GradientSpectra(llama()).score(input_ids=[ids], labels=[labels])
    rank, nuclear, norm = (report.metrics[name] for name in ("effective_rank", "nuclear_norm", "frobenius"))
    assert bool((rank >= 1).all())
    assert bool((rank <= 24).all())
    assert bool((nuclear >= norm * (1 - 1e-6)).all())
    assert bool((nuclear <= norm * 24**0.5).all())


def test_one_response_token_gives_rank_one_where_no_other_position_is_reached():
    ids, labels = sample(10, 9, 1)
    report = GradientSpectra(llama()).score(input_ids=[ids], labels=[labels])
    last = report.metrics["effective_rank"][0, -1]
    assert float(last[0]) == pytest.approx(1, abs=1e-3)
    assert float(last[3]) == pytest.approx(1, abs=1e-3)
    assert float(last[2]) > 1.01  # prompt positions reach the values


def test_the_model_is_left_as_it_was():
    model = llama(attention_dropout=0.1).train()
    model.model.norm.weight.requires_grad_(False)
    model.lm_head.weight.grad = torch.ones_like(model.lm_head.weight)
    before = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    ids, labels = sample(10, 4, 2)
    GradientSpectra(model).score(input_ids=[ids], labels=[labels])
    assert model.training
    assert {name: parameter.requires_grad for name, parameter in model.named_parameters()} == before
    assert bool((model.lm_head.weight.grad == 1).all())
    assert model.model.layers[0].self_attn.q_proj.weight.grad is None


def test_samples_without_response_are_named_and_in_no_mean():
    good, empty = sample(10, 4, 0), sample(10, 10, 1)
    report = GradientSpectra(llama()).score(input_ids=[good[0], empty[0]], labels=[good[1], empty[1]])
    assert report.status == ("ok", "no_response_tokens")
    assert bool(report.metrics["nuclear_norm"][1].isnan().all())
    alone = GradientSpectra(llama()).score(input_ids=[good[0]], labels=[good[1]])
    torch.testing.assert_close(report.mean()["nuclear_norm"], alone.mean()["nuclear_norm"], rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("family", ["gpt2", "gpt_neox", "qwen2"])
def test_other_architectures_agree_with_autograd(family):
    torch.manual_seed(0)
    sizes = {"vocab_size": 96, "num_attention_heads": 2, "num_hidden_layers": 2, "hidden_size": 16}
    if family == "gpt2":
        model = transformers.GPT2LMHeadModel(transformers.GPT2Config(vocab_size=96, n_embd=16, n_layer=2, n_head=2))
        name, rows = "transformer.h.0.attn.c_attn", slice(16, 32)
    elif family == "gpt_neox":
        model = transformers.GPTNeoXForCausalLM(transformers.GPTNeoXConfig(**sizes, intermediate_size=32))
        name, rows = "gpt_neox.layers.0.attention.query_key_value", [*range(8, 16), *range(32, 40)]
    else:
        config = transformers.Qwen2Config(**sizes, num_key_value_heads=1, intermediate_size=32)
        model = transformers.Qwen2ForCausalLM(config)
        name, rows = "model.layers.0.self_attn.k_proj", slice(None)
    model.eval()
    ids, labels = sample(14, 6, 0)
    model(input_ids=ids[None], labels=labels[None]).loss.backward()
    gradient = model.get_submodule(name).weight.grad
    gradient = gradient.T if family == "gpt2" else gradient
    expected = torch.linalg.svdvals(gradient[rows]).sum()
    measure = GradientSpectra(model)
    assert measure.kinds == ("q", "k", "v", "o")
    report = measure.score(input_ids=[ids], labels=[labels])
    assert float(report.metrics["nuclear_norm"][0, 0, 1]) == pytest.approx(float(expected), rel=1e-4)


def test_peft_models_report_their_base_weights():
    from peft import LoraConfig, get_peft_model

    ids, labels = sample(12, 5, 0)
    plain = GradientSpectra(llama()).score(input_ids=[ids], labels=[labels])
    adapted = get_peft_model(llama(), LoraConfig(target_modules=["q_proj", "v_proj"], r=2, task_type="CAUSAL_LM"))
    report = GradientSpectra(adapted).score(input_ids=[ids], labels=[labels])
    assert report.kinds == plain.kinds
    torch.testing.assert_close(report.metrics["nuclear_norm"], plain.metrics["nuclear_norm"], rtol=1e-3, atol=1e-6)


def test_adapters_can_be_measured_themselves():
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    config = LoraConfig(target_modules=["q_proj", "o_proj"], r=2, init_lora_weights=False, task_type="CAUSAL_LM")
    model = get_peft_model(llama(), config).eval()
    ids, labels = sample(12, 5, 0)
    measure = GradientSpectra(model, modules="adapters", keep_values=True)
    assert measure.layers == 2
    assert len(measure.kinds) == 4
    report = measure.score(input_ids=[ids], labels=[labels])
    model(input_ids=ids[None], labels=labels[None]).loss.backward()
    gradients = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    assert len(gradients) == len(report.values[0]) == 8
    for name, values in report.values[0].items():
        expected = torch.linalg.svdvals(gradients[f"{name}.weight"])
        torch.testing.assert_close(values.float(), expected, rtol=1e-3, atol=1e-6)
    with pytest.raises(ValueError, match="finds no LoRA adapter in LlamaForCausalLM"):
        GradientSpectra(llama(), modules="adapters")


def test_gradient_checkpointing_and_train_mode_change_nothing():
    ids, labels = sample(12, 5, 0)
    plain = GradientSpectra(llama()).score(input_ids=[ids], labels=[labels])
    model = llama(attention_dropout=0.2).train()
    getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)()  # its name since v5
    found = GradientSpectra(model).score(input_ids=[ids], labels=[labels])
    torch.testing.assert_close(found.metrics, plain.metrics, rtol=1e-4, atol=1e-7)


class Toy(nn.Module):
    """A language model in which one linear map serves twice, and another sees all tokens of the batch in one row."""

    def __init__(self, vocabulary: int = 30, dim: int = 8, reentrant: bool | None = None) -> None:
        super().__init__()
        self.reentrant = reentrant
        torch.manual_seed(0)
        self.embed = nn.Embedding(vocabulary, dim)
        self.shared = nn.Linear(dim, dim)
        self.router = nn.Linear(dim, dim)
        self.pooled = nn.Linear(dim, dim)
        self.idle = nn.Linear(dim, dim)
        self.head = nn.Linear(dim, vocabulary)

    def get_input_embeddings(self) -> nn.Module:
        return self.embed

    def twice(self, x):
        return x + self.shared(x + self.shared(x).tanh()).tanh()

    def forward(self, input_ids, attention_mask=None):
        x = self.embed(input_ids)
        x = self.twice(x) if self.reentrant is None else checkpoint(self.twice, x, use_reentrant=self.reentrant)
        x = x + self.router(x.flatten(0, 1)).view_as(x)
        x = x + self.pooled(x.mean(1))[:, None]
        return SimpleNamespace(logits=self.head(x))


@pytest.mark.parametrize("reentrant", [None, False, True])
@pytest.mark.parametrize("name", ["shared", "router"])
def test_shared_flattened_and_checkpointed_modules_agree_with_autograd(name, reentrant):
    model = Toy(reentrant=reentrant)
    pairs = [sample(9, 3, seed) for seed in range(2)]
    ids, labels = [ids % 30 for ids, _ in pairs], [labels.where(labels < 0, labels % 30) for _, labels in pairs]
    report = GradientSpectra(model, modules=name, keep_values=True).score(input_ids=ids, labels=labels)
    for index in range(2):
        plain = Toy()
        logits = plain(ids[index][None]).logits[0, :-1]
        nn.functional.cross_entropy(logits, labels[index][1:]).backward()
        expected = torch.linalg.svdvals(plain.get_submodule(name).weight.grad)
        torch.testing.assert_close(report.values[index][name].float(), expected, rtol=1e-4, atol=1e-6)


def test_modules_that_mix_samples_are_refused_and_idle_ones_listed():
    ids, labels = (tensor % 30 for tensor in sample(9, 0, 0))
    with pytest.raises(ValueError, match=r"pooled sees a tensor of shape \(1, 8\)"):
        GradientSpectra(Toy(), modules="pooled").score(input_ids=[ids], labels=[labels])
    report = GradientSpectra(Toy(), modules="idle|shared").score(input_ids=[ids], labels=[labels])
    assert report.silent == ("idle",)
    assert bool(report.metrics["nuclear_norm"][:, :, report.kinds.index("idle")].isnan().all())


def test_a_sample_whose_loss_is_not_finite_is_named_and_spoils_no_other():
    model = Toy()
    with torch.no_grad():
        model.embed.weight[29] = torch.nan
    good, bad = torch.arange(1, 9), torch.tensor([3, 29, 4, 5, 6, 7, 8, 9])
    report = GradientSpectra(model, modules="shared").score(input_ids=[good, bad], labels=[good, bad])
    assert report.status == ("ok", "non_finite_loss")
    alone = GradientSpectra(model, modules="shared").score(input_ids=[good], labels=[good])
    torch.testing.assert_close(report.mean()["nuclear_norm"], alone.mean()["nuclear_norm"], rtol=1e-5, atol=1e-8)


def test_bfloat16_is_factored_in_float32():
    ids, labels = sample(12, 5, 0)
    plain = GradientSpectra(llama()).score(input_ids=[ids], labels=[labels])
    half = GradientSpectra(llama().bfloat16()).score(input_ids=[ids], labels=[labels])
    torch.testing.assert_close(half.metrics["nuclear_norm"], plain.metrics["nuclear_norm"], rtol=0.1, atol=1e-3)


def test_factors_agree_with_the_matrix():
    generator = torch.Generator().manual_seed(0)
    first, second = (
        GradientFactors(torch.randn(5, 12, generator=generator), torch.randn(5, 12, generator=generator))
        for _ in range(2)
    )
    G1, G2 = first.dense(), second.dense()
    torch.testing.assert_close(first.values("core"), first.values("dense"), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(first.norm(), G1.norm(), rtol=1e-4, atol=0)
    torch.testing.assert_close(first.mean(), G1.mean(), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(cosine(first, second), (G1 * G2).sum() / G1.norm() / G2.norm(), rtol=1e-4, atol=1e-6)
    transposed = (G1 * G2.T).sum() / G1.norm() / G2.norm()
    torch.testing.assert_close(cosine(first, second, "transpose"), transposed, rtol=1e-4, atol=1e-6)


def test_report_survives_a_file(tmp_path):
    pairs = [sample(12, 5, seed) for seed in range(3)]
    measure = GradientSpectra(llama(), keep_values=True)
    report = measure.score(input_ids=[ids for ids, _ in pairs], labels=[labels for _, labels in pairs])
    again = SpectraReport.load(report.save(tmp_path / "report.safetensors"))
    assert again.status == report.status
    assert again.to_rows() == report.to_rows()
    assert len(report.to_dataframe()) == 3 * 2 * 4
    torch.testing.assert_close(again.values, report.values)


def test_comparison_matches_length_and_finds_only_real_differences():
    def made(length, shift, seed):
        generator = torch.Generator().manual_seed(seed)
        table = torch.randn(20, 2, 4, generator=generator).double() + shift
        lengths = torch.full((20,), length)
        return SpectraReport(PROJECTIONS, {"x": table}, {}, lengths, torch.zeros(20).double(), ("ok",) * 20)

    same = made(50, 0.0, 0).compare(made(52, 0.0, 1), permutations=500)
    assert float(same.p_value["x"].min()) > 0.05
    apart = made(50, 3.0, 0).compare(made(52, 0.0, 1), permutations=500)
    assert float(apart.p_value["x"].max()) < 0.01
    assert apart.samples == (20, 20)
    with pytest.raises(ValueError, match="too few"):
        made(50, 0.0, 0).compare(made(500, 0.0, 1))
    assert made(50, 0.0, 0).compare(made(500, 0.0, 1), match=None, permutations=10).mean_length == (50, 500)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"metrics": ["rank"]}, "metrics='rank' is not known"),
        ({"modules": "no_such"}, "matches none of the"),
        ({"modules": "("}, "not a regular expression"),
        ({"method": "svd"}, "accepted: 'auto', 'core', 'dense'"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        GradientSpectra(llama(), **options)


def test_bad_samples():
    measure = GradientSpectra(llama())
    ids, labels = sample(10, 4, 0)
    with pytest.raises(ValueError, match="either `texts` or `input_ids`"):
        measure.score()
    with pytest.raises(ValueError, match="need a tokenizer"):
        measure.score([("a", "b")])
    with pytest.raises(ValueError, match="sample 0: 10 input_ids do not fit 9 labels"):
        measure.score(input_ids=[ids], labels=[labels[:9]])
    with pytest.raises(ValueError, match="padding under a label"):
        measure.score(input_ids=ids[None], labels=labels[None], attention_mask=torch.zeros(1, 10))
    with pytest.raises(ValueError, match="no attention projections"):
        GradientSpectra(nn.Sequential(nn.Linear(3, 3)))
    strict = GradientSpectra(nn.ModuleList([llama(), nn.Dropout(0.1)]).train(), strict=True)
    with pytest.raises(ValueError, match="train mode with dropout"):
        strict.score(input_ids=[ids], labels=[labels])
