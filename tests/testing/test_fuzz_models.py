"""Drawn calls of whole models: SiameseContrastiveLoss, TreeGenerator, retrofit and what belongs to it."""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from fuzz_judge import FLOATS, double, exact, formula, fuzz, gives, gradients, normal, one_in, refuses, seeds
from hypothesis import given, note
from hypothesis import strategies as st
from torch import Tensor, nn

import scbn
from scbn import SentenceSCBN, SiameseContrastiveLoss, TextFeatures, TreeGenerator, WordSCBN, ops, reference
from scbn.loss import REDUCTIONS
from scbn.testing.strategies import mistakes, text_features

anything = st.none() | mistakes(torch.ones(1), kinds=("type",))


@st.composite
def pairs(draw: st.DrawFn, n: int, margin: float) -> tuple[Tensor, Tensor]:
    """Features of two branches: far apart, about the margin apart, one not finite, all alike."""
    dtype, other = draw(st.sampled_from(FLOATS)), draw(st.sampled_from(FLOATS))
    features, seed = draw(st.integers(1, 8)), draw(seeds)
    v1, v2 = normal(seed, n, features, dtype=dtype), normal(seed + 1, n, features, dtype=other)
    kind = draw(st.sampled_from(("far",) * 6 + ("near", "near", "not finite", "expanded")))
    if kind == "near":
        v2 = (v1.double() + normal(seed + 1, n, features) * margin / features**0.5).to(other)
    elif kind == "not finite":
        v1[draw(st.integers(0, n - 1))] = draw(st.sampled_from((math.nan, math.inf)))
    elif kind == "expanded":
        v1 = v1[:1].expand_as(v1)
    return v1.requires_grad_(draw(st.booleans())), v2.requires_grad_(draw(st.booleans()))


@st.composite
def losses(draw: st.DrawFn) -> tuple[SiameseContrastiveLoss, list[tuple[Tensor, Tensor]], Tensor]:
    """The loss, a pair of features or one a stage, and the flags."""
    margin = draw(st.sampled_from((1.0, 0.3, 2, 1e-3)))
    alpha = draw(st.sampled_from((0.1, 0.0, 1.0))) * margin
    loss = SiameseContrastiveLoss(margin, alpha, draw(st.sampled_from(REDUCTIONS)))
    n = draw(st.integers(1, 5))
    features = draw(st.lists(pairs(n, margin), min_size=1, max_size=3))
    return loss, features, torch.tensor(draw(st.lists(st.booleans(), min_size=n, max_size=n)))


@fuzz(0.07)
@given(losses(), st.sampled_from((list, tuple, None)))
def test_the_loss_is_what_the_formula_gives(drawn: Any, bundle: Any) -> None:
    loss, features, same = drawn
    features = features if bundle else features[:1]
    firsts, seconds = zip(*features, strict=True)
    leaves = [*firsts, *seconds]
    comparable = all(v.dtype.itemsize > 2 and v.isfinite().all() for v in leaves)
    whole = bundle or (lambda stages: stages[0])

    def run() -> dict[str, Tensor]:
        total = loss(whole(firsts), whole(seconds), same)
        return {"loss": total, **(gradients(total, leaves) if comparable else {})}

    def want() -> dict[str, Tensor]:
        total: Any = 0
        precise = [exact(v) for v in leaves]
        for a, b in zip(precise[: len(features)], precise[len(features) :], strict=True):
            rows = []
            for one, other, flag in zip(a.split(1), b.split(1), same.split(1), strict=True):
                row = reference.siamese_contrastive_loss(one, other, flag, loss.margin, loss.alpha)
                # The oracle's comparisons drop NaN.
                rows.append(math.nan * row if (one - other).detach().square().sum().isnan() else row)
            each = torch.stack(rows)
            mean = each.mean()
            by_name = {"none": each, "sum": each.sum(), "mean": mean, "feature_mean": mean / a.shape[1]}
            total = total + by_name[loss.reduction]
        return {"loss": total, **(gradients(total, precise) if comparable else {})}

    tolerance = 1e-9 if all(v.dtype == torch.float64 for v in leaves) else 1e-4
    gives(run, want, tolerance, *leaves, same)


@fuzz(0.04)
@given(st.data(), losses(), st.booleans())
def test_the_loss_refuses_what_it_cannot_take(data: st.DataObject, drawn: Any, staged: bool) -> None:
    loss, features, same = drawn
    v1, v2 = features[0]
    what = data.draw(st.sampled_from(("v1", "v2", "same", "stages", "pairs")))
    given: Any = {"v1": v1, "v2": v2, "same": same}
    if what == "stages":
        given["v1"] = data.draw(
            st.sampled_from(([], [v1, v1, v1], {}, (v1, 3, v1)) if staged else (3, None, {}, []))
        )
    elif what == "pairs":
        given = {name: t[:0] for name, t in given.items()}
    else:
        given[what] = data.draw(mistakes(given[what]))
    if staged and what != "stages":
        given |= {name: [v1, given[name]] for name in ("v1", "v2")}
        given["v2"][0] = v1
    note(f"{given}")
    refuses(lambda: loss(**given), r"\bv1\b|\bv2\b|\bv\b|same", v1, v2, same)


class Formula(nn.Module):
    """In the place of a layer: the paper's formula with the layer's parameters."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor, text: TextFeatures) -> Tensor:
        return formula(self.layer, x, text)


@st.composite
def generators(draw: st.DrawFn) -> tuple[TreeGenerator, Tensor, Tensor, TextFeatures]:
    """A generator with weights away from their initial values, noise, condition noise, text."""
    options = {"stages": (1, 2), "base_size": (4, 8), "channels": (2, 3), "residual_blocks": (0, 1)}
    options |= {"norm": ("both", "word", "sentence", "batch")}
    seed = draw(seeds)
    torch.manual_seed(seed)
    made = TreeGenerator(
        3,
        4,
        noise_dim=2,
        condition_dim=3,
        **{name: draw(st.sampled_from(values)) for name, values in options.items()},
    )
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    n = draw(st.integers(2, 4))
    noise = normal(seed, n, 2, dtype=draw(st.sampled_from(FLOATS)))
    text = draw(text_features(n, word_dim=4, sentence_dim=3, dtype=draw(st.sampled_from(FLOATS)), poison=True))
    return made.double().train(draw(st.booleans())), noise, normal(seed + 1, n, 3), text


def _images(made: nn.Module, noise: Any, text: Any, condition_noise: Any) -> dict[str, Tensor]:
    output = made(noise, text, condition_noise=condition_noise)
    return {f"image {i}": image for i, image in enumerate(output.images)} | {
        "mu": output.mu,
        "logvar": output.logvar,
    }


@fuzz(0.025)
@given(generators(), st.sampled_from(("auto", "eager", "cpu", "reference")))
def test_a_generator_gives_what_the_formula_gives(drawn: Any, backend: ops.Backend) -> None:
    made, noise, condition_noise, text = drawn
    precise: Any = double(made)
    for parent in list(precise.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, (SentenceSCBN, WordSCBN)):
                setattr(parent, name, Formula(child))
    exact_text = TextFeatures(*(exact(t) for t in text))

    def run() -> dict[str, Tensor]:
        with ops.use_backend(backend):
            return _images(made, noise, text, condition_noise)

    gives(
        run, lambda: _images(precise, noise.double(), exact_text, condition_noise), 1e-6,
        noise, condition_noise, *text, *made.parameters(), *(() if made.training else (made,)),
    )  # fmt: skip


@fuzz(0.02)
@given(st.data(), generators())
def test_a_generator_refuses_what_it_cannot_take(data: st.DataObject, drawn: Any) -> None:
    made, noise, condition_noise, text = drawn
    what = data.draw(st.sampled_from(("noise", "condition_noise", "text", "sentence")))
    given: Any = {"noise": noise, "condition_noise": condition_noise, "text": text}
    if what == "text":
        given[what] = data.draw(anything | st.just(tuple(text)))
    elif what == "sentence":
        given["text"] = text._replace(sentence=data.draw(mistakes(text.sentence)))
    else:
        kinds = ("type", "dtype", "rank", "size", "device", "sparse", *(["missing"] if what == "noise" else []))
        given[what] = data.draw(mistakes(given[what], kinds=kinds))
    note(f"{given}")
    refuses(lambda: made(**given), rf"\b{what}\b", made, noise, condition_noise, *text)


class Host(nn.Module):
    """Somebody's generator."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(2, width, 1), nn.BatchNorm2d(width))
        self.later = nn.ModuleList(nn.Sequential(nn.BatchNorm2d(width), nn.ReLU()) for _ in range(2))
        self.line = nn.BatchNorm1d(width)

    def forward(self, x: Tensor, sentence: Tensor, words: Tensor) -> Tensor:
        h = self.first(x)
        for later in self.later:
            h = later(h)
        return h + self.line(h.mean((2, 3)))[:, :, None, None]


@st.composite
def hosts(draw: st.DrawFn) -> Host:
    """In any mode."""
    torch.manual_seed(draw(seeds))
    return Host(draw(st.integers(1, 4))).double().train(draw(st.booleans()))


def text_of(x: Any, sentence: Any, words: Any) -> TextFeatures:
    return TextFeatures(sentence, words)


FIT = {"text": text_of, "sentence_dim": 3, "word_dim": 4}
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


def _retrofit(model: Any, layers: Any, options: dict[str, Any]) -> None:
    with torch.random.fork_rng(devices=[]):  # weights are drawn
        scbn.retrofit(model, layers, **options)


@fuzz(0.02)
@given(hosts(), patterns, st.sampled_from(("sentence", "word", "both")), st.booleans(), seeds)
def test_a_retrofitted_model_computes_what_it_computed(
    host: Any, pattern: str, cue: Any, back: bool, seed: int
) -> None:
    arguments = normal(seed, 3, 2, 4, 4), normal(seed + 1, 3, 3), normal(seed + 2, 3, 2, 4)
    plain = copy.deepcopy(host)

    def run() -> dict[str, Tensor]:
        _retrofit(host, {pattern: cue}, FIT)
        names = {norm.name for norm in scbn.norm_layers(host) if norm.cue == cue}
        assert names
        y = host(*arguments)
        if back:
            assert set(scbn.unretrofit(host)) == names
            assert not any(norm.cue for norm in scbn.norm_layers(host))
        return {"y": y, **(dict(host.state_dict()) if back else {})}

    def want() -> dict[str, Tensor]:
        y = plain(*arguments)
        return {"y": y, **(dict(plain.state_dict()) if back else {})}

    gives(run, want, 1e-9, *arguments, *host.parameters())


@fuzz(0.015)
@given(hosts(), st.sampled_from(WRONG), one_in(5))
def test_a_retrofit_that_cannot_be_leaves_the_model_alone(host: Host, wrong: Any, again: bool) -> None:
    layers, options, names = wrong
    if again:
        layers, options, names = {"first.1": "word"}, {}, "retrofitted already"
        _retrofit(host, layers, FIT)
    refuses(lambda: _retrofit(host, layers, {**FIT, **options}), names, host)


@fuzz(0.005)
@given(anything, hosts())
def test_what_is_no_model_or_not_retrofitted_is_refused(thing: Any, host: Host) -> None:
    refuses(lambda: scbn.unretrofit(host), "is not retrofitted", host)
    if not isinstance(thing, nn.Module):
        for call in (scbn.norm_layers, scbn.unretrofit, lambda model: scbn.retrofit(model, {"*": "word"}, **FIT)):
            refuses(lambda call=call: call(thing), "retrofitted|model must be")
