"""Pickles read as data: containers, text and numbers, never code."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

from examples.sdgan.data.dataset import DataError


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

    Raises:
        DataError: the file is missing or broken, or it would run code.
    """
    try:
        with path.open("rb") as file:
            return _PlainUnpickler(file, encoding="latin1").load()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    except _Refused as error:
        raise DataError(
            f"{path}: refused, for the pickle holds more than lists, dictionaries, text and numbers: {error}"
        ) from error
    except Exception as error:
        raise DataError(f"{path}: not a pickle, or a broken one ({type(error).__name__}: {error})") from error
