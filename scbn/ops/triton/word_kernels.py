"""Triton kernels of the word cue; the formulas stand in :mod:`scbn.ops.triton.word`, which launches them."""

# pyright: reportCallIssue=false, reportArgumentType=false
# Triton adds launch options to a kernel's signature and indexes tensors by None; its types know neither.

from __future__ import annotations

import triton
import triton.language as tl

from scbn.ops.triton.common import load_channels, load_tile, store_tile


@triton.jit
def unmasked_words(padding, n, words, WORDS: tl.constexpr, HAS_PADDING: tl.constexpr):
    """(WORDS,) bool: the words of sample n that may get weight."""
    word = tl.arange(0, WORDS)
    unmasked = word < words
    if HAS_PADDING:
        unmasked = unmasked & (tl.load(padding + n * words + word, mask=unmasked, other=1) == 0)
    return unmasked


@triton.jit
def load_table(table, unmasked, channel, channels, WORDS: tl.constexpr, DOT: tl.constexpr):
    """(WORDS, BLOCK_C) of a table (T, C); rows of padding are zero and never read."""
    inside = unmasked[:, None] & (channel < channels)[None, :]
    row = tl.arange(0, WORDS)[:, None] * channels
    return tl.load(table + row + channel[None, :], mask=inside, other=0.0).to(DOT)


@triton.jit
def attend(logits, unmasked, factor):
    """Softmax over the unmasked words; all zero where none is. ``factor`` holds log2(e), because exp2 is the instruction."""
    logits = tl.where(unmasked[None, :], logits * factor, float("-inf"))
    largest = tl.max(logits, 1)
    # Of no word. Where every word's logit is -inf, an infinite x must give NaN as elsewhere, not look like no word.
    empty = tl.max(unmasked.to(tl.int32), 0) == 0
    largest = tl.where(empty, 0.0, largest)
    e = tl.exp2(logits - largest[:, None])
    total = tl.sum(e, 1)
    return e * (1.0 / tl.where(total == 0.0, 1.0, total))[:, None]


@triton.jit
def word_apply(
    x, y, keys, gamma, beta, weight, bias, padding, mean, var, eps, factor,
    positions, channels, words, stride_n, stride_p, stride_c, stride_weight,
    BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr, WORDS: tl.constexpr,
    HAS_PADDING: tl.constexpr, DOT: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """A tile of y: reads x, writes y."""
    n = tl.program_id(1).to(tl.int64)
    position = tl.program_id(0) * BLOCK_P + tl.arange(0, BLOCK_P)
    unmasked = unmasked_words(padding, n, words, WORDS, HAS_PADDING)
    x += n * stride_n
    y += n * stride_n
    table = n * words * channels
    logits = tl.zeros((BLOCK_P, WORDS), tl.float32)
    for c in range(0, channels, BLOCK_C):
        channel = c + tl.arange(0, BLOCK_C)
        tile = load_tile(x, position, channel, positions, channels, stride_p, stride_c)
        key = load_table(keys + table, unmasked, channel, channels, WORDS, DOT)
        logits = tl.dot(tile.to(DOT), tl.trans(key), logits, input_precision=PRECISION)
    a = attend(logits, unmasked, factor).to(DOT)
    for c in range(0, channels, BLOCK_C):
        channel = c + tl.arange(0, BLOCK_C)
        tile = load_tile(x, position, channel, positions, channels, stride_p, stride_c)
        rstd = tl.rsqrt(load_channels(var, channel, channels, 1.0) + eps)
        xhat = (tile - load_channels(mean, channel, channels, 0.0)[None, :]) * rstd[None, :]
        scale = tl.dot(
            a, load_table(gamma + table, unmasked, channel, channels, WORDS, DOT), input_precision=PRECISION
        )
        out = xhat * (scale + load_channels(weight + n * stride_weight, channel, channels, 0.0)[None, :])
        out += tl.dot(
            a, load_table(beta + table, unmasked, channel, channels, WORDS, DOT), input_precision=PRECISION
        )
        out += load_channels(bias + n * stride_weight, channel, channels, 0.0)[None, :]
        store_tile(y, out, position, channel, positions, channels, stride_p, stride_c)


@triton.jit
def attention_and_gradient(
    x, dy, keys, gamma, beta, unmasked, mean, var, eps, factor, position, end, channels, stride_p, stride_c,
    BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr, WORDS: tl.constexpr, DOT: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Attention a of a tile's positions, and the gradient of its logits, a (da - sum_t a da)."""
    logits = tl.zeros((BLOCK_P, WORDS), tl.float32)
    da = tl.zeros((BLOCK_P, WORDS), tl.float32)
    for c in range(0, channels, BLOCK_C):
        channel = c + tl.arange(0, BLOCK_C)
        tile = load_tile(x, position, channel, end, channels, stride_p, stride_c)
        key = load_table(keys, unmasked, channel, channels, WORDS, DOT)
        logits = tl.dot(tile.to(DOT), tl.trans(key), logits, input_precision=PRECISION)
        grad = load_tile(dy, position, channel, end, channels, stride_p, stride_c)
        table = load_table(beta, unmasked, channel, channels, WORDS, DOT)
        da = tl.dot(grad.to(DOT), tl.trans(table), da, input_precision=PRECISION)
        rstd = tl.rsqrt(load_channels(var, channel, channels, 1.0) + eps)
        product = grad * (tile - load_channels(mean, channel, channels, 0.0)[None, :]) * rstd[None, :]
        table = load_table(gamma, unmasked, channel, channels, WORDS, DOT)
        da = tl.dot(product.to(DOT), tl.trans(table), da, input_precision=PRECISION)
    a = attend(logits, unmasked, factor)
    return a, a * (da - tl.sum(a * da, 1)[:, None])


@triton.jit
def sum_tile(
    a, dlogits, x, dy, mean, var, eps, position, channel, end, channels, stride_p, stride_c, sums_gamma, sums_beta, sums_keys,
    DOT: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Add a tile's share to the three sums (BLOCK_C, WORDS)."""
    tile = load_tile(x, position, channel, end, channels, stride_p, stride_c)
    sums_keys = tl.dot(tl.trans(tile.to(DOT)), dlogits, sums_keys, input_precision=PRECISION)
    grad = load_tile(dy, position, channel, end, channels, stride_p, stride_c)
    sums_beta = tl.dot(tl.trans(grad.to(DOT)), a, sums_beta, input_precision=PRECISION)
    rstd = tl.rsqrt(load_channels(var, channel, channels, 1.0) + eps)
    product = grad * (tile - load_channels(mean, channel, channels, 0.0)[None, :]) * rstd[None, :]
    sums_gamma = tl.dot(tl.trans(product.to(DOT)), a, sums_gamma, input_precision=PRECISION)
    return sums_gamma, sums_beta, sums_keys


@triton.jit
def store_sums(sums, n_chunk, channel, channels, gamma, beta, keys, WORDS: tl.constexpr):
    """Write the three sums of a chunk into (N * chunks, 3, WORDS, C)."""
    pointers = sums + n_chunk * 3 * WORDS * channels + tl.arange(0, WORDS)[None, :] * channels + channel[:, None]
    inside = (channel < channels)[:, None]
    tl.store(pointers, gamma, mask=inside)
    tl.store(pointers + WORDS * channels, beta, mask=inside)
    tl.store(pointers + 2 * WORDS * channels, keys, mask=inside)


@triton.jit
def word_reduce(
    x, dy, keys, gamma, beta, padding, mean, var, eps, factor, sums, scratch,
    positions, channels, words, length, stride_n, stride_p, stride_c,
    BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr, WORDS: tl.constexpr, HAS_PADDING: tl.constexpr,
    NARROW: tl.constexpr, DOT: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Sums over a chunk of positions for the tables' gradients: reads x and dy.

    The last word slot is never a word: there ``a`` is one, so that its rows are the sums for the norm's own scale and
    shift. NARROW (C <= BLOCK_C): one sweep. Else attention and its gradient wait in ``scratch`` for a sweep per block
    of channels, whose sums then fit in registers.
    """
    n = tl.program_id(1).to(tl.int64)
    n_chunk = n * tl.num_programs(0) + tl.program_id(0)
    start = tl.program_id(0) * length
    end = tl.minimum(start + length, positions)
    unmasked = unmasked_words(padding, n, words, WORDS, HAS_PADDING)
    word = tl.arange(0, WORDS)
    x += n * stride_n
    dy += n * stride_n
    table = n * words * channels
    if NARROW:
        channel = tl.arange(0, BLOCK_C)
        sums_gamma = tl.zeros((BLOCK_C, WORDS), tl.float32)
        sums_beta = tl.zeros((BLOCK_C, WORDS), tl.float32)
        sums_keys = tl.zeros((BLOCK_C, WORDS), tl.float32)
        for p in range(start, end, BLOCK_P):
            position = p + tl.arange(0, BLOCK_P)
            a, dlogits = attention_and_gradient(
                x, dy, keys + table, gamma + table, beta + table, unmasked, mean, var, eps, factor, position, end,
                channels, stride_p, stride_c, BLOCK_P, BLOCK_C, WORDS, DOT, PRECISION,
            )  # fmt: skip
            a = tl.where(word[None, :] == WORDS - 1, 1.0, a).to(DOT)
            sums_gamma, sums_beta, sums_keys = sum_tile(
                a, dlogits.to(DOT), x, dy, mean, var, eps, position, channel, end, channels, stride_p, stride_c,
                sums_gamma, sums_beta, sums_keys, DOT, PRECISION,
            )  # fmt: skip
        store_sums(sums, n_chunk, channel, channels, sums_gamma, sums_beta, sums_keys, WORDS)
    else:
        scratch += n * positions * 2 * WORDS
        for p in range(start, end, BLOCK_P):
            position = p + tl.arange(0, BLOCK_P)
            a, dlogits = attention_and_gradient(
                x, dy, keys + table, gamma + table, beta + table, unmasked, mean, var, eps, factor, position, end,
                channels, stride_p, stride_c, BLOCK_P, BLOCK_C, WORDS, DOT, PRECISION,
            )  # fmt: skip
            a = tl.where(word[None, :] == WORDS - 1, 1.0, a)
            pointers = scratch + position[:, None] * (2 * WORDS) + word[None, :]
            tl.store(pointers, a.to(DOT), mask=(position < end)[:, None])
            tl.store(pointers + WORDS, dlogits.to(DOT), mask=(position < end)[:, None])
        tl.debug_barrier()  # what one thread wrote another reads
        for c in range(0, channels, BLOCK_C):
            channel = c + tl.arange(0, BLOCK_C)
            sums_gamma = tl.zeros((BLOCK_C, WORDS), tl.float32)
            sums_beta = tl.zeros((BLOCK_C, WORDS), tl.float32)
            sums_keys = tl.zeros((BLOCK_C, WORDS), tl.float32)
            for p in range(start, end, BLOCK_P):
                position = p + tl.arange(0, BLOCK_P)
                pointers = scratch + position[:, None] * (2 * WORDS) + word[None, :]
                a = tl.load(pointers, mask=(position < end)[:, None], other=0.0)
                dlogits = tl.load(pointers + WORDS, mask=(position < end)[:, None], other=0.0)
                sums_gamma, sums_beta, sums_keys = sum_tile(
                    a, dlogits, x, dy, mean, var, eps, position, channel, end, channels, stride_p, stride_c,
                    sums_gamma, sums_beta, sums_keys, DOT, PRECISION,
                )  # fmt: skip
            store_sums(sums, n_chunk, channel, channels, sums_gamma, sums_beta, sums_keys, WORDS)


@triton.jit
def word_finish(
    sums, gamma, beta, weight, padding, dgamma, dbeta, dkeys, totals,
    chunks, channels, words, plane, scale, share, stride_weight,
    BLOCK_C: tl.constexpr, WORDS: tl.constexpr, HAS_PADDING: tl.constexpr,
):  # fmt: skip
    """The chunks' sums added up: the tables' gradients, and of each sample what goes into ``totals`` (4, N, C); ``plane`` is N C.

    These are sum(dy xhat) and sum(dy), and, times ``share``, one over the values per channel, sum(dxhat) and
    sum(dxhat xhat): no pass over positions of their own, because
    dxhat = dy (own + sum_t a_t gamma_t) is linear in what the sums already hold.
    """
    n = tl.program_id(0).to(tl.int64)
    channel = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    word = tl.arange(0, WORDS)
    inside = (channel < channels)[None, :]
    offset = word[:, None] * channels + channel[None, :]
    of_gamma = tl.zeros((WORDS, BLOCK_C), tl.float32)
    of_beta = tl.zeros((WORDS, BLOCK_C), tl.float32)
    of_keys = tl.zeros((WORDS, BLOCK_C), tl.float32)
    for chunk in range(chunks):
        pointers = sums + (n * chunks + chunk) * 3 * WORDS * channels + offset
        of_gamma += tl.load(pointers, mask=inside, other=0.0)
        of_beta += tl.load(pointers + WORDS * channels, mask=inside, other=0.0)
        of_keys += tl.load(pointers + 2 * WORDS * channels, mask=inside, other=0.0)
    table = n * words * channels
    real = (word < words)[:, None] & inside
    tl.store(dgamma + table + offset, of_gamma.to(dgamma.dtype.element_ty), mask=real)
    tl.store(dbeta + table + offset, of_beta.to(dbeta.dtype.element_ty), mask=real)
    tl.store(dkeys + table + offset, (of_keys * scale).to(dkeys.dtype.element_ty), mask=real)
    last = (word == WORDS - 1)[:, None]
    dy_xhat = tl.sum(tl.where(last, of_gamma, 0.0), 0)
    dy = tl.sum(tl.where(last, of_beta, 0.0), 0)
    unmasked = unmasked_words(padding, n, words, WORDS, HAS_PADDING)
    gain = load_table(gamma + table, unmasked, channel, channels, WORDS, tl.float32)
    own = load_channels(weight + n * stride_weight, channel, channels, 0.0)
    here = channel < channels
    # Plane by plane: three of them together may be beyond 32 bits.
    row = totals + n * channels + channel
    tl.store(row, dy_xhat, mask=here)
    row += plane
    tl.store(row, dy, mask=here)
    row += plane
    tl.store(row, (own * dy + tl.sum(gain * of_beta, 0)) * share, mask=here)
    row += plane
    tl.store(row, (own * dy_xhat + tl.sum(gain * of_gamma, 0)) * share, mask=here)


@triton.jit
def word_dx(
    x, dy, dx, keys, gamma, beta, weight, padding, mean, var, means, eps, factor, scale,
    positions, channels, words, stride_n, stride_p, stride_c, stride_weight,
    BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr, WORDS: tl.constexpr, HAS_PADDING: tl.constexpr,
    OF_BATCH: tl.constexpr, DOT: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """A tile of dx: reads x and dy, writes dx. ``means`` (2, C): of dxhat and of dxhat xhat."""
    n = tl.program_id(1).to(tl.int64)
    position = tl.program_id(0) * BLOCK_P + tl.arange(0, BLOCK_P)
    unmasked = unmasked_words(padding, n, words, WORDS, HAS_PADDING)
    x += n * stride_n
    dy += n * stride_n
    dx += n * stride_n
    table = n * words * channels
    a, dlogits = attention_and_gradient(
        x, dy, keys + table, gamma + table, beta + table, unmasked, mean, var, eps, factor, position, positions,
        channels, stride_p, stride_c, BLOCK_P, BLOCK_C, WORDS, DOT, PRECISION,
    )  # fmt: skip
    a = a.to(DOT)
    dlogits = (dlogits * scale).to(DOT)
    for c in range(0, channels, BLOCK_C):
        channel = c + tl.arange(0, BLOCK_C)
        gain = tl.dot(
            a, load_table(gamma + table, unmasked, channel, channels, WORDS, DOT), input_precision=PRECISION
        )
        gain += load_channels(weight + n * stride_weight, channel, channels, 0.0)[None, :]
        out = gain * load_tile(dy, position, channel, positions, channels, stride_p, stride_c)
        rstd = tl.rsqrt(load_channels(var, channel, channels, 1.0) + eps)
        if OF_BATCH:
            tile = load_tile(x, position, channel, positions, channels, stride_p, stride_c)
            xhat = (tile - load_channels(mean, channel, channels, 0.0)[None, :]) * rstd[None, :]
            out -= load_channels(means + channels, channel, channels, 0.0)[None, :] * xhat
            out -= load_channels(means, channel, channels, 0.0)[None, :]
        out *= rstd[None, :]
        key = load_table(keys + table, unmasked, channel, channels, WORDS, DOT)
        out = tl.dot(dlogits, key, out, input_precision=PRECISION)
        store_tile(dx, out, position, channel, positions, channels, stride_p, stride_c)
