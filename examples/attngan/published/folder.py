"""The folder that people have: where the published README puts models, encoders, captions and images."""

from __future__ import annotations

import re
from dataclasses import dataclass, fields, replace
from pathlib import Path

from examples.attngan.published.names import PublishedError

_KINDS = {"cub": ("bird", "birds"), "coco": ("coco", "coco")}


@dataclass(frozen=True)
class Files:
    """The files to use, each as an option or as the folder has it; ``None`` or empty where there is none."""

    checkpoint: Path | None = None
    text_encoder: Path | None = None
    image_encoder: Path | None = None
    discriminators: tuple[Path, ...] = ()
    captions: Path | None = None
    root: Path | None = None

    def __bool__(self) -> bool:
        return any(getattr(self, field.name) for field in fields(self) if field.name != "root")


def find(folder: Path, data: str, given: Files) -> Files:
    """The files of an AttnGAN's folder; those that were given as options go first.

    Args:
        folder: with ``models/`` (or ``output/``), ``DAMSMencoders/`` and ``data/``.
        data: ``"cub"`` or ``"coco"``.
        given: from options.

    Raises:
        PublishedError: there is no such folder, it holds nothing that is known, or two files that could be meant.
    """
    if not folder.is_dir():
        raise PublishedError(f"--attngan {folder}: no such folder")
    if data not in _KINDS:
        raise PublishedError(
            f"--attngan {folder}: an AttnGAN is of birds or of COCO; add --data cub or --data coco"
        )
    kind, plural = _KINDS[data]
    encoders = _first(folder / "DAMSMencoders", (kind, plural, "."))
    texts = _first(folder / "data", (plural, kind, "."))
    found = Files(
        checkpoint=given.checkpoint or _generator(folder, kind),
        text_encoder=given.text_encoder or _latest(encoders, "text_encoder"),
        image_encoder=given.image_encoder or _latest(encoders, "image_encoder"),
        discriminators=given.discriminators or _discriminators(folder, kind),
        captions=given.captions or _file(texts, "captions.pickle"),
        root=given.root or texts,
    )
    if not found:
        raise PublishedError(
            f"--attngan {folder}: nothing of an AttnGAN in it; expected models/{kind}_AttnGAN2.pth, "
            f"DAMSMencoders/{kind}/text_encoder200.pth and image_encoder200.pth, data/{plural}/captions.pickle"
        )
    return found


def told(files: Files) -> list[str]:
    """What was found, what was not, and what is done instead: a line each."""
    instead = {
        "checkpoint": "an AttnGAN is trained first",
        "text_encoder": "one is trained, of other words than the generator has learnt",
        "image_encoder": "one is matched to the text encoder",
        "discriminators": "they start from nothing; --warm-up N lets them learn before the generator does",
        "captions": "words are numbered anew, which a published text encoder does not know",
    }
    lines = []
    for name, otherwise in instead.items():
        value = getattr(files, name)
        shown = ", ".join(str(path) for path in value) if isinstance(value, tuple) else value
        lines.append(f"{name.replace('_', ' ')}: {shown or f'none; {otherwise}'}")
    return lines


def check(files: Files) -> Files:
    """Require files that belong together.

    Raises:
        PublishedError: a text encoder without the captions.pickle that numbers its words, or the reverse.
    """
    if files.text_encoder is not None and files.captions is None:
        raise PublishedError(
            f"--text-encoder {files.text_encoder}: which word is which is in captions.pickle; add --captions FILE"
        )
    if files.captions is not None and files.text_encoder is None:
        return replace(files, captions=None)  # its numbers are of no use without the encoder that learnt them
    return files


def _first(folder: Path, names: tuple[str, ...]) -> Path | None:
    return next((folder / name for name in names if (folder / name).is_dir()), None)


def _file(folder: Path | None, name: str) -> Path | None:
    return folder / name if folder is not None and (folder / name).is_file() else None


def _latest(folder: Path | None, name: str) -> Path | None:
    """NAME200.pth of NAME100.pth and NAME200.pth."""
    found = [] if folder is None else list(folder.glob(f"{name}*.pth"))
    return max(found, key=lambda path: _number(path.stem), default=None)


def _number(text: str) -> int:
    digits = re.findall(r"\d+", text)
    return int(digits[-1]) if digits else 0


def _generator(folder: Path, kind: str) -> Path | None:
    named = sorted((folder / "models").glob(f"*{kind}*AttnGAN*.pth"))
    trained = sorted(folder.glob("output/*/Model/netG*.pth"), key=lambda path: _number(path.stem))
    others = [path for path in sorted((folder / "models").glob("*.pth")) if not path.name.startswith("netD")]
    for candidates in (named, others):
        if len(candidates) == 1:
            return candidates[0]
        if candidates:
            names = ", ".join(path.name for path in candidates)
            raise PublishedError(
                f"{folder / 'models'}: several generators ({names}); say which with --checkpoint FILE"
            )
    return trained[-1] if trained else None


def _discriminators(folder: Path, kind: str) -> tuple[Path, ...]:
    for place in ("models", f"models/{kind}", "output/*/Model"):
        found = sorted(folder.glob(f"{place}/netD[0-9].pth"))
        if found and len({path.parent for path in found}) == 1:
            return tuple(found)
    return ()
