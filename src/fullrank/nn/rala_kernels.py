"""The kernels of `rala_triton`. This module needs Triton, and is imported when the first of them is launched."""

import triton
import triton.language as tl

# A head's features are held as two halves, the even and the odd ones: a rotated pair is one of each.


@triton.jit
def positive(x):
    """ELU(x) + 1."""
    return tl.where(x > 0, x + 1, tl.exp(tl.minimum(x, 0.0)))


@triton.jit
def query_sums(
    q, totals, sb, sh, sn, sd, heads, queries, dim, PAIRS: tl.constexpr, TOKENS: tl.constexpr, STEPS: tl.constexpr
):
    """Sum of kappa(q) over a part of the tokens."""
    head, part = tl.program_id(0).to(tl.int64), tl.program_id(1)
    start = q + head // heads * sb + head % heads * sh
    pair = tl.arange(0, PAIRS)
    even = tl.zeros([PAIRS], tl.float32)
    odd = tl.zeros([PAIRS], tl.float32)
    for step in range(STEPS):
        token = (part * STEPS + step) * TOKENS + tl.arange(0, TOKENS)
        there = (token < queries)[:, None] & (2 * pair < dim)[None, :]
        place = start + token.to(tl.int64)[:, None] * sn + 2 * pair[None, :] * sd
        a = positive(tl.load(place, there, 0.0).to(tl.float32))
        b = positive(tl.load(place + sd, there, 0.0).to(tl.float32))
        even += tl.sum(tl.where(there, a, 0.0), 0)
        odd += tl.sum(tl.where(there, b, 0.0), 0)
    out = totals + (head * tl.num_programs(1) + part) * 2 * PAIRS
    tl.store(out + pair, even)
    tl.store(out + PAIRS + pair, odd)


@triton.jit
def buffers(
    k, v, mean, table, peaks, masses, key_sums, sums,
    kb, kh, kn, kd, vb, vh, vn, vd, heads, keys, dim,
    ROTATED: tl.constexpr, PAIRS: tl.constexpr, TOKENS: tl.constexpr, STEPS: tl.constexpr,
):  # fmt: skip
    """Over a part of the tokens: largest logit, and relative to it the sums of weights, keys and their products."""
    head, part = tl.program_id(0).to(tl.int64), tl.program_id(1)
    key_start = k + head // heads * kb + head % heads * kh
    value_start = v + head // heads * vb + head % heads * vh
    pair = tl.arange(0, PAIRS)
    feature = tl.arange(0, 2 * PAIRS)
    mean_even = tl.load(mean + head * 2 * PAIRS + pair)
    mean_odd = tl.load(mean + head * 2 * PAIRS + PAIRS + pair)
    peak = -1.0e38
    mass = 0.0
    key_even = tl.zeros([PAIRS], tl.float32)
    key_odd = tl.zeros([PAIRS], tl.float32)
    even = tl.zeros([PAIRS, 2 * PAIRS], tl.float32)
    odd = tl.zeros([PAIRS, 2 * PAIRS], tl.float32)
    for step in range(STEPS):
        token = (part * STEPS + step) * TOKENS + tl.arange(0, TOKENS)
        exists = token < keys
        there = exists[:, None] & (2 * pair < dim)[None, :]
        place = key_start + token.to(tl.int64)[:, None] * kn + 2 * pair[None, :] * kd
        a = tl.where(there, positive(tl.load(place, there, 0.0).to(tl.float32)), 0.0)
        b = tl.where(there, positive(tl.load(place + kd, there, 0.0).to(tl.float32)), 0.0)
        logit = tl.sum(a * mean_even[None, :] + b * mean_odd[None, :], 1)
        logit = tl.where(exists, logit, -1.0e38)
        higher = tl.maximum(peak, tl.max(logit, 0))
        shrink = tl.exp(peak - higher)
        weight = tl.where(exists, tl.exp(logit - higher), 0.0)
        peak = higher
        mass = mass * shrink + tl.sum(weight, 0)
        a *= weight[:, None]
        b *= weight[:, None]
        key_even = key_even * shrink + tl.sum(a, 0)
        key_odd = key_odd * shrink + tl.sum(b, 0)
        if ROTATED:
            turn = table + token[:, None] * dim + 2 * pair[None, :]
            cos = tl.load(turn, there, 0.0)
            sin = tl.load(turn + 1, there, 0.0)
            turned = a * cos - b * sin
            b = a * sin + b * cos
            a = turned
        value_place = value_start + token.to(tl.int64)[:, None] * vn + feature[None, :] * vd
        value = tl.load(value_place, exists[:, None] & (feature < dim)[None, :], 0.0).to(tl.float32)
        even = even * shrink + tl.dot(tl.trans(a), value, input_precision="ieee")
        odd = odd * shrink + tl.dot(tl.trans(b), value, input_precision="ieee")
    row = head * tl.num_programs(1) + part
    tl.store(peaks + row, peak)
    tl.store(masses + row, mass)
    tl.store(key_sums + row * 2 * PAIRS + pair, key_even)
    tl.store(key_sums + row * 2 * PAIRS + PAIRS + pair, key_odd)
    out = sums + row * 4 * PAIRS * PAIRS + pair[:, None] * 2 * PAIRS + feature[None, :]
    tl.store(out, even)
    tl.store(out + 2 * PAIRS * PAIRS, odd)


@triton.jit
def outputs(
    q, key_mean, KV, table, r, qb, qh, qn, qd, rb, rh, rn, rd, heads, queries, dim, eps,
    ROTATED: tl.constexpr, PAIRS: tl.constexpr, TOKENS: tl.constexpr, STEPS: tl.constexpr,
):  # fmt: skip
    """r = (R q) KV / (q . key_mean + eps) for a part of the tokens."""
    head, part = tl.program_id(0).to(tl.int64), tl.program_id(1)
    query_start = q + head // heads * qb + head % heads * qh
    output_start = r + head // heads * rb + head % heads * rh
    pair = tl.arange(0, PAIRS)
    feature = tl.arange(0, 2 * PAIRS)
    mean_even = tl.load(key_mean + head * 2 * PAIRS + pair)
    mean_odd = tl.load(key_mean + head * 2 * PAIRS + PAIRS + pair)
    KV_place = KV + head * 4 * PAIRS * PAIRS + pair[:, None] * 2 * PAIRS + feature[None, :]
    even = tl.load(KV_place)
    odd = tl.load(KV_place + 2 * PAIRS * PAIRS)
    for step in range(STEPS):
        token = (part * STEPS + step) * TOKENS + tl.arange(0, TOKENS)
        exists = token < queries
        there = exists[:, None] & (2 * pair < dim)[None, :]
        place = query_start + token.to(tl.int64)[:, None] * qn + 2 * pair[None, :] * qd
        a = tl.where(there, positive(tl.load(place, there, 0.0).to(tl.float32)), 0.0)
        b = tl.where(there, positive(tl.load(place + qd, there, 0.0).to(tl.float32)), 0.0)
        z = tl.sum(a * mean_even[None, :] + b * mean_odd[None, :], 1) + eps
        if ROTATED:
            turn = table + token[:, None] * dim + 2 * pair[None, :]
            cos = tl.load(turn, there, 0.0)
            sin = tl.load(turn + 1, there, 0.0)
            turned = a * cos - b * sin
            b = a * sin + b * cos
            a = turned
        product = tl.dot(a, even, input_precision="ieee") + tl.dot(b, odd, input_precision="ieee")
        out = output_start + token.to(tl.int64)[:, None] * rn + feature[None, :] * rd
        tl.store(out, (product / z[:, None]).to(r.dtype.element_ty), exists[:, None] & (feature < dim)[None, :])
