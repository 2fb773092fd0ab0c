"""Griffe extension: the reST in scbn's docstrings (maths, roles) as the Markdown that the site's builder reads."""

from __future__ import annotations

import re
import textwrap
from typing import Any

import griffe

DISPLAY = re.compile(r"^( *)\.\. math::(.*)\n((?:\1 +\S.*\n?|[ \t]*\n)*)", re.M)
INLINE = re.compile(r":math:`([^`]+)`")
ROLE = re.compile(r":(?:class|func|mod|meth|attr):`~?([^`]+)`")
SECTION = re.compile(r"^(Shape):\n((?:[ \t]+\S.*\n?|[ \t]*\n)+)", re.M)
SOURCE = re.compile(r"^Source: ", re.M)


class RestDocstrings(griffe.Extension):
    """Rewrites every docstring once the whole package is known, so that short names in roles can be looked up."""

    def on_package(self, *, pkg: griffe.Module, **_: Any) -> None:
        aliases = ((name, m) for name, m in pkg.members.items() if isinstance(m, griffe.Alias))
        public = {name: alias.target_path for name, alias in aliases}
        # An import of a function from the module of its name hides behind that module.
        public |= {name: path for name, path in pkg.imports.items() if name in (pkg.exports or ())}
        self._visit(pkg, public)

    def _visit(self, obj: griffe.Object, public: dict[str, str]) -> None:
        if isinstance(obj, griffe.Class) and any(str(base) == "NamedTuple" for base in obj.bases):
            obj.set_member("__init__", _constructor(obj))
        if obj.docstring:
            obj.docstring.value = markdown(obj.docstring.value, obj, public)
        for member in obj.members.values():
            if not isinstance(member, griffe.Alias):
                self._visit(member, public)


def _constructor(cls: griffe.Class) -> griffe.Function:
    """A named tuple's, which is written nowhere: one argument a field."""
    kind = griffe.ParameterKind.positional_or_keyword
    fields = [m for m in cls.members.values() if isinstance(m, griffe.Attribute) and m.annotation is not None]
    values = [griffe.Parameter(f.name, annotation=f.annotation, kind=kind, default=f.value) for f in fields]
    return griffe.Function("__init__", parameters=griffe.Parameters(griffe.Parameter("self", kind=kind), *values))


def markdown(text: str, obj: griffe.Object, public: dict[str, str]) -> str:
    """The docstring ``text`` of ``obj`` with its reST replaced; ``public`` maps names to where they are defined."""
    text = DISPLAY.sub(_display, text + "\n").rstrip()
    text = INLINE.sub(r"$\1$", text)
    text = ROLE.sub(lambda match: _link(match[1], obj, public), text)
    text = SECTION.sub(lambda match: f"**{match[1]}:**\n\n{textwrap.dedent(match[2])}", text + "\n").rstrip()
    return SOURCE.sub("**Source:** ", text)


def _display(match: re.Match[str]) -> str:
    indent, first, rest = match.groups()
    formula = "\n".join(line.strip() for line in [first, *rest.splitlines()] if line.strip())
    if "&" in formula:
        formula = f"\\begin{{aligned}}\n{formula}\n\\end{{aligned}}"
    return textwrap.indent(f"\n$$\n{formula}\n$$\n\n", indent, lambda line: bool(line.strip()))


def _link(name: str, obj: griffe.Object, public: dict[str, str]) -> str:
    short = name.removeprefix("scbn.")
    if short in public:
        return f"[`{name}`][{public[short]}]"
    if name.startswith("scbn."):
        return f"[`{name}`][{name}]"
    if name.startswith("torch.nn."):
        return f"[`{name}`](https://docs.pytorch.org/docs/stable/generated/{name}.html)"
    beside = obj.module.members.get(name)
    if beside is not None and not isinstance(beside, griffe.Alias):
        return f"[`{name}`][{beside.path}]"
    inside = f"scbn.{name}"
    return f"[`{name}`][{inside}]" if "." in name and not name.startswith("torch.") else f"`{name}`"
