"""Pickles read as data: lists, dictionaries, text and numbers, never code."""

from __future__ import annotations

import codecs
import io
import pickle
import pickletools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from examples.sdgan.data.dataset import DataError
from examples.sdgan.data.reading import read_bytes

# Tuples and sets are not among them: in a dictionary's key, nested ones end the process or never end to be hashed.
_PLAIN = frozenset(
    [
        "PROTO",
        "FRAME",
        "STOP",
        "MARK",
        "NONE",
        "NEWTRUE",
        "NEWFALSE",
        "INT",
        "BININT",
        "BININT1",
        "BININT2",
        "LONG",
        "LONG1",
        "LONG4",
        "FLOAT",
        "BINFLOAT",
        "STRING",
        "BINSTRING",
        "SHORT_BINSTRING",
        "UNICODE",
        "BINUNICODE",
        "SHORT_BINUNICODE",
        "BINUNICODE8",
        "BINBYTES",
        "SHORT_BINBYTES",
        "BINBYTES8",
        "EMPTY_LIST",
        "LIST",
        "APPEND",
        "APPENDS",
        "EMPTY_DICT",
        "DICT",
        "SETITEM",
        "SETITEMS",
        "PUT",
        "BINPUT",
        "LONG_BINPUT",
        "MEMOIZE",
        "GET",
        "BINGET",
        "LONG_BINGET",
    ]
)
_BY_CODE = {code.code: code for code in pickletools.opcodes}
# The unpickler stops at these with a better reason: it knows the names.
_NAMED = frozenset(("GLOBAL", "STACK_GLOBAL", "INST", "PERSID", "BINPERSID"))


def _as_windows_1252(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeDecodeError)
    return error.object[error.start : error.end].decode("cp1252", "replace"), error.end


# Text of Python 2 is bytes in no known encoding; it is read as text files are.
codecs.register_error("scbn.windows-1252", _as_windows_1252)


class _Refused(Exception):
    pass


class _PlainUnpickler(pickle.Unpickler):
    """Refuses every name, and with that every class and every call."""

    def find_class(self, module_name: str, global_name: str) -> Any:
        raise _Refused(f"it asks for {module_name}.{global_name}")

    def persistent_load(self, pid: Any) -> Any:
        raise _Refused("it refers to an object outside the file")


def read_plain_pickle(path: Path) -> Any:
    """The lists, dictionaries, strings and numbers of a pickle, as AttnGAN's metadata files hold.

    The bytes that are text to Python 2 are read as UTF-8, what is none of it as Windows-1252.

    Raises:
        DataError: the file is missing or broken, or it would run code.
    """
    data = read_bytes(path)
    try:
        _scan(data)
        return _PlainUnpickler(io.BytesIO(data), encoding="utf-8", errors="scbn.windows-1252").load()
    except _Refused as error:
        raise DataError(
            f"{path}: refused, for the pickle holds more than lists, dictionaries, text and numbers: {error}"
        ) from error
    except Exception as error:
        raise DataError(f"{path}: not a pickle, or a broken one ({type(error).__name__}: {error})") from error


def _scan(data: bytes) -> None:
    """Look at every instruction before one is carried out."""
    for code, argument in _instructions(data):
        if code.name in _NAMED:
            return
        if code.name not in _PLAIN:
            raise _Refused(f"the instruction {code.name}")
        # The unpickler makes room for as many objects as the highest number says.
        if code.name in ("PUT", "LONG_BINPUT") and int(argument) > len(data):  # pyright: ignore[reportArgumentType]
            raise ValueError(f"it numbers an object {argument:,} in {len(data):,} bytes")


def _instructions(data: bytes) -> Iterator[tuple[pickletools.OpcodeInfo, Any]]:
    """As ``pickletools.genops``, which takes text of Python 2 for ASCII and fails where it is none."""
    file = io.BytesIO(data)
    code: Any = None
    while code is None or code.name != "STOP":
        byte = file.read(1).decode("latin1")
        code = _BY_CODE.get(byte)
        if code is None:
            raise ValueError(f"no instruction of a pickle: {byte!r}" if byte else "it ends before its end")
        if code.name == "STRING":
            argument = file.readline()
        else:
            argument = None if code.arg is None else code.arg.reader(file)
        yield code, argument


def largest_tuple(data: bytes) -> int:
    """Of all tuples of a pickle, the most objects that one is made of, counting each as often as it occurs.

    This is what hashing it takes: a tuple of two of the one before it, a hundred times, never ends.

    Raises:
        Exception: the pickle is broken; of any type.
    """
    largest, marks = 1, []
    stack: list[int] = []
    memo: dict[int, int] = {}
    for code, argument, _ in pickletools.genops(data):
        name: str = code.name
        if name.endswith("PUT"):
            memo[int(argument)] = stack[-1]  # pyright: ignore[reportArgumentType]
        elif name == "MEMOIZE":
            memo[len(memo)] = stack[-1]
        elif name.endswith("GET"):
            stack.append(memo[int(argument)])  # pyright: ignore[reportArgumentType]
        elif name == "MARK":
            marks.append(len(stack))
        else:
            taken = len(code.stack_before)
            if pickletools.markobject in code.stack_before:
                # Before the mark lies what the objects behind it are put into; mark and slice are two.
                taken += len(stack) - marks.pop() - 2
            left = len(stack) - taken
            size = 1 + sum(stack[left:]) if "TUPLE" in name else 1
            largest = max(largest, size)
            stack[left:] = [size] * len(code.stack_after)
    return largest
