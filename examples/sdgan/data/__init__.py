"""Captioned images: the embedded birds, CUB-200-2011 and MS-COCO, behind one interface."""

from examples.sdgan.data.dataset import CaptionedImages, DataError, ImageSource
from examples.sdgan.data.open import open_data
from examples.sdgan.data.pairs import PairBatch, SiamesePairs

__all__ = ["CaptionedImages", "DataError", "ImageSource", "PairBatch", "SiamesePairs", "open_data"]
