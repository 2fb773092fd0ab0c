"""A small text model of transformers, on disk as people have them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

WORDS = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    "a",
    "bird",
    "small",
    "large",
    "with",
    "red",
    "blue",
    "wing",
]
WORDS += ["##s", "crown", "and", "beak"]


def text_model(folder: Path, seed: int = 0, hidden: int = 12, vocabulary: int = len(WORDS), **more: Any) -> Path:
    """A small BERT with a tokenizer, as ``save_pretrained`` leaves one."""
    import transformers

    folder.mkdir(parents=True)
    (folder / "vocab.txt").write_text("\n".join(WORDS))
    transformers.BertTokenizerFast(str(folder / "vocab.txt"), model_max_length=32).save_pretrained(folder)
    torch.manual_seed(seed)
    sizes = {"hidden_size": hidden, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    config = transformers.BertConfig(vocab_size=vocabulary, max_position_embeddings=32, **sizes, **more)
    transformers.BertModel(config).save_pretrained(folder)
    return folder
