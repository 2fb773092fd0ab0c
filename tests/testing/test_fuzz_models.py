"""Drawn calls of whole models: SiameseContrastiveLoss, TreeGenerator, retrofit and what belongs to it."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from helpers.fuzz_judge import FLOATS, exact, formula, fuzz, gives, gradients, normal, refuses, seeds
from hypothesis import given, note
from hypothesis import strategies as st
from torch import Tensor, nn

import scbn
from scbn import SentenceSCBN, SiameseContrastiveLoss, TextFeatures, TreeGenerator, WordSCBN, ops, reference
from scbn.loss import REDUCTIONS
from scbn.testing.strategies import MISTAKES, mistakes, text_features

anything = mistakes(torch.ones(1), kinds=("missing", "type"))


@st.composite
def losses(draw: st.DrawFn) -> tuple[SiameseContrastiveLoss, list[Tensor], list[Tensor], Tensor]:
    """The loss, the features of each stage in both branches, and the flags."""
    margin, n = draw(st.sampled_from((1.0, 0.3, 2, 1e-3))), draw(st.integers(1, 5))
    alpha, reduction = draw(st.sampled_from((0.1, 0.0, 1.0))) * margin, draw(st.sampled_from(REDUCTIONS))
    firsts, seconds = [], []
    for _ in range(draw(st.integers(1, 3))):
        (a, b), features, seed = (
            draw(st.tuples(*[st.sampled_from(FLOATS)] * 2)),
            draw(st.integers(1, 8)),
            draw(seeds),
        )
        v1, v2 = normal(seed, n, features, dtype=a), normal(seed + 1, n, features, dtype=b)
        kind = draw(st.sampled_from(("far",) * 6 + ("near", "near", "not finite", "expanded")))
        if kind == "near":  # about the margin apart
            v2 = (v1.double() + normal(seed + 1, n, features) * margin / features**0.5).to(b)
        elif kind == "not finite":
            v1[draw(st.integers(0, n - 1))] = draw(st.sampled_from((math.nan, math.inf)))
        elif kind == "expanded":
            v1 = v1[:1].expand_as(v1)
        firsts.append(v1.requires_grad_(draw(st.booleans())))
        seconds.append(v2.requires_grad_(draw(st.booleans())))
    same = torch.tensor(draw(st.lists(st.booleans(), min_size=n, max_size=n)))
    return SiameseContrastiveLoss(margin, alpha, reduction), firsts, seconds, same


@fuzz(0.07)
@given(losses(), st.sampled_from((list, tuple, None)))
def test_the_loss_is_what_the_formula_gives(drawn: Any, bundle: Any) -> None:
    loss, firsts, seconds, same = drawn
    if bundle is None:
        firsts, seconds, bundle = firsts[:1], seconds[:1], lambda stages: stages[0]
    leaves = [*firsts, *seconds]
    comparable = all(v.dtype.itemsize > 2 and v.isfinite().all() for v in leaves)

    def judged(total: Tensor, leaves: list[Tensor | None]) -> dict[str, Tensor]:
        return {"loss": total, **(gradients(total, leaves) if comparable else {})}

    def want() -> dict[str, Tensor]:
        total, precise = torch.tensor(0.0), [exact(v) for v in leaves]
        for a, b in zip(precise[: len(firsts)], precise[len(firsts) :], strict=True):
            rows = []
            for one, other, flag in zip(a.split(1), b.split(1), same.split(1), strict=True):
                row = reference.siamese_contrastive_loss(one, other, flag, loss.margin, loss.alpha)
                # The oracle's comparisons drop NaN.
                rows.append(math.nan * row if (one - other).detach().square().sum().isnan() else row)
            each = torch.stack(rows)
            stage = each if loss.reduction == "none" else each.sum() if loss.reduction == "sum" else each.mean()
            total = total + (stage / a.shape[1] if loss.reduction == "feature_mean" else stage)
        return judged(total, precise)

    tolerance = 1e-9 if all(v.dtype == torch.float64 for v in leaves) else 1e-4
    gives(lambda: judged(loss(bundle(firsts), bundle(seconds), same), leaves), want, tolerance, *leaves, same)


@fuzz(0.04)
@given(st.data(), losses(), st.booleans())
def test_the_loss_refuses_what_it_cannot_take(data: st.DataObject, drawn: Any, staged: bool) -> None:
    loss, (v1, *_), (v2, *_), same = drawn
    given: Any = {"v1": v1, "v2": v2, "same": same}
    what = data.draw(st.sampled_from(("v1", "v2", "same", "stages", "no pairs")))
    if what == "no pairs":
        given = {name: t[:0] for name, t in given.items()}
    elif what == "stages":
        given["v1"] = data.draw(st.sampled_from(([], {}, (v1, v1), (3,))))
    else:
        given[what] = data.draw(mistakes(given[what]))
    if staged and what != "stages":
        given |= {"v1": [v1, given["v1"]], "v2": [v2, given["v2"]]}
    note(f"{given}")
    refuses(lambda: loss(**given), r"\bv[12]?\b|same", v1, v2, same)


@st.composite
def generators(draw: st.DrawFn) -> tuple[TreeGenerator, dict[str, Any]]:
    """A generator with weights away from their initial values, and what to call it with."""
    options = {"stages": (1, 2), "base_size": (4, 8), "channels": (2, 3), "residual_blocks": (0, 1)}
    options |= {"norm": ("both", "word", "sentence", "batch")}
    seed, n = draw(seeds), draw(st.integers(2, 4))
    torch.manual_seed(seed)
    chosen: Any = {name: draw(st.sampled_from(values)) for name, values in options.items()}
    made = TreeGenerator(3, 4, noise_dim=2, condition_dim=3, **chosen).double().train(draw(st.booleans()))
    for parameter in made.parameters():
        parameter.data.add_(torch.randn_like(parameter), alpha=0.2)
    noise = normal(seed, n, 2, dtype=draw(st.sampled_from(FLOATS)))
    text = draw(text_features(n, word_dim=4, sentence_dim=3, dtype=draw(st.sampled_from(FLOATS)), poison=True))
    return made, {"noise": noise, "text": text, "condition_noise": normal(seed + 1, n, 3)}


def _images(made: nn.Module, given: dict[str, Any]) -> dict[str, Tensor]:
    images, mu, logvar = made(**given)
    return {f"image {i}": image for i, image in enumerate(images)} | {"mu": mu, "logvar": logvar}


@fuzz(0.025)
@given(generators(), st.sampled_from(("auto", "eager", "cpu", "reference")))
def test_a_generator_gives_what_the_formula_gives(drawn: Any, backend: ops.Backend) -> None:
    made, given = drawn
    precise, text = copy.deepcopy(made), given["text"]

    def run() -> dict[str, Tensor]:
        with ops.use_backend(backend):
            return _images(made, given)

    def want() -> dict[str, Tensor]:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(SentenceSCBN, "forward", formula)
            patch.setattr(WordSCBN, "forward", formula)
            exactly = {"noise": exact(given["noise"]), "text": TextFeatures(*(exact(t) for t in text))}
            return _images(precise, given | exactly)

    untouched = [given["noise"], given["condition_noise"], *text, *made.parameters()]
    gives(run, want, 1e-6, *untouched, *([] if made.training else [made]))


@fuzz(0.02)
@given(st.data(), generators())
def test_a_generator_refuses_what_it_cannot_take(data: st.DataObject, drawn: Any) -> None:
    made, right = drawn
    text = right["text"]._replace(padding_mask=torch.zeros(right["text"].words.shape[:2], dtype=torch.bool))
    heard = ("words",) if made._word_dims else ()
    what = data.draw(st.sampled_from((*right, "sentence", "padding_mask", *heard)))
    if what == "text":
        wrong: Any = {"text": data.draw(anything | st.just(tuple(text)))}
    elif what in text._fields:
        kinds = MISTAKES[1:] if what == "padding_mask" else MISTAKES
        wrong = {"text": text._replace(**{what: data.draw(mistakes(getattr(text, what), kinds=kinds))})}
    else:  # without noise for the condition, the generator draws it
        wrong = {what: data.draw(mistakes(right[what], kinds=MISTAKES[1:] if what != "noise" else MISTAKES))}
    note(f"{wrong}")
    told = rf"\b{what}\b" if what != "words" else "words|padding_mask"
    refuses(lambda: made(**{**right, **wrong}), told, made, right["noise"], *text)


class Host(nn.Module):
    """Somebody's generator."""

    def __init__(self, seed: int, width: int, training: bool) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.first = nn.Sequential(nn.Conv2d(2, width, 1), nn.BatchNorm2d(width))
        self.later = nn.Sequential(*(nn.Sequential(nn.BatchNorm2d(width), nn.ReLU()) for _ in range(2)))
        self.line = nn.BatchNorm1d(width)
        self.double().train(training)

    def forward(self, x: Tensor, sentence: Tensor, words: Tensor) -> Tensor:
        h = self.later(self.first(x))
        return h + self.line(h.mean((2, 3)))[:, :, None, None]


def _text(x: Any, sentence: Any, words: Any) -> TextFeatures:
    return TextFeatures(sentence, words)


hosts = st.builds(Host, seeds, st.integers(1, 4), st.booleans())
patterns = st.sampled_from(("first.1", "later.*", "later.0.0", "*", "first*", "later.[01].0"))
BAD_SIZES = (0, -1, 2.5, "4")
# What is wrong: the layers, the options, and what the message must say.
WRONG = [
    *(({pattern: "word"}, {}, "the pattern") for pattern in ("last*", "", "First.1", "relu", "line")),
    *(({"*": cue}, {}, r"layers\['\*'\] must be one of") for cue in ("words", "", None, 3, ["word"])),
    *((layers, {}, "layers must map") for layers in (None, 3, "word", [], {}, object())),
    *(({"*": "both"}, {dim: None}, f"needs {dim}") for dim in ("sentence_dim", "word_dim")),
    *(
        ({"*": "word"}, {"text": text}, "text must")
        for text in (lambda x: x, lambda a, b, c, d: a, 3, None, "text")
    ),
    *(({"*": "word"}, {"word_dim": size}, "word_dim") for size in BAD_SIZES),
    *(({"*": "sentence"}, {"hidden_dim": size}, "hidden_dim") for size in BAD_SIZES),
    *(({"*": "word"}, {"scale": scale}, "scale") for scale in (math.nan, "1", None)),
    ({"later.*": "word", "later.0*": "sentence"}, {}, "two patterns disagree"),
]


def _retrofit(model: Any, layers: Any, **options: Any) -> None:
    with torch.random.fork_rng(devices=[]):  # weights are drawn
        scbn.retrofit(model, layers, **{"text": _text, "sentence_dim": 3, "word_dim": 4, **options})


@fuzz(0.02)
@given(hosts, patterns, st.sampled_from(("sentence", "word", "both")), st.booleans(), seeds)
def test_a_retrofitted_model_computes_what_it_computed(
    host: Any, pattern: str, cue: Any, back: bool, seed: int
) -> None:
    arguments = normal(seed, 3, 2, 4, 4), normal(seed + 1, 3, 3), normal(seed + 2, 3, 2, 4)
    plain = copy.deepcopy(host)

    def run() -> dict[str, Tensor]:
        _retrofit(host, {pattern: cue})
        names = {norm.name for norm in scbn.norm_layers(host) if norm.cue == cue}
        y = host(*arguments)
        if back:
            assert names and set(scbn.unretrofit(host)) == names
            assert not any(norm.cue for norm in scbn.norm_layers(host))
        return {"y": y, **(host.state_dict() if back else {})}

    def want() -> dict[str, Tensor]:
        return {"y": plain(*arguments), **(plain.state_dict() if back else {})}

    gives(run, want, 1e-9, *arguments, *host.parameters())


@fuzz(0.01)
@given(hosts, st.sampled_from(WRONG), anything)
def test_a_retrofit_that_cannot_be_leaves_the_model_alone(host: Host, wrong: Any, thing: Any) -> None:
    layers, options, names = wrong
    refuses(lambda: _retrofit(host, layers, **options), names, host)
    refuses(lambda: scbn.unretrofit(host), "is not retrofitted", host)
    _retrofit(host, {"first.1": "word"})
    refuses(lambda: _retrofit(host, {"first.1": "word"}), "retrofitted already", host)
    if not isinstance(thing, nn.Module):
        for call in (scbn.norm_layers, scbn.unretrofit, lambda model: _retrofit(model, {"*": "word"})):
            refuses(lambda call=call: call(thing), "retrofitted|model must be")
