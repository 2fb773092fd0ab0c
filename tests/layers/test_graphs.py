"""Layers where a graph is recorded, a transform is active or a program is saved for another process."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.autograd.forward_ad as forward_ad
from helpers.cases import CUES, SENTENCE_DIM, Case, inputs_of, layer_of
from helpers.hosts import HOSTS, four
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx

import scbn
from scbn import SentenceSCBN, TextFeatures, TreeGenerator, VisualSemanticEmbedding, WordSCBN, ops
from scbn.ops import dispatch

# Of torch.jit, by which torch.func.jvp finds its rules too.
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.*is deprecated")

CASE = Case((3, 8, 6, 5), padded=True)
ROOT = Path(__file__).resolve().parents[2]
close = torch.testing.assert_close


# --- graphs and transforms ---


@pytest.fixture
def large(monkeypatch: pytest.MonkeyPatch) -> tuple[Tensor, TextFeatures]:
    """Beyond the size from which a fused backend is taken by itself."""
    x, text = inputs_of(Case((3, 8, 80, 90), padded=True), torch.float32)
    monkeypatch.setattr(dispatch, "WORTHWHILE", 1 << 17)
    assert x.numel() >= dispatch.WORTHWHILE
    return x, text


@pytest.mark.parametrize("cue", CUES)
def test_forward_mode(cue: str, large: tuple[Tensor, TextFeatures]) -> None:
    x, text = large
    layer, tangent = layer_of(cue, 8, torch.float32).eval(), torch.randn_like(x)

    def derivative(x: Tensor, tangent: Tensor) -> Tensor:
        return torch.func.jvp(lambda q: layer(q, text), (x,), (tangent,))[1]

    with ops.use_backend("eager"):
        want = derivative(x, tangent)
    assert want.abs().max() > 1
    close(derivative(x, tangent), want)
    with forward_ad.dual_level():
        close(forward_ad.unpack_dual(layer(forward_ad.make_dual(x, tangent), text)).tangent, want)
    torch._dynamo.reset()
    compiled = torch.compile(derivative, backend="aot_eager", fullgraph=True)
    close(compiled(x, tangent), want)


@pytest.mark.parametrize("backend", ["auto", "cpu", "triton"])
@pytest.mark.parametrize("cue", CUES)
def test_compiled_transforms(cue: str, backend: ops.Backend, large: tuple[Tensor, TextFeatures]) -> None:
    x, text = large[0][..., :9, :8].contiguous() if backend == "triton" else large[0], large[1]
    layer = layer_of(cue, 8, torch.float32).eval()

    def gradient(x: Tensor) -> Tensor:
        return torch.func.grad(lambda q: layer(q, text).square().sum())(x)

    def derivative(x: Tensor) -> Tensor:
        return torch.func.jvp(lambda q: layer(q, text), (x,), (torch.ones_like(x),))[1]

    def each(x: Tensor) -> Tensor:
        return torch.func.vmap(lambda q: layer(q[None], text.select(slice(1)))[0])(x)

    for function in (gradient, derivative, each):
        with ops.use_backend("eager"):
            want = function(x)
        torch._dynamo.reset()
        with ops.use_backend(backend):
            compiled = torch.compile(function, backend="aot_eager", fullgraph=True)
            close(compiled(x), want, rtol=1e-4, atol=1e-4)


class Spread(nn.Module):
    """torch.jit makes a plain tuple of a named one, so what it traces takes tensors."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor, *text: Tensor) -> Tensor:
        return self.layer(x, TextFeatures(*text))


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("backend", ["auto", "cpu", "triton"])
@pytest.mark.parametrize("cue", CUES)
def test_recorded_graphs_hold_pytorchs_own_operations(
    cue: str, backend: ops.Backend, large: tuple[Tensor, TextFeatures]
) -> None:
    x, text = large[0][..., :9, :8].contiguous() if backend == "triton" else large[0], large[1]
    layer = layer_of(cue, 8, torch.float32).eval()
    want = layer(x, text)
    spread = Spread(layer)
    with ops.use_backend(backend):
        traced = torch.jit.trace(spread, (x, *text))
        made = make_fx(layer)(x, text)
        exported = torch.export.export(layer, (x, text))
    file = io.BytesIO()
    torch.jit.save(traced, file)
    assert b"scbn::" not in file.getvalue()
    file.seek(0)
    close(torch.jit.load(file)(x, *text), want, rtol=1e-4, atol=1e-4)
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


@pytest.mark.filterwarnings("ignore:.*LeafSpec.*is deprecated:FutureWarning")  # torch 2.13's own
def test_a_compiled_program_runs_in_another_process(tmp_path: Path) -> None:
    model, arguments, want = exportable("both")
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
