"""The built site in a real browser, at the width of a phone, a tablet and a desktop; skipped where there is none."""

from __future__ import annotations

import functools
import http.server
import importlib.util
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
HEAVIEST = 1_500_000
pytestmark = pytest.mark.skipif(
    not CHROMIUM or not importlib.util.find_spec("playwright") or not importlib.util.find_spec("mkdocs"),
    reason="needs Chromium, and the extras browser and dev",
)
# What is wrong with a page, each as a list that should be empty.
FAULTS = """() => {
  const seen = [...document.querySelectorAll('.md-content img')].filter(i => getComputedStyle(i).display != 'none');
  const root = document.documentElement;
  return {
    sideways: root.scrollWidth > root.clientWidth ? [root.scrollWidth] : [],
    cut: [...document.querySelectorAll('pre > code')].filter(c => c.checkVisibility() && c.innerText && c.scrollWidth > c.clientWidth + 1)
      .map(c => c.innerText.slice(0, 60)),
    unsized: seen.filter(i => !i.getAttribute('width') || !i.getAttribute('height')).map(i => i.src),
    untold: seen.filter(i => (i.alt || '').length < 15).map(i => i.src),
    broken: seen.filter(i => i.complete && !i.naturalWidth).map(i => i.src),
    flat: [...document.querySelectorAll('math')].filter(m => m.getBoundingClientRect().height < 4)
      .map(m => m.textContent.slice(0, 40)),
  };
}"""


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Serves and says nothing."""

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing."""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-q", "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, env={"NO_MKDOCS_2_WARNING": "1", "PATH": "/usr/bin:/bin"})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/", folder
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("width", [390, 768, 1280])
def test_every_page_fits(site: tuple[str, Path], width: int) -> None:
    from playwright.sync_api import sync_playwright

    address, folder = site
    found: dict[str, Any] = {}
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        for path in sorted(folder.rglob("index.html")):
            name = path.parent.relative_to(folder).as_posix()
            page = browser.new_context(viewport={"width": width, "height": 900}).new_page()
            outside, errors, weight = [], [], [0]

            def count(response: Any, weight: list[int] = weight) -> None:
                weight[0] += int(response.headers.get("content-length", 0))

            page.on("request", lambda r, o=outside: None if r.url.startswith(address) else o.append(r.url))
            page.on("console", lambda m, e=errors: e.append(m.text) if m.type == "error" else None)
            page.on("response", count)
            page.goto(f"{address}{name}/" if name != "." else address, wait_until="networkidle")
            page.evaluate("window.scrollTo(0, document.body.scrollHeight)")
            page.wait_for_timeout(100)
            faults = {**page.evaluate(FAULTS), "outside": outside, "errors": errors}
            if width < 1280:
                del faults["cut"]  # there they scroll
            if weight[0] > HEAVIEST:
                faults["weight"] = weight
            page.context.close()
            wrong = {kind: what for kind, what in faults.items() if what}
            if wrong:
                found[name] = wrong
        browser.close()
    assert not found
