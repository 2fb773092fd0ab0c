"""Layers within PyTorch: initialisation, copies, layouts, precision, devices, gradients."""

from __future__ import annotations

import copy
import io
import pickle

import pytest
import torch
from helpers.cases import CASES, CUES, SENTENCE_DIM, WORD_DIM, Case, inputs_of, layer_of, oracle
from torch import nn

from scbn import SentenceSCBN, TextFeatures, VisualSemanticEmbedding, WordSCBN

pytestmark = pytest.mark.usefixtures("backend")


def fresh(cue: str, channels: int = 8, **kwargs) -> SentenceSCBN | WordSCBN:
    if cue == "sentence":
        return SentenceSCBN(channels, SENTENCE_DIM, **kwargs)
    return WordSCBN(channels, WORD_DIM, sentence_dim=SENTENCE_DIM if cue == "both" else None, **kwargs)


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("cue", CUES)
def test_starts_as_plain_batch_norm(cue: str, training: bool, case: Case) -> None:
    layer = fresh(cue, case.shape[1]).double().train(training)
    plain = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}[len(case.shape)]
    bn = plain(case.shape[1]).double().train(training)
    x, text = inputs_of(case)
    torch.testing.assert_close(layer(x, text), bn(x), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(layer.bn.running_mean, bn.running_mean, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(layer.bn.running_var, bn.running_var, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("cue", CUES)
def test_learns_from_its_first_step(cue: str) -> None:
    layer = fresh(cue)
    x, text = inputs_of(CASES[0], torch.float32)
    layer(x, text).square().sum().backward()
    heads = [layer.mlp[-1].weight] if layer.mlp is not None else []
    heads += [layer.to_gamma.weight, layer.to_beta.weight] if cue != "sentence" else []
    assert heads
    assert all(head.grad.abs().max() > 0 for head in heads)


@pytest.mark.parametrize("cue", CUES)
def test_state_dict_names_are_the_contract(cue: str) -> None:
    shapes = {name: tuple(value.shape) for name, value in fresh(cue, 8).state_dict().items()}
    want = {"bn.weight": (8,), "bn.bias": (8,), "bn.running_mean": (8,), "bn.running_var": (8,)}
    want["bn.num_batches_tracked"] = ()
    if cue != "sentence":
        want |= {"word_proj.weight": (8, WORD_DIM), "word_proj.bias": (8,)}
        want |= {
            f"{head}.{part}": (8, 8)[: 3 - n]
            for head in ("to_gamma", "to_beta")
            for part, n in (("weight", 1), ("bias", 2))
        }
    if cue != "word":
        d = SENTENCE_DIM
        want |= {"mlp.0.weight": (d, d), "mlp.0.bias": (d,), "mlp.2.weight": (16, d), "mlp.2.bias": (16,)}
    assert shapes == want


def test_gammas_half_of_the_mlp_comes_first() -> None:
    layer = fresh("sentence").double().eval()
    with torch.no_grad():
        layer.mlp[-1].bias[:8] = 2.0
    x, text = inputs_of(CASES[0])
    plain = torch.nn.functional.batch_norm(x, layer.bn.running_mean, layer.bn.running_var)
    torch.testing.assert_close(layer(x, text), 3 * plain)


@pytest.mark.parametrize("cue", ["sentence", "word"])
def test_takes_the_plain_tensor_of_its_one_cue(cue: str) -> None:
    layer = layer_of(cue, 8)
    x, text = inputs_of(CASES[0])
    assert torch.equal(layer(x, text), layer(x, text.sentence if cue == "sentence" else text.words))


@pytest.mark.parametrize("cue", CUES)
def test_copies_compute_the_same(cue: str) -> None:
    layer = layer_of(cue, 8).eval()
    x, text = inputs_of(CASES[1])
    y = layer(x, text)
    assert torch.equal(copy.deepcopy(layer)(x, text), y)
    assert torch.equal(pickle.loads(pickle.dumps(layer))(x, text), y)
    file = io.BytesIO()
    torch.save(layer.state_dict(), file)
    file.seek(0)
    other = layer_of(cue, 8).eval()
    assert not torch.equal(other(x, text), y)
    other.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(other(x, text), y)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("cue", CUES)
def test_memory_layout_is_kept(cue: str, layout: torch.memory_format) -> None:
    x, text = inputs_of(Case((3, 8, 4, 5), padded=True))
    layer = layer_of(cue, 8)
    y = layer(x.contiguous(memory_format=layout), text)
    assert y.is_contiguous(memory_format=layout)
    torch.testing.assert_close(y, layer(x, text))


@pytest.mark.parametrize("cue", CUES)
def test_non_contiguous_and_expanded_inputs(cue: str) -> None:
    layer = layer_of(cue, 8)
    x, text = inputs_of(CASES[1])
    wide = torch.randn(3, 8, 8, 10, dtype=torch.float64)
    for view in (x.transpose(2, 3), wide[:, :, ::2, ::2], x[:, :1].expand(-1, 8, -1, -1)):
        torch.testing.assert_close(layer(view, text), layer(view.contiguous(), text))
    expanded = TextFeatures(*(t[:1].expand_as(t) for t in text))
    torch.testing.assert_close(layer(x, expanded), layer(x, TextFeatures(*(t.contiguous() for t in expanded))))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("cue", CUES)
def test_half_precision_rounds_only_inputs_and_result(cue: str, dtype: torch.dtype) -> None:
    layer = layer_of(cue, 8, torch.float32)
    exact = copy.deepcopy(layer).double()
    x, text = inputs_of(CASES[1], torch.float32)
    half = x.to(dtype)
    y = layer(half, text)
    assert y.dtype == dtype
    want = oracle(
        exact, half.double(), TextFeatures(text.sentence.double(), text.words.double(), text.padding_mask)
    )
    torch.testing.assert_close(y.double(), want, rtol=2 * torch.finfo(dtype).eps, atol=1e-4)
    mean, _ = torch.var_mean(half.double(), (0, 2, 3))[::-1]
    assert (layer.bn.running_mean - (0.9 * exact.bn.running_mean + 0.1 * mean)).abs().max() < 1e-6


@pytest.mark.parametrize("cue", CUES)
def test_a_layer_in_half_precision(cue: str) -> None:
    layer = layer_of(cue, 8, torch.float32).bfloat16()
    x, text = inputs_of(CASES[1], torch.float32)
    y = layer(x.bfloat16(), text)
    assert y.dtype == torch.bfloat16
    assert layer.bn.running_mean.dtype == torch.bfloat16
    assert y.isfinite().all()


@pytest.mark.parametrize("x_dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("cue", CUES)
def test_autocast_behaves_as_for_batch_norm(cue: str, x_dtype: torch.dtype) -> None:
    layer = layer_of(cue, 8, torch.float32)
    bn = nn.BatchNorm2d(8)
    x, text = inputs_of(CASES[1], torch.float32)
    x = x.to(x_dtype)
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(x, text)
        assert y.dtype == bn(x).dtype == x_dtype
    y.sum().backward()
    assert layer.bn.weight.grad.dtype == torch.float32

    # Only the projections of the text run in bfloat16, as every nn.Linear does; the rest is exact.
    class Rounded(nn.Module):
        def __init__(self, module: nn.Module) -> None:
            super().__init__()
            self.module = module

        def forward(self, t: torch.Tensor) -> torch.Tensor:
            with torch.autocast("cpu", torch.bfloat16):
                return self.module(t).float()

    for name in ("word_proj", "to_gamma", "to_beta", "mlp"):
        if getattr(layer, name, None) is not None:
            setattr(layer, name, Rounded(getattr(layer, name)))
    exact = layer(x, text)
    tolerance = {"rtol": 0.01, "atol": 1e-3} if x_dtype == torch.bfloat16 else {"rtol": 1e-5, "atol": 1e-5}
    torch.testing.assert_close(y, exact, **tolerance)


@pytest.mark.parametrize("shape", [(0, 8, 4, 5), (0, 8, 7), (0, 8)])
@pytest.mark.parametrize("cue", CUES)
def test_an_empty_batch(cue: str, shape: tuple[int, ...]) -> None:
    layer = layer_of(cue, 8).eval()
    text = TextFeatures(*(t[:0] for t in inputs_of(CASES[1])[1]))
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    y = layer(x, text)
    assert y.shape == shape
    y.sum().backward()
    if cue != "sentence":
        assert layer.attention(x, text).shape == (0, 4, *shape[2:])


def test_5d_layout_and_the_embeddings_layout_are_kept() -> None:
    last = torch.channels_last_3d
    x, text = inputs_of(Case((3, 4, 2, 3, 4), padded=True, layout=last))
    assert layer_of("both", 4)(x, text).is_contiguous(memory_format=last)
    vse = VisualSemanticEmbedding(4, WORD_DIM).double()
    assert vse(x, text).is_contiguous(memory_format=last)


@pytest.mark.parametrize("cue", CUES)
def test_statistics_switched_off_later_stand_still(cue: str) -> None:
    layer = layer_of(cue, 8)
    layer.bn.track_running_stats = False
    before = layer.bn.running_mean.clone()
    x, text = inputs_of(CASES[0])
    y = layer(x, text)
    assert torch.equal(layer.bn.running_mean, before)
    assert layer.bn.num_batches_tracked == 0
    torch.testing.assert_close(y, oracle(layer, x, text))


def test_attention_uses_the_layers_scale() -> None:
    layer = layer_of("word", 8, scale=0.0)
    x, text = inputs_of(CASES[0])
    torch.testing.assert_close(layer.attention(x, text), torch.full_like(layer.attention(x, text), 0.25))


@pytest.mark.parametrize("cue", CUES)
def test_projections_may_be_replaced(cue: str) -> None:
    layer = layer_of(cue, 8)
    x, text = inputs_of(CASES[1])
    y = layer(x, text)
    for name in ("word_proj", "to_gamma", "to_beta", "mlp"):
        if getattr(layer, name, None) is not None:
            setattr(layer, name, nn.Sequential(getattr(layer, name)))
    torch.testing.assert_close(layer(x, text), y)


@pytest.mark.parametrize("cue", CUES)
def test_meta_device(cue: str) -> None:
    layer = fresh(cue, device="meta")
    x, text = inputs_of(CASES[1], torch.float32)
    y = layer(x.to("meta"), TextFeatures(*(t.to("meta") for t in text)))
    assert y.shape == x.shape
    assert y.is_meta
    assert all(p.is_meta for p in layer.parameters())


@pytest.mark.parametrize("cue", CUES)
def test_text_of_another_precision_is_welcome(cue: str) -> None:
    layer = layer_of(cue, 8, torch.float32)
    x, text = inputs_of(CASES[0], torch.float32)
    half = TextFeatures(text.sentence.half(), text.words.half(), None)
    rounded = TextFeatures(half.sentence.float(), half.words.float(), None)
    assert torch.equal(layer(x, half), layer(x, rounded))


@pytest.mark.parametrize("kind", [nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm])
@pytest.mark.parametrize("cue", CUES)
def test_from_batch_norm_adopts_everything(cue: str, kind: type) -> None:
    bn = kind(8, eps=1e-3, momentum=0.3).double()
    nn.init.normal_(bn.weight)
    bn.running_var.uniform_(1, 2)
    bn.eval()
    build = SentenceSCBN.from_batch_norm if cue == "sentence" else WordSCBN.from_batch_norm
    arguments = {"sentence": (SENTENCE_DIM,)}.get(cue, (WORD_DIM,))
    layer = build(bn, *arguments, **({"sentence_dim": SENTENCE_DIM} if cue == "both" else {}))
    assert layer.bn is bn
    assert not layer.training
    assert {p.dtype for p in layer.parameters()} == {torch.float64}
    x, text = inputs_of(CASES[0])
    want = torch.nn.functional.batch_norm(x, bn.running_mean, bn.running_var, bn.weight, bn.bias, eps=1e-3)
    torch.testing.assert_close(layer(x, text), want, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("cue", CUES)
def test_convert_sync_batchnorm_keeps_the_condition(cue: str) -> None:
    layer = layer_of(cue, 8).eval()
    x, text = inputs_of(CASES[1])
    y = layer(x, text)
    converted = nn.SyncBatchNorm.convert_sync_batchnorm(nn.ModuleList([layer]))[0]
    assert isinstance(converted.bn, nn.SyncBatchNorm)
    torch.testing.assert_close(converted(x, text), y)


def test_class_names_pass_others_weights_init() -> None:
    for kind in (SentenceSCBN, WordSCBN, VisualSemanticEmbedding):
        assert "Conv" not in kind.__name__
        assert "BatchNorm" not in kind.__name__


@pytest.mark.parametrize("cue", CUES)
def test_gradcheck_and_gradgradcheck(cue: str) -> None:
    layer = layer_of(cue, 3)
    x, text = inputs_of(Case((3, 3, 2, 2), words=3, padded=True))
    names = [name for name, _ in layer.named_parameters()]

    def f(x, sentence, words, *parameters):
        state = dict(zip(names, parameters, strict=True)) | {
            # Copies, because a function that changes its statistics is another function the second time.
            f"bn.{name}": value.clone()
            for name, value in layer.bn.named_buffers()
        }
        return torch.func.functional_call(layer, state, (x, TextFeatures(sentence, words, text.padding_mask)))

    leaves = [t.detach().requires_grad_() for t in (x, text.sentence, text.words, *layer.parameters())]
    assert torch.autograd.gradcheck(f, leaves)
    assert torch.autograd.gradgradcheck(f, leaves, atol=1e-4)


@pytest.mark.parametrize("cue", CUES)
def test_checkpointing_gives_the_same_gradients(cue: str) -> None:
    from torch.utils.checkpoint import checkpoint

    layer = layer_of(cue, 8)
    x, text = inputs_of(CASES[1])
    grads = []
    for run in (layer, lambda x, t: checkpoint(layer, x, t, use_reentrant=False)):
        layer.zero_grad()
        run(x, text).square().sum().backward()
        grads.append([p.grad.clone() for p in layer.parameters()])
    for a, b in zip(*grads, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("cue", CUES)
def test_repr_names_the_sizes(cue: str) -> None:
    assert f"{8}" in repr(fresh(cue))
    assert str(SENTENCE_DIM if cue == "sentence" else WORD_DIM) in repr(fresh(cue))
