"""A trained model as programs that need none of this code: ONNX, or PyTorch's exported programs.

Two programs, so that whoever runs them can walk between two captions or draw many images of one:

``text_encoder``: tokens (N, T) int64, 0 = padding -> sentence (N, D), words (N, T, D), padding_mask (N, T) bool.
``generator``: noise (N, Z), sentence, words, padding_mask -> images (N, 3, S, S) in [-1, 1], of the last stage.

N may be up to 4,096, T up to the longest caption that training allowed.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from examples.sdgan.data.vocabulary import PADDING
from examples.sdgan.inference.sampler import Sampler
from examples.sdgan.models.encoders import AnyTextEncoder, TextEncoder
from scbn import TextFeatures

Format = Literal["onnx", "torch"]
NAMES = ("text_encoder", "generator")
SUFFIX: dict[Format, str] = {"onnx": ".onnx", "torch": ".pt2"}
INPUTS = (("tokens",), ("noise", "sentence", "words", "padding_mask"))
OUTPUTS = (("sentence", "words", "padding_mask"), ("images",))


class UnrolledTextEncoder(nn.Module):
    """The LSTM or GRU as steps of one word each: packed sequences are no tensors, and no exporter takes them.

    Args:
        encoder: whose weights it shares.
        words: the longest caption, so many steps are unrolled in each direction.
    """

    def __init__(self, encoder: TextEncoder, words: int) -> None:
        super().__init__()
        self.embedding, self.most = encoder.embedding, words
        rnn: Any = encoder.get_submodule(encoder.kind)
        cell = nn.LSTMCell if encoder.kind == "lstm" else nn.GRUCell
        self.cells = nn.ModuleList()
        for direction in ("", "_reverse"):
            made = cell(rnn.input_size, rnn.hidden_size)
            for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
                setattr(made, name, getattr(rnn, f"{name}_l0{direction}"))
            self.cells.append(made)

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        length = tokens.shape[1]
        room = tokens.new_full((tokens.shape[0], self.most), PADDING)
        tokens = torch.cat((tokens, room), 1)[:, : self.most]
        mask = tokens == PADDING
        embedded = self.embedding(tokens)
        # As the packed sequence has it: an empty caption is one step long.
        first = torch.arange(self.most, device=tokens.device) == 0
        steps = (~mask | first)[:, :, None]
        there, last = self._run(self.cells[0], embedded, steps, range(self.most))
        back, start = self._run(self.cells[1], embedded, steps, range(self.most - 1, -1, -1))
        words = torch.cat((there, back), 2) * steps
        # By indices: a slice of all words would have other strides, and is traced as of fewer words alone.
        given = torch.arange(length, device=tokens.device)
        return torch.cat((last, start), 1), words[:, given], mask[:, given]

    def _run(self, cell: nn.Module, x: Tensor, steps: Tensor, order: Sequence[int]) -> tuple[Tensor, Tensor]:
        """The states after every word, (N, T, H), and the last of them; padding leaves them as they are."""
        hidden = state = x.new_zeros(x.shape[0], cell.hidden_size)  # pyright: ignore[reportArgumentType, reportCallIssue]
        states: list[Tensor] = [hidden] * self.most
        for t in order:
            if isinstance(cell, nn.LSTMCell):
                new, kept = cell(x[:, t], (hidden, state))
                state = torch.where(steps[:, t], kept, state)
            else:
                new = cell(x[:, t], hidden)
            hidden = torch.where(steps[:, t], new, hidden)
            states[t] = hidden
        return torch.stack(states, 1), hidden


class _Text(nn.Module):
    def __init__(self, encoder: AnyTextEncoder, words: int) -> None:
        super().__init__()
        self.encoder = (
            UnrolledTextEncoder(encoder, words) if isinstance(encoder, TextEncoder) else encoder.traceable()
        )

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self.encoder(tokens)


class _Images(nn.Module):
    def __init__(self, generator: nn.Module) -> None:
        super().__init__()
        self.generator = generator

    def forward(self, noise: Tensor, sentence: Tensor, words: Tensor, padding_mask: Tensor) -> Tensor:
        return self.generator(noise, TextFeatures(sentence, words, padding_mask)).images[-1]


def modules(sampler: Sampler) -> tuple[nn.Module, nn.Module]:
    """What is exported, as modules in eval mode."""
    text = _Text(sampler.text, sampler.config.encoder.words)
    return text.eval(), _Images(sampler.generator).eval()


def arguments(
    sampler: Sampler, captions: Sequence[str], seed: int = 0
) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """Arguments of both programs, for captions and some noise."""
    tokens = sampler.tokens(list(captions))
    # Contiguous: strides would be traced as sizes.
    tokens = tokens[:, : max(2, int((tokens != PADDING).sum(1).max()))].contiguous()
    with torch.no_grad():
        text = sampler.text(tokens)
    assert text.sentence is not None and text.words is not None and text.padding_mask is not None
    size = (len(captions), sampler.config.generator.noise_dim)
    noise = torch.randn(size, generator=torch.Generator().manual_seed(seed))
    return (tokens,), (noise, text.sentence, text.words, text.padding_mask)


def write_programs(sampler: Sampler, folder: Path, kind: Format, captions: Sequence[str]) -> list[Path]:
    """Export both programs.

    Args:
        sampler: the trained model, on the CPU.
        folder: to write into; it must exist.
        kind: ``"onnx"`` or ``"torch"``.
        captions: two at least, to trace with.
    """
    n = torch.export.Dim("n", min=1, max=4096)
    most = sampler.config.encoder.words
    t = torch.export.Dim("t", min=1, max=most) if most > 1 else None
    shapes = (({0: n, 1: t},), ({0: n}, {0: n}, {0: n, 1: t}, {0: n, 1: t}))
    paths = []
    examples = arguments(sampler, captions)
    for i, (name, module) in enumerate(zip(NAMES, modules(sampler), strict=True)):
        path = folder / f"{name}{SUFFIX[kind]}"
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the exporters' own, of every version others
            program = torch.export.export(module, examples[i], dynamic_shapes=shapes[i], strict=False)
            if kind == "torch":
                torch.export.save(program, path)
            else:
                made = torch.onnx.export(
                    program,
                    input_names=INPUTS[i],
                    output_names=OUTPUTS[i],
                    dynamo=True,
                    verbose=False,
                )
                assert made is not None
                for node in made.model.graph:  # where it was traced: folders of this machine
                    node.metadata_props.clear()
                made.save(path)
        paths.append(path)
    return paths
