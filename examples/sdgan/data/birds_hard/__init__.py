"""Drawn birds with more to say of them: fourteen attributes, patterns, places, synonyms, combinations held out."""

from examples.sdgan.data.birds_hard.attributes import ATTRIBUTES, HELD_OUT, held_out, sample_birds
from examples.sdgan.data.birds_hard.drawing import draw
from examples.sdgan.data.birds_hard.grammar import describe

__all__ = ["ATTRIBUTES", "HELD_OUT", "describe", "draw", "held_out", "sample_birds"]
