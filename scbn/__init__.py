"""Semantic-conditioned batch normalisation and its companions, from SD-GAN (CVPR 2019, arXiv 1904.01480)."""

from scbn import ops as ops
from scbn.attention import VisualSemanticEmbedding
from scbn.generator.tree import TreeGenerator, TreeOutput
from scbn.loss import SiameseContrastiveLoss
from scbn.retrofitting.attngan import retrofit_attngan
from scbn.retrofitting.binding import checkpoint
from scbn.retrofitting.replace import norm_layers, retrofit, unretrofit
from scbn.retrofitting.report import NormLayer, Retrofit
from scbn.retrofitting.state import load_retrofitted, retrofitted_state
from scbn.sentence import SentenceSCBN
from scbn.text import TextFeatures
from scbn.word import WordSCBN

__version__ = "0.1.0"

__all__ = [
    "NormLayer",
    "Retrofit",
    "SentenceSCBN",
    "SiameseContrastiveLoss",
    "TextFeatures",
    "TreeGenerator",
    "TreeOutput",
    "VisualSemanticEmbedding",
    "WordSCBN",
    "checkpoint",
    "load_retrofitted",
    "norm_layers",
    "retrofit",
    "retrofit_attngan",
    "retrofitted_state",
    "unretrofit",
]
