"""Every check of the arguments of layers, loss and generator.

Static facts only (types, shapes, dtypes, layouts, devices): nothing here reads a value from a tensor, so nothing
synchronises with a device or breaks ``torch.compile(fullgraph=True)``. Elsewhere stands only what cannot be told from an
argument alone: :class:`scbn.TextFeatures`, which these checks are written in terms of, checks how it is put together,
and a retrofit says what it does not find in a model where it looks for it.
"""

from __future__ import annotations

from scbn.checks import generator, loss
from scbn.checks.captions import both_cues, sentence_cue, text_features, word_cue
from scbn.checks.features import at_hand, batch_values, beside, dense, floating, meets, not_symbolic, visual
from scbn.checks.settings import adoptable, finite, hidden_width, norm, parameter_dtype, positive

__all__ = [
    "adoptable",
    "at_hand",
    "batch_values",
    "beside",
    "both_cues",
    "dense",
    "finite",
    "floating",
    "generator",
    "hidden_width",
    "loss",
    "meets",
    "norm",
    "not_symbolic",
    "parameter_dtype",
    "positive",
    "sentence_cue",
    "text_features",
    "visual",
    "word_cue",
]
