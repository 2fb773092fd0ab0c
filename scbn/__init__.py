"""Semantic-conditioned batch normalisation and its companions, from SD-GAN (CVPR 2019, arXiv 1904.01480)."""

from scbn import ops as ops
from scbn.attention import VisualSemanticEmbedding
from scbn.attngan import retrofit_attngan
from scbn.binding import checkpoint
from scbn.loss import SiameseContrastiveLoss
from scbn.retrofit import norm_layers, retrofit, unretrofit
from scbn.retrofit_report import NormLayer, Retrofit
from scbn.sentence import SentenceSCBN
from scbn.text import TextFeatures
from scbn.tree import TreeGenerator, TreeOutput
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
    "norm_layers",
    "retrofit",
    "retrofit_attngan",
    "unretrofit",
]
