"""RPCANet and RPCANet++: the authors' numbers, properties, bad input."""

from __future__ import annotations

import pytest
import torch

from fullrank.nn.rpca_loss import RPCALoss, soft_iou_loss
from fullrank.nn.rpcanet import RPCANet, RPCANetPP
from fullrank.nn.rpcanet_checkpoint import load_official_rpcanet, to_official_names

SIZES = {
    "stage_num": "num_stages",
    "slayers": "sparse_layers",
    "llayers": "background_layers",
    "mlayers": "merge_layers",
    "channel": "channels",
}
MODELS = {"rpcanet": RPCANet, "rpcanet++": RPCANetPP}


def golden_model(spec, tensors, **options):
    sizes = {SIZES[name]: value for name, value in spec["config"].items()}
    model = MODELS[spec["model"]](**sizes, **options)
    state = {name.removeprefix("state."): value for name, value in tensors.items() if name.startswith("state.")}
    load_official_rpcanet(model, state)
    assert spec["mode"].split()[0] in ("eval", "train")
    return model.train(spec["mode"].startswith("train"))


@pytest.mark.golden("rpcanet")
@pytest.mark.filterwarnings("ignore:images of .* are smaller than the contrast's window")
def test_golden_network(case):
    spec, tensors = case.spec, case.tensors
    if "model" not in spec:
        assert spec["what"].startswith("Segmentation metrics")
        return
    tolerance = spec["tolerance"]
    model = golden_model(spec, tensors)
    image = tensors["input"].requires_grad_()
    output = model(image, output_stages=True)
    found = {"restored": output.restored, "object_logits": output.object_logits}
    for number, stage in enumerate(output.stages):
        found |= {f"stage{number}.{name}": value for name, value in stage._asdict().items()}
    assert {name for name in tensors if name.startswith("stage") and name[5].isdigit()} <= set(found)
    for name, value in found.items():
        torch.testing.assert_close(value, tensors[name], **tolerance["outputs"])

    loss = RPCALoss()(output, image.detach(), tensors["mask"])
    soft_iou = soft_iou_loss(torch.sigmoid(output.object_logits), tensors["mask"])
    for value, name in ((loss, "loss"), (soft_iou, "loss.softiou")):
        torch.testing.assert_close(value, tensors[name].squeeze(), **tolerance["loss"], atol=0)
    loss.backward()
    torch.testing.assert_close(image.grad, tensors["grad.input"], **tolerance["outputs"])
    gradients = {name: p.grad for name, p in model.named_parameters()}
    assert None not in gradients.values()
    theirs = to_official_names(gradients | {n: b for n, b in model.named_buffers() if b.ndim})
    norms = spec["grad_norms"]
    unused = {name for name, norm in norms.items() if norm is None}
    assert unused == set(spec["unused_parameters"])
    assert {name for name in theirs if "running" not in name} == set(norms) - unused
    floor = 1e-6 * max(norm for norm in norms.values() if norm)  # biases before a batch norm: rounding alone
    for name in set(norms) - unused:
        assert float(theirs[name].norm()) == pytest.approx(
            norms[name], rel=tolerance["grad_norms"]["rtol"], abs=floor
        ), name

    after = {name.removeprefix("after."): value for name, value in tensors.items() if name.startswith("after.")}
    assert bool(after) == model.training
    for name, value in after.items():
        torch.testing.assert_close(theirs[name], value, **tolerance["outputs"])

    counted = sum(p.numel() for p in golden_model(spec, tensors, **layout(spec)).parameters())
    assert counted == spec["parameter_count"]
    double = golden_model(spec, tensors).double()
    logits = double(tensors["input"].detach().double()).object_logits
    torch.testing.assert_close(logits, tensors["object_logits_f64"], rtol=1e-9, atol=1e-10)


def layout(spec):
    return {"official_layout": True} if spec["model"] == "rpcanet++" else {}
