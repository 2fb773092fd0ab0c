"""Disentangling, measured: one word of a caption changes; does the part change that it names, and nothing else?

For the drawn birds, whose attributes a classifier reads and whose parts' places the drawing knows.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from examples.sdgan.data.birds.attributes import COLOURS, Birds
from examples.sdgan.data.dataset import to_float
from examples.sdgan.data.drawn import Drawn
from examples.sdgan.data.noise import fixed_noise
from examples.sdgan.inference.sampler import Sampler
from examples.sdgan.metrics.caption_fidelity import AttributeReader
from examples.sdgan.metrics.interval import bootstrap

PARTS = ("crown", "wing", "belly")
_RARE = 0.02  # of the drawn birds: where fewer have a part, it is not
_PLACED = 400


def edits(sampler: Sampler, reader: AttributeReader, count: int, seed: int, drawn: Drawn) -> dict[str, Any]:
    """Measure edits of generated birds; each with its 95 % interval over birds.

    A caption names size, crown, belly and wings, of colours drawn independently; one of the three colours is replaced,
    and the bird drawn again from the same noise.

    Args:
        sampler: the trained generator.
        reader: of attributes.
        count: birds.
        seed: of birds and edits.
        drawn: what was trained on.

    Returns:
        ``edit_success``: the reader finds the new colour on the part. ``edit_leakage``: of the attributes that the edit
        does not name, those it reads otherwise than before. ``edit_outside``: of the change of all pixels, what lies
        where drawn birds of any pose do not have the part. ``binding``: of captions with a colour for the crown and
        another for the wings, and the same with both swapped, those of which all four are right.
    """
    labels, edited, part = edited_birds(count, seed, drawn)
    noise = fixed_noise(count, sampler.config.generator.noise_dim, seed=5)
    images = [sampler.images([caption(row, drawn) for row in rows.tolist()], noise) for rows in (labels, edited)]
    found = compare(images[0], images[1], edited, part, reader, places(sampler.config.size, drawn))
    swapped = swapped_birds(labels, drawn)
    pairs = [sampler.images([two_parts(row, drawn) for row in rows.tolist()], noise) for rows in swapped]
    return {**found, "binding": _share(bound(pairs, swapped, reader, drawn), torch.ones(count))}


def edited_birds(count: int, seed: int, drawn: Drawn) -> tuple[Tensor, Tensor, Tensor]:
    """Birds (N, A), the same with another colour of one part, and the column of that part (N,)."""
    rng = torch.Generator().manual_seed(seed + 31)
    labels = drawn.independent(count, rng)
    part = torch.tensor([drawn.names.index(name) for name in PARTS])[
        torch.randint(len(PARTS), (count,), generator=rng)
    ]
    shift = 1 + torch.randint(len(COLOURS) - 1, (count,), generator=rng)
    edited, row = labels.clone(), torch.arange(count)
    edited[row, part] = (labels[row, part] + shift) % len(COLOURS)
    return labels, edited, part


def swapped_birds(labels: Tensor, drawn: Drawn) -> tuple[Tensor, Tensor]:
    """The birds with wings of another colour than the crown, and the same with both colours swapped."""
    crown, wing = drawn.names.index("crown"), drawn.names.index("wing")
    first = labels.clone()
    first[:, wing] = torch.where(labels[:, wing] == labels[:, crown], (labels[:, wing] + 1) % 7, labels[:, wing])
    second = first.clone()
    second[:, [crown, wing]] = first[:, [wing, crown]]
    return first, second


def caption(row: list[int], drawn: Drawn) -> str:
    """Of a bird, naming its size and the three parts that edits change."""
    size, crown, wing, belly = _words(row, drawn)
    return f"a {size} bird with a {crown} crown and a {belly} belly and {wing} wings"


def two_parts(row: list[int], drawn: Drawn) -> str:
    """Of a bird, naming crown and wings."""
    _, crown, wing, _ = _words(row, drawn)
    return f"a bird with a {crown} crown and {wing} wings"


def _words(row: list[int], drawn: Drawn) -> list[str]:
    return [drawn.attributes[name][row[drawn.names.index(name)]] for name in ("size", "crown", "wing", "belly")]


def places(size: int, drawn: Drawn) -> Tensor:
    """(A, size, size) bool: where drawn birds have each part, in any pose; nowhere for what has no place."""
    labels, _, _ = edited_birds(_PLACED, 0, drawn)
    found = torch.zeros(len(drawn.names), size, size, dtype=torch.bool)
    species = torch.zeros(len(labels), dtype=torch.int64)
    for name in PARTS:
        column = drawn.names.index(name)
        both = []
        for colour in (COLOURS.index("white"), COLOURS.index("black")):
            labels[:, column] = colour
            both.append(drawn.draw(Birds(labels, species), size, 11).int())
        found[column] = ((both[0] - both[1]).abs().amax(1) > 8).double().mean(0) > _RARE
    return found


def compare(
    before: Tensor, after: Tensor, wanted: Tensor, part: Tensor, reader: AttributeReader, where: Tensor
) -> dict[str, Any]:
    """Success and leakage of edits.

    Args:
        before, after: (N, 3, S, S) in [-1, 1].
        wanted: (N, A) what the edited captions ask for; part: (N,) the column that was edited.
        reader: of attributes.
        where: as :func:`places`.
    """
    read = [reader.read(images) for images in (before, after)]
    row = torch.arange(len(part))
    others = torch.ones_like(wanted, dtype=torch.bool)
    others[row, part] = False
    success = (read[1][row, part] == wanted[row, part]).double()
    leaked = ((read[0] != read[1]) & others).double().sum(1)
    change = (before - after).abs().double().mean(1)
    outside = (change * ~where[part]).flatten(1).sum(1)
    return {
        "edit_success": _share(success, torch.ones(len(part))),
        "edit_leakage": _share(leaked, others.double().sum(1)),
        "edit_outside": _share(outside, change.flatten(1).sum(1)),
    }


def bound(pairs: list[Tensor], wanted: tuple[Tensor, Tensor], reader: AttributeReader, drawn: Drawn) -> Tensor:
    """(N,) 1 where crown and wings have their colours in both pictures, else 0."""
    columns = [drawn.names.index("crown"), drawn.names.index("wing")]
    right = [
        (reader.read(images) == labels)[:, columns].all(1) for images, labels in zip(pairs, wanted, strict=True)
    ]
    return (right[0] & right[1]).double()


def of_drawings(reader: AttributeReader, count: int, seed: int, size: int, drawn: Drawn) -> dict[str, Any]:
    """The same measures of the drawings themselves: what is best, and the reader's own mistakes."""
    labels, edited, part = edited_birds(count, seed, drawn)
    species = torch.zeros(count, dtype=torch.int64)

    def image(rows: Tensor) -> Tensor:
        return to_float(drawn.draw(Birds(rows, species), size, 12))

    found = compare(image(labels), image(edited), edited, part, reader, places(size, drawn))
    swapped = swapped_birds(labels, drawn)
    return {
        **found,
        "binding": _share(bound([image(rows) for rows in swapped], swapped, reader, drawn), torch.ones(count)),
    }


def _share(part: Tensor, whole: Tensor) -> dict[str, Any]:
    """Sum over sum, with a bootstrap over birds."""
    low, high = bootstrap(len(part), lambda draws: part[draws].sum(1) / whole[draws].sum(1))
    value = float(part.sum() / whole.sum())
    return {"value": round(value, 4), "interval_95": [round(low, 4), round(high, 4)], "images": len(part)}
