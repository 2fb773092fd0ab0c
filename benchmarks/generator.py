"""The whole generator: what the norms cost where convolutions do most of the work."""

from __future__ import annotations

from collections.abc import Callable

import torch

from benchmarks.run import DIM, LAYOUTS, Row, text_of
from benchmarks.timing import Setting, seconds
from scbn import TreeGenerator

NORMS = {
    "generator, plain": None,
    "generator, sentence": "sentence",
    "generator, word": "word",
    "generator, both": "both",
}


def measure_generator(setting: Setting, samples: int, channels: int, report: Callable[[str], None]) -> list[Row]:
    """Forward and backward of the 3-stage generator at 64, 128 and 256 px, with each norm; alternating rounds."""
    text, noise = text_of(samples, setting.words, setting.device), torch.randn(samples, 100, device=setting.device)
    shape = (samples, channels, 256, 256)
    rows, steps, stills = [], [], []
    for name, norm in NORMS.items():
        torch.manual_seed(0)
        model = TreeGenerator(DIM, DIM, stages=3, base_size=64, channels=channels, norm=norm or "batch")
        model.to(setting.device).to(memory_format=LAYOUTS[setting.layout])
        rows.append(Row(name, shape, setting.words))

        def step(model=model) -> None:
            model.zero_grad()
            model.train()
            sum(image.square().mean() for image in model(noise, text).images).backward()  # pyright: ignore

        def still(model=model) -> None:
            model.eval()
            with torch.no_grad():
                model(noise, text)

        steps.append(step)
        stills.append(still)
    for number in range(setting.rounds + 1):
        for row, step, still in zip(rows, steps, stills, strict=True):
            report(f"round {number}/{setting.rounds} {row.candidate}")
            times = seconds(step, setting), seconds(still, setting)
            if number:
                row.step.append(times[0])
                row.inference.append(times[1])
    return rows
