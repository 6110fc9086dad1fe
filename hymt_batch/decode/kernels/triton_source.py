# mypy: ignore-errors
"""The kernels themselves, in Triton; `operators.py` launches them.

Each program computes one row, or one row and key head, from that row alone and with block sizes that depend on the
network alone. So a row alone gives the same bits as the row in a batch. Sums are in float32. Not yet run on a GPU;
tested with Triton's interpreter.

Triton looks `tl` up among the names of this module, so triton is imported when the module is loaded. Import the module
inside functions only: a CPU installation has no triton.
"""

import triton
import triton.language as tl


@triton.jit
def rms_norm(
    inputs,
    residuals,
    weights,
    sums,
    outputs,
    size,
    eps,
    HAS_RESIDUAL: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Add the residual, if any, and normalise; one program for each row."""
    offsets = tl.arange(0, BLOCK)
    inside = offsets < size
    start = tl.program_id(0).to(tl.int64) * size
    values = tl.load(inputs + start + offsets, mask=inside, other=0.0)
    if HAS_RESIDUAL:
        residual = tl.load(residuals + start + offsets, mask=inside, other=0.0)
        # rounded as torch rounds it, because the next layer reads the rounded sum
        values = (values.to(tl.float32) + residual.to(tl.float32)).to(sums.dtype.element_ty)
        tl.store(sums + start + offsets, values, mask=inside)
    values = values.to(tl.float32)
    scale = tl.rsqrt(tl.sum(values * values, axis=0) / size + eps)
    weight = tl.load(weights + offsets, mask=inside, other=0.0).to(tl.float32)
    tl.store(outputs + start + offsets, (values * scale * weight).to(outputs.dtype.element_ty), mask=inside)


@triton.jit
def gated_product(gates, ups, outputs, count, BLOCK: tl.constexpr):
    """Multiply silu(gate) by up; one program for each block of elements."""
    offsets = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = offsets < count
    gate = tl.load(gates + offsets, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(ups + offsets, mask=inside, other=0.0).to(tl.float32)
    product = tl.div_rn(gate, 1.0 + tl.exp(-gate)) * up
    tl.store(outputs + offsets, product.to(outputs.dtype.element_ty), mask=inside)


@triton.jit
def rotate_heads(
    inputs, weights, heads, dims, turned, signs, cosine, sine, inside, eps, SIZE: tl.constexpr, NORM_FIRST: tl.constexpr
):
    """Return the heads of one token, turned (RoPE) and normalised: [HEADS, SIZE] float32."""
    offsets = heads[:, None] * SIZE
    values = tl.load(inputs + offsets + dims[None, :], mask=inside[:, None], other=0.0).to(tl.float32)
    halves = tl.load(inputs + offsets + turned[None, :], mask=inside[:, None], other=0.0).to(tl.float32)
    weight = tl.load(weights + dims).to(tl.float32)[None, :]
    if NORM_FIRST:
        scale = tl.rsqrt(tl.sum(values * values, axis=1) / SIZE + eps)[:, None]
        values = values * scale * weight
        halves = halves * scale * tl.load(weights + turned).to(tl.float32)[None, :]
    result = values * cosine[None, :] + halves * (signs * sine)[None, :]
    if not NORM_FIRST:
        scale = tl.rsqrt(tl.sum(result * result, axis=1) / SIZE + eps)[:, None]
        result = result * scale * weight
    return result


@triton.jit(do_not_specialize=["width", "first_slot"])
def rotate_and_store(
    queries,
    keys,
    values,
    cosines,
    sines,
    query_weights,
    key_weights,
    positions,
    outputs,
    stored_keys,
    stored_values,
    width,
    first_slot,
    position_row,
    position_token,
    stored_slot,
    stored_head,
    stored_token,
    eps,
    NUM_QUERY_HEADS: tl.constexpr,
    NUM_KEY_HEADS: tl.constexpr,
    QUERY_BLOCK: tl.constexpr,
    KEY_BLOCK: tl.constexpr,
    SIZE: tl.constexpr,
    NORM_FIRST: tl.constexpr,
):
    """Turn and normalise the queries and keys of one token, and store its keys and values in its slot."""
    token = tl.program_id(0).to(tl.int64)
    row = token // width
    position = tl.load(positions + row * position_row + token % width * position_token)
    dims = tl.arange(0, SIZE)
    turned = (dims + SIZE // 2) % SIZE
    signs = tl.where(dims < SIZE // 2, -1.0, 1.0)
    cosine = tl.load(cosines + token * SIZE + dims).to(tl.float32)
    sine = tl.load(sines + token * SIZE + dims).to(tl.float32)

    heads = tl.arange(0, QUERY_BLOCK)
    inside = heads < NUM_QUERY_HEADS
    start = token * NUM_QUERY_HEADS * SIZE
    query = rotate_heads(
        queries + start, query_weights, heads, dims, turned, signs, cosine, sine, inside, eps, SIZE, NORM_FIRST
    )
    offsets = start + heads[:, None] * SIZE + dims[None, :]
    tl.store(outputs + offsets, query.to(outputs.dtype.element_ty), mask=inside[:, None])

    heads = tl.arange(0, KEY_BLOCK)
    inside = heads < NUM_KEY_HEADS
    start = token * NUM_KEY_HEADS * SIZE
    key = rotate_heads(
        keys + start, key_weights, heads, dims, turned, signs, cosine, sine, inside, eps, SIZE, NORM_FIRST
    )
    value = tl.load(values + start + heads[:, None] * SIZE + dims[None, :], mask=inside[:, None], other=0.0)
    target = (first_slot + row) * stored_slot + position * stored_token
    offsets = target + heads.to(tl.int64)[:, None] * stored_head + dims[None, :]
    tl.store(stored_keys + offsets, key.to(stored_keys.dtype.element_ty), mask=inside[:, None])
    tl.store(stored_values + offsets, value, mask=inside[:, None])


@triton.jit
def decode_attention(
    queries,
    keys,
    values,
    positions,
    outputs,
    scale,
    position_row,
    key_row,
    key_head,
    key_token,
    value_row,
    value_head,
    value_token,
    GROUP: tl.constexpr,
    GROUP_BLOCK: tl.constexpr,
    SIZE: tl.constexpr,
    KEY_BLOCK: tl.constexpr,
):
    """Attend to the keys of one row and key head up to the row's own position; reads nothing beyond it.

    `scale` includes log2(e), since powers of two are faster.
    """
    row = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1).to(tl.int64)
    length = tl.load(positions + row * position_row).to(tl.int32) + 1
    members = tl.arange(0, GROUP_BLOCK)
    dims = tl.arange(0, SIZE)
    tokens = tl.arange(0, KEY_BLOCK)
    in_group = members[:, None] < GROUP
    query_offsets = ((row * tl.num_programs(1) + head) * GROUP + members[:, None]) * SIZE + dims[None, :]
    query = tl.load(queries + query_offsets, mask=in_group, other=0.0)
    keys += row * key_row + head * key_head
    values += row * value_row + head * value_head

    largest = tl.full([GROUP_BLOCK], float("-inf"), tl.float32)
    total = tl.zeros([GROUP_BLOCK], tl.float32)
    weighted = tl.zeros([GROUP_BLOCK, SIZE], tl.float32)
    for start in range(0, length, KEY_BLOCK):
        seen = start + tokens < length
        offsets = (start + tokens).to(tl.int64)
        key = tl.load(keys + offsets[None, :] * key_token + dims[:, None], mask=seen[None, :], other=0.0)
        scores = tl.dot(query, key, input_precision="ieee") * scale
        scores = tl.where(seen[None, :], scores, float("-inf"))
        new_largest = tl.maximum(largest, tl.max(scores, axis=1))
        shares = tl.exp2(scores - new_largest[:, None])
        shrink = tl.exp2(largest - new_largest)
        total = total * shrink + tl.sum(shares, axis=1)
        # without the mask, a share of 0 would turn NaN or infinity beyond the length into NaN
        value = tl.load(values + offsets[:, None] * value_token + dims[None, :], mask=seen[:, None], other=0.0)
        weighted = weighted * shrink[:, None] + tl.dot(shares.to(value.dtype), value, input_precision="ieee")
        largest = new_largest
    result = weighted / total[:, None]
    tl.store(outputs + query_offsets, result.to(outputs.dtype.element_ty), mask=in_group)
