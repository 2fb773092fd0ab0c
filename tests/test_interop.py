"""Layers under tools that people put around PyTorch modules: quantisation, casting, offloading, tracing, saving."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.autograd.forward_ad as forward_ad
from cases import CUES, SENTENCE_DIM, WORD_DIM, Case, inputs_of, layer_of
from hosts import HOSTS
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx
from torch.optim.swa_utils import update_bn
from torch.utils.checkpoint import checkpoint as torch_checkpoint

import scbn
from scbn import SentenceSCBN, TextFeatures, TreeGenerator, TreeOutput, VisualSemanticEmbedding, WordSCBN, ops

# Of torch.jit, by which torch.func.jvp finds its rules too.
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.*is deprecated:FutureWarning")

CASE = Case((3, 8, 6, 5), padded=True)
ROOT = Path(__file__).resolve().parents[1]
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


# --- graphs and transforms ---


@pytest.fixture
def large() -> tuple[Tensor, TextFeatures]:
    """Beyond the size from which a fused path is taken by itself."""
    x, text = inputs_of(Case((3, 8, 80, 90), padded=True), torch.float32)
    assert x.numel() >= ops.WORTHWHILE
    return x, text


@pytest.mark.parametrize("cue", CUES)
def test_forward_mode(cue: str, large: tuple[Tensor, TextFeatures]) -> None:
    x, text = large
    layer, tangent = layer_of(cue, 8, torch.float32).eval(), torch.randn_like(x)

    def derivative(x: Tensor, tangent: Tensor) -> Tensor:
        return torch.func.jvp(lambda q: layer(q, text), (x,), (tangent,))[1]

    with ops.use("composed"):
        want = derivative(x, tangent)
    assert want.abs().max() > 1
    close(derivative(x, tangent), want)
    with forward_ad.dual_level():
        close(forward_ad.unpack_dual(layer(forward_ad.make_dual(x, tangent), text)).tangent, want)
    torch._dynamo.reset()
    compiled = torch.compile(derivative, backend="aot_eager", fullgraph=True)
    close(compiled(x, tangent), want)


@pytest.mark.parametrize("path", ["auto", "tiled", "triton"])
@pytest.mark.parametrize("cue", CUES)
def test_compiled_transforms(cue: str, path: ops.Path, large: tuple[Tensor, TextFeatures]) -> None:
    x, text = large[0][..., :9, :8].contiguous() if path == "triton" else large[0], large[1]
    layer = layer_of(cue, 8, torch.float32).eval()

    def gradient(x: Tensor) -> Tensor:
        return torch.func.grad(lambda q: layer(q, text).square().sum())(x)

    def derivative(x: Tensor) -> Tensor:
        return torch.func.jvp(lambda q: layer(q, text), (x,), (torch.ones_like(x),))[1]

    def each(x: Tensor) -> Tensor:
        return torch.func.vmap(lambda q: layer(q[None], text.select(slice(1)))[0])(x)

    for function in (gradient, derivative, each):
        with ops.use("composed"):
            want = function(x)
        torch._dynamo.reset()
        with ops.use(path):
            compiled = torch.compile(function, backend="aot_eager", fullgraph=True)
            close(compiled(x), want, rtol=1e-4, atol=1e-4)


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("path", ["auto", "tiled", "triton"])
@pytest.mark.parametrize("cue", CUES)
def test_recorded_graphs_hold_pytorchs_own_operations(
    cue: str, path: ops.Path, large: tuple[Tensor, TextFeatures]
) -> None:
    x, text = large[0][..., :9, :8].contiguous() if path == "triton" else large[0], large[1]
    layer = layer_of(cue, 8, torch.float32).eval()
    want = layer(x, text)
    with ops.use(path):
        traced = torch.jit.trace(layer, (x, text))
        made = make_fx(layer)(x, text)
        exported = torch.export.export(layer, (x, text))
    file = io.BytesIO()
    torch.jit.save(traced, file)
    assert b"scbn::" not in file.getvalue()
    file.seek(0)
    close(torch.jit.load(file)(x, text), want, rtol=1e-4, atol=1e-4)
    for graph in (made.graph, exported.graph):
        assert not [node for node in graph.nodes if "scbn" in str(node.target)]


def test_symbolic_tracing_says_what_to_use() -> None:
    tree = TreeGenerator(5, 6, stages=2, base_size=8, channels=4, residual_blocks=1, norm="batch")
    for module in (
        SentenceSCBN(8, 5),
        WordSCBN(8, 6),
        VisualSemanticEmbedding(8, 6),
        tree,
        scbn.SiameseContrastiveLoss(),
    ):
        with pytest.raises(ValueError, match=r"symbolic_trace cannot follow scbn.* use torch\.export\.export"):
            torch.fx.symbolic_trace(module)

    class Leaves(torch.fx.Tracer):
        def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
            return type(m).__module__.startswith("scbn.") or super().is_leaf_module(m, module_qualified_name)

    class Host(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = SentenceSCBN(8, SENTENCE_DIM)

        def forward(self, x, sentence):
            return self.norm(x, sentence).relu()

    host = Host().eval()
    x, text = inputs_of(CASE, torch.float32)
    module = torch.fx.GraphModule(host, Leaves().trace(host))
    close(module(x, text.sentence), host(x, text.sentence))


# --- activation checkpointing ---


@pytest.mark.parametrize("path", ["composed", "tiled", "triton"])
@pytest.mark.parametrize("momentum", [0.1, None])
@pytest.mark.parametrize("cue", CUES)
def test_running_statistics_under_checkpointing(cue: str, momentum: float | None, path: ops.Path) -> None:
    """scbn.checkpoint: once. torch's own: on every path alike, and at most twice, as nn.BatchNorm2d."""
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
            with ops.use(path):
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


def test_torchs_checkpointing_is_alike_on_every_path() -> None:
    counts = {}
    for path in ("composed", "tiled", "triton", "reference"):
        for after in (False, True):
            layer = layer_of("both", 8, torch.float32)
            more = nn.Conv2d(8, 8, 1) if after else nn.Identity()
            x, text = inputs_of(CASE, torch.float32)
            with ops.use(path):
                y = torch_checkpoint(
                    lambda x, l=layer, m=more, t=text: m(l(x, t)), x.requires_grad_(), use_reentrant=False
                )
                y.sum().backward()
            counts.setdefault(after, []).append(int(layer.bn.num_batches_tracked))
    assert all(len(set(found)) == 1 for found in counts.values()), counts


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


# --- programs that run in another process ---

LOAD = """
import sys, torch
{imports}
program, inputs, want = sys.argv[1:]
if program.endswith(".pt2") and "aoti" in program:
    run = torch._inductor.aoti_load_package(program)
else:
    run = torch.export.load(program).module()
got = run(*torch.load(inputs))
got = [t for t in torch.utils._pytree.tree_leaves(got) if t.dim() == 4][-1]
torch.testing.assert_close(got, torch.load(want), rtol=1e-4, atol=1e-5)
print("equal")
"""


def exportable(what: str):
    torch.manual_seed(0)
    if what == "retrofit":
        host = HOSTS["StackGAN-v2"]
        model = host.make().eval()
        host.convert(model)
        for parameter in model.parameters():
            nn.init.normal_(parameter, std=0.2)
        from hosts import four

        model.ca_net.forward = lambda s: (s[:, :5], s[:, :5], s[:, :5])  # which draws noise
        arguments = four(3)[:2]
        images = model(*arguments)[0]
        return model, tuple(arguments), images[-1]
    x, text = inputs_of(CASE, torch.float32)
    if what == "tree":
        tree = TreeGenerator(5, 6, stages=2, base_size=8, channels=4, residual_blocks=1).eval()
        arguments = torch.randn(3, 100), text
        return tree, arguments, tree(*arguments).images[-1]
    layer = layer_of(what, 8, torch.float32).eval()
    return layer, (x, text), layer(x, text)


@pytest.mark.parametrize("what", ["both", "tree", "retrofit"])
def test_an_exported_program_is_saved_and_runs_in_another_process(what: str, tmp_path: Path) -> None:
    model, arguments, want = exportable(what)
    torch.save(arguments, tmp_path / "inputs.pt")
    torch.save(want.detach(), tmp_path / "want.pt")
    program = torch.export.export(model, arguments)
    torch.export.save(program, tmp_path / "program.pt2")
    files = [str(tmp_path / name) for name in ("program.pt2", "inputs.pt", "want.pt")]
    # The library is imported for its named tuples alone.
    code = LOAD.format(imports="import scbn")
    done = subprocess.run(
        [sys.executable, "-c", code, *files], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert done.stdout == "equal\n", done.stderr


@pytest.mark.parametrize("what", ["both", "tree", "retrofit"])
def test_a_compiled_program_runs_in_another_process(what: str, tmp_path: Path) -> None:
    model, arguments, want = exportable(what)
    torch.save(arguments, tmp_path / "inputs.pt")
    torch.save(want.detach(), tmp_path / "want.pt")
    with torch.no_grad():
        program = torch.export.export(model, arguments)
        package = torch._inductor.aoti_compile_and_package(program, package_path=str(tmp_path / "aoti.pt2"))
    files = [package, *(str(tmp_path / name) for name in ("inputs.pt", "want.pt"))]
    code = LOAD.format(imports="import scbn")
    done = subprocess.run(
        [sys.executable, "-c", code, *files], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert done.stdout == "equal\n", done.stderr


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("what", ["sentence", "both", "tree"])
def test_onnx_with_dynamic_sizes(what: str, tmp_path: Path) -> None:
    pytest.importorskip("onnxscript", reason="onnxscript is not installed")
    runtime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    model, arguments, _ = exportable(what)
    n, t = torch.export.Dim("n", min=2, max=64), torch.export.Dim("t", min=2, max=64)
    text = TextFeatures({0: n}, {0: n, 1: t}, {0: n, 1: t})
    h, w = torch.export.Dim("h", min=2, max=256), torch.export.Dim("w", min=2, max=256)
    shapes = ({0: n}, text) if what == "tree" else ({0: n, 2: h, 3: w}, text)
    torch.onnx.export(model, arguments, tmp_path / "model.onnx", dynamo=True, dynamic_shapes=shapes, verbose=False)
    session = runtime.InferenceSession(tmp_path / "model.onnx")
    case = Case((5, 8, 9, 4), words=7, padded=True)
    x, text = inputs_of(case, torch.float32)
    first = torch.randn(5, 100) if what == "tree" else x
    values = [first, *text]
    names = [i.name for i in session.get_inputs()]
    given = {name: v.numpy() for name, v in zip(names, values, strict=True)} if len(names) == len(values) else None
    if given is None:  # a sentence layer reads no words
        given = {
            name: v.numpy()
            for name, v in (("x", x), ("text_sentence", text.sentence), ("text_padding_mask", text.padding_mask))
            if name in names
        }
    got = torch.from_numpy(session.run(None, given)[0 if what != "tree" else 1])
    want = model(first, text)
    close(got, want.images[1] if what == "tree" else want, rtol=1e-4, atol=1e-5)
