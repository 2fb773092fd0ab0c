"""Which tests look at which file: the quick ones at every fault, the slower ones at what those let pass."""

from __future__ import annotations

# What takes seconds and sees no more than the others do, at first.
QUICK = "(called_after or not compile) and not exports and not broken and not reach and not sparse_ and not gradgradcheck"
MATHS = ["errors", "corners", "more_corners", "oracle", "behaviour", "fuzz"]
OPS = ["errors", "corners", "more_corners", "oracle", "ops", "fuzz"]
MODEL = ["errors", "corners", "more_corners", "tree", "fuzz"]
RETROFIT = ["corners", "more_corners", "retrofit_errors", "retrofit", "fuzz"]
FILES = {
    **dict.fromkeys(("functional", "attention", "word", "sentence", "norm", "linear", "text"), MATHS),
    **dict.fromkeys(("ops/dispatch", "ops/eager", "ops/cpu/tiles", "ops/cpu/word", "ops/cpu/sentence"), OPS),
    **dict.fromkeys(("ops/word", "ops/sentence", "ops/sync"), OPS),
    "checks": ["errors", "corners", "more_corners", "fuzz", "loss", "oracle"],
    "loss": ["loss", "errors", "corners", "more_corners", "fuzz"],
    **dict.fromkeys(("generator/tree", "generator/stages"), MODEL),
    **dict.fromkeys(
        ("retrofitting/replace", "retrofitting/binding", "retrofitting/attngan", "retrofitting/report"), RETROFIT
    ),
}
KERNELS = ("functional", "ops/dispatch", "ops/cpu/tiles", "ops/cpu/word", "ops/word", "ops/sentence")


def quick(path: str) -> list[str]:
    """Pytest's arguments for the tests that every fault meets."""
    return ["-k", QUICK, *_files(FILES[path])]


def slower(path: str) -> list[str]:
    """Pytest's arguments for the tests that a survivor meets: all of each file, and more files."""
    more = ["properties", "compile", "contract", "distributed"]
    if path.startswith(("generator/", "retrofitting/")):
        more = ["compile"]
    files = [*FILES[path], "behaviour", "ops", *more, *(["triton"] if path in KERNELS else [])]
    drawn = [f"tests/testing/test_fuzz_{name}.py" for name in ("layers", "construction", "models")]
    return [*_files(list(dict.fromkeys(files))), *drawn]


def _files(names: list[str]) -> list[str]:
    return [f"tests/test_{name}.py" for name in names]
