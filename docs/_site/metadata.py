"""The package's description and addresses: hatchling's hook, and what the site's header is made of.

Addresses stand in one place, pyproject.toml's ``[tool.scbn]``, for the owner to fill. Where the repository's is empty,
links of the README to its files become plain text: a package index has none of them.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

ROOT = Path(__file__).resolve().parents[2]
_LINK = re.compile(r"(!?)\[([^\]]*)\]\((?!https?:|#)([^)\s]+)\)")


def addresses() -> dict[str, str]:
    """``repository`` and ``site``, each empty until the owner fills it in."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    return {
        name: re.findall(rf'(?m)^{name} = "(.*)"', text.partition("[tool.scbn]")[2])[0]
        for name in ("repository", "site")
    }


def version() -> str:
    """The package's."""
    text = (ROOT / "scbn" / "__init__.py").read_text(encoding="utf-8")
    return re.findall(r'(?m)^__version__ = "(.*)"', text)[0]


def addressed(text: str) -> str:
    """With the repository's address where a page names it."""
    return text.replace("<this repository>", addresses()["repository"] or "<this repository>")


def description() -> str:
    """The README with links that work anywhere, or without them."""
    repository = addresses()["repository"]

    def elsewhere(match: re.Match[str]) -> str:
        picture, text, target = match.groups()
        if repository:
            return f"{picture}[{text}]({repository}/{'raw' if picture else 'blob'}/main/{target})"
        return "" if picture else text

    return addressed(_LINK.sub(elsewhere, (ROOT / "README.md").read_text(encoding="utf-8")))


class Metadata(MetadataHookInterface):
    """What pyproject.toml declares as dynamic."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Description and addresses."""
        known = addresses()
        urls = {"Repository": known["repository"], "Documentation": known["site"]}
        metadata["urls"] = {
            "Paper": "https://arxiv.org/abs/1904.01480",
            **{name: url for name, url in urls.items() if url},
        }
        metadata["readme"] = {"content-type": "text/markdown", "text": description()}
