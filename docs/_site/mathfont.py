"""A font for the formulas, in the site itself: STIX Two Math (SIL Open Font Licence 1.1), of which what the pages use.

Without a maths font, browsers take a text font, whose brackets and sums do not grow. The font comes with ziamath.
"""

from __future__ import annotations

import html
import importlib.util
import re
from pathlib import Path

from fontTools import subset

_MATH = re.compile(r"<math.*?</math>", re.S)
_TAG = re.compile(r"<.*?>")
# Browsers draw single letters of formulas in mathematical italic, of blocks of their own.
_ITALIC = [*range(0x1D434, 0x1D468), 0x210E, *range(0x1D6E2, 0x1D71C)]
_PLAIN = [*range(0x20, 0x7F), *range(0x391, 0x3CA)]


def write(site: Path) -> None:
    """Write ``assets/maths.woff`` for the formulas of all pages of a built site."""
    found = importlib.util.find_spec("ziamath")
    assert found is not None and found.submodule_search_locations
    source = Path(found.submodule_search_locations[0]) / "fonts" / "STIXTwoMath-Regular.ttf"
    letters: set[str] = set()
    for page in site.rglob("*.html"):
        for formula in _MATH.findall(page.read_text(encoding="utf-8")):
            letters |= set(html.unescape(_TAG.sub("", formula)))
    options = subset.Options(flavor="woff", layout_features=["*"], name_IDs=["*"])
    font = subset.load_font(str(source), options)
    subsetter = subset.Subsetter(options)
    subsetter.populate(unicodes=[*map(ord, letters), *_ITALIC, *_PLAIN])
    subsetter.subset(font)
    (site / "assets").mkdir(exist_ok=True)
    subset.save_font(font, str(site / "assets" / "maths.woff"), options)
