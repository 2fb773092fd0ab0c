"""A frozen text model of ``transformers`` in the place of the LSTM: its tokens are the words, DAMSM learns projections."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from examples.sdgan.config import EncoderOptions
from examples.sdgan.data.vocabulary import PADDING
from examples.sdgan.models.transfer import sent
from scbn import TextFeatures

_BATCH = 64


class TextModelError(ValueError):
    """The text model cannot be used; the message names it, says why and what to do."""


class PretrainedWords:
    """A tokenizer as a vocabulary; indices are its own plus one, for 0 is padding here.

    Args:
        tokenizer: of the model.
        most: tokens of a caption, special ones included; of longer ones the end is cut off.
    """

    published = False
    known: tuple[str, ...] = ()
    """None of its own: the model's name says it all."""

    def __init__(self, tokenizer: Any, most: int) -> None:
        self.tokenizer, self.most = tokenizer, most
        self._encoded: dict[str, list[int]] = {}
        self.words = ["<padding>", *tokenizer.convert_ids_to_tokens(range(len(tokenizer)))]

    def __len__(self) -> int:
        return len(self.words)

    def __contains__(self, word: str) -> bool:
        return self.tokenizer.unk_token is None or word != self.tokenizer.unk_token

    def encode(self, caption: str) -> list[int]:
        """Indices of a caption's tokens, with those that the model was trained to see around them."""
        if caption not in self._encoded:  # each phase asks for all captions again
            found = self.tokenizer(caption, truncation=True, max_length=self.most)
            self._encoded[caption] = [index + 1 for index in found["input_ids"]]
        return self._encoded[caption]

    def tokenize(self, caption: str) -> list[str]:
        """Its tokens, as text."""
        return self.tokenizer.tokenize(caption)

    def split(self, caption: str) -> list[str]:
        """A token for each index of :meth:`encode`."""
        return [self.words[index] for index in self.encode(caption)]


class PretrainedTextEncoder(nn.Module):
    """``forward(tokens)`` as :class:`TextEncoder`; only the two projections are parameters of it.

    Words are projected token states, special tokens masked; the sentence is the projected mean of all token states.

    Args:
        options: with the model's name and revision, and the common size.
        empty: without the model, for its shapes alone.
    """

    def __init__(self, options: EncoderOptions, empty: bool = False) -> None:
        super().__init__()
        self.options = options
        config = _config(options)
        self.states_dim = _width(options, config)
        self.word = nn.Linear(self.states_dim, options.dim)
        self.sentence = nn.Linear(self.states_dim, options.dim)
        # Beside the parameters: a checkpoint carries its name, not its weights.
        self._beside: dict[str, Any] = {} if empty else _load(options, config)
        self._known: dict[tuple[int, ...], Tensor] = {}

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        if self._beside:
            self._beside["model"]._apply(fn)
        return super()._apply(fn, recurse)

    def words(self) -> PretrainedWords:
        """The vocabulary that goes with it."""
        return PretrainedWords(self._beside["tokenizer"], self.options.words)

    def forward(self, tokens: Tensor, on_host: np.ndarray | None = None) -> TextFeatures:
        host = tokens.cpu().numpy() if on_host is None else on_host
        keys = [tuple(index for index in row if index != PADDING) for row in host.tolist()]
        states = torch.zeros(*tokens.shape, self.states_dim, dtype=self.word.weight.dtype)
        new = [key for key in dict.fromkeys(keys) if key not in self._known and key]
        computed = dict(zip(new, self._compute(new), strict=True))
        for row, key in enumerate(keys):
            if key:
                found = computed.get(key)
                states[row, : len(key)] = self._known[key] if found is None else found
        return self.project(sent(states, tokens.device), tokens, sent(self._special(), tokens.device))

    def project(self, states: Tensor, tokens: Tensor, special: Tensor) -> TextFeatures:
        """Text of the common space, from token states (N, T, H), tokens (N, T) and the indices of special tokens."""
        mask = tokens != PADDING
        text = TextFeatures.from_hidden_states(
            states,
            mask | ~mask.any(1, keepdim=True),  # a mean needs a token
            special_tokens_mask=(tokens[:, :, None] == special).any(2) | ~mask,
        )
        assert text.words is not None and text.sentence is not None
        return TextFeatures(self.sentence(text.sentence), self.word(text.words), text.padding_mask)

    def traceable(self) -> nn.Module:
        """The same with the model as a part of it, for exporters: (N, T) -> sentence, words, padding mask."""
        return _Traceable(self)

    def remember(self, captions: Sequence[Sequence[int]], path: Path, progress: Callable[[int], None]) -> str:
        """Compute the states of captions once, in an order that is always the same, or take them from a file.

        Args:
            captions: token indices.
            path: of the file, written where there is none of this model and these captions.
            progress: called with the number of captions computed.

        Returns:
            What to tell about the file; nothing where there was none.
        """
        # By length: little padding to compute.
        keys = sorted({tuple(caption) for caption in captions if caption}, key=lambda key: (len(key), key))
        mine = {"model": self.options.text, "revision": self.options.text_revision, "captions": _digest(keys)}
        stored, told = _stored(path, mine), ""
        if stored is None:
            told = f"{path}: of another model or other captions, computed anew" if path.exists() else ""
            parts = []
            for start in range(0, len(keys), _BATCH):
                parts += [state.cpu() for state in self._compute(keys[start : start + _BATCH])]
                progress(min(start + _BATCH, len(keys)))
            stored = torch.cat(parts)
            torch.save({**mine, "states": stored}, path.with_name(f"{path.name}.part"))
            path.with_name(f"{path.name}.part").replace(path)
        self._known = dict(zip(keys, stored.split([len(key) for key in keys]), strict=True))
        return told

    @torch.no_grad()
    def _compute(self, keys: Sequence[tuple[int, ...]]) -> list[Tensor]:
        if not keys:
            return []
        model = self._beside["model"].eval()
        device = next(model.parameters()).device
        longest = max(map(len, keys))
        ids, mask = torch.zeros(2, len(keys), longest, dtype=torch.int64)
        for row, key in enumerate(keys):
            ids[row, : len(key)] = torch.tensor(key) - 1
            mask[row, : len(key)] = 1
        states = model(input_ids=ids.to(device), attention_mask=mask.to(device)).last_hidden_state.float()
        return [states[row, : len(key)] for row, key in enumerate(keys)]

    def _special(self) -> Tensor:
        tokenizer = self._beside["tokenizer"]
        # A word that it does not know is a word all the same.
        known = {*tokenizer.all_special_ids} - {tokenizer.unk_token_id}
        return torch.tensor(sorted(known), dtype=torch.int64) + 1


class _Traceable(nn.Module):
    special: Tensor

    def __init__(self, encoder: PretrainedTextEncoder) -> None:
        super().__init__()
        self.encoder, self.model = encoder, encoder._beside["model"]
        self.register_buffer("special", encoder._special())

    def forward(self, tokens: Tensor) -> tuple[Tensor, ...]:
        mask = tokens != PADDING
        ids = (tokens - 1).clamp(min=0)
        seen = (mask | ~mask.any(1, keepdim=True)).long()  # attention to nothing is not a number
        states = self.model(input_ids=ids, attention_mask=seen).last_hidden_state
        states = states.float().masked_fill(~mask[:, :, None], 0)
        text = self.encoder.project(states, tokens, self.special)
        assert text.sentence is not None and text.words is not None and text.padding_mask is not None
        return text.sentence, text.words, text.padding_mask


def revision(options: EncoderOptions) -> str:
    """The commit of a model of the hub, or a digest of a folder's files."""
    folder = Path(options.text)
    if not folder.is_dir():
        return getattr(_config(options), "_commit_hash", None) or ""
    content = hashlib.blake2b(digest_size=8)
    for path in sorted(path for path in folder.iterdir() if path.is_file()):
        content.update(path.name.encode())
        with path.open("rb") as file:
            while block := file.read(1 << 24):
                content.update(block)
    return content.hexdigest()


def _transformers() -> Any:
    try:
        import transformers
    except ImportError as error:
        raise TextModelError("--encoder.text takes transformers: pip install '.[hf]'") from error
    return transformers


def _attempt(options: EncoderOptions, what: str, load: Callable[[], Any]) -> Any:
    try:
        return load()
    except Exception as error:  # a foreign library's, of any kind
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        where = (
            ""
            if Path(options.text).is_dir()
            else "; give the folder of a model, or its name where the hub can be reached"
        )
        raise TextModelError(
            f"--encoder.text {options.text}: {what} cannot be loaded ({reason:.200}){where}"
        ) from error


def _config(options: EncoderOptions) -> Any:
    auto, path = _transformers().AutoConfig, Path(options.text)
    if not path.is_dir() and (
        path.exists() or path.is_absolute() or options.text.startswith(".") or len(path.parts) > 2
    ):
        raise TextModelError(f"--encoder.text {options.text}: no such folder")
    config = _attempt(options, "its configuration", lambda: auto.from_pretrained(options.text))
    # CLIP's is of both towers.
    return getattr(config, "text_config", config)


def _width(options: EncoderOptions, config: Any) -> int:
    width = (
        getattr(config, "hidden_size", None) or getattr(config, "d_model", None) or getattr(config, "n_embd", None)
    )
    if not isinstance(width, int) or not isinstance(getattr(config, "vocab_size", None), int):
        kind = getattr(config, "model_type", type(config).__name__)
        raise TextModelError(
            f"--encoder.text {options.text}: is no text model but {kind!r}, without words or a hidden size"
        )
    return width


def _load(options: EncoderOptions, config: Any) -> dict[str, Any]:
    library = _transformers()
    tokenizer = _attempt(options, "its tokenizer", lambda: library.AutoTokenizer.from_pretrained(options.text))
    # Without its files, transformers makes a tokenizer that knows nothing.
    if not 0.5 * config.vocab_size < len(tokenizer) <= config.vocab_size:
        raise TextModelError(
            f"--encoder.text {options.text}: its tokenizer cannot be loaded, or is another model's: it has {len(tokenizer):,} "
            f"tokens, the model {config.vocab_size:,}"
        )
    around = tokenizer.num_special_tokens_to_add()
    if options.words <= around:
        raise TextModelError(
            f"--encoder.words {options.words} leaves no room for words: {options.text} puts {around} tokens around them"
        )
    most = min(getattr(config, "max_position_embeddings", None) or 1 << 20, tokenizer.model_max_length)
    if options.words > most:
        raise TextModelError(
            f"--encoder.text {options.text}: reads {most} tokens at most, --encoder.words is {options.words}"
        )
    kinds = {"t5": "T5EncoderModel", "mt5": "MT5EncoderModel", "clip_text_model": "CLIPTextModel"}
    kind = getattr(library, kinds.get(config.model_type, "AutoModel"))
    model = _attempt(options, "its weights", lambda: kind.from_pretrained(options.text))
    if getattr(config, "is_encoder_decoder", False) and config.model_type not in kinds:
        model = model.get_encoder()  # the decoder's states are of what it would write
    return {"tokenizer": tokenizer, "model": model.eval().requires_grad_(False)}


def _digest(keys: Sequence[tuple[int, ...]]) -> str:
    return hashlib.blake2b(repr(keys).encode(), digest_size=16).hexdigest()


def _stored(path: Path, mine: dict[str, str]) -> Tensor | None:
    if not path.is_file():
        return None
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        return state["states"] if {name: state[name] for name in mine} == mine else None
    except Exception:  # a broken file may raise anything; it is made anew
        return None
