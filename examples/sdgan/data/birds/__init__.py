"""Procedurally drawn birds with captions and exact labels: the embedded data set."""

from examples.sdgan.data.birds.attributes import ATTRIBUTES, Birds, likeliest, sample_birds
from examples.sdgan.data.birds.drawing import draw
from examples.sdgan.data.birds.grammar import describe
from examples.sdgan.data.birds.strangers import reworded

__all__ = ["ATTRIBUTES", "Birds", "describe", "draw", "likeliest", "reworded", "sample_birds"]
