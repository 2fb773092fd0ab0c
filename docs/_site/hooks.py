"""MkDocs hooks: pages from the repository's root, its links as the site has them, formulas as MathML."""

from __future__ import annotations

import html
import re
import sys
from pathlib import Path

from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

sys.path.insert(0, str(Path(__file__).parent))
import mathfont
import metadata
import pictures

ROOT = Path(__file__).resolve().parents[2]
_pictures: dict[str, tuple[Path, float]] = {}
FROM_ROOT = {"CHANGELOG.md": "changelog.md", "CONTRIBUTING.md": "contributing.md"}
# What pages show or link to and that lies outside docs/.
ASSETS = ("benchmarks/results/**/*.png", "benchmarks/results/**/*.json", "CITATION.cff")

LINK = re.compile(r"(\]\()([^)\s#:]+)((?:#[^)\s]*)?\))")
FENCE = re.compile(r"^(```.*?^```)", re.M | re.S)
FORMULA = re.compile(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', re.S)
HEADLESS = re.compile(r"<thead>\s*<tr>(?:\s*<th[^>]*></th>)+\s*</tr>\s*</thead>")
NUMBER = re.compile(r"<td([^>]*)>([-+\d.,±()%/x k]*\d[-+\d.,±()%/x k]*(?: (?:to|ms) [\d.)]+)*)</td>")
UPRIGHT = re.compile(r'<mrow>((?:<mi mathvariant="normal">\w</mi>){2,})</mrow>')


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """The addresses, version and licence that the package's metadata has."""
    addresses = metadata.addresses()
    # What mkdocs makes of both options, it has made by now.
    config.repo_url = addresses["repository"] or None
    config.repo_name = addresses["repository"].rstrip("/").rpartition("/")[2] or None
    config.site_url = addresses["site"].rstrip("/") + "/" if addresses["site"] else None
    config.site_name = f"scbn {metadata.version()}"
    config.copyright = f"scbn {metadata.version()}, MIT licence"
    return config


def on_post_build(config: MkDocsConfig) -> None:
    """Small pictures and the font of the formulas; without an address there is no map of the site."""
    pictures.write(_pictures, Path(config.site_dir))
    mathfont.write(Path(config.site_dir))
    if not config.site_url:
        for name in ("sitemap.xml", "sitemap.xml.gz"):
            Path(config.site_dir, name).unlink(missing_ok=True)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages and pictures that lie outside docs/."""
    for source, name in FROM_ROOT.items():
        files.append(File.generated(config, name, content=(ROOT / source).read_text(encoding="utf-8")))
    for path in sorted(path for pattern in ASSETS for path in ROOT.glob(pattern)):
        files.append(File.generated(config, path.relative_to(ROOT).as_posix(), abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Links as GitHub follows them, from a file to a file, become links within the site."""
    parts = FENCE.split(metadata.addressed(markdown))
    parts[::2] = [LINK.sub(lambda m: m[1] + _target(m[2], page.file.src_uri) + m[3], part) for part in parts[::2]]
    return "".join(parts)


def on_page_content(content: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Formulas become MathML, which browsers draw without a script; pictures get their size and wait to be seen."""
    content = pictures.show(HEADLESS.sub("", content), page.url, files, _pictures)
    content = NUMBER.sub(r'<td class="number"\1>\2</td>', content)
    where = page.file.src_uri
    return FORMULA.sub(lambda match: formula(html.unescape(match[2]), match[1] == "div", where), content)


def formula(latex: str, display: bool, where: str) -> str:
    """Inline, or a block; where the screen is narrow, its parts (apart by \\qquad) go below each other and break at "="."""
    if not display:
        return mathml(latex, display, where)
    parts = [latex] if "\\begin" in latex else latex.split("\\qquad")
    drawn = (" ".join(mathml(piece, True, where) for piece in _at_equals(part)) for part in parts)
    return f'<div class="formula">{"".join(f"<div>{part}</div>" for part in drawn)}</div>'


def _at_equals(latex: str) -> list[str]:
    """Before every "=" that no braces and no environment hold, and before the "+" of a long sum."""
    if "\\begin" in latex:
        return [latex]
    pieces, depth = [""], 0
    for letter in latex:
        depth += (letter == "{") - (letter == "}")
        ends = letter == "=" or (letter == "+" and len(pieces[-1]) > 40 and "\\left" not in latex)
        if ends and depth == 0 and pieces[-1].strip():
            pieces.append("")
        pieces[-1] += letter
    return pieces


def mathml(latex: str, display: bool, where: str) -> str:
    """One formula; an error where a command is unknown, which would otherwise show as its name."""
    latex = latex.strip().replace("{aligned}", "{align*}")
    drawn = convert(latex, display="block" if display else "inline")
    if "\\" in drawn or "<mi>&</mi>" in drawn or "$" in drawn:
        raise PluginError(f"{where}: a formula has something latex2mathml does not know: {latex}")
    # Letter by letter, a name would be spaced as a product.
    return UPRIGHT.sub(lambda match: f"<mi>{re.sub('<.*?>', '', match[1])}</mi>", drawn)


def _target(link: str, page: str) -> str:
    """Where a relative link of ``page`` leads within the site."""
    source = next((source for source, name in FROM_ROOT.items() if name == page), None)
    folder = Path(source).parent if source else Path("docs", page).parent
    parts: list[str] = []
    for part in (folder / link).parts:
        if part == "..":
            parts.pop()
        else:
            parts.append(part)
    path = "/".join(parts)
    inside = {**FROM_ROOT, "README.md": "index.md"}.get(path) or path.removeprefix("docs/")
    return "../" * page.count("/") + inside
