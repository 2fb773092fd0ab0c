"""Rules about what a conditional norm computes."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from scbn.testing.contract import (
    CHANNELS,
    SHAPE,
    Check,
    Subject,
    each,
    holder,
    leaves,
    plain,
    same,
    statistics,
)
from scbn.text import TextFeatures


def starts_as_batch_norm(subject: Subject) -> None:
    for training in (True, False):
        norm, bn = subject.fresh().train(training), nn.BatchNorm2d(CHANNELS).double().train(training)
        x, text = subject.inputs()
        same(norm(x, text), bn(x), f"output of a new norm and of nn.BatchNorm2d, {training=}")


def uses_the_text(subject: Subject) -> None:
    norm = subject.trained().eval()
    x, text = subject.inputs(padded=False)
    for cue in ("sentence", "words"):
        value = getattr(text, cue)
        if value is not None:
            changed = (norm(x, text) - norm(x, text._replace(**{cue: value.flip(0) + 1}))).abs().max()
            assert changed > 1e-6, f"the output stays the same when text.{cue} changes"
    fresh = subject.fresh()
    fresh(x, text).square().sum().backward()
    bn = holder(fresh)
    own = {id(p) for p in bn.parameters(recurse=False)} if bn is not None and bn is not fresh else set()
    learning = [p.grad for p in fresh.parameters() if id(p) not in own and p.grad is not None]
    assert any(grad.abs().max() > 1e-9 for grad in learning), (
        "no parameter besides the norm's own scale and shift gets a gradient at the first step"
    )


def padding(subject: Subject) -> None:
    norm = subject.trained()
    x, text = subject.inputs()
    mask = text.padding_mask
    assert mask is not None
    want = norm(x, text)
    for value in (math.nan, math.inf, 1e300):
        extra = torch.ones(len(x), 3, dtype=torch.bool)
        words = None
        if text.words is not None:
            hidden = text.words.masked_fill(mask[:, :, None], value)
            words = torch.cat((hidden, torch.full_like(hidden[:, :1], value).expand(-1, 3, -1)), 1)
        norm.zero_grad()
        leaf, longer = leaves(x, TextFeatures(text.sentence, words, torch.cat((mask, extra), 1)))
        got = norm(leaf, longer)
        same(got, want, f"output with {value} in the padding and three more padding words")
        got.sum().backward()
        grads = {"x": leaf.grad, "sentence": longer.sentence is not None and longer.sentence.grad}
        grads |= {name: p.grad for name, p in norm.named_parameters()}
        for name, grad in grads.items():
            if isinstance(grad, Tensor):
                assert grad.isfinite().all(), f"{value} in the padding reaches the gradient of {name}"
        if longer.words is not None and longer.words.grad is not None:
            assert longer.padding_mask is not None
            of_padding = longer.words.grad[longer.padding_mask]
            assert not of_padding.any(), "words that are padding get a gradient"


def word_order(subject: Subject) -> None:
    norm = subject.trained()
    x, text = subject.inputs()
    assert text.padding_mask is not None
    order = torch.tensor([2, 0, 3, 1])
    words = None if text.words is None else text.words[:, order]
    shuffled = TextFeatures(text.sentence, words, text.padding_mask[:, order])
    same(norm(x, shuffled), norm(x, text), "output with the words, and their padding, in another order")


def batch_independence(subject: Subject) -> None:
    norm = subject.trained().eval()
    x, text = subject.inputs()
    alone = [norm(x[i : i + 1], each(text, lambda t, i=i: t[i : i + 1])) for i in range(len(x))]
    same(norm(x, text), torch.cat(alone), "output of a batch in eval mode and of its samples one at a time")


def empty_caption(subject: Subject) -> None:
    for training in (True, False):
        norm = subject.trained().train(training)
        x, text = subject.inputs()
        clean = norm(x, text)
        # Of the last sample, every word is padding.
        spoiled = each(text, lambda t: t if t.dtype == torch.bool else torch.cat((t[:-1], t[-1:] * math.nan)))
        got = norm(x, spoiled)
        same(got[-1], plain(norm, x)[-1], f"output for a caption of nothing but padding, NaN there, {training=}")
        same(got[:-1], clean[:-1], f"output of the other samples beside such a caption, {training=}")


def running_statistics(subject: Subject) -> None:
    norm = subject.fresh()
    bn = holder(norm)
    assert bn is not None, "no module of the norm has a buffer running_mean"
    like = nn.BatchNorm2d(CHANNELS, momentum=getattr(bn, "momentum", 0.1)).double()
    for step in (1, 2):
        x, text = subject.inputs()
        norm(x, text)
        like(x)
        for name, buffer in like.named_buffers():
            same(getattr(bn, name, torch.tensor(torch.nan)), buffer, f"{name} after {step} training step(s)")
    before = statistics(norm.eval())
    norm(*subject.inputs())
    for name, buffer in statistics(norm).items():
        assert torch.equal(buffer, before[name]), f"{name} changes in eval mode"


def bad_input(subject: Subject) -> None:
    norm = subject.trained()
    before = statistics(norm)
    for what, x, text in _mistakes(subject):
        try:
            norm(x, text)
        except ValueError:
            pass
        except Exception as error:
            raise AssertionError(f"{what}: {type(error).__name__} instead of ValueError: {error}") from error
        else:
            raise AssertionError(f"{what}: no error")
        for name, buffer in statistics(norm).items():
            assert torch.equal(buffer, before[name]), f"{what}: the call failed, and yet {name} has changed"


def _mistakes(subject: Subject) -> Iterator[tuple[str, Tensor, TextFeatures]]:
    x, text = subject.inputs()
    assert text.padding_mask is not None
    yield "x with one channel too few", x[:, :-1], text
    yield "x of integers", x.int(), text
    yield "text of another batch", x, each(text, lambda t: t[:-1])
    yield "padding_mask of another batch", x, text._replace(padding_mask=text.padding_mask[:-1])
    yield "padding_mask of numbers", x, text._replace(padding_mask=text.padding_mask.double())
    if text.words is not None:
        yield "no words", x, text._replace(words=None)
        yield "word vectors of another size", x, text._replace(words=text.words[..., :-1])
        yield "padding_mask of another length", x, text._replace(padding_mask=text.padding_mask[:, :-1])
    if text.sentence is not None:
        yield "no sentence", x, text._replace(sentence=None)
        yield "sentence vectors of another size", x, text._replace(sentence=text.sentence[:, :-1])


def gradients(subject: Subject) -> None:
    norm = subject.trained()
    x, text = leaves(*subject.inputs((3, CHANNELS, 2, 2)))
    state = dict(norm.named_parameters())
    asked = [x, *(t for t in (text.sentence, text.words) if t is not None), *state.values()]

    def run(*tensors: Tensor) -> Tensor:
        given = iter(tensors)
        x = next(given)
        sentence = None if text.sentence is None else next(given)
        words = None if text.words is None else next(given)
        # Buffers are copies: a norm that changes its statistics is another function the second time.
        replaced = dict(zip(state, given, strict=True)) | statistics(norm)
        return torch.func.functional_call(norm, replaced, (x, TextFeatures(sentence, words, text.padding_mask)))

    torch.autograd.gradcheck(run, asked, fast_mode=True)


def inputs_untouched(subject: Subject) -> None:
    norm = subject.trained()
    x, text = subject.inputs()
    kept = copy.deepcopy((x, text))
    norm(x, text)
    for name, now, then in zip(("x", *text._fields), (x, *text), (kept[0], *kept[1]), strict=True):
        assert now is None or then is None or torch.equal(now, then), f"the call changes {name} in place"


def views(subject: Subject) -> None:
    norm = subject.trained().eval()
    x, text = subject.inputs((SHAPE[0], CHANNELS, 4, 4))
    wide = torch.randn(SHAPE[0], CHANNELS, 8, 8, dtype=x.dtype)
    for name, view in {
        "transposed": x.mT,
        "strided": wide[:, :, ::2, ::2],
        "expanded": x[:, :1].expand_as(x),
    }.items():
        same(norm(view, text), norm(view.contiguous(), text), f"output for a {name} x and for its contiguous copy")
    expanded = each(text, lambda t: t[:1].expand_as(t))
    same(norm(x, expanded), norm(x, each(expanded, torch.clone)), "output for an expanded text and for its copy")


CHECKS = (
    Check("starts_as_batch_norm", "a new norm computes what nn.BatchNorm2d does", starts_as_batch_norm),
    Check("uses_the_text", "every cue changes the output, and the conditioning learns", uses_the_text),
    Check("padding", "words under padding_mask contribute nothing, whatever they hold", padding),
    Check("word_order", "the order of the words does not matter", word_order),
    Check("batch_independence", "in eval mode a sample's result does not depend on its batch", batch_independence),
    Check("empty_caption", "a caption of nothing but padding gets plain batch normalisation", empty_caption),
    Check(
        "running_statistics",
        "running statistics are nn.BatchNorm2d's in training, and stand still in eval mode",
        running_statistics,
    ),
    Check("bad_input", "bad input raises ValueError and leaves the running statistics alone", bad_input),
    Check("gradients", "gradients are right (gradcheck in float64)", gradients),
    Check("inputs_untouched", "a call changes none of its inputs", inputs_untouched),
    Check("views", "non-contiguous and expanded tensors give what their copies give", views),
)
