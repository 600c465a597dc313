import copy
import itertools
import json
import pickle
import re

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset
from transformers import ResNetConfig, ResNetForImageClassification

from fullrank.compress import compress, load, lr2vq, save
from fullrank.compress.lr2vq import LR2VQConfig, VQConv2d, VQLinear
from fullrank.compress.packed_codes import code_bits, pack_codes, packed_bytes, unpack_codes
from fullrank.compress.subvectors import SubvectorLayout
from fullrank.compress.vector_quantization import Clusters, kmeans, lloyd, nearest, soft_codes, soft_kmeans
from fullrank.compress.vq_layers import VQSettings

from .models import bert, convolutional, gpt2, mlp


@pytest.mark.golden("lr2vq")
def test_agrees_with_the_derivation(case):
    known = {"one LR2VQ block": _check_block, "size accounting": _check_sizes}
    kind = next(kind for kind in known if case.spec["what"].startswith(kind))
    known[kind](case.spec, case.tensors)


def _check_block(spec, tensors):
    config = spec["config"]
    assert set(config) <= {"seed", "shape", "m", "d", "k", "axis", "tau", "metric"}
    exact, single = (
        float(number) for number in re.match(r"(\S+) in float64; (\S+) in float32", spec["tolerance"]).groups()
    )
    for dtype, tolerance in ((torch.float64, exact), (torch.float32, single)):
        _check_block_in(
            config, {name: t.to(dtype) if t.is_floating_point() else t for name, t in tensors.items()}, tolerance
        )


def _check_block_in(config, known, tolerance):
    def close(ours, name):
        torch.testing.assert_close(ours, known[name], rtol=tolerance, atol=tolerance)

    m, d, k, metric = (config[name] for name in ("m", "d", "k", "metric"))
    weight, Z, P = known["weight"], known["lrr"], known["projection"]
    layout = SubvectorLayout(tuple(config["shape"]), m, config["axis"])
    S = layout.cut(weight)
    close(S, "subvectors")
    assert torch.equal(layout.join(S), weight)
    conv = nn.Conv2d(weight.shape[1], weight.shape[0], weight.shape[2:], dtype=weight.dtype)
    conv.weight.data.copy_(weight)
    layer = VQConv2d.from_conv(conv, VQSettings(m, d, k, config["axis"]))
    # P and Z are known up to signs: their product is compared.
    close(layer.lrr.detach() @ layer.projection.detach().mT @ P, "lrr")
    table = lr2vq.estimate_dim(weight, m, k, "rate", config["axis"])
    torch.testing.assert_close(
        table.rows[d - 1].lowrank * float(S.square().sum()), float(known["err_lowrank"]), rtol=tolerance, atol=tolerance
    )

    found = lloyd(Z, known["codebook_init"], 8, empty="keep")
    close(found.codebook, "codebook")
    assert torch.equal(found.codes, known["codes"])
    decoded = layout.join(found.codebook[found.codes] @ P.mT)
    close(decoded, "weight_hat")
    close((S - Z @ P.mT).square().sum(), "err_lowrank")
    close(torch.tensor(found.error, dtype=Z.dtype), "err_cluster")
    close((weight - decoded).square().sum(), "err_total")
    torch.testing.assert_close(
        known["err_total"], known["err_lowrank"] + known["err_cluster"], rtol=tolerance, atol=tolerance
    )

    Z = Z.clone().requires_grad_()
    soft = soft_kmeans(Z, known["codebook_init"], config["tau"], 3, metric)
    close(soft.vectors.detach(), "dkm_soft")
    close(soft.codebook.detach(), "dkm_codebook")
    close(soft_codes(Z, soft.codebook, config["tau"], metric).detach(), "dkm_assign")
    (soft.vectors * known["dkm_upstream_grad"]).sum().backward()
    close(Z.grad, "dkm_grad_lrr")


def _check_sizes(spec, tensors):
    rules = spec["rules"]
    k = int(re.search(r"k=(\d+) clamped", rules)[1])
    for name, regime, dense, plain, plain_ratio, projected, projected_ratio in spec["rows"]:
        depth = int(name.removeprefix("resnet"))
        m = {
            "conv3x3": int(re.search(rf"(\d+) \({regime}\)", rules)[1]),
            "conv1x1": int(re.search(r"1x1 m=(\d+)", rules)[1]),
            "linear": int(re.search(r"fc m=(\d+)", rules)[1]),
        }
        if (depth, regime) == (50, "large"):
            m["conv1x1"] = int(re.search(r"ResNet-50 large: (\d+)", rules)[1])
        fc = int(re.search(rf"(\d+) \(ResNet-{depth}\)", rules)[1])
        model = _resnet(depth)
        skipped = ["resnet.embedder.embedder.convolution"]
        for options, size, ratio in (
            ({"projection": "none"}, plain, plain_ratio),
            ({"dim": 0.5}, projected, projected_ratio),
        ):
            config = LR2VQConfig(m, k, k_pattern={"classifier.1": fc}, skip_modules=skipped, **options)
            found = lr2vq.model_size(model, config)
            assert found.dense / 2**23 == pytest.approx(dense, abs=0.005)
            assert found.mebibytes == pytest.approx(size, abs=0.0005)
            assert found.ratio == pytest.approx(ratio, abs=0.005)


def _resnet(depth):
    depths, kind = {18: ([2, 2, 2, 2], "basic"), 34: ([3, 4, 6, 3], "basic"), 50: ([3, 4, 6, 3], "bottleneck")}[depth]
    width = 4 if kind == "bottleneck" else 1
    config = ResNetConfig(
        depths=depths, hidden_sizes=[width * size for size in (64, 128, 256, 512)], layer_type=kind, num_labels=1000
    )
    with torch.device("meta"):
        model = ResNetForImageClassification(config)
    return model.to_empty(device="cpu")


def _conv(inputs=8, outputs=12, **options):
    torch.manual_seed(0)
    return nn.Conv2d(inputs, outputs, 3, padding=1, **options)


def _network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 32, 3, padding=1),
        nn.BatchNorm2d(32), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(128, 32),
    )  # fmt: skip


def _config(**options):
    return LR2VQConfig(**{"k": 8, "dim": 3, "skip_modules": ["0"], **options})


def _settings(m=9, d=4, k=8, **options):
    return VQSettings(m, d, k, **{"assign": "fixed", **options})


@torch.no_grad()
def _loss(model, x, target):
    return float((model(x) - target).square().mean())


def _generator(seed=0):
    return torch.Generator().manual_seed(seed)


# --- subvectors, codes, clusters --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "m", "axis", "groups"),
    [((6, 4, 3, 3), 9, "in", 1), ((6, 4, 3, 3), 18, "in", 2), ((6, 10), 4, "in", 1), ((8, 3, 2, 2), 4, "out", 2),
     ((7, 5), 3, "out", 1), ((10, 2, 3, 3), 4, "out", 2)],
)  # fmt: skip
def test_a_weight_is_cut_and_joined_again(shape, m, axis, groups):
    weight = torch.randn(shape, generator=_generator())
    layout = SubvectorLayout(shape, m, axis, groups, pad=True)
    S = layout.cut(weight)
    assert S.shape == (layout.count, m)
    assert torch.equal(layout.join(S), weight)
    assert S.square().sum() == pytest.approx(float(weight.square().sum()), rel=1e-5)


@pytest.mark.parametrize("bits", [1, 2, 3, 5, 8, 11, 16])
def test_codes_are_packed_without_gaps(bits):
    codes = torch.randint(2**bits, (37,), generator=_generator())
    packed = pack_codes(codes, bits)
    assert packed.shape == (packed_bytes(37, bits),) == (-(-37 * bits // 8),)
    assert torch.equal(unpack_codes(packed, bits, 37), codes)
    value = int.from_bytes(bytes(packed.tolist()), "little")
    assert [value >> (bits * i) & (2**bits - 1) for i in range(37)] == codes.tolist()
    with pytest.raises(ValueError, match="bits hold 0 to"):
        pack_codes(torch.tensor([2**bits]), bits)
    with pytest.raises(ValueError, match="37 codes of"):
        unpack_codes(packed[1:], bits, 37)


def test_the_widths_of_codes():
    assert [code_bits(k) for k in (2, 3, 4, 5, 256, 257, 2048)] == [1, 2, 2, 3, 8, 9, 11]


def test_kmeans_is_as_good_as_that_of_scikit_learn():
    from sklearn.cluster import KMeans

    vectors = torch.randn(400, 5, generator=_generator()).double()
    ours = kmeans(vectors, 12, 100, 4, _generator())
    peer = KMeans(12, n_init=4, max_iter=100, random_state=0).fit(vectors.numpy())
    assert ours.error <= 1.05 * peer.inertia_
    distances = torch.cdist(vectors, ours.codebook)
    assert torch.equal(ours.codes, distances.argmin(1))
    assert ours.error == pytest.approx(float(distances.amin(1).square().sum()))
    again = kmeans(vectors, 12, 100, 4, _generator())
    assert torch.equal(again.codebook, ours.codebook)


def test_what_vectors_have_in_common_does_not_hide_their_distances():
    vectors = torch.randn(2000, 9, generator=torch.Generator().manual_seed(0)) + 1000
    found = kmeans(vectors, 64)
    distances = torch.cdist(vectors.double(), found.codebook.double()).square()
    assert found.error == pytest.approx(float(distances.amin(1).sum()), rel=1e-3)
    assert (distances.argmin(1) == found.codes).float().mean() > 0.99


def test_ties_go_to_the_lowest_code_and_empty_clusters_are_seeded_anew():
    vectors = torch.tensor([[0.0], [1.0], [10.0]])
    assert nearest(vectors, torch.tensor([[1.0], [1.0], [0.0]])).codes.tolist() == [2, 0, 0]
    start = torch.tensor([[0.0], [100.0], [200.0]])
    found = lloyd(vectors, start, 10)
    assert found.error == 0
    assert lloyd(vectors, start, 10, empty="keep").codebook[2] == 200
    same = kmeans(torch.ones(8, 2), 4)
    assert isinstance(same, Clusters)
    assert same.codebook.isfinite().all()


def test_the_whole_set_as_codebook_is_exact():
    vectors = torch.randn(20, 4, generator=_generator()).double()
    assert kmeans(vectors, 20).error == pytest.approx(0, abs=1e-12)
    conv = _conv(2, 8)
    settings = VQSettings(9, 9, 16, projection="none", assign="fixed", codebook_dtype="float32")
    layer = VQConv2d.from_conv(conv, settings).cluster(_generator()).harden()
    torch.testing.assert_close(layer.weight, conv.weight.detach(), rtol=0, atol=1e-6)


def test_soft_codes_become_hard_and_blocks_change_nothing(monkeypatch):
    Z = torch.randn(60, 3, generator=_generator()).double().requires_grad_()
    C = Z.detach()[:6].clone()
    found = kmeans(Z.detach(), 6, 100)
    soft = soft_kmeans(Z, found.codebook, 1e-6, 3)
    torch.testing.assert_close(soft.vectors.detach(), found.codebook[found.codes], rtol=0, atol=1e-9)
    whole = soft_kmeans(Z, C, 0.4, 4)
    whole.vectors.square().sum().backward()
    gradient, Z.grad = Z.grad, None
    monkeypatch.setattr("fullrank.compress.vector_quantization._KEPT", 60)
    parts = soft_kmeans(Z, C, 0.4, 4)
    parts.vectors.square().sum().backward()
    torch.testing.assert_close(parts.vectors, whole.vectors)
    torch.testing.assert_close(Z.grad, gradient)


def test_soft_kmeans_stays_finite_and_stops_when_centres_rest():
    Z = torch.tensor([[0.0], [0.0], [5.0]], requires_grad=True)
    far = soft_kmeans(Z, torch.tensor([[0.0], [5.0], [1e4]]), 1e-3, 5)
    far.vectors.sum().backward()
    assert far.codebook[2] == 1e4
    assert Z.grad.isfinite().all()
    calls = soft_kmeans(Z, torch.tensor([[0.0], [5.0]]), 1e-3, 10**6, tolerance=1e-6)
    assert calls.codebook.flatten().tolist() == [0, 5]
    with pytest.raises(ValueError, match=r"tau=0\.0: a temperature above 0"):
        soft_kmeans(Z, torch.tensor([[0.0], [5.0]]), 0.0)


# --- layers -----------------------------------------------------------------------------------------------------------


def test_errors_of_rank_and_of_clustering_add_up():
    conv = _conv().double()
    layer = VQConv2d.from_conv(conv, _settings(codebook_dtype="float64"))
    low_rank = layer.weight.detach()
    layer.cluster(_generator())
    total = (conv.weight - layer.weight).square().sum()
    parts = (conv.weight - low_rank).square().sum() + (low_rank - layer.weight).square().sum()
    torch.testing.assert_close(total, parts, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(layer.projection.mT @ layer.projection, torch.eye(4).double())


@pytest.mark.parametrize(
    "options", [{"stride": 2}, {"groups": 4}, {"padding_mode": "reflect"}, {"bias": False}, {"dilation": 2}]
)
def test_two_convolutions_are_one_of_output_subvectors(options):
    conv = _conv(8, 16, **options)
    layer = VQConv2d.from_conv(conv, _settings(4, 2, axis="out")).cluster(_generator()).harden().eval()
    x = torch.randn(2, 8, 7, 7)
    two = layer.to_convolutions()
    assert two[0].out_channels == 8
    torch.testing.assert_close(two(x), layer(x), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(layer.decode()(x), layer(x), rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match=r"axis='out'"):
        VQConv2d.from_conv(_conv(), _settings()).to_convolutions()


@pytest.mark.parametrize(("m", "axis"), [(9, "in"), (4, "out")])
def test_every_group_of_a_convolution_can_have_its_own_projection(m, axis):
    conv = _conv(8, 16, groups=4).double()
    settings = _settings(m, 2, axis=axis, projection="group", codebook_dtype="float64")
    layer = VQConv2d.from_conv(conv, settings)
    parts = [SubvectorLayout((4, 2, 3, 3), m, axis).cut(part) for part in conv.weight.detach().chunk(4)]
    best = [torch.linalg.svd(part, full_matrices=False) for part in parts]
    wanted = [U[:, :2] * S[:2] @ V[:2] for U, S, V in best]
    join = SubvectorLayout((4, 2, 3, 3), m, axis).join
    torch.testing.assert_close(layer.weight.detach(), torch.cat([join(part) for part in wanted]))
    shared = VQConv2d.from_conv(conv, _settings(m, 2, axis=axis, codebook_dtype="float64")).weight
    assert (conv.weight - layer.weight).norm() < (conv.weight - shared).norm()
    with torch.no_grad():
        layer.projection.mul_(torch.tensor([3.0, 2.0]))
    before = layer.weight.detach()
    layer.cluster(_generator())  # which makes the projections orthonormal
    for P in layer.projection.detach():
        torch.testing.assert_close(P.mT @ P, torch.eye(2).double())
    lost = functional.pdist(torch.stack([before.flatten(), layer.weight.detach().flatten()])).square()
    vectors = torch.cat([part @ P for part, P in zip(
        [SubvectorLayout((4, 2, 3, 3), m, axis).cut(part) for part in before.chunk(4)], layer.projection.detach(),
        strict=True)])  # fmt: skip
    assert float(lost) == pytest.approx(float(nearest(vectors, layer.codebook.detach()).distances.sum()), rel=1e-6)
    layer.weight.square().sum().backward()
    assert layer.projection.grad.shape == (4, m, 2)
    soft = layer.weight.detach()
    layer.harden().eval()
    torch.testing.assert_close(layer.weight, soft)
    x = torch.randn(2, 8, 5, 5).double()
    torch.testing.assert_close(layer.decode()(x), layer(x))
    if axis == "out":
        torch.testing.assert_close(layer.to_convolutions()(x), layer(x))


def test_projections_of_groups_are_saved_and_counted(tmp_path):
    def network():
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(8, 32, 3, groups=4), nn.Flatten(), nn.Linear(32 * 9, 32))

    config = LR2VQConfig(k=8, dim=2, projection="group")
    model = lr2vq.finalize(lr2vq.cluster(lr2vq.prepare(network(), config))).eval()
    assert [tuple(model[place].projection.shape) for place in (0, 2)] == [(4, 9, 2), (4, 2)]
    x = torch.randn(2, 8, 5, 5)
    assert torch.equal(load(save(model, tmp_path / "small"), skeleton=network())(x), model(x))
    size = lr2vq.model_size(model)
    assert size.projection == 16 * (4 * 9 * 2 + 4 * 2)
    assert size == lr2vq.model_size(network(), config)
    assert compress(network(), "lr2vq", k=8, dim=2, projection="group").report.layers


def test_a_full_rank_layer_is_the_dense_one():
    conv, linear = _conv(padding_mode="circular"), nn.Linear(12, 7)
    x = torch.randn(2, 8, 5, 5)
    torch.testing.assert_close(VQConv2d.from_conv(conv, _settings(9, 9))(x), conv(x), rtol=1e-4, atol=1e-5)
    x = torch.randn(2, 3, 12)
    torch.testing.assert_close(VQLinear.from_linear(linear, _settings(4, 4))(x), linear(x), rtol=1e-4, atol=1e-5)


def test_without_a_projection_it_is_plain_kmeans():
    conv = _conv()
    plain = VQConv2d.from_conv(conv, _settings(9, 9, projection="none")).cluster(_generator())
    found = kmeans(conv.weight.detach().reshape(-1, 9), 8, 50, 1, _generator())
    assert torch.equal(plain.codes, found.codes)
    assert torch.equal(plain.weight.detach(), found.codebook[found.codes].reshape(conv.weight.shape))
    assert plain.projection is None
    soft = VQConv2d.from_conv(conv, _settings(9, 9, projection="none", assign="dkm")).cluster(_generator())
    dkm = soft_kmeans(conv.weight.detach().reshape(-1, 9), soft.codebook.clone(), soft.tau * soft.distance, 5)
    assert torch.equal(soft.weight.detach(), dkm.vectors.reshape(conv.weight.shape))


def test_gradients_of_fixed_codes_are_the_sums_over_members():
    layer = VQConv2d.from_conv(_conv().double(), _settings()).cluster(_generator())
    upstream = torch.randn(layer.weight.shape, generator=_generator()).double()
    (layer.weight * upstream).sum().backward()
    G = layer.layout.cut(upstream)
    members = functional.one_hot(layer.codes, 8).double()
    torch.testing.assert_close(layer.codebook.grad, members.mT @ G @ layer.projection.detach())
    Z = layer.codebook.detach()[layer.codes]
    torch.testing.assert_close(layer.projection.grad, G.mT @ Z)


@pytest.mark.parametrize("assign", ["dkm", "fixed", "ste"])
def test_every_way_to_assign_trains_to_hard_codes(assign):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 4))
    x = torch.randn(128, 16)
    target = model(x).detach()
    model = lr2vq.prepare(model, LR2VQConfig(subvector_size=8, k=8, dim=4, assign=assign, skip_modules=["2"]))
    assert list(model.lr2vq_left) == ["2"]
    lr2vq.cluster(model)
    before = _loss(model.eval(), x, target)
    optimizer = torch.optim.Adam(lr2vq.parameter_groups(model.train(), 1e-4), lr=3e-3)
    for step in range(60):
        optimizer.zero_grad()
        loss = (model(x) - target).square().mean()
        (loss + 0.01 * lr2vq.commitment_loss(model)).backward()
        optimizer.step()
        lr2vq.anneal(model, step / 59)
    assert model[0].tau == pytest.approx(0.05)
    after = _loss(model.eval(), x, target)
    assert after < 0.7 * before
    codes = model[0].codes
    lr2vq.finalize(model)
    assert torch.equal(model[0].codes, codes)
    assert _loss(model, x, target) == pytest.approx(after, rel=0.05)
    assert [name for name, _ in model[0].named_parameters()] == ["bias"]
    torch.testing.assert_close(lr2vq.decode(model)(x), model(x), rtol=1e-4, atol=1e-5)


def test_codes_can_be_frozen_after_soft_training():
    model = lr2vq.cluster(lr2vq.prepare(_network(), _config()))
    layer = model[3]
    codes = layer.codes
    lr2vq.freeze_codes(model)
    assert torch.equal(layer.codes, codes)
    assert layer.codebook.requires_grad
    assert layer.settings.assign == "fixed"


def test_the_decoded_weight_is_kept_in_eval_mode_and_follows_changes():
    layer = VQLinear.from_linear(nn.Linear(16, 32), _settings(4, 2)).cluster(_generator()).harden().eval()
    x = torch.randn(3, 16)
    with torch.inference_mode():
        layer(x)
    kept = layer._decoded
    layer(x.clone().requires_grad_()).sum().backward()
    assert layer._decoded is kept
    other = copy.deepcopy(layer)
    other.load_state_dict({name: 0 * value for name, value in layer.state_dict().items()})
    assert other(x).abs().max() == 0
    assert layer.double()(x.double()).dtype == torch.float64
    assert layer.train()._decoded is None


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_dtypes_are_kept(dtype, bias):
    model = lr2vq.prepare(nn.Sequential(nn.Linear(16, 32, bias=bias, dtype=dtype)), LR2VQConfig(k=8, dim=2))
    assert model[0].lrr.dtype == dtype
    x = torch.randn(2, 3, 16, dtype=dtype)
    assert model(x).dtype == dtype
    lr2vq.cluster(model)
    model(x).sum().backward()
    lr2vq.finalize(model)
    assert model[0].codebook.dtype == torch.float16
    assert model.eval()(x).dtype == dtype
    assert lr2vq.decode(model)(x).dtype == dtype
    assert lr2vq.decode(copy.deepcopy(model).float())(x.float()).dtype == torch.float32
    assert model(x).isfinite().all()


def test_layers_say_what_they_are():
    layer = VQLinear.from_linear(nn.Linear(16, 32), _settings(4, 2)).cluster(_generator())
    assert "in_features=16, out_features=32, m=4, d=2, k=8, axis='in', mode='soft'" in repr(layer)
    assert "kernel_size=(3, 3), stride=(1, 1), m=9, d=4" in repr(VQConv2d.from_conv(_conv(), _settings()))


# --- models -----------------------------------------------------------------------------------------------------------


def _finished(**options):
    return lr2vq.finalize(lr2vq.cluster(lr2vq.prepare(_network(), _config(**options)))).eval()


@pytest.mark.parametrize("options", [{}, {"projection": "none"}, {"axis": "out", "subvector_size": 8}, {"k": 5}])
def test_a_model_is_saved_and_loaded_with_the_same_codes(tmp_path, options):
    model = _finished(**options)
    folder = save(model, tmp_path / "small")
    loaded = load(folder, skeleton=_network())
    x = torch.randn(2, 3, 6, 6)
    assert torch.equal(loaded(x), model(x))
    for name in ("3", "8"):
        assert torch.equal(loaded.get_submodule(name).packed, model.get_submodule(name).packed)
    layers = json.loads((folder / "fullrank.json").read_text())["layers"]
    assert {layer["kind"] for layer in layers.values()} == {"vq-conv2d", "vq-linear"}


@pytest.mark.parametrize("assign", ["dkm", "fixed", "ste"])
def test_training_can_stop_in_every_stage_and_go_on(tmp_path, assign):
    model = lr2vq.prepare(_network(), _config(assign=assign))
    for stage in ("lowrank", "soft"):
        loaded = load(save(model, tmp_path / stage), skeleton=_network())
        for name, value in model.state_dict().items():
            assert torch.equal(loaded.state_dict()[name], value)
        assert loaded[3].mode == stage
        if stage == "lowrank":
            lr2vq.cluster(model)
    lr2vq.finalize(loaded)


def test_a_finished_model_decodes_itself_wherever_it_goes():
    model, x = _finished(), torch.randn(2, 3, 6, 6)
    for held in (model, copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        dense = held.decode()
        assert [type(dense[place]) for place in (0, 3, 8)] == [nn.Conv2d, nn.Conv2d, nn.Linear]
        torch.testing.assert_close(dense(x), model(x), rtol=1e-4, atol=1e-5)
        assert not hasattr(dense, "decode")
    twin = copy.deepcopy(model)
    twin[8].bias.data.zero_()
    assert twin.decode()[8].bias.abs().max() == 0

    class Autoencoder(nn.Sequential):
        def decode(self, codes):
            return codes

    own = lr2vq.finalize(lr2vq.cluster(lr2vq.prepare(Autoencoder(nn.Linear(16, 32)), LR2VQConfig(k=8, dim=2))))
    assert own.decode(3) == 3
    assert type(lr2vq.decode(own)[0]) is nn.Linear


def test_the_accounting_is_the_size_of_the_tensors():
    model = _finished(k=5)
    size = lr2vq.model_size(model)
    state = {name: t for name, t in model.state_dict().items() if name.startswith(("3.", "8.")) and "bias" not in name}
    stored = 8 * sum(tensor.numel() * tensor.element_size() for tensor in state.values())
    assert 0 <= stored - (size.codes + size.codebook + size.projection) < 2 * 8
    rest = sum(p.numel() for p in model.parameters())
    assert size.rest == 32 * rest
    assert size.dense == 32 * sum(p.numel() for p in _network().parameters())
    assert size == lr2vq.model_size(_network(), _config(k=5))
    assert size.ratio == size.dense / size.total
    assert size == lr2vq.model_size(lr2vq.prepare(_network(), _config(k=5)))


def test_codebooks_have_at_most_a_quarter_of_the_subvectors(caplog):
    caplog.set_level("INFO", "fullrank.compress.lr2vq")
    model = lr2vq.prepare(_network(), _config(k=4096, k_pattern={"8": 6}))
    assert model[3].settings.k == 128
    assert model[8].settings.k == 6
    assert "3: k=4096 becomes 128" in caplog.text
    assert "8: k=6 is no power of two: sizes count ceil(log2 k) bits" in caplog.text


def test_normalisations_are_estimated_anew():
    model = lr2vq.cluster(lr2vq.prepare(_network(), _config())).eval()
    batches = [torch.randn(8, 3, 6, 6, generator=_generator(seed)) for seed in range(3)]
    lr2vq.finalize(model, batches)
    activations = torch.cat([model[0](batch) for batch in batches])
    torch.testing.assert_close(model[1].running_mean, activations.mean((0, 2, 3)).detach(), rtol=1e-3, atol=1e-4)
    assert not model[1].training
    assert model[1].momentum == 0.1


def test_layers_that_gain_nothing_stay_dense():
    model = nn.Sequential(
        nn.Conv2d(3, 4, 5), nn.Conv2d(4, 4, 3, groups=4), nn.Linear(4, 4), nn.Conv2d(4, 8, 3), nn.Conv2d(32, 32, 3)
    )
    left = lr2vq.prepare(model, _config(skip_modules=["nothing"])).lr2vq_left
    assert left["0"] == "subvector_size has no m for conv5x5"
    assert left["1"] == "it is a depthwise convolution; depthwise=True quantises those too"
    assert left["2"] == "its 4 subvectors are too few for a codebook"
    assert set(left) == {"0", "1", "2"}
    tiny = nn.Sequential(nn.Conv2d(4, 8, 3), nn.Linear(64, 64))
    left = lr2vq.prepare(tiny, LR2VQConfig({"conv3x3": 36, "linear": 4}, k=2, dim=1.0)).lr2vq_left
    assert re.fullmatch(r"codes, codebook and projection would take [\d,]+ bits, its weight takes 9,216", left["0"])
    gpt = lr2vq.prepare(gpt2(), LR2VQConfig(k=8, dim=2))
    assert isinstance(gpt.transformer.h[0].mlp.c_fc, VQLinear)
    assert gpt.lm_head.weight is gpt.transformer.wte.weight
    assert gpt.lr2vq_left == {"lm_head": "its weight is shared with another layer"}


def test_a_dimension_is_chosen_by_short_training_runs():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 64, bias=False))
    basis = torch.randn(16, 8, generator=_generator()) @ torch.diag(torch.tensor([1.0] * 3 + [0.01] * 5))
    model[0].weight.data = (torch.randn(128, 3, generator=_generator()) @ basis[:8, :3].mT).reshape(64, 16)
    dense, trained = copy.deepcopy(model[0].weight.data), []
    config = LR2VQConfig(subvector_size=8, k=8)

    @torch.no_grad()
    def score(candidate):
        return -100 * float((candidate[0].weight - dense).detach().norm() / dense.norm())

    choice = lr2vq.choose_dim(model, config, trained.append, score)
    assert choice.dim == 3
    assert len(trained) == len(choice.scores) <= 3
    assert isinstance(model[0], nn.Linear)
    assert lr2vq.prepare(model, config, trained.append, score)[0].settings.d == 3
    assert lr2vq.prepare(nn.Sequential(nn.Linear(16, 64)), config)[0].settings.d == 4
    mixed = lr2vq.choose_dim(_network(), _config(), trained.append, lambda candidate: 0.0)
    assert mixed.dim == pytest.approx(1 / 9)


def test_frozen_weights_ask_for_plain_quantisation():
    weight = _conv(16, 32).weight.detach()
    table = lr2vq.estimate_dim(weight, 9, 16)
    rows = table.to_rows()
    assert [row["d"] for row in rows] == list(range(1, 10))
    assert all(a["lowrank"] > b["lowrank"] and a["cluster"] < b["cluster"] for a, b in itertools.pairwise(rows))
    assert table.d >= 8
    assert all(row["total"] == pytest.approx(row["lowrank"] + row["cluster"]) for row in rows)
    rate = lr2vq.estimate_dim(torch.randn(512, 16, generator=_generator()), 2, 64, "rate").rows
    real = lr2vq.estimate_dim(torch.randn(512, 16, generator=_generator()), 2, 64).rows
    assert rate[1].cluster is None
    assert rate[1].cluster_rate == pytest.approx(real[1].cluster, rel=0.5)


@pytest.mark.parametrize("build", [mlp, convolutional, bert, gpt2])
def test_compress_takes_it_for_every_model(build):
    model = build()
    small = compress(model, "lr2vq", k=8, pad=True, subvector_size=4)
    assert small.report.layers
    assert small.report.bytes_after < small.report.bytes_before
    for layer in small.report.layers:
        assert layer.kind in ("vq-linear", "vq-conv2d")
        assert 0 < layer.error < 1
        assert layer.rank == 2


def test_compress_resumes_with_the_same_codes_and_leaves_what_m_does_not_divide(tmp_path):
    def stop(done, total, text):
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compress(mlp(), "lr2vq", k=8, resume=tmp_path, on_progress=stop)
    resumed, whole = compress(mlp(), "lr2vq", k=8, resume=tmp_path), compress(mlp(), "lr2vq", k=8)
    for name, tensor in whole.model.state_dict().items():
        assert torch.equal(resumed.model.state_dict()[name], tensor)
    assert resumed.report.layers == whole.report.layers
    assert "m=4 does not divide its 14 entries of a row" in whole.report.left["4"]


def test_a_model_of_transformers_is_loaded_without_its_weights(tmp_path):
    small = compress(bert(), "lr2vq", k=8).model
    loaded = load(save(small, tmp_path / "small"))
    ids = torch.arange(1, 8)[None]
    with torch.no_grad():
        assert torch.equal(loaded(ids).logits, small(ids).logits)


def test_training_end_to_end_keeps_more_than_compression_alone():
    torch.manual_seed(0)
    x, teacher = torch.randn(256, 3, 6, 6), _network().eval()
    y = teacher(x).detach()
    data = DataLoader(TensorDataset(x, y), 64)
    model = lr2vq.prepare(_network(), _config(assign="fixed"))
    for stage in ("low rank", "quantised"):
        optimizer = torch.optim.Adam(model.parameters(), 3e-3)
        for _ in range(4):
            for inputs, wanted in data:
                optimizer.zero_grad()
                (model.eval()(inputs) - wanted).square().mean().backward()
                optimizer.step()
        if stage == "low rank":
            lr2vq.cluster(model)
    trained = _loss(lr2vq.finalize(model), x, y)
    plain = compress(_network().eval(), "lr2vq", k=8, dim=3, exclude_modules=["0"], subvector_size=9, pad=True).model
    assert trained < _loss(plain, x, y)


# --- bad calls --------------------------------------------------------------------------------------------------------


def test_stages_come_in_order():
    with pytest.raises(RuntimeError, match=r"no quantised layer: cluster\(\) comes after prepare\(\)"):
        lr2vq.cluster(_network())
    model = lr2vq.prepare(_network(), _config())
    with pytest.raises(RuntimeError, match=r"layers in mode lowrank: finalize\(\) comes after prepare\(\) and cluster"):
        lr2vq.finalize(model)
    with pytest.raises(RuntimeError, match=r"call cluster\(\) before finalize\(\)"):
        model[3].harden()
    with pytest.raises(RuntimeError, match=r"call cluster\(\) before its codes can be frozen"):
        model[3].freeze_codes()
    with pytest.raises(RuntimeError, match=r"has no codes: call cluster\(\) first"):
        _ = model[3].codes
    lr2vq.cluster(model)
    with pytest.raises(RuntimeError, match="only a layer of low rank can be clustered"):
        model[3].cluster(_generator())
    with pytest.raises(ValueError, match=r"no quantised layer: call lr2vq\.prepare first"):
        lr2vq.model_size(_network())


def test_sizes_that_do_not_fit_are_refused():
    with pytest.raises(
        ValueError, match=r"3: m=7 does not divide its 144 entries of a row \(axis='in'\): valid m are 1, 2, 3, 4"
    ):
        lr2vq.prepare(_network(), _config(subvector_size=7))
    with pytest.raises(ValueError, match=r"m=5 does not divide its 32 output channels of a group \(axis='out'\)"):
        lr2vq.prepare(_network(), _config(subvector_size=5, axis="out"))
    with pytest.raises(ValueError, match="8: d=6: from 1 to m=4 dimensions are accepted"):
        lr2vq.prepare(_network(), _config(dim=6))
    with pytest.raises(ValueError, match="k=600 codewords for 512 subvectors"):
        lr2vq.prepare(_network(), _config(k=600, clamp=False, k_pattern={"8": 4}))
    with pytest.raises(ValueError, match="k=1: at least 2 codewords"):
        LR2VQConfig(k=1)
    with pytest.raises(ValueError, match="vectors: k=9: from 2 to 8 centres"):
        kmeans(torch.randn(8, 2), 9)
    with pytest.raises(ValueError, match="weight: k=1: from 2 to"):
        lr2vq.estimate_dim(torch.randn(8, 4), 4, 1)
    for dim in (0, -1, 1.5, 0.0):
        with pytest.raises(ValueError, match=r"d >= 1, or a share of m"):
            LR2VQConfig(dim=dim)
    with pytest.raises(ValueError, match="without a projection"):
        VQSettings(4, 2, 8, projection="none")
    with pytest.raises(ValueError, match="m=0: subvectors of at least one entry"):
        SubvectorLayout((4, 4), 0)
    with pytest.raises(ValueError, match="no layer of Sequential can be quantised"):
        lr2vq.prepare(nn.Sequential(nn.Linear(4, 2)), _config(skip_modules=[]))


def test_unknown_names_are_refused(unchecked):
    for options, text in (
        ({"dim": "best"}, "dim='best'"),
        ({"tau": 0.01}, "tau >= tau_final > 0 is needed"),
        ({"projection": "model"}, "projection='model' is not known"),
        ({"codebook_dtype": "int8"}, "codebook_dtype='int8' is no floating-point dtype"),
    ):
        with pytest.raises(ValueError, match=text):
            LR2VQConfig(**options)
    with pytest.raises(ValueError, match="axis='rows' is not known"):
        SubvectorLayout((4, 4), 2, "rows")
    with pytest.raises(ValueError, match="assign='soft' is not known"):
        VQSettings(4, 2, 8, assign="soft")
    with pytest.raises(ValueError, match="method='guess' is not known"):
        lr2vq.estimate_dim(torch.randn(8, 4), 4, 2, "guess")


def test_weights_that_are_not_finite_are_refused():
    model = _network()
    model[3].weight.data[0, 0, 0, 0] = float("nan")
    with pytest.raises(ValueError, match=r"3 has nan at \(0, 0, 0, 0\)"):
        lr2vq.prepare(model, _config())
    with pytest.raises(ValueError, match="3 has nan"):
        compress(model, "lr2vq", k=8)


def test_the_facts_of_a_layer_are_its_attributes():
    layer = VQConv2d.from_conv(_conv(), _settings(9, 4))
    assert (layer.shape, layer.m, layer.d, layer.k) == (tuple(_conv().weight.shape), 9, 4, layer.settings.k)


def test_a_layer_has_more_dimensions_than_subvectors_where_they_are_asked_for():
    conv = nn.Conv2d(1, 8, 3)  # 8 subvectors of 9 entries
    layer = VQConv2d.from_conv(conv, VQSettings(9, 9, 2))
    torch.testing.assert_close(layer.weight, conv.weight, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(layer.projection.mT @ layer.projection, torch.eye(9), rtol=1e-4, atol=1e-5)
    rows = lr2vq.estimate_dim(conv.weight.detach(), 9, 2).rows
    assert [row.d for row in rows] == list(range(1, 10))
    assert rows[-1].lowrank == 0


@pytest.mark.parametrize("stage", ["lowrank", "fixed", "dkm", "ste", "frozen", "hard"])
def test_a_state_dict_is_loaded_in_the_mode_that_it_was_saved_in(stage):
    def prepared(assign):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(2, 16, 3), nn.Flatten(), nn.Linear(16, 4))
        return lr2vq.prepare(model, LR2VQConfig({"conv3x3": 9}, k=4, dim=3, assign=assign))

    made = prepared(stage if stage in ("fixed", "ste") else "dkm")
    if stage != "lowrank":
        lr2vq.cluster(made)
    if stage == "frozen":
        lr2vq.freeze_codes(made)
    if stage == "hard":
        lr2vq.finalize(made)
    other = prepared("dkm")
    other.load_state_dict(made.state_dict())
    assert (other[0].mode, set(other.state_dict())) == (made[0].mode, set(made.state_dict()))
    x = torch.randn(2, 2, 3, 3)
    assert torch.equal(other.eval()(x), made.eval()(x))
    made.load_state_dict(prepared("dkm").state_dict())  # and back
    assert made[0].mode == "lowrank"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"k": 2.5}, r"k=2\.5: at least 2 codewords"),
        ({"dim": True}, "dim=True"),
        ({"dkm_iters": 0}, "dkm_iters=0"),
        ({"axis": "rows"}, "axis='rows' is not known"),
        ({"assign": "soft"}, "assign='soft' is not known"),
        ({"subvector_size": 0}, "subvector_size=0: 1 entry"),
        ({"subvector_size": {"linear": 2.5}}, r"subvector_size=2\.5 for linear"),
    ],
)
def test_bad_numbers_and_names_are_refused_at_once(options, message, unchecked):
    with pytest.raises(ValueError, match=message):
        LR2VQConfig(**options)


def test_one_pattern_of_names_is_enough():
    model = nn.Sequential(nn.Linear(16, 64), nn.Linear(64, 16))
    config = LR2VQConfig(k=4, dim=2, skip_modules="0")
    assert lr2vq.prepare(model, config).lr2vq_left == {"0": "skip_modules names it"}
