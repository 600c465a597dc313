import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fullrank.compress import Grid, gptq_quantize, lorc_factors, pack, unpack, zeroquant_local_quantize
from fullrank.compress.quantization import packed_size

# What the reference files call a grid -> ours; they keep scales as they were computed.
GRIDS = {
    "ds_sym": {"sym": True, "grid": "deepspeed"},
    "ds_asym": {"grid": "deepspeed"},
    "gptqgrid_rtn_sym": {"sym": True, "sym_mode": "gptq"},
    "gptqgrid_rtn_asym": {},
    "indep_rtn_sym": {"sym": True},
    "indep_rtn_asym": {},
}
QUANTISED = {"rtn": "indep_rtn_asym", "gptq": "gptq_q", "mxint": "qera_wq"}
OTHERS = {
    "weight", "x", "gptq_H", "qera_product_out_in", "qera_diag_product_out_in", "qera_mse",
    *(f"indep_lorc_{name}_{what}" for name in QUANTISED for what in ("product", "spectrum", "y")),
}  # fmt: skip
# The reference accumulated and solved in blocks of so many columns.
GPTQ_BLOCK = 16


@pytest.mark.golden("lorc")
def test_agrees_with_the_reference(case):
    known, config = case.tensors, case.spec["config"]
    assert set(config) <= {"seed", "out", "in", "bits", "group_size", "rank", "n"}
    assert set(known) <= {*GRIDS, *QUANTISED.values(), *OTHERS}
    assert known["weight"].shape == (config["out"], config["in"])
    for name in set(GRIDS) & set(known):
        check_grid(known["weight"], known[name], config, GRIDS[name])
    if "gptq_q" in known:
        check_gptq(known, config)
    for name in QUANTISED:
        check_compensation(known, config["rank"], name)
    check_rivals(known, config["rank"])
    check_output_errors(known, case.spec["output_mse"])


def golden_grid(config, **options):
    return Grid(config["bits"], config["group_size"], scale_dtype="float32", **options)


def check_grid(weight, expected, config, options):
    """The same grid, and at most one step away where a value lies on a tie."""
    grid = golden_grid(config, **options)
    weight = weight.to(expected.dtype)
    found = grid.quantize(weight)
    values = found.dequantize(expected.dtype)
    if expected.dtype == torch.float64:  # scales are stored in float32
        torch.testing.assert_close(values, expected, rtol=1e-5, atol=1e-6)
        return
    away = (values - expected).abs() > 1e-6 + 1e-5 * expected.abs()
    groups = weight.unflatten(1, (found.scales.shape[1], -1))
    steps = groups / found.scales.unsqueeze(-1)
    tie = ((steps - steps.floor() - 0.5).abs() < 1e-6).flatten(1)
    assert bool((tie | ~away).all())


def check_gptq(known, config):
    x = known["x"]
    # The reference divides by the batches that the rows came in, which changes nothing but the scale.
    batches = 2 * x.mT @ x / known["gptq_H"]
    torch.testing.assert_close(batches, torch.full_like(batches, float(batches.median().round())), rtol=1e-2, atol=0)
    found = gptq_quantize(known["weight"], known["gptq_H"], golden_grid(config), block_size=GPTQ_BLOCK)
    values, expected = found.dequantize(), known["gptq_q"]
    away = (values - expected).abs() > 1e-6 + 1e-3 * expected.abs()
    assert float(away.double().mean()) <= 0.005
    step = found.scales.repeat_interleave(values.shape[1] // found.scales.shape[1], dim=1)
    assert bool(((values - expected).abs() <= 1.01 * step)[away].all())


def check_compensation(known, rank, name):
    quantised, product = known[QUANTISED[name]], known.get(f"indep_lorc_{name}_product")
    if product is None:
        return
    weight, quantised = known["weight"].double(), quantised.double()
    for method in ("exact", "randomized"):
        A, B = lorc_factors(weight, quantised, rank, svd=method)
        tolerance = 1e-5 if method == "exact" else 1e-2  # a nearly flat spectrum turns the subspace
        torch.testing.assert_close(B @ A, product, rtol=0, atol=tolerance)
    if f"indep_lorc_{name}_spectrum" in known:
        values = torch.linalg.svdvals(weight - quantised)
        torch.testing.assert_close(values, known[f"indep_lorc_{name}_spectrum"], rtol=1e-5, atol=1e-6)
        tail = values[rank:].square().sum()
        A, B = lorc_factors(weight, quantised, rank, svd="exact")
        torch.testing.assert_close((weight - quantised - B @ A).square().sum(), tail, rtol=1e-6, atol=1e-12)
    if f"indep_lorc_{name}_y" in known:
        A, B = lorc_factors(weight, quantised, rank, svd="exact")
        x = known["x"].double()
        y = x @ quantised.mT + (x @ A.mT) @ B.mT
        torch.testing.assert_close(y, known[f"indep_lorc_{name}_y"], rtol=1e-5, atol=1e-5)


def check_rivals(known, rank):
    weight, quantised = known["weight"], known["qera_wq"]
    A, B = lorc_factors(weight, quantised, rank, svd="exact")
    torch.testing.assert_close(B @ A, known["qera_product_out_in"], rtol=0, atol=1e-5)
    error = (weight - quantised - B @ A).square().mean()
    torch.testing.assert_close(error, known["qera_mse"], rtol=1e-4, atol=1e-8)
    scale = known["x"].square().mean(0).sqrt()
    A, B = lorc_factors(weight, quantised, rank, scale, svd="exact")
    torch.testing.assert_close(B @ A, known["qera_diag_product_out_in"], rtol=0, atol=1e-5)


def check_output_errors(known, errors):
    x, weight = known["x"].double(), known["weight"].double()
    products = {
        "lorc": {name: known[f"indep_lorc_{name}_product"] for name in QUANTISED},
        "qera_diag": {"mxint": known["qera_diag_product_out_in"]},
    }
    for arm, expected in errors.items():
        name, _, more = arm.partition("+")
        approximation = known[QUANTISED[name]].double()
        if more:
            approximation = approximation + products[more][name]
        assert float((x @ (weight - approximation).mT).square().mean()) == pytest.approx(expected, rel=1e-4)


# --- grids ------------------------------------------------------------------------------------------------------------


GRID_OPTIONS = [{}, {"sym": True}, {"sym": True, "sym_mode": "gptq"}, {"grid": "deepspeed"}]
GRID_OPTIONS.append({"grid": "deepspeed", "sym": True})


@settings(max_examples=60, deadline=None)
@given(
    bits=st.integers(2, 8),
    group=st.sampled_from([-1, 4, 12]),
    options=st.sampled_from(GRID_OPTIONS),
    scale=st.sampled_from(["float16", "float32"]),
    seed=st.integers(0, 99),
    power=st.integers(-6, 4),
)
def test_every_value_is_within_a_step_of_its_code(bits, group, options, scale, seed, power):
    torch.manual_seed(seed)
    weight = torch.randn(5, 24) * 10.0**power
    found = Grid(bits, group, scale_dtype=scale, **options).quantize(weight)
    assert int(found.codes.max()) < 2**bits
    assert found.scales.shape == (5, 1 if group == -1 else 24 // group)
    assert (found.zeros is None) == bool(options.get("sym"))
    steps = found.scales.double().repeat_interleave(24 // found.scales.shape[1], dim=1)
    error = (found.dequantize().double() - weight.double()).abs() / steps
    # DeepSpeed clips the largest value by a step, and the rounded zero point moves either end by half a step.
    bound = 0.5 if options.get("sym") and options.get("grid") is None else 1.5
    assert float(error.max()) <= bound + 0.15


def test_zeros_stay_zeros_and_constant_rows_are_kept():
    weight = torch.tensor([[0.0] * 8, [0.3] * 8, [-0.3] * 8, [0.0, 1, 0, -2, 0, 0, 0.5, 0]])
    for options in GRID_OPTIONS:
        found = Grid(4, **options).quantize(weight).dequantize()
        assert found[0].abs().max() == 0
        if options.get("grid") != "deepspeed":
            assert float(found[3][weight[3] == 0].abs().max()) == 0
        if not options.get("sym"):
            torch.testing.assert_close(found[1:3], weight[1:3], rtol=1e-3, atol=1e-4)


def test_deepspeed_clips_the_largest_value_by_a_step():
    weight = torch.linspace(-1, 1, 64)[None]
    found = Grid(4, grid="deepspeed", scale_dtype="float32").quantize(weight)
    clipped = float((weight[0, -1] - found.dequantize()[0, -1]) / found.scales[0, 0])
    assert clipped == pytest.approx(1, abs=0.01)


def test_scales_that_half_precision_loses_stay_in_single():
    assert Grid(8).quantize(torch.randn(3, 8)).scales.dtype == torch.float16
    assert Grid(8).quantize(torch.randn(3, 8) * 1e-5).scales.dtype == torch.float32
    assert Grid(8).quantize(torch.randn(3, 8) * 1e9).scales.dtype == torch.float32


@settings(max_examples=80, deadline=None)
@given(bits=st.integers(2, 8), rows=st.integers(1, 5), columns=st.integers(1, 40), seed=st.integers(0, 99))
def test_packing_is_lossless(bits, rows, columns, seed):
    generator = torch.Generator().manual_seed(seed)
    codes = torch.randint(2**bits, (rows, columns), generator=generator, dtype=torch.uint8)
    packed = pack(codes, bits)
    assert packed.shape == (rows, packed_size(columns, bits))
    assert packed_size(columns, bits) <= bits * columns / 8 + bits
    torch.testing.assert_close(unpack(packed, bits, columns), codes, rtol=0, atol=0)


def test_codes_lie_one_behind_the_other_from_the_lowest_bit():
    assert pack(torch.tensor([[1, 2, 3, 15]], dtype=torch.uint8), 4).tolist() == [[0x21, 0xF3]]
    codes = torch.arange(8, dtype=torch.uint8)[None]
    number = int.from_bytes(bytes(pack(codes, 3)[0].tolist()), "little")
    assert [(number >> 3 * place) & 7 for place in range(8)] == list(range(8))


# --- quantisers that look at data -------------------------------------------------------------------------------------


def _layer(outputs=24, inputs=32, samples=200, seed=0):
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(outputs, inputs, generator=generator)
    mixing = torch.randn(inputs, inputs, generator=generator) / inputs**0.5
    return weight, torch.randn(samples, inputs, generator=generator) @ mixing


def _error(weight, x, quantised):
    return float((x @ (weight - quantised.dequantize()).mT).square().mean())


@pytest.mark.parametrize("bits", [2, 3, 4])
@pytest.mark.parametrize("group", [-1, 8])
def test_quantisers_that_look_at_data_have_the_smaller_output_error(bits, group):
    weight, x = _layer()
    grid = Grid(bits, group)
    nearest = _error(weight, x, grid.quantize(weight))
    assert _error(weight, x, gptq_quantize(weight, 2 / len(x) * x.mT @ x, grid)) < nearest
    assert _error(weight, x, zeroquant_local_quantize(weight, x.mT @ x / len(x), grid)) < nearest


def test_gptq_on_independent_inputs_is_rounding_to_nearest():
    weight, _ = _layer()
    found = gptq_quantize(weight, torch.eye(32), Grid(4))
    torch.testing.assert_close(found.dequantize(), Grid(4).quantize(weight).dequantize(), rtol=0, atol=0)


def test_the_size_of_blocks_changes_nothing_where_a_row_is_one_group():
    weight, x = _layer()
    results = [gptq_quantize(weight, x.mT @ x, Grid(4), block_size=block).codes for block in (1, 5, 16, 32)]
    different = [float((result != results[0]).double().mean()) for result in results[1:]]
    assert max(different) < 0.01  # rounding errors of the sums


def test_inputs_that_never_occur_take_weight_zero():
    weight, x = _layer()
    x[:, [3, 20]] = 0
    found = gptq_quantize(weight, x.mT @ x, Grid(4, 8)).dequantize()
    assert found.isfinite().all()
    assert found[:, [3, 20]].abs().max() == 0


def test_a_bad_hessian_is_damped_more_and_then_refused():
    weight, x = _layer(samples=5)
    assert gptq_quantize(weight, x.mT @ x, Grid(4)).dequantize().isfinite().all()
    hessian = torch.eye(32)
    hessian[0, 1] = hessian[1, 0] = 1.05  # damped tenfold it is positive definite
    assert gptq_quantize(weight, hessian, Grid(4)).dequantize().isfinite().all()
    hessian[0, 1] = hessian[1, 0] = 5
    with pytest.raises(RuntimeError, match=r"^layer\.3: the Hessian of 77 calibration tokens is not positive definite"):
        gptq_quantize(weight, hessian, Grid(4), name="layer.3", tokens=77)


# --- bad input --------------------------------------------------------------------------------------------------------


def test_impossible_grids_are_refused(unchecked):
    for bits in (1, 9, 2.5):
        with pytest.raises(ValueError, match=f"bits={bits}: whole numbers from 2 to 8"):
            Grid(bits)
    with pytest.raises(ValueError, match="group_size=0: -1"):
        Grid(4, 0)
    with pytest.raises(ValueError, match="grid='gptq' is not known; accepted: standard, deepspeed"):
        Grid(grid="gptq")
    with pytest.raises(ValueError, match=r"mlp: group_size=10 does not divide its 24 inputs.* are 8 or 12, and -1"):
        Grid(4, 10).quantize(torch.randn(3, 24), "mlp")
    weight = torch.randn(3, 24)
    weight[1, 2] = float("nan")
    with pytest.raises(ValueError, match=r"mlp has nan at \(1, 2\)"):
        Grid(4).quantize(weight, "mlp")
    with pytest.raises(ValueError, match="codes go up to 8: 3 bits hold 0 to 7"):
        pack(torch.tensor([[8]], dtype=torch.uint8), 3)
    with pytest.raises(ValueError, match="packed has 3 bytes in a row: 4 codes of 4 bits take 2"):
        unpack(torch.zeros(1, 3, dtype=torch.uint8), 4, 4)


def test_bad_calibration_is_refused(unchecked):
    weight, _ = _layer()
    with pytest.raises(ValueError, match=r"weight: hessian has shape \(3, 3\), its weight needs \(32, 32\)"):
        gptq_quantize(weight, torch.eye(3), Grid(4))
    with pytest.raises(ValueError, match="its calibration inputs are not finite"):
        gptq_quantize(weight, torch.full((32, 32), float("inf")), Grid(4))
    with pytest.raises(ValueError, match=r"weight: moments have shape \(3, 3\)"):
        zeroquant_local_quantize(weight, torch.eye(3), Grid(4))
