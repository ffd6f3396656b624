"""JSON that has one way to be written, for digests, and a strict way to read it back."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Final

MOST_DEPTH: Final = 40


class JsonError(ValueError):
    """A value is not what it must be; the message says which."""


def canonical(value: object) -> bytes:
    """Sorted keys, no spaces, ASCII. Objects, lists, texts, integers, true, false and null, nothing else: two machines
    write a fraction in two ways. Raises JsonError."""
    _plain(value, "the value", 0)
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()


def digest_of(value: object) -> str:
    """SHA-256 of the canonical octets, in hexadecimal. Raises JsonError."""
    return hashlib.sha256(canonical(value)).hexdigest()


def differences(published: object, computed: object, where: str = "") -> list[str]:
    """Where two JSON values differ, each as "path: one, the other"; a value that is missing on one side says so."""
    if isinstance(published, dict) and isinstance(computed, dict):
        found = []
        for key in sorted(published.keys() | computed.keys()):
            path = f"{where}.{key}" if where else str(key)
            if key not in computed:
                found.append(f"{path}: does not belong there")
            elif key not in published:
                found.append(f"{path}: missing")
            else:
                found += differences(published[key], computed[key], path)
        return found
    if isinstance(published, list) and isinstance(computed, list) and len(published) == len(computed):
        pairs = zip(published, computed, strict=True)
        return [line for i, (one, other) in enumerate(pairs) for line in differences(one, other, f"{where}[{i}]")]
    if type(published) is type(computed) and published == computed:
        return []
    return [f"{where}: published {_short(published)}, computed {_short(computed)}"]


class Fields:
    """An object of JSON, read field by field: each raises JsonError with the field's name if it is not that."""

    __slots__ = ("_value", "_where")

    def __init__(self, value: object, where: str) -> None:
        if not isinstance(value, dict):
            raise JsonError(f"{where} is no object")
        self._value: Mapping[str, object] = value
        self._where = where

    def __iter__(self) -> Iterator[str]:
        return iter(self._value)

    def value(self, key: str) -> object:
        """Any value."""
        if key not in self._value:
            raise JsonError(f"{self._where}: {key} is missing")
        return self._value[key]

    def number(self, key: str) -> int:
        """An integer."""
        return whole(self.value(key), f"{self._where}: {key}")

    def number_or_none(self, key: str) -> int | None:
        """An integer or null."""
        return None if self.value(key) is None else self.number(key)

    def text(self, key: str) -> str:
        """A text."""
        return text(self.value(key), f"{self._where}: {key}")

    def flag(self, key: str) -> bool:
        """true or false."""
        value = self.value(key)
        if not isinstance(value, bool):
            raise JsonError(f"{self._where}: {key} is neither true nor false")
        return value

    def items(self, key: str) -> list[object]:
        """A list."""
        return items(self.value(key), f"{self._where}: {key}")

    def texts(self, key: str) -> tuple[str, ...]:
        """A list of texts."""
        return tuple(text(one, f"{self._where}: {key}") for one in self.items(key))

    def fields(self, key: str) -> "Fields":
        """An object."""
        return Fields(self.value(key), f"{self._where}: {key}")


def whole(value: object, where: str) -> int:
    """An integer, and not true or false. Raises JsonError."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise JsonError(f"{where} is no integer")
    return value


def text(value: object, where: str) -> str:
    """A text. Raises JsonError."""
    if not isinstance(value, str):
        raise JsonError(f"{where} is no text")
    return value


def items(value: object, where: str) -> list[object]:
    """A list. Raises JsonError."""
    if not isinstance(value, list):
        raise JsonError(f"{where} is no list")
    return value


def _plain(value: object, where: str, depth: int) -> None:
    if depth > MOST_DEPTH:
        raise JsonError(f"{where} is nested too deep")
    if isinstance(value, dict):
        for key, one in value.items():
            _plain(one, f"{where}: {text(key, f'a key of {where}')}", depth + 1)
    elif isinstance(value, (list, tuple)):
        for one in value:
            _plain(one, where, depth + 1)
    elif value is not None and not isinstance(value, (str, int)):
        raise JsonError(f"{where} is neither text nor integer: {_short(value)}")


def _short(value: object) -> str:
    shown = repr(value)
    return shown if len(shown) <= 80 else f"{shown[:77]}..."
