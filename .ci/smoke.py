"""The release as a user gets it: build sdist and wheel, look into them, use the wheel where little else is.

    .venv/bin/python .ci/smoke.py           # throws away what it built
    .venv/bin/python .ci/smoke.py dist      # leaves it in dist/, which must be empty or not be there

A second install of torch would take minutes and gigabytes. So the clean environment is a new, empty virtual
environment into which the running one's files of torch and typing-extensions, and of what these require, are
linked. What else the running environment has (numpy, torchvision, test and site tools) does not exist there, for any
way to import.
"""

from __future__ import annotations

import re
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import venv
import zipfile
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
HERE = Path(__file__).resolve().parent


def main() -> None:
    """Build, look, install, use."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        # First the sdist and then, from it, the wheel: so the sdist is complete.
        dist = Path(sys.argv[1]) if len(sys.argv) > 1 else folder / "dist"
        run(sys.executable, "-m", "build", "--outdir", dist, ROOT)
        (sdist,), (wheel,) = dist.glob("*.tar.gz"), dist.glob("*.whl")
        look_into(sdist, wheel)
        venv.create(folder / "clean", symlinks=True, with_pip=False)
        packages = Path(sysconfig.get_path("purelib", vars={"base": str(folder / "clean")}))
        run(sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", packages, wheel)
        for name in sorted(required("scbn")):
            link(name, packages)
        run(folder / "clean" / "bin" / "python", "-I", HERE / "use_every_name.py")
        for sample in re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.S):
            run(folder / "clean" / "bin" / "python", "-I", "-c", sample)
        print(
            f"{wheel.name}: {wheel.stat().st_size / 1000:.0f} kB; {sdist.name}: {sdist.stat().st_size / 1000:.0f} kB"
        )


def run(*command: object) -> None:
    """A command that must succeed."""
    subprocess.run([str(part) for part in command], check=True)


def look_into(sdist: Path, wheel: Path) -> None:
    """The wheel holds the library and nothing else, the sdist what the wheel is built from."""
    names = zipfile.ZipFile(wheel).namelist()
    source = {str(path.relative_to(ROOT)) for path in ROOT.glob("scbn/**/*.py")} | {"scbn/py.typed"}
    packed = {name for name in names if ".dist-info/" not in name}
    if packed != source:
        raise SystemExit(f"{wheel.name} and scbn/ differ in {sorted(packed ^ source)}")
    if not any(name.endswith("licenses/LICENSE") for name in names):
        raise SystemExit(f"{wheel.name} has no licence")
    with tarfile.open(sdist) as archive:
        top = {Path(name).parts[1] for name in archive.getnames()}
    expected = {"scbn", "docs", "README.md", "LICENSE", "pyproject.toml", "PKG-INFO", ".gitignore"}
    if top != expected:
        raise SystemExit(f"{sdist.name} holds {sorted(top)}, expected {sorted(expected)}")


def required(name: str) -> set[str]:
    """Names of all distributions that ``name`` needs to run, without extras."""
    found: set[str] = set()
    todo = [name]
    while todo:
        for line in metadata.requires(todo.pop()) or []:
            requirement = Requirement(line)
            wanted = canonicalize_name(requirement.name)
            if wanted not in found and (requirement.marker is None or requirement.marker.evaluate({"extra": ""})):
                found.add(wanted)
                todo.append(wanted)
    return found


def link(name: str, packages: Path) -> None:
    """Link what the distribution installed, by its top folders and files."""
    distribution = metadata.distribution(name)
    parts = (file.parts[0] for file in distribution.files or [])
    for part in {part for part in parts if part not in ("..", "__pycache__")}:
        if not (packages / part).exists():
            (packages / part).symlink_to(Path(str(distribution.locate_file(part))).resolve())


if __name__ == "__main__":
    main()
