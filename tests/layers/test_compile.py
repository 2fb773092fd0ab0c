"""torch.compile without graph breaks, and torch.export with dynamic sizes."""

from __future__ import annotations

import copy

import pytest
import torch
from helpers.cases import CUES, Case, inputs_of, layer_of
from torch.export import Dim

from scbn import SiameseContrastiveLoss, TextFeatures, TreeGenerator

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.usefixtures("backend")]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("cue", CUES)
def test_compiles_to_one_graph(cue: str, training: bool) -> None:
    torch._dynamo.reset()
    layer = layer_of(cue, 8, torch.float32).train(training)
    eager = copy.deepcopy(layer)
    compiled = torch.compile(layer, fullgraph=True)
    for case in (Case((3, 8, 4, 5), padded=True), Case((4, 8, 6, 5), words=7, padded=True)):
        x, text = inputs_of(case, torch.float32)
        x2 = x.clone().requires_grad_()
        x.requires_grad_()
        y, want = compiled(x, text), eager(x2, text)
        torch.testing.assert_close(y, want, rtol=1e-4, atol=1e-4)
        y.square().sum().backward()
        want.square().sum().backward()
        torch.testing.assert_close(x.grad, x2.grad, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(layer.bn.running_var, eager.bn.running_var)
    assert torch.equal(layer.bn.num_batches_tracked, eager.bn.num_batches_tracked)


@pytest.mark.parametrize("momentum", [0.1, None])
def test_a_cumulative_average_needs_no_graph_break(momentum: float | None) -> None:
    torch._dynamo.reset()
    layer = layer_of("sentence", 8, torch.float32, momentum=momentum)
    x, text = inputs_of(Case((3, 8, 4, 5)), torch.float32)
    torch.compile(layer, fullgraph=True, backend="eager")(x, text)


def test_generator_and_loss_compile_to_one_graph() -> None:
    torch._dynamo.reset()
    model = TreeGenerator(5, 6, stages=2, base_size=8, channels=4, residual_blocks=1, noise_dim=3, condition_dim=4)
    loss = SiameseContrastiveLoss()

    def f(noise, text, condition_noise):
        output = model(noise, text, condition_noise=condition_noise)
        features = [image.mean((2, 3)) for image in output.images]
        return output, loss([v[:2] for v in features], [v[2:] for v in features], torch.tensor([True, False]))

    text = TextFeatures(torch.randn(4, 5), torch.randn(4, 3, 6), torch.zeros(4, 3, dtype=torch.bool))
    arguments = torch.randn(4, 3), text, torch.randn(4, 4)
    (output, value), (want, want_value) = (
        torch.compile(f, fullgraph=True, backend="aot_eager")(*arguments),
        f(*arguments),
    )
    for image, expected in zip(output.images, want.images, strict=True):
        torch.testing.assert_close(image, expected, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(value, want_value, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("text_dtype", [torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("cue", CUES)
def test_text_of_another_dtype_than_the_layers_compiles(cue: str, text_dtype: torch.dtype) -> None:
    torch._dynamo.reset()
    layer = layer_of(cue, 8, torch.float32).eval()
    x, text = inputs_of(Case((3, 8, 4, 5), padded=True), torch.float32)
    text = text.to(text_dtype)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x, text), layer(x, text), rtol=1e-4, atol=1e-4)


def test_text_of_another_dtype_than_the_generators_compiles() -> None:
    torch._dynamo.reset()
    model = TreeGenerator(5, 6, stages=1, base_size=4, channels=2, residual_blocks=1, noise_dim=3, condition_dim=4)
    text = TextFeatures(torch.randn(4, 5), torch.randn(4, 3, 6)).to(torch.bfloat16)
    noise, condition_noise = torch.randn(4, 3), torch.randn(4, 4)
    compiled = torch.compile(model.eval(), fullgraph=True, backend="aot_eager")
    got, want = (net(noise, text, condition_noise=condition_noise).images[0] for net in (compiled, model))
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("cue", CUES)
def test_exports_with_dynamic_batch_height_and_width(cue: str) -> None:
    layer = layer_of(cue, 8, torch.float32).eval()
    x, text = inputs_of(Case((3, 8, 4, 5), padded=True), torch.float32)
    n, h, w = Dim("n", min=2, max=64), Dim("h", min=2, max=256), Dim("w", min=2, max=256)
    spec = ({0: n, 2: h, 3: w}, TextFeatures({0: n}, {0: n}, {0: n}))
    program = torch.export.export(layer, (x, text), dynamic_shapes=spec)
    for shape in ((3, 8, 4, 5), (7, 8, 16, 9)):
        x, text = inputs_of(Case(shape, padded=True), torch.float32)
        torch.testing.assert_close(program.module()(x, text), layer(x, text))
