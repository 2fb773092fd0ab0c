"""A retrofitted model saved with how it was made, and what notices the weights of another."""

from __future__ import annotations

import copy
import io
from typing import Any

import pytest
import torch
from helpers.hosts import HOSTS, SENTENCE, WORDS, attngan, awake, equal, four, images, seeded, ssa_text, wake
from torch import nn

import scbn
from scbn import TextFeatures

pytestmark = [
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]


def stored(state: Any) -> Any:
    """As it comes back from the disk."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@pytest.mark.parametrize("name", HOSTS)
def test_nobody_repeats_the_options(name: str) -> None:
    host = HOSTS[name]
    model = host.make()
    host.convert(model)
    wake(model).eval()
    state, plain = stored(scbn.retrofitted_state(model)), host.make()
    text = {"SSA-GAN": ssa_text, "BatchNorm3d": model_text(model)}.get(name)
    report = scbn.load_retrofitted(plain, state, text=text)
    assert len(report.replaced) == host.replaced
    call = host.call()
    for a, b in zip(
        seeded(model, *call, **host.keywords), seeded(plain.eval(), *call, **host.keywords), strict=True
    ):
        assert torch.equal(a, b)


def model_text(model: nn.Module) -> Any:
    return next(iter(model._forward_pre_hooks.values())).text


def test_every_setting_comes_back() -> None:
    model = attngan()
    scbn.retrofit_attngan(
        model, {"h_net1.up*": "both", "h_net2.up*": "word"}, fix_mask=True, hidden_dim=3, scale=0.5
    )
    wake(model).eval()
    again = attngan()
    scbn.load_retrofitted(again, stored(scbn.retrofitted_state(model)))
    assert str(again.eval()) == str(model)
    for a, b in zip(seeded(again, *(call := four())), seeded(model, *call), strict=True):
        assert torch.equal(a, b)
    scbn.load_retrofitted(
        again, scbn.retrofitted_state(wake(model))
    )  # the same retrofit: its weights are replaced
    equal(seeded(again, *call), seeded(model, *call))
    assert scbn.unretrofit(again)


def test_another_retrofit_is_noticed() -> None:
    fixed, tiled = attngan(), attngan()
    scbn.retrofit_attngan(fixed, fix_mask=True)
    scbn.retrofit_attngan(tiled)
    for a, b in ((fixed, tiled), (tiled, fixed)):
        with pytest.raises(RuntimeError, match=r"retrofitted with fix_mask=.*and would draw other images"):
            a.load_state_dict(stored(b.state_dict()))
        with pytest.raises(ValueError, match="in another way than the state to load: fix_mask is"):
            scbn.load_retrofitted(a, scbn.retrofitted_state(b))
    scaled, both = attngan(), attngan()
    scbn.retrofit_attngan(scaled, scale=0.5)
    scbn.retrofit_attngan(both, {"h_net*.upsample*": "both"})
    for other, told in (
        (scaled, "layer with scale=0.5, this one has scale=1.0"),
        (both, "cue 'both', this one has 'w"),
    ):
        with pytest.raises(
            RuntimeError, match=rf"h_net\d.upsample\d?.2: .*{told}.*retrofit the model with the same"
        ):
            tiled.load_state_dict(stored(other.state_dict()))
    # Without the metadata that some tools drop, the names still tell of another cue.
    with pytest.raises(RuntimeError, match="cue 'both', this one has"):
        tiled.load_state_dict(dict(both.state_dict()))
    fewer = attngan()
    scbn.retrofit_attngan(fewer, {"h_net2.up*": "word"})
    with pytest.raises(ValueError, match=r"h_net1.upsample1.2 is a plain norm, there conditioned"):
        scbn.load_retrofitted(fewer, scbn.retrofitted_state(tiled))


def test_an_original_checkpoint_takes_a_fine_tuned_retrofit_back_to_its_start() -> None:
    original, model = attngan(), awake()
    model.load_state_dict(stored(original.state_dict()))
    call = four()
    equal(seeded(model, *call), seeded(original, *call))
    fixed = attngan()
    scbn.retrofit_attngan(fixed, fix_mask=True)
    fixed.load_state_dict(stored(original.state_dict()))  # which asks for no mask of its own


@pytest.mark.parametrize("kind", ["nn.DataParallel", "AveragedModel"])
def test_metadata_survive_wrappers(kind: str) -> None:
    from torch.optim.swa_utils import AveragedModel

    fixed, tiled = attngan(), attngan()
    scbn.retrofit_attngan(fixed, fix_mask=True)
    scbn.retrofit_attngan(tiled)
    wrap = nn.DataParallel if kind == "nn.DataParallel" else AveragedModel
    with pytest.raises(RuntimeError, match="fix_mask=True"):
        wrap(tiled).load_state_dict(stored(wrap(fixed).state_dict()))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda state: state["state_dict"], "A bare state dict does not say how to retrofit"),
        (lambda state: [state], "got list"),
        (lambda state: {**state, "format": "scbn.retrofit/9"}, "with format 'scbn.retrofit/1'"),
        (lambda state: {**state, "retrofit": {}}, "state is damaged"),
        (lambda state: {**state, "state_dict": {"a": 1}}, "is missing"),
        (lambda state: {**state, "retrofit": {**state["retrofit"], "layers": {}}}, "state is damaged"),
        (lambda state: {**state, "retrofit": {**state["retrofit"], "text": {"a": 1}}}, "state is damaged"),
        (lambda state: without(state, "h_net2.upsample.2.bn.weight"), "'h_net2.upsample.2.bn.weight' is missing"),
        (lambda state: {**state, "state_dict": {**state["state_dict"], "x": torch.ones(1)}}, "'x' is unknown"),
        (
            lambda state: {**state, "state_dict": {**state["state_dict"], "ca_net.fc.bias": torch.ones(1)}},
            r"ca_net.fc.bias is \(1,\), must be \(20,\)",
        ),
        (
            lambda state: {**state, "state_dict": {**state["state_dict"], "ca_net.fc.bias": torch.ones(40)}},
            r"ca_net.fc.bias is \(40,\), must be \(20,\)",
        ),
        (lambda state: renamed(state), "matches no norm"),
    ],
)
def test_what_cannot_be_loaded_leaves_the_model_plain(change: Any, told: str) -> None:
    model = attngan()
    before, weights = str(model), copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match=f"(?s){told}"):
        scbn.load_retrofitted(model, change(scbn.retrofitted_state(awake())))
    assert str(model) == before and not model._forward_pre_hooks
    assert all(torch.equal(weights[name], value) for name, value in model.state_dict().items())


def without(state: dict[str, Any], name: str) -> dict[str, Any]:
    return {**state, "state_dict": {key: value for key, value in state["state_dict"].items() if key != name}}


def renamed(state: dict[str, Any]) -> dict[str, Any]:
    layers = state["retrofit"]["layers"]
    return {
        **state,
        "retrofit": {**state["retrofit"], "layers": {**layers, "h_net9.norm": dict(layers["h_net1.upsample1.2"])}},
    }


def test_what_has_no_state_to_give() -> None:
    with pytest.raises(ValueError, match=r"is not retrofitted; give what scbn\.retrofit was called with"):
        scbn.retrofitted_state(attngan())
    with pytest.raises(ValueError, match=r"is a wrapper: give the model inside, netG\.module"):
        scbn.retrofitted_state(nn.DataParallel(awake()))
    model = attngan()
    scbn.retrofit(
        model, {"h_net2.up*": "sentence"}, text=lambda z, s, w, m: TextFeatures(s), sentence_dim=SENTENCE
    )
    state = stored(scbn.retrofitted_state(model))
    with pytest.raises(ValueError, match="text is needed"):
        scbn.load_retrofitted(attngan(), state)


def test_a_part_retrofitted_on_its_own_is_left_to_itself() -> None:
    def stage_text(h, words, mask):
        return TextFeatures(words=words.mT, padding_mask=mask)

    model = attngan().eval()
    before = seeded(model, *(call := four()))
    scbn.retrofit(model.h_net2, {"upsample*": "word"}, text=stage_text, word_dim=WORDS)
    report = scbn.retrofit_attngan(model)
    assert all(not name.startswith("h_net2") for name in report.names) and len(report.names) == 5
    equal(seeded(model, *call), before)
    assert len(images(model(*call))) == 3
    with pytest.raises(ValueError, match="a part of Generator was retrofitted on its own"):
        scbn.retrofitted_state(model)


@pytest.mark.parametrize("wrap", [nn.DataParallel, torch.compile])
def test_wrappers_are_told_what_to_give(wrap: Any) -> None:
    model, state = awake(), scbn.retrofitted_state(awake())
    for call in (
        lambda: scbn.retrofitted_state(wrap(model)),
        lambda: scbn.load_retrofitted(wrap(attngan()), state),
        lambda: scbn.unretrofit(wrap(model)),
    ):
        with pytest.raises(ValueError, match="is a wrapper: give the model inside"):
            call()
    assert model._forward_pre_hooks


def test_what_takes_the_text_elsewhere_or_holds_no_memory() -> None:
    model = attngan()
    scbn.retrofit_attngan(model)
    state = stored(scbn.retrofitted_state(model))
    state["retrofit"]["text"]["sentence"] = 2
    with pytest.raises(ValueError, match=r"the text is in the arguments .*, there "):
        scbn.load_retrofitted(model, state)
    with pytest.raises(ValueError, match="on the meta device, which holds no weights"):
        scbn.load_retrofitted(attngan().to("meta"), scbn.retrofitted_state(model))


def test_unretrofit_leaves_a_part_of_its_own_alone() -> None:
    whole = nn.Module()
    whole.g, whole.n = attngan(), nn.BatchNorm2d(3)
    whole.forward = lambda x, s: whole.n(x)
    scbn.retrofit_attngan(whole.g, fix_mask=True)
    state = scbn.retrofitted_state(whole.g)
    scbn.retrofit(whole, {"n": "sentence"}, text=lambda x, s: TextFeatures(s), sentence_dim=4)
    assert scbn.unretrofit(whole) == ("n",)
    assert type(whole.g.h_net2.att).__name__ == "MaskedAttention"
    assert scbn.retrofitted_state(whole.g)["retrofit"] == state["retrofit"]


def test_a_part_of_a_retrofits_weights_is_no_original_checkpoint() -> None:
    def made() -> nn.Module:
        model = nn.Module()
        model.up = nn.BatchNorm2d(3, affine=False, track_running_stats=False)
        model.other = nn.Linear(2, 2)
        model.forward = lambda x, s: model.up(x)
        scbn.retrofit(model, {"up": "sentence"}, text=lambda x, s: TextFeatures(s), sentence_dim=4)
        return wake(model)

    model = made()
    before = model.up.mlp[2].weight.clone()
    part = model.state_dict()
    for name in [name for name in part if name.startswith("up.")]:
        del part[name]
    with pytest.raises(RuntimeError, match="Missing key"):
        model.load_state_dict(part)
    assert torch.equal(model.up.mlp[2].weight, before)
