"""Metadata pickles made to do harm: to run code, to end the process, to fill the memory, to never end."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers.files import NAMES, Strike, opened, write_cub

from examples.sdgan.data import DataError
from examples.sdgan.data.cub import cub
from examples.sdgan.data.pickles import largest_tuple, read_plain_pickle

REFUSED = "refused, for the pickle holds more than lists, dictionaries, text and numbers"
BROKEN = "not a pickle, or a broken one"


def command(canary: Path) -> bytes:
    return f"touch '{canary}'".encode()


def by_name(canary: Path) -> bytes:
    return b"cos\nsystem\n(V" + command(canary) + b"\ntR."


def by_instance(canary: Path) -> bytes:
    return b"(V" + command(canary) + b"\nios\nsystem\n."


def by_object(canary: Path) -> bytes:
    return b"(cos\nsystem\nV" + command(canary) + b"\no."


def by_stack(canary: Path) -> bytes:
    return pickle.dumps(Strike(canary), protocol=4)


def behind_data(canary: Path) -> bytes:
    return pickle.dumps([list(NAMES), {"words": [Strike(canary)]}], protocol=2)


def by_state(canary: Path) -> bytes:
    return b"\x80\x02]}(V__setstate__\ncos\nsystem\nubV" + command(canary) + b"\nb."


def by_getattr(canary: Path) -> bytes:
    return b"c__builtin__\neval\n(V__import__('pathlib').Path('" + str(canary).encode() + b"').touch()\ntR."


def nested_tuples(closing: bytes) -> bytes:
    """A tuple in a tuple, a million times, as a dictionary's key: hashing it overflows the stack."""
    return b"\x80\x02}N" + closing * 1_000_000 + b"Ns."


DOUBLING = b"\x80\x02}N" + b"2\x86" * 100 + b"Ns."  # t = (t, t), a hundred times: 2^100 to hash


@pytest.mark.parametrize(
    "write",
    [by_name, by_instance, by_object, by_stack, behind_data, by_state, by_getattr],
    ids=lambda f: f.__name__,
)
@pytest.mark.parametrize("file", ["captions.pickle", "train/filenames.pickle"])
def test_no_code_runs(write: Callable[[Path], bytes], file: str, tmp_path: Path) -> None:
    root, canary = attngan(tmp_path), tmp_path / "canary"
    (root / file).write_bytes(write(canary))
    with pytest.raises(DataError, match=r"it asks for \S+\.(system|eval)") as refused:
        cub(root, "train", 32)
    assert str(refused.value).startswith(f"{root / file}: {REFUSED}")
    assert not canary.exists()


@pytest.mark.parametrize("write", [by_name, by_instance, by_object, by_stack, behind_data, by_getattr])
def test_the_code_would_run(write: Callable[[Path], bytes], tmp_path: Path) -> None:
    pickle.loads(write(tmp_path / "canary"))
    assert (tmp_path / "canary").exists()


BOMBS: dict[str, tuple[bytes, str]] = {
    "nested tuples as a key": (nested_tuples(b"\x85"), f"{REFUSED}: the instruction TUPLE1"),
    "nested tuples of three": (nested_tuples(b"NN\x87"), f"{REFUSED}: the instruction TUPLE3"),
    "a tuple of 2^100 as a key": (DOUBLING, f"{REFUSED}: the instruction DUP"),
    "room for 2^32 objects": (b"\x80\x02]r\xff\xff\xff\xff.", f"{BROKEN}.*numbers an object 4,294,967,295"),
    "room for 10^18 objects, in text": (b"]p1000000000000000000\n.", f"{BROKEN}.*numbers an object"),
    "a text of 2^60 letters": (b"\x80\x04\x8d" + (1 << 60).to_bytes(8, "little") + b"a.", BROKEN),
    "bytes of 2^60": (b"\x80\x04\x8e" + (1 << 60).to_bytes(8, "little") + b"a.", BROKEN),
    "a frame of 2^60": (b"\x80\x04\x95" + (1 << 60).to_bytes(8, "little") + b"].", BROKEN),
    "a number of 2^31 bytes": (b"\x80\x02\x8b\xff\xff\xff\x7f\x01.", BROKEN),
    "a number of 10,000 digits": (b"L" + b"1" * 10_000 + b"L\n.", BROKEN),
    "a registered class": (b"\x80\x02\x82\x01.", f"{REFUSED}: the instruction EXT1"),
    "an object elsewhere": (b"P/etc/passwd\n.", f"{REFUSED}: it refers to an object outside"),
    "an object elsewhere, binary": (b"\x80\x02X\x01\x00\x00\x00aQ.", f"{REFUSED}: it refers to an object outside"),
    "a set": (pickle.dumps({1, 2}, 4), f"{REFUSED}: the instruction EMPTY_SET"),
    "out-of-band memory": (b"\x80\x05\x97.", f"{REFUSED}: the instruction NEXT_BUFFER"),
    "a list as a key": (b"\x80\x02}]Ns.", f"{BROKEN}.*unhashable"),
    "nothing to end with": (b".", BROKEN),
    "no end": (b"\x80\x02]", BROKEN),
    "an unknown protocol": (b"\x80\xff].", BROKEN),
    "NumPy's array": (b"\x80\x02cnumpy.core.multiarray\n_reconstruct\n.", f"{REFUSED}: it asks for numpy.core"),
}


@pytest.mark.parametrize("how", BOMBS)
def test_bombs_do_not_go_off(how: str, tmp_path: Path) -> None:
    content, reason = BOMBS[how]
    path = tmp_path / "p.pickle"
    path.write_bytes(content)
    with pytest.raises(DataError, match=reason) as refused:
        read_plain_pickle(path)
    assert str(refused.value).startswith(f"{path}: ")
    assert len(str(refused.value)) < 400 + len(str(path))


WORDS = {1: "a", 2: "bird"}
THREE = [[1, 2]] * 3


def attngan(root: Path) -> Path:
    """AttnGAN's layout: captions and names pickled."""
    write_cub(root)
    for path in sorted((root / "text").rglob("*.txt")):
        path.unlink()
    for folder in ("001.A", "002.B", ""):
        (root / "text" / folder).rmdir()
    (root / "train" / "filenames.txt").unlink()
    dump(root / "train" / "filenames.pickle", list(NAMES))
    dump(root / "captions.pickle", [THREE, [], WORDS, {}])
    return root


def dump(path: Path, content: Any) -> None:
    path.write_bytes(pickle.dumps(content, protocol=2))


def test_what_is_harmless_is_read(tmp_path: Path) -> None:
    assert cub(attngan(tmp_path), "train", 32, captions_per_image=1).captions == [["a bird"]] * 3


def itself() -> list:
    caption: list = [1]
    caption.append(caption)
    return caption


def deep(levels: int = 100_000) -> Any:
    """Lists in lists; Python's own pickler cannot write them."""
    return b"\x80\x02" + b"]" * levels + b"a" * (levels - 1) + b"."


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (["a", "b"], "must hold .train captions"),
        ({}, "must hold .train captions"),
        ([THREE, [], 2], "must hold .train captions"),
        ([["a bird"] * 3, [], WORDS], "train caption 0 is a str, not a list of words"),
        ([[7, 8, 9], [], WORDS], "train caption 0 is a int, not a list of words"),
        ([[[1, [1]]] * 3, [], WORDS], "a train caption holds a list, which is no word of its vocabulary"),
        ([[[1, "bird"]] * 3, [], WORDS], "a train caption holds bird, which is no word of its vocabulary"),
        ([[itself()] * 3, [], WORDS], "a train caption holds a list, which is no word of its vocabulary"),
        ([[[1, 3]] * 3, [], WORDS], "a train caption holds 3, which is no word of its vocabulary"),
        ([THREE, [], {1: "a", 2: 2}], "its vocabulary must hold a word for each index, got int"),
        ([THREE, [], {1: "a", 2: None}], "its vocabulary must hold a word for each index, got NoneType"),
        ([THREE, [], {"a": 1, "bird": 2}], "its vocabulary must hold a word for each index"),
        ([[[1]] * 3, [], {1: "\x00\x1b"}], "train caption 0 is empty"),
    ],
    ids=[
        "texts", "a dictionary", "a number of words", "captions of text", "captions of numbers", "a list for a word",
        "a word for a number", "a caption within itself", "a word unknown", "a number for a word", "nothing for a word",
        "the vocabulary turned round", "control characters",
    ],
)  # fmt: skip
def test_captions_of_the_wrong_shape_are_named(content: Any, reason: str, tmp_path: Path) -> None:
    root = attngan(tmp_path)
    dump(root / "captions.pickle", content)
    with pytest.raises(DataError, match=reason) as refused:
        cub(root, "train", 32)
    assert str(refused.value).startswith(f"{root / 'captions.pickle'}: ")


@pytest.mark.parametrize("captions", [[[1] * 10] * 300, [[2]] * 3], ids=["one caption", "one word"])
def test_a_small_file_of_much_text_is_named(
    captions: list, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its lists are one list many times over, or all its words are one long one."""
    monkeypatch.setattr("examples.sdgan.data.cub.LETTERS", 5000)
    root = attngan(tmp_path)
    dump(root / "captions.pickle", [captions, [], {1: "a", 2: "b" * 2000}])
    assert (root / "captions.pickle").stat().st_size < 5000
    with pytest.raises(DataError, match="its train captions have more than 5,000 letters") as refused:
        cub(root, "train", 32)
    assert str(refused.value).startswith(f"{root / 'captions.pickle'}: ")


@pytest.mark.parametrize("file", ["captions.pickle", "train/filenames.pickle"])
def test_lists_in_lists_are_named(file: str, tmp_path: Path) -> None:
    root = attngan(tmp_path)
    (root / file).write_bytes(deep())
    with pytest.raises(DataError, match="must hold") as refused:
        cub(root, "train", 32)
    assert str(refused.value).startswith(f"{root / file}: ")


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        ("001.A/a1", "must hold a list of image names"),
        (dict.fromkeys(NAMES, 1), "must hold a list of image names"),
        ([*NAMES, None], "must hold a list of image names"),
        ([], "names no image"),
        ([*NAMES, NAMES[1]], "names '001.A/a2' twice"),
        ([*NAMES, "a\0b"], r"names 'a\\x00b.jpg', which no file can be called"),
        ([*NAMES, "../text/x"], "names '../text/x.jpg', which lies outside"),
        ([*NAMES, "/etc/hostname"], "names '/etc/hostname.jpg', which lies outside"),
        ([*NAMES, ""], "captions without an image"),
    ],
)
def test_names_of_the_wrong_shape_are_named(names: Any, reason: str, tmp_path: Path) -> None:
    root = attngan(tmp_path / "birds")
    dump(root / "train" / "filenames.pickle", names)
    with opened() as files, pytest.raises(DataError, match=reason) as refused:
        cub(root, "train", 32)
    assert str(root / ("train" if names != [*NAMES, ""] else "images")) in str(refused.value)
    assert files == [root / "train" / "filenames.pickle"]


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_what_a_tuple_is_made_of_is_counted_as_often_as_it_occurs(protocol: int) -> None:
    pair = (1, "a")  # with itself, 3 objects
    assert largest_tuple(pickle.dumps([1, {"a": None}], protocol)) == 1
    assert largest_tuple(pickle.dumps([pair, {"a": (pair, pair)}], protocol)) == 7
    assert largest_tuple(pickle.dumps((pair, [(pair, pair, 5)], (), {2: pair}), protocol)) == 8
    assert largest_tuple(pickle.dumps(((pair,) * 5, 2, 3), protocol)) == 19
