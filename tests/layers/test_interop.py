"""Layers under tools that people put around PyTorch modules: quantisation, casting, offloading, averaging, saving."""

from __future__ import annotations

import io

import pytest
import torch
from helpers.cases import CUES, WORD_DIM, Case, inputs_of, layer_of
from torch import Tensor, nn
from torch.nn.utils import prune
from torch.optim.swa_utils import update_bn
from torch.utils.checkpoint import checkpoint as torch_checkpoint

import scbn
from scbn import TextFeatures, TreeOutput, VisualSemanticEmbedding, ops

CASE = Case((3, 8, 6, 5), padded=True)
close = torch.testing.assert_close


def linears(module: nn.Module):
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.Linear):
                yield parent, name, child


# --- weights stored in another dtype than they compute in ---


class Linear8(nn.Linear):
    """As bitsandbytes' and torchao's: an integer weight, floating input, its own forward."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__(linear.in_features, linear.out_features)
        scale = linear.weight.detach().abs().amax(1, keepdim=True).clamp(min=1e-9) / 127
        stored = (linear.weight.detach() / scale).round().to(torch.int8)
        self.weight = nn.Parameter(stored, requires_grad=False)
        self.bias = linear.bias
        self.register_buffer("scale", scale)

    def forward(self, input: Tensor) -> Tensor:
        if not input.is_floating_point():
            raise TypeError(f"integer input {input.dtype}")
        return nn.functional.linear(input, self.weight.to(input.dtype) * self.scale.to(input.dtype), self.bias)


@pytest.mark.parametrize("cue", CUES)
def test_weights_stored_as_integers(cue: str) -> None:
    layer = layer_of(cue, 8, torch.float32).eval()
    x, text = inputs_of(CASE, torch.float32)
    want = layer(x, text)
    for parent, name, child in linears(layer):
        setattr(parent, name, Linear8(child))
    assert (layer(x, text) - want).abs().max() < 0.1 * want.abs().max()


@pytest.mark.parametrize("stored", [torch.float8_e4m3fn, torch.bfloat16])
@pytest.mark.parametrize("cue", CUES)
def test_weights_cast_layer_by_layer_while_they_are_used(cue: str, stored: torch.dtype) -> None:
    layer = layer_of(cue, 8, torch.float32).eval()
    x, text = inputs_of(CASE, torch.float32)
    for _, _, child in linears(layer):
        child.to(stored)
        child.register_forward_pre_hook(lambda module, args: module.to(torch.float32) and None)
        child.register_forward_hook(lambda module, args, y: module.to(stored) and None)
    got = layer(x, text)
    plain = layer_of(cue, 8, torch.float32).eval()
    plain.load_state_dict({name: value.float() for name, value in layer.state_dict().items()})
    close(got, plain(x, text))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore:.*quantiz.*:UserWarning")
@pytest.mark.parametrize("cue", CUES)
def test_dynamic_quantisation(cue: str) -> None:
    layer = layer_of(cue, 8, torch.float32).eval()
    x, text = inputs_of(CASE, torch.float32)
    want = layer(x, text)
    quantised = torch.ao.quantization.quantize_dynamic(layer, {nn.Linear}, torch.qint8)
    assert any("dynamic" in type(m).__module__ for m in quantised.modules())
    assert (quantised(x, text) - want).abs().max() < 0.1 * want.abs().max()
    vse = VisualSemanticEmbedding(8, WORD_DIM).eval()
    want = vse(x, text)
    quantised = torch.ao.quantization.quantize_dynamic(vse, {nn.Linear}, torch.qint8)
    assert (quantised(x, text) - want).abs().max() < 0.1 * want.abs().max()


# --- tools that hook onto modules ---


def test_offloading_by_hooks_on_leaves_says_what_to_pass() -> None:
    """accelerate's cpu_offload keeps weights on meta and brings them when a leaf is called, which bn never is."""
    layer = layer_of("both", 8, torch.float32)
    x, text = inputs_of(CASE, torch.float32)
    layer.to("meta")
    with pytest.raises(ValueError, match=r"preload_module_classes=\['SentenceSCBN', 'WordSCBN'\]") as caught:
        layer(x, text)
    assert "x.to(" not in str(caught.value)


@pytest.mark.parametrize("cue", CUES)
def test_offloading_of_the_whole_layer_works(cue: str) -> None:
    layer = layer_of(cue, 8, torch.float32).eval()
    x, text = inputs_of(CASE, torch.float32)
    want = layer(x, text)
    kept = {name: tensor.clone() for name, tensor in layer.state_dict().items()}
    layer.to("meta")
    layer.register_forward_pre_hook(lambda m, a: m.to_empty(device="cpu") and m.load_state_dict(kept) and None)
    layer.register_forward_hook(lambda m, a, y: m.to("meta") and None)
    close(layer(x, text), want)
    close(layer(x, text), want)


@pytest.mark.parametrize("cue", CUES)
def test_a_pruned_batch_norm(cue: str) -> None:
    """torch.nn.utils works its weight out in a hook on the batch norm, which the layer reads and never calls."""
    layer = layer_of(cue, 8, torch.float32)
    x, text = inputs_of(CASE, torch.float32)
    prune.l1_unstructured(layer.bn, "weight", amount=0.5)
    for _ in range(2):
        layer(x, text).square().sum().backward()
    other = layer_of(cue, 8, torch.float32).eval()
    prune.identity(other.bn, "weight")
    other.load_state_dict(layer.state_dict())
    close(other(x, text), layer.eval()(x, text))


class FullyShardedDataParallel(nn.Module):
    """As FSDP's first version wraps a child: attributes are passed on."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def __getattr__(self, name: str):
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("module"), name)


def test_a_wrapped_batch_norm_says_what_to_wrap() -> None:
    layer = layer_of("word", 8, torch.float32)
    x, text = inputs_of(CASE, torch.float32)
    layer.bn = FullyShardedDataParallel(layer.bn)
    with pytest.raises(
        ValueError, match=r"in FullyShardedDataParallel\) does not get its turn; apply the tool to the whole"
    ):
        layer(x, text)


# --- activation checkpointing ---


@pytest.mark.parametrize("backend", ["eager", "cpu", "triton"])
@pytest.mark.parametrize("momentum", [0.1, None])
@pytest.mark.parametrize("cue", CUES)
def test_running_statistics_under_checkpointing(cue: str, momentum: float | None, backend: ops.Backend) -> None:
    """scbn.checkpoint: once. torch's own: on every backend alike, and at most twice, as nn.BatchNorm2d."""
    _, text = inputs_of(CASE, torch.float32)
    means = (0.0, 1.0, 2.0)

    def trained(run, after: bool) -> tuple[float, int]:
        torch.manual_seed(0)
        layer = layer_of(cue, 8, torch.float32, momentum=momentum)
        nn.init.zeros_(layer.bn.running_mean)
        more = nn.Conv2d(8, 8, 1) if after else nn.Identity()
        for mean in means:
            x = torch.randn(CASE.shape)
            x = x - x.mean((0, 2, 3), keepdim=True) + mean
            with ops.use_backend(backend):
                run(lambda x, l=layer, m=more: m(l(x, text)), x.requires_grad_()).square().sum().backward()
        return float(layer.bn.running_mean[0]), int(layer.bn.num_batches_tracked)

    def once(function, x):
        return function(x)

    def torchs(function, x):
        return torch_checkpoint(function, x, use_reentrant=False)

    for after in (False, True):
        want = trained(once, after)
        assert want[1] == 3
        assert trained(scbn.checkpoint, after) == pytest.approx(want, abs=1e-6)
        mean, count = trained(torchs, after)
        assert count in (3, 6)
        if momentum is None:
            assert mean == pytest.approx(1, abs=1e-6)
    assert scbn.norm._recomputing() is False


def test_torchs_checkpointing_is_alike_on_every_backend() -> None:
    counts = {}
    for backend in ("eager", "cpu", "triton", "reference"):
        for after in (False, True):
            layer = layer_of("both", 8, torch.float32)
            more = nn.Conv2d(8, 8, 1) if after else nn.Identity()
            x, text = inputs_of(CASE, torch.float32)
            with ops.use_backend(backend):
                y = torch_checkpoint(
                    lambda x, l=layer, m=more, t=text: m(l(x, t)), x.requires_grad_(), use_reentrant=False
                )
                y.sum().backward()
            counts.setdefault(after, []).append(int(layer.bn.num_batches_tracked))
    assert all(len(set(found)) == 1 for found in counts.values()), counts


@pytest.mark.parametrize("backend", ["eager", "cpu"])
def test_a_checkpointed_region_is_run_again_as_often_as_asked(backend: ops.Backend) -> None:
    """For two losses, for a gradient penalty, and with arguments by name."""
    layer = layer_of("both", 8, torch.float64)
    x, text = inputs_of(CASE)
    x.requires_grad_()
    with ops.use_backend(backend):
        want = torch.autograd.grad(layer(x, text).sin().sum(), x)[0]
        y = scbn.checkpoint(layer, x, text=text)
        for _ in range(2):
            (got,) = torch.autograd.grad(y.sin().sum(), x, retain_graph=True)
            close(got, want)
        (slope,) = torch.autograd.grad(y.sin().sum(), x, create_graph=True)
        slope.square().sum().backward()
    assert x.grad.isfinite().all()
    assert layer.bn.num_batches_tracked == 2


def test_checkpoint_keeps_the_callers_contexts() -> None:
    entered = []

    class Context:
        def __init__(self, name: str) -> None:
            self.name = name

        def __enter__(self) -> None:
            entered.append(self.name)

        def __exit__(self, *_: object) -> None:
            pass

    layer = layer_of("sentence", 8, torch.float32)
    x, text = inputs_of(CASE, torch.float32)
    y = scbn.checkpoint(layer, x.requires_grad_(), text, context_fn=lambda: (Context("forward"), Context("again")))
    y.sum().backward()
    assert entered == ["forward", "again"]
    assert layer.bn.num_batches_tracked == 1


# --- the value of text, and weight averaging ---


def test_text_is_saved_and_loaded() -> None:
    _, text = inputs_of(CASE)
    output = TreeOutput((torch.zeros(1),), torch.ones(2), torch.zeros(2))
    for value in (text, TextFeatures(text.sentence), output):
        file = io.BytesIO()
        torch.save(value, file)
        file.seek(0)
        loaded = torch.load(file)
        assert type(loaded) is type(value)
        close(tuple(loaded), tuple(value))


def test_text_is_indexed_moved_and_mapped() -> None:
    _, text = inputs_of(CASE)
    assert text.words is not None and text.sentence is not None and text.padding_mask is not None
    for index in (slice(2), [0, 2], torch.tensor([2, 0]), torch.tensor([True, False, True])):
        got = text[index]
        assert type(got) is TextFeatures
        assert torch.equal(got.words, text.words[index])
        assert torch.equal(got.padding_mask, text.padding_mask[index])
        assert torch.equal(text.select(index).sentence, got.sentence)
    assert text.select(1).words.shape == text.words.shape[1:]
    assert torch.equal(text[1], text.words)  # a field by number, as of any tuple
    assert TextFeatures(text.sentence)[:1].words is None
    with pytest.raises(ValueError, match="picked by one index"):
        text[0, 1]
    half = text.to(torch.bfloat16)
    assert [t.dtype for t in half] == [torch.bfloat16, torch.bfloat16, torch.bool]
    assert [t.device.type for t in text.to("meta")] == ["meta"] * 3
    assert torch.equal(text.map(lambda t: t[:1]).words, text.words[:1])


def test_a_data_loader_stacks_captions() -> None:
    captions = [TextFeatures(torch.randn(5), torch.randn(t, 6)) for t in (2, 4, 3)]
    loader = torch.utils.data.DataLoader([(torch.zeros(2), one) for one in captions], batch_size=3)
    (_, text) = next(iter(loader))
    assert type(text) is TextFeatures
    assert text.words.shape == (3, 4, 6)
    assert text.padding_mask.sum(1).tolist() == [2, 0, 1]
    assert torch.equal(text.words[0, :2], captions[0].words)
    alone = TextFeatures.stack([TextFeatures(torch.zeros(5)), TextFeatures(torch.ones(5))])
    assert alone.words is None and alone.padding_mask is None and alone.sentence.shape == (2, 5)
    masked = TextFeatures.stack(
        [one._replace(padding_mask=torch.ones(len(one.words)).bool()) for one in captions[:2]]
    )
    assert masked.padding_mask.all()
    arrays = TextFeatures.stack([TextFeatures(torch.zeros(5).numpy()), TextFeatures(torch.ones(5).numpy())])
    assert torch.equal(arrays.sentence, alone.sentence)
    mask = torch.ones(3, dtype=torch.bool)
    with pytest.raises(ValueError, match="a padding_mask or none, got 1 of 2"):
        TextFeatures.stack([TextFeatures(torch.zeros(5), None, mask), TextFeatures(torch.zeros(5))])
    with pytest.raises(ValueError, match="words is None in 1 of 2"):
        TextFeatures.stack([captions[0], TextFeatures(torch.zeros(5))])
    with pytest.raises(ValueError, match="no batch of no captions"):
        TextFeatures.stack([])


def test_update_bn_as_the_page_has_it() -> None:
    class Pairs(nn.Module):
        def __init__(self, model: nn.Module) -> None:
            super().__init__()
            self.model = model

        def forward(self, arguments):
            return self.model(*arguments)

    layer = layer_of("both", 8, torch.float32)
    loader = [inputs_of(CASE, torch.float32) for _ in range(3)]
    update_bn([(arguments,) for arguments in loader], Pairs(layer))
    close(layer.bn.running_mean, torch.stack([x.mean((0, 2, 3)) for x, _ in loader]).mean(0))
    assert layer.bn.num_batches_tracked == 3
