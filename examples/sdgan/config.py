"""Every option of the trainer, as frozen dataclasses, and the presets."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from types import UnionType
from typing import Any, Literal, get_args, get_origin, get_type_hints

Data = Literal["toy", "birds-hard", "cub", "coco", "folder"]
Norm = Literal["batch", "sentence", "word", "both", "affine", "cbn"]


@dataclass(frozen=True)
class EncoderOptions:
    """Text and image encoder, matched by DAMSM and then frozen."""

    text: str = ""
    """Folder or hub name of a text model of transformers, frozen, in the place of the LSTM, which is trained here."""
    text_revision: str = ""
    """Of that model; found out and stored by the run."""
    words: int = 18
    """Longest caption in words; of longer ones a random choice of words is kept, in order."""
    min_count: int = 1
    """Words seen less often are unknown."""
    embedding_dim: int = 300
    rnn: Literal["lstm", "gru"] = "lstm"
    """Over the words, in both directions."""
    dim: int = 256
    """Size D of word and sentence features."""
    dropout: float = 0.5
    image: Literal["auto", "small", "inception"] = "auto"
    """auto: Inception v3 from 256 px, below that a small CNN."""
    inception_weights: str = "IMAGENET1K_V1"
    """Path of Inception v3 weights, a torchvision name (downloaded), or random."""
    batch_size: int = 48
    lr: float = 2e-3
    weight_decay: float = 0.0
    text_clip: float = 0.25
    """Longest gradient of the text encoder."""
    label_share: float = 0.3
    """Share of the encoder steps in which the small CNN first learns the data's labels, where there are any."""
    gamma1: float = 4.0
    gamma2: float = 5.0
    gamma3: float = 10.0
    """DAMSM's smoothing: over regions, over words, over captions."""


@dataclass(frozen=True)
class GeneratorOptions:
    """The generator: SD-GAN's tree, or AttnGAN's."""

    architecture: Literal["tree", "attngan", "attndcgan"] = "tree"
    """attngan: AttnGAN's own generator, of the same channels in every stage; norm says what is added to it. attndcgan: its
    variant with one image, the last, and one discriminator."""
    channels: tuple[int, ...] = (32, 32, 32)
    """Of each stage, low to high resolution; their number is the number of stages."""
    residual_blocks: int = 2
    norm: Norm = "both"
    """What the norms listen to; affine and cbn are rivals of SCBN: DF-GAN's affine and conditional batch norm, both of the
    sentence. Of an AttnGAN: batch is the published one; sentence and word retrofit all upsampling layers with that cue;
    both as scbn.retrofit_attngan does, the sentence first and the words in later stages."""
    norms: tuple[Norm, ...] = ()
    """The same for each stage of a tree, from the first; empty: norm in all of them."""
    attention: bool = False
    """Of a tree: later stages attend to words before their residual blocks, as AttnGAN's own do."""
    fix_mask: bool = False
    """Of an AttnGAN: correct its mis-tiled attention mask."""
    activation: Literal["glu", "relu", "leaky_relu"] = "glu"
    noise_dim: int = 100
    condition_dim: int = 100
    lr: float = 2e-4
    betas: tuple[float, float] = (0.5, 0.999)
    ema: float = 0.999
    """Decay of the averaged generator; at step n at most (1 + n) / (10 + n)."""


@dataclass(frozen=True)
class DiscriminatorOptions:
    """The discriminators, one a stage."""

    channels: int = 64
    """Of the first convolution; each halving of the size doubles them."""
    max_channels: int = 2048
    """Where the doubling stops."""
    head_channels: int = 512
    """At 4x4, 3x3 convolutions halve the channels until the heads read at most this many, as in AttnGAN."""
    norm: Literal["batch", "spectral"] = "batch"
    condition: Literal["concat", "projection"] = "concat"
    loss: Literal["bce", "hinge"] = "bce"
    lr: float = 2e-4
    betas: tuple[float, float] = (0.5, 0.999)


@dataclass(frozen=True)
class SiameseOptions:
    """The contrastive loss between the two branches."""

    weight: float = 1.0
    margin: float = 1.0
    alpha: float = 0.1
    feature_dim: int = 256
    normalize: bool = True
    """Features of unit length, so that margin and alpha mean the same at every stage and in every run."""
    train_discriminator: bool = True
    """The discriminators (trunk and feature head) learn the loss."""
    train_generator: bool = True
    """The generator learns the loss."""
    share_noise: bool = True
    """Both branches of a pair start from the same noise."""
    stages: tuple[float, ...] = ()
    """Weight of each stage's term, low to high resolution; empty: 1 each."""
    warm_up: int = 0
    """Steps over which the weight rises from 0."""


@dataclass(frozen=True)
class Config:
    """Train SD-GAN: encoders, then generator and discriminators, then pictures and numbers.

    Everything a run leaves is in OUT: samples.png, attention.png, losses.png, metrics.json, checkpoint.pt,
    model (weights as safetensors with the options beside them), tensorboard.
    """

    data: Data = "toy"
    """toy: birds drawn on the spot; birds-hard: with patterns, places and synonyms; cub: CUB-200-2011 with captions; coco: MS-COCO captions; folder: your own images."""
    root: Path | None = None
    """Folder of the data set (cub, coco, folder)."""
    check: bool = False
    """Read the data, report on it with a sheet of images in OUT/data.png, and train nothing."""
    classes: Literal["none", "label", "folders"] = "none"
    """Of --data folder: whose images DAMSM does not take for each other's negatives."""
    captions_per_image: int = 0
    """Captions of each image in AttnGAN's captions.pickle, which does not say it; 0: ten of cub, five of coco."""
    steps: int = 265_000
    """Generator steps; by default 600 epochs of the birds, as AttnGAN."""
    encoder_steps: int = 100_000
    """Steps of matching text and image encoder (DAMSM), labels included."""
    batch_size: int = 20
    """Siamese pairs a step: twice as many images."""
    size: int = 256
    """Pixels of the last stage's images."""
    seed: int = 0
    out: Path = Path("runs/sdgan")
    """Folder for everything the run leaves."""
    resume: bool = False
    """Continue from OUT/checkpoint.pt."""
    checkpoint_every: int = 1000
    """Steps between checkpoints."""
    workers: int = 2
    """Processes that read image files."""
    accelerator: str = "auto"
    devices: int = 1
    """Processes on each machine, one a device."""
    nodes: int = 1
    """Machines; start with torchrun on each."""
    sync_batch_norm: bool = False
    """Batch statistics of all processes together."""
    accumulate: int = 1
    """Parts a step is taken in, one after the other: memory of a part, gradients of the whole. Batch statistics
    and DAMSM's negatives are those of a part."""
    compile: bool = False
    """Compile generator and discriminators with torch.compile."""
    precision: Literal["32-true", "bf16-mixed"] = "32-true"
    log: Literal["tensorboard", "wandb", "none"] = "tensorboard"
    """Where curves and pictures go besides the files: OUT/tensorboard, or Weights & Biases."""
    unconditional_weight: float = 1.0
    """Of "is it real" in the generator's loss."""
    conditional_weight: float = 1.0
    """Of "does it fit the caption" in the generator's loss."""
    damsm_weight: float = 5.0
    kl_weight: float = 1.0
    encoder: EncoderOptions = field(default_factory=EncoderOptions)
    generator: GeneratorOptions = field(default_factory=GeneratorOptions)
    discriminator: DiscriminatorOptions = field(default_factory=DiscriminatorOptions)
    siamese: SiameseOptions = field(default_factory=SiameseOptions)

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "size", "checkpoint_every", "devices", "nodes", "accumulate"):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name.replace('_', '-')} must be at least 1, got {getattr(self, name)}")
        if self.batch_size < 2:
            raise ValueError("--batch-size must be at least 2: a batch holds pairs of one image and of two images")
        if self.batch_size % self.accumulate:
            raise ValueError(
                f"--accumulate: {self.batch_size} pairs cannot be taken in {self.accumulate} equal parts"
            )
        if self.siamese.stages and len(self.siamese.stages) != len(self.sizes):
            raise ValueError(
                f"--siamese.stages needs a weight for each of the {len(self.sizes)} stages, got "
                f"{self.siamese.stages}"
            )
        if self.captions_per_image < 0:
            raise ValueError(f"--captions-per-image must not be negative, got {self.captions_per_image}")
        if self.encoder_steps < 0:
            raise ValueError(f"--encoder-steps must not be negative, got {self.encoder_steps}")
        for name, value in self._positive().items():
            if value < 1:
                raise ValueError(f"--{name} must be at least 1, got {value}")
        if not 0 <= self.seed < 1 << 40:
            raise ValueError(f"--seed must be between 0 and 2^40, got {self.seed}")
        if self.encoder.batch_size < 2:
            raise ValueError(f"--encoder.batch-size must be at least 2, got {self.encoder.batch_size}")
        if self.encoder.dim % 2:
            raise ValueError(
                f"--encoder.dim is split between two directions and must be even, got {self.encoder.dim}"
            )
        if not self.generator.channels:
            raise ValueError("--generator.channels needs a number for each stage, at least one")
        if self.generator.architecture != "tree" and len(set(self.generator.channels)) > 1:
            raise ValueError(f"AttnGAN has the same channels in every stage, got {self.generator.channels}")
        if self.generator.architecture != "tree" and (
            self.generator.attention or self.generator.norms or self.generator.norm in ("affine", "cbn")
        ):
            raise ValueError(
                "--generator.attention, --generator.norms and --generator.norm affine or cbn are of "
                "--generator.architecture tree; an AttnGAN attends to words as it is"
            )
        if self.generator.norms and len(self.generator.norms) != len(self.generator.channels):
            raise ValueError(
                f"--generator.norms needs a norm for each of the {len(self.generator.channels)} stages, got "
                f"{self.generator.norms}"
            )
        if not 0 <= self.siamese.alpha <= self.siamese.margin or self.siamese.margin == 0:
            raise ValueError(
                f"--siamese.alpha must be between 0 and --siamese.margin, got {self.siamese.alpha} and "
                f"{self.siamese.margin}"
            )
        if not 0 <= self.encoder.label_share < 1:
            raise ValueError(f"--encoder.label-share must be in [0, 1), got {self.encoder.label_share}")
        smallest = 8 << (len(self.generator.channels) - 1)
        if self.size < smallest or self.size & (self.size - 1):
            raise ValueError(
                f"--size must be a power of two of at least {smallest} for {len(self.generator.channels)} stages, "
                f"got {self.size}"
            )

    def _positive(self) -> dict[str, int]:
        return {
            "encoder.words": self.encoder.words,
            "encoder.dim": self.encoder.dim,
            "encoder.embedding-dim": self.encoder.embedding_dim,
            "generator.noise-dim": self.generator.noise_dim,
            "generator.condition-dim": self.generator.condition_dim,
            "generator.channels": min(self.generator.channels, default=1),
            "discriminator.channels": self.discriminator.channels,
            "discriminator.max-channels": self.discriminator.max_channels,
            "discriminator.head-channels": self.discriminator.head_channels,
            "siamese.feature-dim": self.siamese.feature_dim,
        }

    @property
    def base_size(self) -> int:
        """Pixels of the first stage."""
        return self.size >> (len(self.generator.channels) - 1)

    @property
    def sizes(self) -> list[int]:
        """Pixels of the images, low to high: of each stage, or of the last where that alone makes one."""
        if self.generator.architecture == "attndcgan":
            return [self.size]
        return [self.base_size << i for i in range(len(self.generator.channels))]

    def to_json(self) -> str:
        """The configuration as JSON, for the checkpoint."""
        return json.dumps(dataclasses.asdict(self), default=str, indent=1)

    def to_share(self) -> str:
        """The same without folders of this machine: of absolute paths the last part stays."""
        encoder = dataclasses.replace(
            self.encoder, text=_name(self.encoder.text), inception_weights=_name(self.encoder.inception_weights)
        )
        root = None if self.root is None else Path(_name(str(self.root)))
        return dataclasses.replace(self, root=root, out=Path(_name(str(self.out))), encoder=encoder).to_json()


def _name(path: str) -> str:
    return Path(path).name if Path(path).is_absolute() else path


def from_json(text: str) -> Config:
    """The configuration that :meth:`Config.to_json` wrote.

    Raises:
        ValueError: it is no JSON, or an option is unknown, of the wrong type or out of range; the message names it.
    """
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"the stored configuration is not JSON ({error})") from error
    return _build(Config, values)


def _build(kind: Any, values: Any, prefix: str = "") -> Any:
    if not isinstance(values, dict):
        raise ValueError(
            f"the stored {prefix.rstrip('.') or 'configuration'} must be a JSON object, got {values!r:.80}"
        )
    types = get_type_hints(kind)
    unknown = values.keys() - types.keys()
    if unknown:
        raise ValueError(f"unknown options {sorted(unknown)} in the stored configuration of {kind.__name__}")
    return kind(**{name: _typed(types[name], value, prefix + name) for name, value in values.items()})


def _typed(kind: Any, value: Any, name: str) -> Any:
    """A JSON value as the type of its option."""
    origin, arguments = get_origin(kind), get_args(kind)
    if dataclasses.is_dataclass(kind):
        return _build(kind, value, f"{name}.")
    if origin is UnionType:
        return None if value is None else _typed(arguments[0], value, name)
    if origin is tuple and isinstance(value, list):
        each = arguments[:1] * len(value) if arguments[-1] is ... else arguments
        if len(each) == len(value):
            return tuple(_typed(inner, item, name) for inner, item in zip(each, value, strict=True))
    elif origin is Literal:
        if value in arguments:
            return value
    elif kind is Path and isinstance(value, str):
        return Path(value)
    # A bool is an int to Python, and NaN is neither above nor below any bound.
    elif (kind is float and type(value) in (int, float) and value == value) or (
        kind in (int, bool, str) and type(value) is kind
    ):
        return value
    what = getattr(kind, "__name__", kind) if origin is None else str(kind).removeprefix("typing.")
    raise ValueError(f"the stored option {name} must be {what}, got {value!r:.80}")
