import pytest
import torch

from fullrank.spectra import analyze
from fullrank.spectra.attention_heads import head_layers, head_products
from fullrank.spectra.weights import weights_of

transformers = pytest.importorskip("transformers")

TINY = {"hidden_size": 16, "num_attention_heads": 4, "num_hidden_layers": 2, "intermediate_size": 20, "vocab_size": 13}
VISION = {key: value for key, value in TINY.items() if key != "vocab_size"} | {"image_size": 8, "patch_size": 4}


def bert(kind="Bert", **extra):
    return getattr(transformers, f"{kind}Model")(getattr(transformers, f"{kind}Config")(**TINY, **extra))


def llama(groups, **extra):
    return transformers.LlamaModel(transformers.LlamaConfig(**TINY, num_key_value_heads=groups, **extra))


def vit(kind):
    return getattr(transformers, f"{kind}Model")(getattr(transformers, f"{kind}Config")(**VISION))


def gpt2():
    return transformers.GPT2Model(transformers.GPT2Config(n_embd=16, n_head=4, n_layer=2, vocab_size=13, n_positions=8))


def distilbert():
    return transformers.DistilBertModel(
        transformers.DistilBertConfig(dim=16, n_heads=4, n_layers=2, hidden_dim=20, vocab_size=13)
    )


def t5():
    settings = {"d_model": 16, "d_kv": 6, "num_heads": 4, "num_layers": 1, "d_ff": 20, "vocab_size": 13}
    return transformers.T5EncoderModel(transformers.T5Config(**settings))


MODELS = {
    "BERT": bert,
    "RoBERTa": lambda: bert("Roberta"),
    "Llama": lambda: llama(4),
    "Llama with grouped queries": lambda: llama(2),
    "Llama with wide heads": lambda: llama(1, head_dim=6),
    "ViT": lambda: vit("ViT"),
    "DeiT": lambda: vit("DeiT"),
    "GPT-2": gpt2,
    "DistilBERT": distilbert,
    "T5": t5,
}
LAYERS = {"T5": 1}


def formed(projections, heads, groups, product):
    """Every head's product, formed: W_Q^T W_K or W_O W_V."""
    q, k, v, o = (weight.detach().double() for weight in projections)
    products = []
    for head in range(heads):
        group = head * groups // heads
        sides = ((q, heads, head), (k, groups, group), (v, groups, group))
        rows = [part.unflatten(0, (count, -1))[index] for part, count, index in sides]
        columns = o.unflatten(1, (heads, -1))[:, head]
        products.append(rows[0].mT @ rows[1] if product == "QK" else columns @ rows[2])
    return torch.stack(products)


def projections(model, layer):
    """Query, key, value and output weights as (out, in), found by their place in the layer."""
    weights = {weight.name: weight.read() for weight in weights_of(model).matrices}
    if len(layer.names) == 2:
        fused, output = (weights[name].mT for name in layer.names)
        return (*fused.chunk(3), output)
    return tuple(weights[name] for name in layer.names)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("product", ["QK", "OV"])
def test_every_head_has_the_singular_values_of_its_formed_product(name, product):
    torch.manual_seed(0)
    model = MODELS[name]()
    weights = {weight.name: weight for weight in weights_of(model).matrices}
    layers = head_layers(weights, model.config.to_dict())
    assert [layer.layer for layer in layers] == list(range(LAYERS.get(name, 2)))
    for layer in layers:
        values = head_products(layer, weights, product)
        full = torch.linalg.svdvals(formed(projections(model, layer), layer.heads, layer.groups, product))
        size = values.shape[-1]
        torch.testing.assert_close(values.double(), full[:, :size], rtol=1e-4, atol=1e-6)
        assert float(full[:, size:].max()) < 1e-6


def test_query_key_value_and_output_are_the_ones_the_names_say():
    layer = head_layers((name for name, _ in bert().named_parameters()), {"num_attention_heads": 4})[1]
    prefix = "encoder.layer.1.attention"
    assert layer.names == tuple(
        f"{prefix}.{part}.weight" for part in ("self.query", "self.key", "self.value", "output.dense")
    )
    assert layer.module == "encoder.layer.1"


def test_a_stored_model_gives_the_heads_of_the_live_one(tmp_path):
    model = gpt2()
    model.save_pretrained(tmp_path)
    live, stored = analyze(model).heads, analyze(tmp_path).heads
    assert [(head.module, head.head, head.product) for head in stored] == [
        (head.module, head.head, head.product) for head in live
    ]
    for one, other in zip(live, stored, strict=True):
        assert one.effective_rank == pytest.approx(other.effective_rank, rel=1e-5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_attention_heads": 5}, "a width of 16 does not divide into 5 heads"),
        ({"num_attention_heads": 8, "num_key_value_heads": 4}, "self.query.weight has 2 entries a head"),
    ],
)
def test_a_configuration_that_does_not_fit_the_weights_is_a_remark(settings, message):
    model = bert()
    model.config.update(settings)
    report = analyze(model)
    assert report.heads == ()
    assert len(report.remarks) == 2
    assert all(message in remark for remark in report.remarks)


@pytest.mark.parametrize("config", [{}, {"num_attention_heads": 0}, {"num_attention_heads": None}])
def test_without_a_number_of_heads_nothing_is_known(config):
    assert head_layers((name for name, _ in bert().named_parameters()), config) == []
