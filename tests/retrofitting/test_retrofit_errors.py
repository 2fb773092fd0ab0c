"""What a retrofit says, refuses and undoes."""

from __future__ import annotations

import copy

import pytest
import torch
from helpers.hosts import HOSTS, SENTENCE, WORDS, arguments, attngan, awake, different, equal, four, seeded
from torch import nn

import scbn
from scbn import TextFeatures
from scbn.retrofitting.attngan import AttnGANText
from scbn.retrofitting.binding import HOLDER

pytestmark = [
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]


def test_back_to_the_plain_model() -> None:
    model = attngan().eval()
    plain, call = copy.deepcopy(model), arguments()
    report = scbn.retrofit_attngan(model)
    names = scbn.unretrofit(model)
    assert set(names) == set(report.names)
    assert str(model) == str(plain)
    assert model.state_dict().keys() == plain.state_dict().keys()
    assert not model._forward_pre_hooks
    assert not model._forward_hooks
    assert not model._forward_pre_hooks_with_kwargs
    assert not model._forward_hooks_always_called
    for a, b in zip(seeded(model, **call), seeded(plain, **call), strict=True):
        assert torch.equal(a, b)
    scbn.retrofit_attngan(model)
    with pytest.raises(ValueError, match="is not retrofitted"):
        scbn.unretrofit(plain)


def test_the_report() -> None:
    model = attngan()
    model.h_net2.residual[0].block[4] = nn.SyncBatchNorm(4)
    report = scbn.retrofit_attngan(model)
    text = str(report)
    assert "Generator: 6 of 11 norms replaced" in text
    assert "h_net2.upsample.2" in text
    assert "normalises vectors or sequences, not feature maps" in text
    assert f"{sum(p.numel() for p in report.new_parameters()):,} new parameters" in text
    groups = report.parameter_groups(lr=1e-4, new_lr=1e-3, betas=(0.5, 0.999))
    assert [group["lr"] for group in groups] == [1e-4, 1e-3]
    torch.optim.Adam(groups)
    assert {id(p) for group in groups for p in group["params"]} == {id(p) for p in model.parameters()}
    assert [norm.name for norm in report.skipped] == [n.name for n in scbn.norm_layers(model) if n.cue is None]
    ssa = HOSTS["SSA-GAN"]
    assert "OwnSyncBN: the class's own forward no longer runs" in str(ssa.convert(ssa.make()))


def test_a_norm_under_two_names_stays_one() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.BatchNorm2d(3)
            self.b = self.a

        def forward(self, x, s):
            return self.b(self.a(x))

    model = Twice()
    scbn.retrofit(model, {"a": "sentence"}, text=lambda x, s: TextFeatures(s), sentence_dim=4)
    assert model.a is model.b
    model(torch.randn(2, 3, 4, 4), torch.randn(2, 4))


class Lazy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LazyBatchNorm2d()

    def forward(self, x, s):
        return self.norm(x)


def _text(z, s, w, m):
    return TextFeatures(s, w.mT, m)


@pytest.mark.parametrize(
    ("layers", "options", "told"),
    [
        ({"h_net9*": "word"}, {}, r"'h_net9\*' matches no norm. The norms are:\n.*h_net1.upsample1.2"),
        ({"h_net1.fc*": "word"}, {}, "only norms that cannot be replaced"),
        ({"h_net1.up*": "words"}, {}, "must be one of"),
        ({}, {}, "must map name patterns to cues"),
        ({"h_net1.up*": "sentence", "*upsample1*": "word"}, {}, "two patterns disagree about h_net1.upsample1.2"),
        ({"h_net1.up*": "both"}, {"word_dim": None}, "the cue 'both' needs word_dim"),
        ({"h_net1.up*": "sentence"}, {"text": lambda z: None}, r"text must take what Generator.forward\(z_code"),
        ({"h_net1.up*": "sentence"}, {"text": "text"}, "text must be a callable"),
        ({"h_net1.up*": "sentence"}, {"sentence_dim": 0}, "sentence_dim"),
    ],
)
def test_errors_teach_and_leave_the_model_as_it_was(layers, options, told) -> None:
    model = attngan()
    before, names = str(model), list(model.state_dict())
    given = {"text": _text, "sentence_dim": SENTENCE, "word_dim": WORDS, **options}
    with pytest.raises(ValueError, match=f"(?s){told}"):
        scbn.retrofit(model, layers, **given)
    assert str(model) == before
    assert list(model.state_dict()) == names
    assert not model._forward_pre_hooks
    assert not hasattr(model, HOLDER)


def test_more_errors() -> None:
    model = awake()
    with pytest.raises(ValueError, match="retrofitted already"):
        scbn.retrofit_attngan(model)
    with pytest.raises(ValueError, match="another text callable"):
        scbn.retrofit(model, {"h_net2.residual*": "word"}, text=_text, word_dim=WORDS)
    with pytest.raises(ValueError, match="run the model once"):
        scbn.retrofit(Lazy(), {"norm": "sentence"}, text=lambda x, s: TextFeatures(s), sentence_dim=3)
    with pytest.raises(ValueError, match="is the model itself"):
        scbn.retrofit(nn.BatchNorm2d(3), {"*": "sentence"}, text=lambda x: TextFeatures(x), sentence_dim=3)
    with pytest.raises(ValueError, match="none of which is called like a sentence"):
        scbn.retrofit_attngan(nn.Sequential(nn.BatchNorm2d(1)))
    stackgan = HOSTS["StackGAN-v2"].make()
    with pytest.raises(ValueError, match="no attention with AttnGAN's applyMask"):
        scbn.retrofit_attngan(stackgan, fix_mask=True)
    other = attngan()
    scbn.retrofit(other, {"h_net2.up*": "word"}, text=lambda z, s, w, m: w, word_dim=WORDS)
    with pytest.raises(ValueError, match=r"text must return scbn\.TextFeatures"):
        other(*four())


def test_more_layers_later_with_the_same_text() -> None:
    model = attngan()
    scbn.retrofit(model, {"h_net2.up*": "word"}, text=_text, word_dim=WORDS)
    scbn.retrofit(model, {"h_net3.up*": "both"}, text=_text, word_dim=WORDS, sentence_dim=SENTENCE)
    assert len(model._forward_pre_hooks) == 1
    model(*four())
    assert [norm.cue for norm in scbn.norm_layers(model) if norm.cue] == ["word", "both"]


def test_the_mask_fix_is_opt_in_and_right() -> None:
    fixed, model, call = attngan().eval(), attngan().eval(), arguments()
    fixed.load_state_dict(model.state_dict())
    scbn.retrofit_attngan(model)
    report = scbn.retrofit_attngan(fixed, fix_mask=True)
    assert report.model.state_dict().keys() == model.state_dict().keys()
    assert different(seeded(fixed, **call), seeded(model, **call))
    torch.manual_seed(5)
    _, attention, *_ = fixed(**call)
    for maps in attention:
        hidden = call["mask"][:, :, None, None].expand_as(maps)
        assert maps[hidden].abs().max() == 0
        torch.testing.assert_close(maps.sum(1), torch.ones_like(maps[:, 0]))
    alike = {k: v[:1] for k, v in call.items()}  # one sample: there is no other's mask to confuse
    equal(seeded(fixed, **alike), seeded(model, **alike))


def test_patterns_that_disagree_about_one_norm_with_two_names() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.BatchNorm2d(3)
            self.b = self.a

        def forward(self, x, s):
            return self.b(self.a(x))

    with pytest.raises(ValueError, match="disagree about b, a norm with several names"):
        scbn.retrofit(
            Twice(), {"a": "sentence", "b": "word"}, text=lambda x, s: TextFeatures(s), sentence_dim=4, word_dim=4
        )


def test_a_norm_that_is_conditioned_already_is_left() -> None:
    class Conditional(nn.BatchNorm2d):
        def forward(self, x, y):
            return super().forward(x) * y

    model = nn.ModuleDict({"norm": Conditional(3)})
    assert "conditioned on something already" in str(scbn.norm_layers(model)[0].problem)


def test_a_part_retrofitted_on_its_own_stays() -> None:
    class Outer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.norm = attngan(2), nn.BatchNorm2d(3)

        def forward(self, z_code, sent_emb, word_embs, mask):
            images, *rest = self.inner(z_code, sent_emb, word_embs, mask)
            return [self.norm(images[-1])], *rest

    model = Outer()
    scbn.retrofit_attngan(model.inner)
    scbn.retrofit(model, {"norm": "sentence"}, text=_text, sentence_dim=SENTENCE)
    assert scbn.unretrofit(model) == ("norm",)
    assert type(model.norm) is nn.BatchNorm2d
    assert sum(norm.cue is not None for norm in scbn.norm_layers(model)) == 5
    model(*four())


def test_going_back_takes_the_mask_fix_along_and_an_empty_caption_is_no_nan() -> None:
    model, call = attngan().eval(), arguments()
    plain = copy.deepcopy(model)
    scbn.retrofit_attngan(model, fix_mask=True)
    call["mask"][1] = True
    assert all(image.isfinite().all() for image in seeded(model, **call))
    scbn.unretrofit(model)
    assert str(model) == str(plain)
    call["mask"][1, 0] = False
    equal(seeded(model, **call), seeded(plain, **call))


class Optional(nn.Module):
    """Arguments one may leave out, before and behind those one may not."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(3)

    def forward(self, x, sent_emb, word_embs, mask=None, scale=1.0, *, truncation=1.0):
        return self.norm(x) * scale * truncation


def test_arguments_left_out_and_given_by_name() -> None:
    model = Optional().eval()
    scbn.retrofit(model, {"norm": "both"}, text=AttnGANText(1, 2, 3), sentence_dim=4, word_dim=5)
    x, s, w = torch.randn(2, 3, 4, 4), torch.randn(2, 4), torch.randn(2, 5, 6)
    want = model(x, s, w)
    equal([model(x, s, w, scale=1.0)], [want])
    equal([model(x, sent_emb=s, word_embs=w, truncation=1.0)], [want])
    equal([model(x, s, word_embs=w, scale=2.0)], [2 * want])


class Wrapper(nn.Module):
    """As DataParallel: its forward takes anything."""

    def __init__(self) -> None:
        super().__init__()
        self.module = Optional()

    def forward(self, *args, **kwargs):
        return self.module(*args, **kwargs)


def test_a_root_that_takes_anything() -> None:
    model = Wrapper()
    scbn.retrofit(model, {"module.norm": "sentence"}, text=lambda x, s, w, **_: TextFeatures(s), sentence_dim=4)
    model(torch.randn(2, 3, 4, 4), torch.randn(2, 4), torch.randn(2, 5, 6), scale=2.0)


def test_a_sequential_root_and_a_norm_without_state() -> None:
    vector = torch.randn(2, 4)
    model = nn.Sequential(nn.Conv2d(1, 3, 1), nn.BatchNorm2d(3, affine=False, track_running_stats=False))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    scbn.retrofit(model, {"1": "sentence"}, text=lambda x: TextFeatures(vector), sentence_dim=4)
    model(torch.randn(2, 1, 4, 4))
    model.load_state_dict(before)
