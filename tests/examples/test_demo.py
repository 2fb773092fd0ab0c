"""The page: what it draws, what it says of captions it cannot draw, and how it behaves in a browser."""

from __future__ import annotations

import dataclasses
import re
import shutil
import subprocess
import sys
import time
import urllib.request
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from helpers import trained
from helpers.miniature import shrink
from helpers.retrofits import TINY

from examples.attngan import retrofit
from examples.attngan.before import load_before
from examples.sdgan import demo
from examples.sdgan.inference import scenes
from examples.sdgan.inference.export import load_sampler
from examples.sdgan.inference.sampler import Sampler
from examples.sdgan.plots import page

FIRST, SECOND = "a small red bird", "a large bird with blue wings"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture(scope="module")
def sampler() -> Sampler:
    return trained.sampler(trained.small())


def test_a_scene_is_what_the_model_draws(sampler: Sampler) -> None:
    found = scenes.scene(sampler, FIRST, 3, 5)
    noise = scenes.fixed_noise(3, sampler.config.generator.noise_dim, 5)
    assert torch.equal(found.images, sampler.images([FIRST] * 3, noise))
    assert found.words == FIRST.split()
    assert found.maps is not None and found.maps.shape[0] == 3
    assert found.maps[:, : len(found.words)].sum(1).allclose(torch.ones(()))
    assert not torch.equal(scenes.scene(sampler, FIRST, 3, 6).images, found.images)
    assert "never saw, read as “unknown”: zebra" in scenes.scene(sampler, "a zebra bird", 1, 0).note
    assert scenes.scene(trained.sampler(trained.small(norm="sentence")), FIRST, 1, 0).maps is None


def test_between_two_captions_begins_and_ends_with_them(sampler: Sampler) -> None:
    noise = scenes.fixed_noise(2, sampler.config.generator.noise_dim, 1)
    for share, caption in ((0.0, FIRST), (1.0, SECOND)):
        want = sampler.images([caption] * 2, noise)
        torch.testing.assert_close(scenes.between(sampler, FIRST, SECOND, share, 2, 1), want, rtol=0, atol=1e-6)
    steps = [scenes.between(sampler, FIRST, SECOND, share, 2, 1) for share in (0.2, 0.4, 0.6, 0.8)]
    assert all(not torch.equal(a, b) for a, b in pairwise(steps))
    first, second = sampler.encode([FIRST]), sampler.encode([SECOND])
    middle = scenes.mixed(first, second, 0.75)
    assert torch.equal(middle.padding_mask, second.padding_mask)
    torch.testing.assert_close(middle.words[0, 0], 0.25 * first.words[0, 0] + 0.75 * second.words[0, 0])
    assert torch.equal(middle.words[0, 4], second.words[0, 4])  # the first has four words


def test_one_word_is_swapped_and_the_noise_stays(sampler: Sampler) -> None:
    rows = scenes.swapped(sampler, FIRST, "red", ["blue", "red", "large"], 2, 3)
    assert [caption for caption, _ in rows] == [FIRST, "a small blue bird", "a small large bird"]
    noise = scenes.fixed_noise(2, sampler.config.generator.noise_dim, 3)
    for caption, images in rows:
        torch.testing.assert_close(images, sampler.images([caption] * 2, noise), rtol=0, atol=1e-6)
    with pytest.raises(scenes.SceneError, match="“ed” is not a word of"):
        scenes.swapped(sampler, FIRST, "ed", ["blue"], 1, 0)


@pytest.mark.parametrize(
    ("caption", "message"),
    [
        ("", "Type a caption"),
        (" !? ", "Type a caption"),
        ("zebra xylophone", "knows no word of “zebra xylophone”. It knows, for example: "),
        ("<script>alert(1)</script>", "&lt;script&gt;"),
    ],
)
def test_what_cannot_be_drawn_is_told_on_the_page(sampler: Sampler, caption: str, message: str) -> None:
    for made in (
        demo.draw(sampler, None, 1, caption, 0),
        demo.walk(sampler, 1, FIRST, caption, 0.5, 0),
        demo.swap(sampler, caption, "bird", "blue", 0),
    ):
        assert message in made or "is not a word of" in made
        assert "<script" not in made


def test_what_is_not_read_is_told_wherever_it_is_drawn(sampler: Sampler) -> None:
    long = "a small red bird with blue wings with a large bird"
    for made in (
        demo.draw(sampler, None, 1, long, 0),
        demo.walk(sampler, 1, FIRST, long, 0.5, 0),
        demo.swap(sampler, long, "small", "large", 0),
    ):
        assert "Only the first 7 words are read" in made
    assert "never saw, read as “unknown”: zebra" in demo.swap(sampler, FIRST, "red", "zebra", 0)
    assert "never saw" in demo.walk(sampler, 1, "a zebra bird", FIRST, 0.5, 0)


def test_the_page_holds_images_words_and_maps(sampler: Sampler) -> None:
    made = demo.draw(sampler, None, 3, FIRST, 0)
    assert len(re.findall('class="drawn"', made)) == 3
    assert re.findall(r"<label[^>]*>([^<]+)</label>", made) == [*FIRST.split(), "no word"]
    assert len(re.findall('class="map ', made)) == 3 * 4
    assert not re.findall(r'(?:src|href)="(?!data:)|url\(|@import', made)
    strange = scenes.Scene(torch.zeros(1, 3, 4, 4), ["\ud800", "<b>"], torch.ones(1, 2, 4, 4))
    page.scene_page(strange).encode()
    assert "<b><" not in page.scene_page(strange)


def test_a_retrofit_stands_beside_what_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shrink(monkeypatch.setattr)
    assert retrofit.main([*TINY, "--out", str(tmp_path)]) == 0
    after = load_sampler(tmp_path)
    for path in (tmp_path, tmp_path / "model", tmp_path / "checkpoint.pt"):
        before = load_before(path)
        assert before is not None
        assert before.config.generator == dataclasses.replace(after.config.generator, norm="batch")
    made = demo.draw(after, before, 2, "a small bird", 0)
    assert made.index(">before<") < made.index(">retrofitted<")
    ids = re.findall(r'id="([^"]+)"', made)
    assert len(ids) == len(set(ids))
    # A caption of another length beside it changes nothing, though AttnGAN's mask mixes samples.
    alone = scenes.scene(before, "a small bird", 2, 0).images
    beside = scenes.swapped(before, "a small bird", "small", ["very very large"], 2, 0)
    torch.testing.assert_close(beside[0][1], alone, rtol=0, atol=1e-6)
    (tmp_path / "elsewhere").mkdir()
    shutil.move(str(tmp_path / "model"), tmp_path / "elsewhere" / "model")
    assert load_before(tmp_path / "elsewhere" / "model") is None


def test_bad_options(tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    model = trained.model(tmp_path / "model", trained.small())
    assert demo.main(["--checkpoint", str(model), "--count", "0"]) == 2
    assert "--count must be from 1 to 24, got 0" in capsys.readouterr().out
    for option, value, message in (
        ("--port", "70000", "--port must be from 1 to 65526, got 70000"),
        ("--host", "nonsense.invalid", "--host nonsense.invalid: no address that is known here"),
    ):
        assert demo.main(["--checkpoint", str(model), option, value]) == 2
        assert message in " ".join(capsys.readouterr().out.split())
    assert demo.main(["--checkpoint", str(model), "--caption", "a", "b", "c"]) == 2
    assert "--caption takes one or two, got 3" in capsys.readouterr().out
    monkeypatch.setitem(sys.modules, "gradio", None)
    assert demo.main(["--checkpoint", str(model)]) == 2
    assert "pip install '.[demo]'" in capsys.readouterr().out
    monkeypatch.undo()
    pytest.importorskip("gradio", reason="gradio is not installed")
    assert demo.main(["--checkpoint", str(tmp_path / "none")]) == 2
    assert demo.main(["--checkpoint", str(model), "--caption", "zebra"]) == 2
    assert "knows no word of “zebra”" in capsys.readouterr().out


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory):
    """Of a page that is served as the command does it."""
    pytest.importorskip("gradio", reason="gradio is not installed")
    model = trained.model(tmp_path_factory.mktemp("served") / "model", trained.small())
    command = [sys.executable, "-u", "-m", "examples.sdgan.demo", "--checkpoint", str(model), "--port", "17860"]
    root = Path(__file__).parents[2]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=root) as process:
        assert process.stdout is not None
        found = re.search(r"open (\S+) in a browser", process.stdout.readline())
        assert found
        yield found[1]
        process.terminate()


def test_it_is_served_to_this_machine_alone(address: str) -> None:
    assert address.startswith("http://127.0.0.1:")
    with urllib.request.urlopen(address, timeout=20) as answer:
        assert answer.status == 200


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")
@pytest.mark.parametrize(("width", "height"), [(1280, 900), (390, 844)], ids=["desktop", "phone"])
def test_in_a_browser(address: str, width: int, height: int) -> None:
    library = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with library.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        phone = width < 600
        view = browser.new_context(viewport={"width": width, "height": height}, has_touch=phone, is_mobile=phone)
        tab = view.new_page()
        asked: list[str] = []
        wrong: list[str] = []
        tab.on("request", lambda request: asked.append(request.url))
        tab.on("console", lambda said: wrong.append(said.text) if said.type == "error" else None)
        tab.goto(address)
        first = tab.locator("#images img.drawn").first
        first.wait_for()
        time.sleep(2)  # until what is on the page listens
        before = first.get_attribute("src")
        box = tab.locator("#caption textarea, #caption input")
        box.click()
        box.fill("")
        box.press_sequentially("a large blue bird")
        changed = "old => document.querySelector('#images img.drawn').src !== old"
        tab.wait_for_function(changed, arg=before, timeout=10000)
        word = tab.locator("#images .words label", has_text="blue")
        word.wait_for()
        if phone:
            word.tap()
        else:
            word.hover()
        shown = "[...document.querySelectorAll('#images img.map')].filter(e => +getComputedStyle(e).opacity > .5).length"
        tab.wait_for_function(f"{shown} === 6", timeout=5000)
        assert tab.evaluate("document.documentElement.scrollWidth") <= width
        before = first.get_attribute("src")
        tab.locator("#noise").click()
        tab.wait_for_function(changed, arg=before, timeout=10000)
        tab.get_by_role("tab", name="One word").click()
        tab.locator("#word textarea, #word input").fill("blue")
        tab.locator("#words textarea, #words input").fill("red, small")
        tab.locator("#swap").click()
        tab.wait_for_function("document.querySelectorAll('#rows img.drawn').length === 18", timeout=10000)
        tab.get_by_role("tab", name="Between two").click()
        assert tab.locator("#path img.drawn").first.is_visible()
        assert {url.split("/")[2] for url in asked if url.startswith("http")} == {address.split("/")[2]}
        assert not wrong
        browser.close()
