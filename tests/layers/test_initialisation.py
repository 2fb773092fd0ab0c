"""The start as plain batch normalisation survives what people do to a model, or they are told."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable

import pytest
import torch
from helpers.cases import CUES, SENTENCE_DIM, WORD_DIM, Case, inputs_of
from helpers.hosts import HOSTS
from torch import nn
from torch.nn.utils import parametrizations
from torch.optim.swa_utils import AveragedModel

import scbn
from scbn import SentenceSCBN, TreeGenerator, VisualSemanticEmbedding, WordSCBN

CASE = Case((3, 8, 4, 5), padded=True)


def fresh(cue: str) -> SentenceSCBN | WordSCBN:
    if cue == "sentence":
        return SentenceSCBN(8, SENTENCE_DIM)
    return WordSCBN(8, WORD_DIM, sentence_dim=SENTENCE_DIM if cue == "both" else None)


def heads(layer: nn.Module) -> list[nn.Linear]:
    return [m for m in layer.modules() if type(m).__name__.endswith("ZeroHead")]


def is_plain(layer: SentenceSCBN | WordSCBN) -> None:
    """It computes what its batch norm does."""
    x, text = inputs_of(CASE, torch.float32)
    want = copy.deepcopy(layer.bn)(x)
    torch.testing.assert_close(layer(x, text), want, rtol=1e-4, atol=1e-5)


def weights_init(m: nn.Module) -> None:
    """As AttnGAN's and its relatives' scripts have it."""
    name = m.__class__.__name__
    if name.find("Conv") != -1:
        nn.init.orthogonal_(m.weight.data, 1.0)
    elif name.find("BatchNorm") != -1:
        m.weight.data.normal_(1.0, 0.02)
        m.bias.data.fill_(0)
    elif name.find("Linear") != -1:
        nn.init.orthogonal_(m.weight.data, 1.0)
        if m.bias is not None:
            m.bias.data.fill_(0.0)


def by_class(m: nn.Module) -> None:
    if isinstance(m, nn.Linear) and m.bias is not None:
        nn.init.xavier_uniform_(m.weight)
        nn.init.zeros_(m.bias)


def data_alone(m: nn.Module) -> None:
    if isinstance(m, (nn.Linear, nn.Conv2d)):
        m.weight.data.normal_(0.0, 0.02)


def constant_bias(m: nn.Module) -> None:
    if isinstance(m, nn.Linear):
        nn.init.kaiming_normal_(m.weight)
        m.bias.data.fill_(0.01)


@pytest.mark.parametrize("cue", CUES)
def test_initialisers_by_class_name_leave_the_heads_alone(cue: str) -> None:
    layer = fresh(cue)
    is_plain(layer.apply(weights_init))
    is_plain(layer)  # and no warning, which here would be an error


@pytest.mark.parametrize("host", ["AttnGAN G_NET", "StackGAN-v2"])
def test_a_retrofitted_model_through_build_models(host: str) -> None:
    model = HOSTS[host].make()
    HOSTS[host].convert(model)
    model.apply(weights_init)
    layers = [m for m in model.modules() if isinstance(m, (SentenceSCBN, WordSCBN))]
    assert layers
    assert not [head for layer in layers for head in heads(layer) if head.weight.any() or head.bias.any()]


@pytest.mark.parametrize("init", [by_class, data_alone, constant_bias])
@pytest.mark.parametrize("called", [False, True])
@pytest.mark.parametrize("cue", CUES)
def test_other_initialisers_are_noticed_at_the_next_call(cue: str, called: bool, init: Callable) -> None:
    layer = fresh(cue)
    x, text = inputs_of(CASE, torch.float32)
    if called:
        layer(x, text)
    layer.apply(init)
    with pytest.warns(UserWarning, match="should start at zero, but an initialiser has given it weights"):
        layer(x, text)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        layer(x, text)  # said once
    layer.reset_parameters()
    is_plain(layer)


@pytest.mark.parametrize("cue", CUES)
def test_nothing_is_said_of_weights_that_are_trained_loaded_or_averaged(cue: str) -> None:
    x, text = inputs_of(CASE, torch.float32)
    layer = fresh(cue)
    average, script = AveragedModel(layer), copy.deepcopy(layer)
    optimizer = torch.optim.Adam(layer.parameters(), 0.1)
    for _ in range(2):
        layer(x, text).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    assert all(head.weight.any() for head in heads(layer))
    layer(x, text)
    average.update_parameters(layer)
    average(x, text)
    for mine, theirs in zip(script.parameters(), layer.parameters(), strict=True):  # AttnGAN's load_params
        mine.data.copy_(theirs)
    script(x, text)
    loaded = fresh(cue)
    state = layer.state_dict()
    for name in state:
        if name.endswith("bias"):
            state[name] = torch.zeros_like(state[name])
    loaded.load_state_dict(state)
    loaded(x, text)
    copied = copy.deepcopy(fresh(cue))
    copied.load_state_dict(fresh(cue).state_dict())  # zeros: still expected to be
    copied.apply(by_class)
    with pytest.warns(UserWarning, match="should start at zero"):
        copied(x, text)


@pytest.mark.parametrize("cue", CUES)
def test_one_channel_with_trained_weights(cue: str) -> None:
    """A bias of one number is always of one value."""
    layer = SentenceSCBN(1, SENTENCE_DIM) if cue == "sentence" else WordSCBN(1, WORD_DIM)
    for head in heads(layer):
        nn.init.ones_(head.weight)
        nn.init.normal_(head.bias)
    x, text = inputs_of(Case((3, 1, 4, 5)), torch.float32)
    layer(x, text)


@pytest.mark.parametrize("cue", CUES)
def test_to_empty_and_a_reset_of_the_children(cue: str) -> None:
    layer = fresh(cue).to("meta").to_empty(device="cpu")
    for tensor in (*layer.parameters(), *layer.buffers()):
        tensor.detach().fill_(3)
    for module in layer.modules():
        if module is not layer and hasattr(module, "reset_parameters"):
            module.reset_parameters()
    assert layer.bn.running_var.eq(1).all()
    assert layer.bn.num_batches_tracked == 0
    is_plain(layer)


@pytest.mark.parametrize("make", [*(lambda c=c: fresh(c) for c in CUES), lambda: VisualSemanticEmbedding(8, 6)])
def test_every_layer_resets(make: Callable[[], nn.Module]) -> None:
    layer = make()
    for tensor in (*layer.parameters(), *layer.buffers()):
        tensor.detach().fill_(3)
    layer.reset_parameters()
    torch.manual_seed(0)
    other = make()
    for (name, got), want in zip(layer.state_dict().items(), other.state_dict().values(), strict=True):
        assert not (got == 3).all(), name
        assert want.any() == got.any(), name


@pytest.mark.parametrize(
    "norm", [parametrizations.spectral_norm, parametrizations.weight_norm, nn.utils.spectral_norm]
)
@pytest.mark.parametrize("cue", CUES)
def test_a_reparametrised_zero_head_raises(cue: str, norm: Callable[[nn.Module], nn.Module]) -> None:
    layer = fresh(cue)
    for head in heads(layer):
        norm(head)
    x, text = inputs_of(CASE, torch.float32)
    for _ in range(2):
        with pytest.raises(ValueError, match="divide its weights by their norm, which is 0"):
            layer(x, text)


@pytest.mark.parametrize("cue", CUES)
def test_reparametrised_layers_that_are_no_zero_work(cue: str) -> None:
    layer = fresh(cue)
    for module in list(layer.modules()):
        if type(module) is nn.Linear:
            parametrizations.spectral_norm(module)
    is_plain(layer)
    for head in heads(layer):
        nn.init.normal_(head.weight)
        nn.init.normal_(head.bias)
        parametrizations.spectral_norm(head)
    x, text = inputs_of(CASE, torch.float32)
    assert layer(x, text).isfinite().all()


def test_the_tree_keeps_its_start() -> None:
    tree = TreeGenerator(SENTENCE_DIM, WORD_DIM, stages=2, base_size=8, channels=4, residual_blocks=1)
    tree.apply(weights_init)
    assert not [h for h in heads(tree) if h.weight.any()]
    assert len(heads(tree)) == 6
    assert isinstance(heads(tree)[0], nn.Linear)
    assert scbn.__all__


@pytest.mark.parametrize("cue", CUES)
def test_other_initialisers_are_noticed_under_compile(cue: str) -> None:
    layer = fresh(cue)
    x, text = inputs_of(CASE, torch.float32)
    torch._dynamo.reset()
    torch.compile(layer, backend="eager", fullgraph=True)(x, text)  # at zero: nothing to say
    layer.apply(by_class)
    torch._dynamo.reset()
    with pytest.warns(UserWarning, match="should start at zero, but an initialiser has given it weights"):
        torch.compile(layer, backend="eager", fullgraph=True)(x, text)
    reparametrised = fresh(cue)
    for head in heads(reparametrised):
        nn.init.normal_(head.weight)
        nn.init.normal_(head.bias)
        parametrizations.spectral_norm(head)
    torch._dynamo.reset()
    got = torch.compile(reparametrised.eval(), backend="eager", fullgraph=True)(x, text)
    torch.testing.assert_close(got, reparametrised(x, text))


def test_a_plain_checkpoint_takes_a_retrofit_back_to_its_start() -> None:
    """After an initialiser ("build, initialise, load" is what scripts do), and after fine-tuning."""
    host = HOSTS["AttnGAN G_NET"]
    plain = host.make()
    state = copy.deepcopy(plain.state_dict())
    for spoil in (by_class, lambda m: nn.init.normal_(m.bias) if hasattr(m, "_at_zero") else None):
        model = host.make()
        host.convert(model)
        model.apply(spoil)
        model.load_state_dict(state)
        layers = [m for m in model.modules() if isinstance(m, (SentenceSCBN, WordSCBN))]
        assert not [h for layer in layers for h in heads(layer) if h.weight.any() or h.bias.any()]


@pytest.mark.parametrize("cue", CUES)
def test_adapters_with_a_frozen_base_are_no_initialisers(cue: str) -> None:
    layer = fresh(cue)
    for head in heads(layer):
        head.requires_grad_(False)
        head.weight.add_(0.1 * torch.randn_like(head.weight))  # an adapter, merged
    x, text = inputs_of(CASE, torch.float32)
    layer(x, text)


def test_a_model_that_diverged_is_not_blamed_on_a_norm() -> None:
    layer = fresh("word")
    with torch.no_grad():
        layer.to_gamma.weight.fill_(torch.nan)
        layer.to_gamma.bias.normal_()
    x, text = inputs_of(CASE, torch.float32)
    assert layer(x, text).isnan().any()
