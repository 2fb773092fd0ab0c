"""The site: docstrings and formulas become what a browser shows, and the reference leaves no public name out."""

from __future__ import annotations

import importlib.util
import inspect
import re
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

import scbn

ROOT = Path(__file__).resolve().parents[2]
SITE_TOOLS = "comes with the dev extra"


def tool(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"site_{name}", ROOT / "docs" / "_site" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_reference_has_every_public_name() -> None:
    pages = "\n".join(page.read_text(encoding="utf-8") for page in (ROOT / "docs" / "api").glob("*.md"))
    told = set(re.findall(r"^::: scbn\.[\w.]*?(\w+)$", pages, re.M))
    assert set(scbn.__all__) <= told


def test_the_menu_has_every_page() -> None:
    nav = re.findall(r": ([\w/-]+\.md)$", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"), re.M)
    from_root = {"changelog.md", "contributing.md"}
    pages = {path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")}
    assert sorted(nav) == sorted(pages | from_root)


def test_docstrings_become_markdown() -> None:
    griffe = pytest.importorskip("griffe", reason=f"griffe {SITE_TOOLS}")
    rest = tool("rest")
    module = griffe.Module("scbn")
    module.set_member("word_attention", griffe.Function("word_attention"))
    public = {"WordSCBN": "scbn.word.WordSCBN"}

    def convert(text: str) -> str:
        return rest.markdown(text, module, public)

    assert convert("A.\n\n.. math:: y = x\n\nB.") == "A.\n\n\n$$\ny = x\n$$\n\nB."
    aligned = convert(".. math::\n    a &= b \\\\\n    c &= d\n\nB :math:`x_j`.")
    assert aligned == "\n$$\n\\begin{aligned}\na &= b \\\\\nc &= d\n\\end{aligned}\n$$\n\nB $x_j$."
    assert convert("As :class:`WordSCBN`.") == "As [`WordSCBN`][scbn.word.WordSCBN]."
    assert convert(":func:`scbn.WordSCBN`") == "[`scbn.WordSCBN`][scbn.word.WordSCBN]"
    assert convert(":mod:`scbn.ops`, :mod:`fnmatch`") == "[`scbn.ops`][scbn.ops], `fnmatch`"
    assert convert(":func:`word_attention`") == "[`word_attention`][scbn.word_attention]"
    assert "(https://docs.pytorch.org" in convert(":class:`torch.nn.BatchNorm2d`")
    assert convert("Shape:\n    x (N, C).\n\nSource: Yin.") == "**Shape:**\n\nx (N, C).\n\n**Source:** Yin."


def test_no_docstring_keeps_its_markup() -> None:
    griffe = pytest.importorskip("griffe", reason=f"griffe {SITE_TOOLS}")
    rest = tool("rest")
    package = griffe.load("scbn", search_paths=[ROOT], extensions=griffe.Extensions(rest.RestDocstrings()))
    left, seen = [], 0
    todo = [package]
    while todo:
        obj = todo.pop()
        seen += obj.docstring is not None
        if obj.docstring and re.search(r":[a-z]+:`|\.\. \w+::", obj.docstring.value):
            left.append(obj.path)
        todo += [member for member in obj.members.values() if not member.is_alias]
    assert seen > 100
    assert not left


def test_every_public_class_has_a_signature() -> None:
    griffe = pytest.importorskip("griffe", reason=f"griffe {SITE_TOOLS}")
    extensions = griffe.load_extensions(tool("rest").RestDocstrings)
    package = griffe.load("scbn", search_paths=[ROOT], extensions=extensions)
    classes = [getattr(scbn, name) for name in scbn.__all__ if isinstance(getattr(scbn, name), type)]
    assert scbn.TextFeatures in classes
    for cls in classes:
        found = package[f"{cls.__module__.removeprefix('scbn.')}.{cls.__name__}"]
        parameters = [parameter.name for parameter in found.parameters]
        assert parameters[1:] == [*inspect.signature(cls).parameters], cls


def test_formulas_become_mathml() -> None:
    pytest.importorskip("latex2mathml", reason=f"latex2mathml {SITE_TOOLS}")
    pytest.importorskip("mkdocs", reason=f"mkdocs {SITE_TOOLS}")
    from mkdocs.exceptions import PluginError

    hooks = tool("hooks")
    drawn = hooks.mathml(r"\mathrm{softmax}_t(x_j)", False, "page.md")
    assert drawn.startswith("<math")
    assert "<mi>softmax</mi>" in drawn
    lines = hooks.mathml("\\begin{aligned} a &= b \\\\ c &= d \\end{aligned}", True, "page.md")
    assert lines.count("<mtr>") == 2
    parts = hooks.formula(r"a = b, \qquad c = \frac{d = e}{2} = f", True, "page.md").split("<div>")[1:]
    assert [part.count("<math") for part in parts] == [2, 3]  # a line may break before each "=" of its own
    for unknown in (r"\nosuchthing x", "a $$ b", "a & b"):
        with pytest.raises(PluginError, match=r"page\.md"):
            hooks.mathml(unknown, False, "page.md")


@pytest.mark.parametrize(
    ("link", "page", "expected"),
    [
        ("docs/layers.md", "contributing.md", "layers.md"),
        ("docs/images/samples.png", "changelog.md", "images/samples.png"),
        ("README.md", "contributing.md", "index.md"),
        ("images/samples.png", "index.md", "images/samples.png"),
        ("../benchmarks/results/a.png", "benchmark.md", "benchmarks/results/a.png"),
        ("../CHANGELOG.md", "limits.md", "changelog.md"),
        ("../extend.md", "api/generator.md", "../extend.md"),
        ("benchmark.md", "limits.md", "benchmark.md"),
    ],
)
def test_links_lead_where_they_lead_on_github(link: str, page: str, expected: str) -> None:
    pytest.importorskip("latex2mathml", reason=f"latex2mathml {SITE_TOOLS}")
    pytest.importorskip("mkdocs", reason=f"mkdocs {SITE_TOOLS}")
    assert tool("hooks")._target(link, page) == expected


@pytest.mark.parametrize("repository", ["", "https://host.example/somebody/scbn"])
def test_the_owner_fills_in_addresses_in_one_place(repository: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("hatchling", reason=f"hatchling {SITE_TOOLS}")
    metadata = tool("metadata")
    assert set(metadata.addresses()) == {"repository", "site"}
    monkeypatch.setattr(metadata, "addresses", lambda: {"repository": repository, "site": ""})
    text = metadata.description()
    left = re.findall(r"\]\((?!https?:|#)[^)]+\)", text)
    assert left == []  # no index has the files of the repository
    told: dict[str, Any] = {}
    metadata.Metadata(str(ROOT), {}).update(told)
    assert told["urls"].get("Repository", "") == repository
    if repository:
        assert "![One word" in text and f"({repository}/raw/main/docs/images/one-word.png)" in text
        assert f"git clone {repository} scbn" in text
    else:
        assert "![" not in text and "docs/layers.md" in text


def test_pictures_have_a_size_and_a_dark_version(tmp_path: Path) -> None:
    for name in ("mkdocs", "scipy"):
        pytest.importorskip(name, reason=f"{name} {SITE_TOOLS}")
    import numpy as np
    from PIL import Image

    pictures = tool("pictures")
    pixels = np.full((120, 2000, 3), 255, dtype=np.uint8)
    pixels[40:100, 40:100] = [200, 30, 30]  # a picture on the paper
    pixels[10:14, 40:60] = 0  # something written
    Image.fromarray(pixels).save(tmp_path / "a.png")
    file = SimpleNamespace(abs_src_path=str(tmp_path / "a.png"), dest_uri="images/a.png")
    files = SimpleNamespace(get_file_from_path=lambda path: file if path == "images/a.png" else None)
    found: dict[str, tuple[Path, float]] = {}
    shown = pictures.show('<p><img alt="A red square" src="../images/a.png"></p>', "page/", files, found)
    assert shown.count('width="1200" height="72"') == 2 and shown.count("A red square") == 2
    assert 'href="../images/a.png"' in shown and 'src="../images/a-dark.webp#only-dark"' in shown
    pictures.write(found, tmp_path / "site")
    with Image.open(tmp_path / "site" / "images" / "a.webp") as small:
        assert small.size == (1200, 72)
    half = pictures.show('<p><img alt="Half" data-left="0.5" src="../images/a.png"></p>', "page/", files, found)
    assert 'href="../images/a.png"' in half and 'src="../images/a-left50.webp' in half
    pictures.write(found, tmp_path / "site")
    with Image.open(tmp_path / "site" / "images" / "a-left50.webp") as small:
        assert small.size == (1000, 120)
    dark = np.asarray(pictures.darkened(Image.fromarray(pixels)))
    assert (dark[60, 60] == [200, 30, 30]).all()
    assert dark[0, 0].max() < 50 and dark[12, 50].min() > 200
    night = Image.fromarray(pixels // 8)
    assert pictures.darkened(night) is night  # no white paper


def test_the_header_and_the_map_use_the_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mkdocs", reason=f"mkdocs {SITE_TOOLS}")
    hooks = tool("hooks")
    filled = {"repository": "https://host.example/somebody/scbn", "site": "https://somebody.host.example/scbn"}
    for addresses in (filled, {"repository": "", "site": ""}):
        monkeypatch.setattr(hooks.metadata, "addresses", lambda addresses=addresses: addresses)
        config = hooks.on_config(SimpleNamespace())
        wanted = (
            (filled["repository"], "scbn", f"{filled['site']}/") if addresses is filled else (None, None, None)
        )
        assert (config.repo_url, config.repo_name, config.site_url) == wanted
        assert config.site_name == f"scbn {scbn.__version__}"
