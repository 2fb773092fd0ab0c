"""The model that a retrofit began with, as its run keeps it."""

from __future__ import annotations

from pathlib import Path

from examples.attngan.run import CONTROL, FINE_TUNING, plain
from examples.sdgan.config import from_json
from examples.sdgan.data.vocabulary import Vocabulary
from examples.sdgan.inference.sampler import Sampler
from examples.sdgan.models import checkpoint


def load_before(path: Path) -> Sampler | None:
    """The AttnGAN before the retrofit, or ``None`` of a run that is no retrofit or keeps none.

    Args:
        path: ``OUT``, ``OUT/model`` or ``OUT/checkpoint.pt``.

    Raises:
        checkpoint.CheckpointError: the checkpoint is broken.
    """
    folder = path if path.is_dir() else path.parent
    places = [path, folder / "checkpoint.pt"]
    if folder.name == "model":
        places.append(folder.parent / "checkpoint.pt")
    file = next((place for place in places if place.is_file()), None)
    if file is None:
        return None
    try:
        state = checkpoint.load(file)
    except checkpoint.CheckpointError:
        if file == path:
            raise
        return None  # the model itself is whole
    phases = state["phases"]
    kept = (phases.get(FINE_TUNING) or phases.get(CONTROL) or {}).get("kept", {})
    if "before" not in kept:
        return None
    vocabulary = Vocabulary(state["vocabulary"], state.get("published_vocabulary", False))
    config = plain(from_json(state["config"]))
    return Sampler.of(file, {"text": state["text"], "ema": kept["before"]}, config, vocabulary)
