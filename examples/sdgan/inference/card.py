"""A model's card, ``model/README.md``, in the format of the Hugging Face hub: what it is, knows, and was measured at."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from examples.sdgan.config import Config
from examples.sdgan.data.drawn import DRAWN

_DATA = {
    "toy": "birds drawn by the program that trained it; nobody's photographs",
    "birds-hard": "birds drawn by the program that trained it; nobody's photographs",
    "cub": "CUB-200-2011, whose photographs are for non-commercial research, with the captions of Reed et al.",
    "coco": "MS-COCO, whose photographs have licences of their own, with its captions",
    "folder": "images and captions of a folder; whoever shares the model says which, and under which licence",
}
_TOLD = {
    "caption_fidelity": "Share of the attributes named in held-out captions that a classifier finds in the pictures",
    "unseen_caption_fidelity": "The same for combinations of crown and wings that no training bird has",
    "novel_caption_fidelity": "The same for birds whose attributes were drawn independently",
    "chance": "Caption fidelity by chance",
    "r_precision": "How often the matching network that it was trained with finds the caption among {candidates}",
    "matching_distance": "Fréchet distance in that network's features",
}


def write_card(folder: Path, config: Config, metrics: Mapping[str, Any], example: str, picture: Path) -> None:
    """Write ``README.md`` into an exported model's folder, with the picture beside it if there is one.

    Args:
        folder: ``OUT/model``.
        config: of the run.
        metrics: what was measured, as in ``metrics.json``; values with intervals are told.
        example: a caption of the kind that the model knows.
        picture: of generated images.
    """
    measured = {name: metrics[name] for name in _TOLD if isinstance(metrics.get(name), Mapping)}
    shown = picture.is_file()
    if shown:
        shutil.copyfile(picture, folder / "samples.png")
    (folder / "README.md").write_text(
        _front(config, measured) + _body(config, metrics, measured, example, shown), encoding="utf-8"
    )


def _front(config: Config, measured: Mapping[str, Any]) -> str:
    """The part that programs read: YAML, of which JSON is a part."""
    name = config.out.name or "model"
    results = [
        {
            "task": {"type": "text-to-image"},
            "dataset": {"name": config.data, "type": config.data},
            "metrics": [
                {"type": key, "name": key.replace("_", " "), "value": value["value"]}
                for key, value in measured.items()
            ],
        }
    ]
    fields: dict[str, Any] = {
        "license": "mit" if config.data in DRAWN else "other",
        "pipeline_tag": "text-to-image",
        "library_name": "scbn",
        "language": "en",
        "tags": ["scbn", "sd-gan" if config.generator.architecture == "tree" else "attngan", "gan"],
    }
    if measured:
        fields["model-index"] = [{"name": name, "results": results}]
    lines = [f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in fields.items()]
    return "\n".join(["---", *lines, "---", ""])


def _body(
    config: Config, metrics: Mapping[str, Any], measured: Mapping[str, Any], example: str, shown: bool
) -> str:
    g = config.generator
    norms = " ".join(dict.fromkeys(g.norms or (g.norm,)))
    plain = norms == "batch"
    tree = "SD-GAN's generator" + (" with attention to words" if g.attention else "")
    what = tree if g.architecture == "tree" else "AttnGAN" if g.architecture == "attngan" else "AttnDCGAN"
    if g.architecture != "tree" and not plain:
        what += " with SCBN"
    parts = [f"# {what}, {config.size} px, {config.data}"]
    if shown:
        parts.append("![Images generated from captions](samples.png)")
    parts += [
        f"A text-to-image generator ([SD-GAN](https://arxiv.org/abs/1904.01480), scbn): norm `{norms}`, channels "
        f"{tuple(g.channels)}, {_trained(metrics)} of {config.batch_size} pairs. It knows captions such as "
        f'"{example}", and little beyond what such captions say.',
        f"**Data:** {_DATA[config.data]}.",
        "## Load it\n\nIn a clone of the code:\n\n"
        "```python\nimport torch\nfrom pathlib import Path\n"
        "from examples.sdgan.inference.export import load_sampler\n\n"
        'sampler = load_sampler(Path("model"))  # this folder\n'
        f"images = sampler.images([{json.dumps(example)}], torch.randn(1, {g.noise_dim}))\n```\n\n"
        f"`images` is (1, 3, {config.size}, {config.size}) in [-1, 1]. `python -m examples.sdgan.sample --checkpoint "
        "model` writes a picture.",
    ]
    if measured:
        rows = "".join(
            f"| {_TOLD[name].format(candidates=value.get('candidates', 100))} | {_value(value)} |\n"
            for name, value in measured.items()
        )
        parts.append(f"## Measured\n\n| | value [95 % interval] |\n|---|---|\n{rows}".rstrip())
    parts += [
        f"## Recipe\n\nEvery option is in `config.json`; torch {metrics['torch']}, seed {config.seed}.{_text(config)}",
        "## Not measured\n\nNo person has judged the pictures. Words that the text encoder does not know are left out "
        "or unknown.",
    ]
    return "\n\n".join(parts) + "\n"


def _trained(metrics: Mapping[str, Any]) -> str:
    """Of a retrofit, from where it began."""
    if "before_steps" not in metrics:
        return f"{metrics['steps']:,} steps"
    given = metrics.get("checkpoint")
    start = f"the weights of {given}" if given else f"{metrics['before_steps']:,} steps without SCBN"
    return f"fine-tuned from {start} for {metrics['steps']:,} steps"


def _text(config: Config) -> str:
    e = config.encoder
    return f" Its text encoder is `{Path(e.text).name}`, which loading needs too." if e.text else ""


def _value(found: Mapping[str, Any]) -> str:
    interval = found.get("interval_95")
    value = f"{found['value']:.3f}"
    return value if interval is None else f"{value} [{interval[0]:.3f}, {interval[1]:.3f}]"
