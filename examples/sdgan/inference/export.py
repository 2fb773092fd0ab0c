"""A trained model as safetensors with its options beside them: nothing to unpickle."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from examples.sdgan.config import Config, from_json
from examples.sdgan.data.vocabulary import Vocabulary
from examples.sdgan.inference.sampler import Sampler
from examples.sdgan.models import checkpoint
from examples.sdgan.models.encoders import InceptionImageEncoder, SmallImageEncoder, image_encoder

ImageEncoder = SmallImageEncoder | InceptionImageEncoder


def write_model(folder: Path, sampler: Sampler, image: nn.Module) -> None:
    """``generator``, ``text_encoder`` and ``image_encoder.safetensors``, ``config.json``, ``vocabulary.json``."""
    unfinished = folder.with_name(f"{folder.name}.part")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    parts = {"generator": sampler.generator, "text_encoder": sampler.text, "image_encoder": image}
    for name, module in parts.items():
        weights = {key: value.contiguous() for key, value in module.state_dict().items()}
        save_file(weights, unfinished / f"{name}.safetensors", metadata={"config": sampler.config.to_share()})
    (unfinished / "config.json").write_text(sampler.config.to_share() + "\n", encoding="utf-8")
    words: Any = list(sampler.vocabulary.known)
    if sampler.vocabulary.published:
        words = {"published": True, "words": words}
    (unfinished / "vocabulary.json").write_text(json.dumps(words) + "\n", encoding="utf-8")
    shutil.rmtree(folder, ignore_errors=True)
    unfinished.rename(folder)


def load_sampler(path: Path) -> Sampler:
    """The sampler, from a checkpoint or from what :func:`write_model` wrote.

    Args:
        path: ``OUT/checkpoint.pt``, ``OUT/model``, or OUT itself, of which the newer of both is taken.

    Raises:
        checkpoint.CheckpointError: a file is missing, broken, foreign, or its weights do not fit its options.
    """
    path = _newer(path)
    if not path.is_dir():
        return Sampler.load(path)
    folder, options = _open(path)
    try:
        vocabulary = _vocabulary(_json(folder / "vocabulary.json"))
    except (ValueError, TypeError, KeyError) as error:
        raise checkpoint.CheckpointError(f"{folder / 'vocabulary.json'}: {error}") from error
    weights = {
        "text": _weights(folder / "text_encoder.safetensors"),
        "ema": _weights(folder / "generator.safetensors"),
    }
    return Sampler.of(folder, weights, options, vocabulary)


def _vocabulary(content: Any) -> Vocabulary:
    """A list of words, or, numbered as a published text encoder's, a dict that says so."""
    if isinstance(content, dict):
        return Vocabulary(content["words"], content.get("published") is True)
    return Vocabulary(content)


def load_image_encoder(path: Path) -> ImageEncoder:
    """The matching network's image encoder, from where :func:`load_sampler` finds the rest.

    Raises:
        checkpoint.CheckpointError: as there.
    """
    path = _newer(path)
    if path.is_dir():
        folder, options = _open(path)
        weights = _weights(folder / "image_encoder.safetensors")
    else:
        state = checkpoint.load(path)
        options, weights = from_json(state["config"]), state["image"]
    # The trunk's weights come with the file: nothing to download.
    encoder = image_encoder(options, weights="random")
    try:
        encoder.load_state_dict(weights)
    except RuntimeError as error:
        raise checkpoint.CheckpointError(
            f"{path}: the image encoder does not fit its options ({error})"
        ) from error
    return encoder.eval()


def load_fingerprints(path: Path) -> dict[str, Any]:
    """What the run's training data was, from the checkpoint; empty where that is not known."""
    path = _newer(path)
    if path.is_dir():
        path = _open(path)[0].parent / "checkpoint.pt"
        if not path.is_file():
            return {}
    return checkpoint.load(path).get("data", {})


def _newer(path: Path) -> Path:
    """Of a run's folder, the model or the checkpoint: a run that went on has not written its model yet."""
    written, saved = path / "model" / "vocabulary.json", path / "checkpoint.pt"
    if saved.is_file() and not (written.is_file() and written.stat().st_mtime >= saved.stat().st_mtime):
        return saved
    return path


def _open(path: Path) -> tuple[Path, Config]:
    folder = path / "model" if (path / "model").is_dir() else path
    config = _json(folder / "config.json")
    if not isinstance(config, dict):
        raise checkpoint.CheckpointError(f"{folder / 'config.json'}: must hold an object with the options")
    try:
        return folder, _with_folders(folder, from_json(json.dumps(config)))
    except (ValueError, TypeError) as error:
        raise checkpoint.CheckpointError(f"{folder / 'config.json'}: {error}") from error


def _with_folders(folder: Path, config: Config) -> Config:
    """With the folders of this machine again, which a model does not carry.

    They are known to its run's checkpoint, if that is beside it; a text model is also looked for in and beside the folder.
    """
    kept, text = folder.parent / "checkpoint.pt", config.encoder.text
    named = [str(path) for path in (config.root, text) if path]
    if all(Path(path).exists() for path in named):
        return config
    if kept.is_file():
        state = checkpoint.load(kept)
        known = from_json(state.get("ema_config", state["config"]))
        if known.to_share() == config.to_share():
            return known
    found = next((place / text for place in (folder, folder.parent) if text and (place / text).is_dir()), None)
    if found is None:
        return config
    return dataclasses.replace(config, encoder=dataclasses.replace(config.encoder, text=str(found)))


def _weights(path: Path) -> dict[str, Any]:
    try:
        weights = load_file(path)
    except (OSError, SafetensorError) as error:
        raise checkpoint.CheckpointError(f"{path}: missing, or not a safetensors file ({error})") from error
    try:
        for name, value in weights.items():
            checkpoint.check_weights(repr(name), value)
    except ValueError as error:
        raise checkpoint.CheckpointError(f"{path}: {error}") from error
    return weights


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise checkpoint.CheckpointError(
            f"{path}: missing, or not JSON ({error}); point to OUT/model of a finished run, or to OUT/checkpoint.pt"
        ) from error
