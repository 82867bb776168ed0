"""Files that hold arrays: safetensors with a JSON header, checked by a SHA-256, never a pickle.

Nothing is executed on reading, a file appears whole or not at all, and whatever is not one of
ours, or is one no longer, is refused with one line that says why.
"""

from __future__ import annotations

import dataclasses
import difflib
import fcntl
import hashlib
import json
import numbers
import os
import platform
import types
import typing
from collections import OrderedDict
from collections.abc import Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TypeVar

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from safetensors import SafetensorError
from safetensors.numpy import load as parse_safetensors
from safetensors.numpy import save as format_safetensors

FORMAT = 2
"""Version of the file format, and of what its numbers mean; a reader refuses files of another."""

_KEY = "chainrule"  # the one metadata entry; safetensors itself only stores strings there
_ARRAY = "$array"  # stands in a JSON tree where an array was taken out

Config = TypeVar("Config")


class CheckpointError(ValueError):
    """A file that cannot be loaded: missing, truncated, tampered with, or not one of ours."""


@cache
def versions() -> dict[str, str]:
    """Of chainrule, Python and the packages that decide what a run computes."""
    try:
        own = version("chainrule")
    except PackageNotFoundError:
        own = "not installed"
    return {
        "chainrule": own,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "gymnasium": gymnasium.__version__,
    }


# Whole files ------------------------------------------------------------------------------------


def locked(file: int) -> bool:
    """Whether the open file, or folder, is now this process's own: nobody else has locked it.

    The system releases it when it is closed. Where a file system cannot lock, it is taken for free.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        pass
    return True


def write_bytes(path: str | Path, data: bytes) -> None:
    """Write a file so that a crash at any moment leaves the old one or the new one, whole.

    Raises ValueError where a folder stands in its place, or there is none to put it in.
    """
    path = Path(path)
    if path.is_dir():
        raise ValueError(f"{path} is a folder: give the name of a file")
    if not path.parent.is_dir():
        raise ValueError(f"{path} cannot be written: there is no folder {path.parent}")
    partial = path.with_name(f".{path.name}.partial")
    try:
        with open(partial, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except OSError:
        partial.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # the new name is on the disk before anything that relies on it
    finally:
        os.close(folder)


def write_arrays(path: str | Path, arrays: Mapping[str, Any], header: Mapping[str, Any]) -> None:
    """Write named arrays or tensors and a header of JSON values as one safetensors file."""
    named = {name: _as_numpy(array) for name, array in arrays.items()}
    text = json.dumps({"format": FORMAT, "header": header, "sha256": _digest(named, header)})
    write_bytes(path, format_safetensors(named, metadata={_KEY: text}))


def check_format(path: str | Path, version: int) -> None:
    """Raise CheckpointError for a file of another format than this version's."""
    if version != FORMAT:
        other = "upgrade chainrule" if version > FORMAT else "use the chainrule that wrote it"
        raise CheckpointError(f"{path} has format {version}, this version reads {FORMAT}: {other}")


def read_arrays(path: str | Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The arrays and the header that `write_arrays` wrote.

    Raises CheckpointError when the file is missing, truncated, tampered with, of another format,
    or not written by `write_arrays`, as a pickle or a `torch.save` file is.
    """
    try:
        data = Path(path).read_bytes()
    except FileNotFoundError:
        raise CheckpointError(f"{path} does not exist") from None
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from None
    meta = _metadata(path, data)
    check_format(path, meta["format"])
    try:
        arrays = dict(sorted(parse_safetensors(data).items()))
    except (SafetensorError, ValueError, KeyError) as error:
        raise CheckpointError(f"{path} is truncated or damaged: {_one_line(error)}") from None
    if _digest(arrays, meta["header"]) != meta["sha256"]:
        raise CheckpointError(f"{path} was changed after it was written: its SHA-256 differs")
    return arrays, meta["header"]


def _metadata(path: str | Path, data: bytes) -> dict[str, Any]:
    """Our entry in the header of a safetensors file, with what it must have."""
    length = int.from_bytes(data[:8], "little")
    like_ours = data[8:9] == b"{"  # the header; its length may begin with any byte
    if not like_ours and (data[:2] == b"PK" or data[:1] == b"\x80"):
        raise CheckpointError(
            f"{path} is a pickle or a torch.save file, which could run code when loaded: "
            "only safetensors files written by chainrule are read"
        )
    if len(data) < 8 or (like_ours and len(data) < 8 + length):
        raise CheckpointError(f"{path} is truncated: {len(data)} bytes are left of it")
    try:
        entries = json.loads(data[8 : 8 + length])["__metadata__"]
        meta = json.loads(entries[_KEY])
        if not (isinstance(meta["format"], int) and isinstance(meta["header"], dict)):
            raise TypeError
        return {**meta, "sha256": meta["sha256"]}
    except (ValueError, KeyError, TypeError, RecursionError):
        raise CheckpointError(f"{path} is not a file that chainrule wrote") from None


def _digest(arrays: Mapping[str, np.ndarray], header: Mapping[str, Any]) -> str:
    """SHA-256 over the header and each array's name, type, shape and bytes."""
    digest = hashlib.sha256(json.dumps(header, sort_keys=True).encode())
    for name, array in sorted(arrays.items()):
        digest.update(json.dumps([name, array.dtype.str, array.shape]).encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def _as_numpy(array: Any) -> np.ndarray:
    if isinstance(array, torch.Tensor):
        array = array.detach().cpu().numpy()
    array = np.asarray(array)
    if array.dtype.kind not in "biuf":
        raise ValueError(f"an array of {array.dtype} cannot be saved: use numbers or booleans")
    return np.ascontiguousarray(array).reshape(array.shape)  # as safetensors takes it to be


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


# State ------------------------------------------------------------------------------------------


def split_state(tree: Any) -> tuple[dict[str, np.ndarray], Any]:
    """Take the arrays out of a nested state: (arrays by their path in the tree, JSON tree).

    `tree` is made of dicts with string keys, lists, arrays or tensors, and JSON values. Tuples
    come back as lists, tensors and NumPy scalars as arrays. Raises ValueError for anything else.
    """
    arrays: dict[str, np.ndarray] = {}

    def split(value: Any, path: str) -> Any:
        if isinstance(value, Mapping):
            if not all(isinstance(key, str) and key != _ARRAY for key in value):
                raise ValueError(f"state {path or '/'} has keys that are not plain strings")
            return {key: split(item, f"{path}/{key}") for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [split(item, f"{path}/{i}") for i, item in enumerate(value)]
        if isinstance(value, np.ndarray | np.generic | torch.Tensor):
            while path in arrays:  # keys may contain the separator themselves
                path += "/"
            arrays[path] = _as_numpy(value)
            return {_ARRAY: path}
        if value is None or isinstance(value, bool | int | float | str):
            return value
        raise ValueError(f"state {path} is a {type(value).__name__}, which cannot be saved")

    return arrays, split(tree, "")


def join_state(arrays: Mapping[str, np.ndarray], json_tree: Any) -> Any:
    """Put the arrays back where `split_state` took them out."""
    if isinstance(json_tree, dict):
        if _ARRAY in json_tree:
            return arrays[json_tree[_ARRAY]]
        return {key: join_state(arrays, item) for key, item in json_tree.items()}
    if isinstance(json_tree, list):
        return [join_state(arrays, item) for item in json_tree]
    return json_tree


# Spaces -----------------------------------------------------------------------------------------


def space_to_json(space: spaces.Space[Any]) -> dict[str, Any]:
    """A Gymnasium space as JSON values. Raises ValueError for a kind that is not supported."""
    match space:
        case spaces.Box():
            return {
                "type": "Box",
                "low": _bounds(space.low),
                "high": _bounds(space.high),
                "shape": list(space.shape),
                "dtype": str(space.dtype),
            }
        case spaces.Discrete():
            return {"type": "Discrete", "n": int(space.n), "start": int(space.start)}
        case spaces.MultiDiscrete():
            nvec, start, dtype = space.nvec.tolist(), space.start.tolist(), str(space.dtype)
            return {"type": "MultiDiscrete", "nvec": nvec, "start": start, "dtype": dtype}
        case spaces.MultiBinary():
            return {"type": "MultiBinary", "shape": list(space.shape)}
        case spaces.Dict():
            parts = [[key, space_to_json(part)] for key, part in space.spaces.items()]
            return {"type": "Dict", "spaces": parts}
        case spaces.Tuple():
            return {"type": "Tuple", "spaces": [space_to_json(part) for part in space.spaces]}
    raise ValueError(f"space {space} cannot be saved: it is none that an agent supports")


def space_from_json(data: Mapping[str, Any]) -> spaces.Space[Any]:
    """The space that `space_to_json` described."""
    match data["type"]:
        case "Box":
            shape, dtype = tuple(data["shape"]), np.dtype(data["dtype"])
            low, high = (
                np.broadcast_to(np.asarray(data[bound], dtype), shape).copy()
                for bound in ("low", "high")
            )
            return spaces.Box(low, high, shape, dtype.type)
        case "Discrete":
            return spaces.Discrete(data["n"], start=data["start"])
        case "MultiDiscrete":
            dtype = np.dtype(data["dtype"])
            return spaces.MultiDiscrete(
                np.asarray(data["nvec"], dtype), dtype.type, start=np.asarray(data["start"], dtype)
            )
        case "MultiBinary":
            shape = data["shape"]
            return spaces.MultiBinary(shape[0] if len(shape) == 1 else shape)
        case "Dict":  # an OrderedDict is not sorted by Gymnasium: the order is as it was
            parts = ((key, space_from_json(part)) for key, part in data["spaces"])
            return spaces.Dict(OrderedDict(parts))
        case "Tuple":
            return spaces.Tuple([space_from_json(part) for part in data["spaces"]])
    raise ValueError(f"{data['type']!r} is not a space that an agent supports")


def _bounds(bounds: np.ndarray) -> Any:
    """One number where all are equal, as in an image; else all of them."""
    uniform = bounds.size > 0 and bool((bounds == bounds.flat[0]).all())
    return bounds.flat[0].item() if uniform else bounds.tolist()


# Configurations ---------------------------------------------------------------------------------


def config_to_json(config: Any) -> dict[str, Any]:
    """A config dataclass, with those nested in it, as JSON values (tuples become lists)."""

    def convert(value: Any) -> Any:
        if dataclasses.is_dataclass(value):
            return config_to_json(value)
        return [convert(item) for item in value] if isinstance(value, tuple | list) else value

    return {f.name: convert(getattr(config, f.name)) for f in dataclasses.fields(config)}


def config_from_json(cls: type[Config], data: Mapping[str, Any]) -> Config:
    """The config that `config_to_json` described; fields that are not given have their defaults.

    Raises ValueError for an unknown field, naming close matches, or a value of the wrong type.
    """
    return _dataclass(cls, data, "")


def check_types(config: Any, path: str = "") -> None:
    """Hold each field of a dataclass to its annotation; for the `__post_init__` of a config.

    A whole number becomes a float and a list a tuple where these are expected. Raises ValueError
    that names the field, below `path`, and the type that is expected.
    """
    hints = typing.get_type_hints(type(config))
    for f in dataclasses.fields(config):
        value = _value(hints[f.name], getattr(config, f.name), path + f.name)
        object.__setattr__(config, f.name, value)  # a config is frozen


def _dataclass(cls: type[Config], data: Any, path: str) -> Config:
    if not isinstance(data, Mapping):
        raise ValueError(f"{path} is {data!r}: give fields of {cls.__name__}")
    hints = typing.get_type_hints(cls)
    known = [f.name for f in dataclasses.fields(cls)]  # type: ignore[arg-type]
    for name in data:
        if name not in known:
            close = difflib.get_close_matches(name, known, 3, 0.5) or known
            raise ValueError(
                f"{cls.__name__} has no field {f'{path}.{name}'.lstrip('.')!r}: "
                f"did you mean {', '.join(close)}?"
            )
    values = {}
    for name, value in data.items():
        below = f"{path}.{name}".lstrip(".")
        if dataclasses.is_dataclass(hints[name]):
            value = _dataclass(typing.cast(type, hints[name]), value, below)
        values[name] = _value(hints[name], value, below)
    return cls(**values)


def _value(hint: Any, value: Any, path: str) -> Any:
    """`value` as the type that the field is annotated with."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is typing.Any or isinstance(hint, TypeVar):
        return value
    if origin in (typing.Union, types.UnionType):
        for arm in sorted(arguments, key=lambda arm: arm is not type(None)):
            try:
                return _value(arm, value, path)
            except ValueError as error:
                last = error
        raise last
    if origin is tuple and isinstance(value, list | tuple):
        kinds = arguments[:1] * len(value) if arguments[1:] == (...,) else arguments
        if len(kinds) == len(value):
            return tuple(_value(kind, item, path) for kind, item in zip(kinds, value, strict=True))
    elif origin is typing.Literal:
        if value in arguments:
            return value
        raise ValueError(f"{path} is {value!r}: use {', '.join(map(str, arguments))}")
    elif hint in _NUMBERS:
        if isinstance(value, _NUMBERS[hint]) and not isinstance(value, bool):
            return hint(value)
    elif isinstance(value, origin or hint):
        return value
    expected = getattr(hint, "__name__", str(hint)) if origin is None else str(hint)
    raise ValueError(f"{path} is {value!r}: expected {expected}")


_NUMBERS: dict[Any, type] = {int: numbers.Integral, float: numbers.Real}  # NumPy's among them
