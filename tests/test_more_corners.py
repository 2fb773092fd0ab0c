"""More of what only faults put in on purpose have shown: generators, hosts with nested stages, threads."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import scbn
from scbn import TextFeatures, TreeGenerator
from scbn.generator import stages


class Nested(nn.Module):
    """A relative of AttnGAN whose later stage holds its upsampling one level deeper."""

    def __init__(self) -> None:
        super().__init__()
        self.ca_net = nn.Module()
        self.ca_net.fc = nn.Linear(4, 8)
        self.h_net2 = nn.Module()
        self.h_net2.block = nn.Module()
        self.h_net2.block.upsample = nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3))

    def forward(self, z: torch.Tensor, sent_emb: torch.Tensor, word_embs: torch.Tensor) -> torch.Tensor:
        return self.h_net2.block.upsample(z)


def test_upsampling_one_level_deeper_is_found() -> None:
    assert scbn.retrofit_attngan(Nested()).names == ("h_net2.block.upsample.1",)


class Checkpointed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(3)

    def forward(self, x: torch.Tensor, sentence: torch.Tensor) -> torch.Tensor:
        return scbn.checkpoint(self.norm, x)


def test_checkpointing_gives_the_text_a_gradient_where_x_asks_for_none() -> None:
    model = Checkpointed()
    scbn.retrofit(model, {"norm": "sentence"}, text=lambda x, sentence: TextFeatures(sentence), sentence_dim=4)
    sentence = torch.randn(2, 4, requires_grad=True)
    model(torch.randn(2, 3, 4, 4), sentence).sum().backward()
    assert sentence.grad is not None
    assert model.norm.mlp[-1].weight.grad.any()


def test_a_norm_is_pytorchs_own_unless_said() -> None:
    assert scbn.NormLayer("a", "BatchNorm2d", 3)[3:] == (None, None, False)


def test_no_bias_before_a_norm_that_would_take_it_away() -> None:
    generator = TreeGenerator(5, stages=2, base_size=8, channels=4, residual_blocks=1, norm="batch")
    assert not [name for name, m in generator.named_modules() if isinstance(m, nn.Conv2d) and m.bias is not None]


def test_conditioning_augmentation_by_hand() -> None:
    layer = stages.ConditioningAugmentation(3, 2)
    sentence, noise = torch.randn(4, 3), torch.randn(4, 2)
    value, gate = layer.fc(sentence).split(4, 1)
    mu, logvar = (value * torch.sigmoid(gate)).split(2, 1)
    torch.testing.assert_close(layer(sentence, noise), (mu + noise * torch.exp(logvar / 2), mu, logvar))


def test_an_unknown_activation_is_refused() -> None:
    with pytest.raises(ValueError, match="activation must be 'glu', 'relu' or 'leaky_relu', got 'gelu'"):
        stages.Activation("gelu")


def test_channels_are_checked_before_stages_of_ones_own() -> None:
    with pytest.raises(ValueError, match="channels must be a whole number of at least 1, got channels=0"):
        TreeGenerator(5, 6, channels=0, initial_stage=lambda *sizes: nn.Identity(), stages=1)


def test_an_empty_caption_has_the_condition_of_a_zero_sentence() -> None:
    generator = TreeGenerator(5, 6, stages=1, base_size=4, channels=2, noise_dim=3).eval()
    text = TextFeatures(torch.randn(2, 5), torch.randn(2, 3, 6), torch.tensor([[True] * 3, [False] * 3]))
    output = generator(torch.randn(2, 3), text)
    mu = generator.augment(torch.stack((torch.zeros(5), text.sentence[1])), None)[1]
    torch.testing.assert_close(output.mu, mu)


class Scaled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(3)

    def forward(self, x: torch.Tensor, gain: float = 2.0, sentence: torch.Tensor | None = None) -> torch.Tensor:
        return self.norm(x) * gain


def test_an_argument_left_out_has_its_place_before_one_given_by_name() -> None:
    model, heard = Scaled(), []

    def text(*args: object) -> TextFeatures:
        heard.append(args)
        return TextFeatures(torch.zeros(2, 4))

    scbn.retrofit(model, {"norm": "sentence"}, text=text, sentence_dim=4)
    x, sentence = torch.randn(2, 3, 4, 4), torch.randn(2, 4)
    model(x, sentence=sentence)
    model(x)
    assert heard == [(x, 2.0, sentence), (x,)]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_layers_are_made_in_every_floating_dtype(dtype: torch.dtype) -> None:
    for layer in (
        scbn.WordSCBN(3, 4, sentence_dim=5, dtype=dtype),
        scbn.VisualSemanticEmbedding(3, 4, dtype=dtype),
    ):
        assert {p.dtype for p in layer.parameters()} == {dtype}


def test_a_checkpoint_from_before_pytorch_counted_batches_still_loads() -> None:
    old = {name: value + 1 for name, value in Checkpointed().state_dict().items() if "num_batches" not in name}
    plain, model = Checkpointed(), Checkpointed()
    scbn.retrofit(model, {"norm": "sentence"}, text=lambda x, sentence: TextFeatures(sentence), sentence_dim=4)
    for target in (plain, model):
        target.load_state_dict(dict(old))
    assert torch.equal(model.norm.bn.running_var, plain.norm.running_var)
    assert torch.equal(model.norm.bn.weight, old["norm.weight"])


class Masked(nn.BatchNorm2d):
    def forward(self, x: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        return super().forward(x if mask is None else x * mask)


def test_a_norm_that_may_take_more_than_the_map_can_be_replaced() -> None:
    assert scbn.norm_layers(nn.Sequential(Masked(3)))[0].problem is None


@pytest.mark.parametrize(
    "names",
    [
        "sent_emb, word_embs, mask",
        "sentence, words, masks",
        "sent_embs, words_embs, word_mask",
        "text_embedding, word_emb",
    ],
)
def test_relatives_call_their_text_by_these_names(names: str) -> None:
    model = Nested()
    # A generator's forward with just these names.
    scope: dict = {}
    exec(f"def forward(z, {names}):\n    return z", scope)
    model.forward = scope["forward"]
    assert scbn.retrofit_attngan(model, {"h_net2*": "both"}).replaced[0].cue == "both"
    text = next(iter(model._forward_pre_hooks.values())).text
    given = [torch.zeros(2, 3), torch.randn(2, 4), torch.randn(2, 4, 6), torch.ones(2, 6)]
    found = text(*given[: 2 + names.count(",")])
    assert torch.equal(found.sentence, given[1])
    assert torch.equal(found.words, given[2].mT)
    assert (found.padding_mask is not None) == ("mask" in names)


@pytest.mark.parametrize("cue", ["sentence", "word", "both"])
def test_a_retrofitted_layer_tells_its_cue(cue: str) -> None:
    model = Checkpointed()
    assert scbn.norm_layers(model)[0].cue is None
    words, dims = torch.randn(2, 3, 5), {"sentence_dim": 4, "word_dim": 5}
    wanted = {name: dim for name, dim in dims.items() if cue == "both" or name.startswith(cue)}
    scbn.retrofit(model, {"norm": cue}, text=lambda x, sentence: TextFeatures(sentence, words), **wanted)
    assert scbn.norm_layers(model)[0].cue == cue


def test_a_checkpoint_without_a_layer_lacks_all_of_it() -> None:
    model = Checkpointed()
    scbn.retrofit(model, {"norm": "sentence"}, text=lambda x, sentence: TextFeatures(sentence), sentence_dim=4)
    # Without a version, PyTorch takes a norm for one from before batches were counted.
    names = [name for name in model.state_dict() if not name.endswith("num_batches_tracked")]
    assert len(names) == 8
    assert model.load_state_dict({}, strict=False).missing_keys == names


@pytest.mark.parametrize("given", [True, False])
def test_what_the_fused_operations_tell_of_statistics_has_no_gradient(given: bool) -> None:
    x, table = torch.randn(2, 3, 16, requires_grad=True), torch.randn(2, 3, requires_grad=True)
    statistics = (torch.zeros(3), torch.ones(3)) if given else (None, None)
    keys, gamma = torch.randn(2, 5, 3, requires_grad=True), torch.randn(2, 5, 3, requires_grad=True)
    settings = (*statistics, 1e-5)
    sentence = torch.ops.scbn.sentence_norm(x, table, table, *settings, "", "cpu")
    word = torch.ops.scbn.word_norm(x, keys, gamma, gamma, table, table, None, *settings, 1.0, "", "cpu")
    for y, *told in (sentence, word):
        assert y.requires_grad
        assert [t.requires_grad for t in told] == [False] * 3


@pytest.mark.parametrize(("group", "given", "counts"), [("", False, 0), ("0", False, 1), ("0", True, 0)])
def test_a_trace_knows_where_values_are_counted(group: str, given: bool, counts: int) -> None:
    """Under torch.compile the operations run on tensors without values."""
    x, table, keys = (torch.empty(shape, device="meta") for shape in ((2, 3, 16), (2, 3), (2, 5, 3)))
    statistics = (x.new_empty(3), x.new_empty(3)) if given else (None, None)
    settings = (*statistics, 1e-5)
    sentence = torch.ops.scbn.sentence_norm(x, table, table, *settings, group, "cpu")
    word = torch.ops.scbn.word_norm(x, keys, keys, keys, table, table, None, *settings, 1.0, group, "cpu")
    for outputs in (sentence, word):
        assert [tuple(t.shape) for t in outputs] == [(2, 3, 16), (3,), (3,), (counts,)]


@pytest.mark.parametrize("name", ["num_features", "eps", "momentum", "affine", "track_running_stats"])
def test_what_the_batch_norm_settles_is_not_given_again(name: str) -> None:
    with pytest.raises(ValueError, match=rf"\['{name}'\] come from the batch norm"):
        scbn.SentenceSCBN.from_batch_norm(nn.BatchNorm2d(3), 4, **{name: 3})


class Named(nn.Module):
    def forward(self, x, text=None): ...


class Needed(nn.Module):
    def forward(self, x, condition): ...


class Optional(nn.Module):
    def forward(self, x, scale=None): ...


class Several(nn.Module):
    def forward(self, *inputs): ...


class Keyword(nn.Module):
    def forward(self, x, *, text): ...


@pytest.mark.parametrize(
    ("norm", "hears"), [(Named, True), (Needed, True), (Optional, False), (Several, True), (Keyword, False)]
)
def test_which_norms_are_given_the_text(norm: type[nn.Module], hears: bool) -> None:
    assert stages.takes_text(norm()) is hears


@pytest.mark.parametrize(
    ("shape", "path"),
    [
        ((1, 1, 2**23 - 1, 1), "triton"),
        ((1, 1, 2**23, 1), "eager"),  # 2 gradients of 128 words a position
        ((1, 256, 2**23 - 1, 1), "triton"),
        ((1, 257, 2**23 - 1, 1), "eager"),  # the map itself
        ((65_535, 1, 2, 1), "triton"),
        ((65_536, 1, 2, 1), "eager"),  # a grid's limit
    ],
)
def test_maps_beyond_the_kernels_offsets_are_composed(
    shape: tuple[int, ...], path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("triton", reason="triton is not installed")
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    x = torch.zeros(()).expand(shape)  # of no memory
    with scbn.ops.use_backend("triton"):
        assert scbn.ops.choose(x, 18) == path
