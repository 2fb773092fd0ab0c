"""The oracle: the paper's formulas as they are written, slow and readable, for any dtype (float64 in the tests).

Nothing here shares code with the layers. Parameters come by their state-dict names, so the oracle also holds the
checkpoint contract. Notation: n sample, c channel, p position, t word, d word feature.

Source: Yin et al., CVPR 2019, arXiv 1904.01480, section 3.3.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

try:
    from einops import einsum, rearrange, reduce, repeat
except ImportError as error:
    raise ImportError(
        "scbn.reference, the formula that everything is compared with, needs einops: pip install 'scbn[testing]'"
    ) from error

from scbn.ops.values import WordTables
from scbn.text import TextFeatures

Parameters = Mapping[str, Tensor]


def batch_statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance of every channel of x (N, C, *spatial)."""
    rows = rearrange(x, "n c ... -> c (n ...)")
    mean = reduce(rows, "c r -> c", "mean")  # mu(x)
    var = reduce((rows - mean[:, None]) ** 2, "c r -> c", "mean")  # sigma^2(x)
    return mean, var


def running_update(running: Tensor, batch: Tensor, momentum: float) -> Tensor:
    """The running statistic after a batch, r <- (1 - m) r + m b."""
    return (1 - momentum) * running + momentum * batch


def unbiased(var: Tensor, count: int) -> Tensor:
    """The variance that enters the running statistic, var * M / (M - 1)."""
    return var * count / (count - 1)


def normalize(x: Tensor, mean: Tensor, var: Tensor, eps: float) -> Tensor:
    """xhat = (x - mu) / sqrt(sigma^2 + eps)."""
    flat = rearrange(x, "n c ... -> n (...) c")
    xhat = (flat - mean) / torch.sqrt(var + eps)
    return rearrange(xhat, "n p c -> n c p").reshape(x.shape)


def attention(x: Tensor, keys: Tensor, padding_mask: Tensor | None, scale: float) -> Tensor:
    """a_tj = exp(l_tj) / sum_t exp(l_tj), l_tj = scale x_j . f(w_t), over the words that are no padding."""
    regions = rearrange(x, "n c ... -> n (...) c")
    logits = scale * einsum(keys, regions, "n t c, n p c -> n t p")
    present = torch.ones_like(logits[:, :, 0], dtype=torch.bool) if padding_mask is None else ~padding_mask
    maps = []
    for sample, words in zip(
        logits, present, strict=True
    ):  # one caption at a time: no mask arithmetic to get wrong
        weights = torch.zeros_like(sample)
        if words.any():
            unmasked = sample[words]
            e = torch.exp(unmasked - unmasked.max(0, keepdim=True).values)
            weights = weights.index_put((words.nonzero()[:, 0],), e / e.sum(0, keepdim=True))
        maps.append(weights)
    return torch.stack(maps)


def visual_semantic_embedding(x: Tensor, keys: Tensor, padding_mask: Tensor | None, scale: float) -> Tensor:
    """vse_j = sum_t a_tj f(w_t), (N, P, C)."""
    return einsum(attention(x, keys, padding_mask, scale), keys, "n t p, n t c -> n p c")


def perceptron(words: Tensor, padding_mask: Tensor | None, parameters: Parameters) -> Tensor:
    """f(w_t) = W w_t + b; the words that are padding are never looked at."""
    if padding_mask is not None:
        words = torch.where(padding_mask[:, :, None], torch.zeros_like(words), words)
    weight = parameters["word_proj.weight"]
    return einsum(words, weight, "n t d, c d -> n t c") + parameters["word_proj.bias"]


def sentence_modulation(text: TextFeatures, parameters: Parameters) -> Tensor:
    """(gamma_s, beta_s) = W_2 max(W_1 s + b_1, 0) + b_2, (N, 2C); zero for empty captions."""
    assert text.sentence is not None
    unmasked = ~empty_captions(text, len(text.sentence), text.sentence.device)
    sentence = torch.where(unmasked[:, None], text.sentence, torch.zeros_like(text.sentence))
    hidden = einsum(sentence, parameters["mlp.0.weight"], "n d, h d -> n h") + parameters["mlp.0.bias"]
    out = einsum(hidden.clamp(min=0), parameters["mlp.2.weight"], "n h, c h -> n c") + parameters["mlp.2.bias"]
    return torch.where(unmasked[:, None], out, torch.zeros_like(out))


def empty_captions(text: TextFeatures, count: int, device: torch.device) -> Tensor:
    """(N,) bool: captions of nothing but padding, which condition on nothing."""
    if text.padding_mask is None:
        return torch.zeros(count, dtype=torch.bool, device=device)
    return reduce(text.padding_mask, "n t -> n", "all")


def sentence_scbn(
    x: Tensor, text: TextFeatures, parameters: Parameters, mean: Tensor, var: Tensor, eps: float
) -> Tensor:
    """y = xhat (gamma + gamma_s) + (beta + beta_s)."""
    gamma_s, beta_s = sentence_modulation(text, parameters).chunk(2, 1)
    positions = x[0, 0].numel()
    gamma = repeat(gamma_s + _own(parameters, "bn.weight", 1.0, gamma_s), "n c -> n c p", p=positions)
    beta = repeat(beta_s + _own(parameters, "bn.bias", 0.0, beta_s), "n c -> n c p", p=positions)
    xhat = normalize(x, mean, var, eps).reshape(gamma.shape)
    return (xhat * gamma + beta).reshape(x.shape)


def word_scbn(
    x: Tensor, text: TextFeatures, parameters: Parameters, mean: Tensor, var: Tensor, eps: float, scale: float
) -> Tensor:
    """y_j = xhat_j (gamma + W_g vse_j + b_g [+ gamma_s]) + (beta + W_b vse_j + b_b [+ beta_s]).

    Every map at full size and the heads at every position, as the paper draws them.
    """
    assert text.words is not None
    keys = perceptron(text.words, text.padding_mask, parameters)
    vse = visual_semantic_embedding(x, keys, text.padding_mask, scale)
    unmasked = ~empty_captions(text, len(x), x.device)
    parts = []
    for head in ("to_gamma", "to_beta"):
        out = einsum(vse, parameters[f"{head}.weight"], "n p c, k c -> n p k") + parameters[f"{head}.bias"]
        parts.append(rearrange(torch.where(unmasked[:, None, None], out, torch.zeros_like(out)), "n p k -> n k p"))
    gamma, beta = parts
    gamma = gamma + rearrange(_own(parameters, "bn.weight", 1.0, gamma[0, :, 0]), "c -> 1 c 1")
    beta = beta + rearrange(_own(parameters, "bn.bias", 0.0, beta[0, :, 0]), "c -> 1 c 1")
    if "mlp.0.weight" in parameters:
        gamma_s, beta_s = sentence_modulation(text, parameters).chunk(2, 1)
        gamma, beta = gamma + gamma_s[:, :, None], beta + beta_s[:, :, None]
    xhat = normalize(x, mean, var, eps).reshape(gamma.shape)
    return (xhat * gamma + beta).reshape(x.shape)


def sentence_modulate(x: Tensor, xhat: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
    """y = xhat gamma + beta, one number for each sample and channel: the backend ``"reference"`` of :mod:`scbn.ops`."""
    gamma, beta = (repeat(t.to(xhat.dtype), "n c -> n c p", p=xhat[0, 0].numel()) for t in (gamma, beta))
    return (xhat.reshape(gamma.shape) * gamma + beta).reshape(x.shape).to(x.dtype)


def word_modulate(x: Tensor, xhat: Tensor, tables: WordTables, scale: float) -> Tensor:
    """y_j = xhat_j (weight + sum_t a_tj gamma_t) + bias + sum_t a_tj beta_t: the backend ``"reference"`` of :mod:`scbn.ops`."""
    keys, padding = tables.keys, tables.padding
    a = attention(x.to(xhat.dtype), keys.to(xhat.dtype), padding, scale)
    full = []
    for table, own in ((tables.gamma, tables.weight), (tables.beta, tables.bias)):
        if padding is not None:
            table = torch.where(padding[:, :, None], torch.zeros_like(table), table)
        own = own if own.dim() == 2 else repeat(own, "c -> n c", n=len(x))
        full.append(einsum(a, table.to(a.dtype), "n t p, n t c -> n c p") + own[:, :, None])
    gamma, beta = full
    return (xhat.reshape(gamma.shape) * gamma + beta).reshape(x.shape).to(x.dtype)


def siamese_contrastive_loss(v1: Tensor, v2: Tensor, same: Tensor, margin: float, alpha: float) -> Tensor:
    """L = 1/(2N) sum_n [y d^2 if d > alpha else y alpha^2, + (1 - y) (eps - d)^2 if d < eps], pair by pair."""
    total = v1.new_zeros(())
    for a, b, y in zip(v1, v2, same.tolist(), strict=True):
        d = ((a - b) ** 2).sum() ** 0.5
        if y:
            total = total + (d**2 if d > alpha else torch.as_tensor(alpha**2, dtype=d.dtype))
        elif d < margin:
            total = total + (margin - d) ** 2
    return total / (2 * len(v1))


def _own(parameters: Parameters, name: str, default: float, like: Tensor) -> Tensor:
    """The norm's own scale or shift, or the neutral one where it has none (affine=False)."""
    own = parameters.get(name)
    return torch.full_like(like[..., :], default) if own is None else own
