"""Files written whole or not at all, and the faults of storage that must stop a study."""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from medpeft_utils.core.errors import BadInput, MedpeftError, short

# What no retry of a run can mend: no space, over quota, read-only, a device that fails.
STORAGE_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO}
PARTIAL = '.part'  # ends the name of a file that is being written
NOT_WRITABLE = STORAGE_ERRORS | {errno.EACCES, errno.EPERM, errno.ENOTDIR}


class StorageFault(MedpeftError, OSError):
    """The results folder cannot be written; the study stops, and what is recorded stays valid."""


@contextlib.contextmanager
def storage(path: Path | str) -> Iterator[None]:
    """Turn 'no space', 'read-only' and the like below `path` into one `StorageFault`."""
    try:
        yield
    except OSError as error:
        if isinstance(error, StorageFault) or error.errno not in NOT_WRITABLE:
            raise
        place = path if str(error.filename or '').endswith(PARTIAL) else error.filename or path
        raise cannot_write(place, os.strerror(error.errno).lower()) from error


def cannot_write(place: Path | str, reason: str) -> StorageFault:
    """The fault to raise, which names the place, the reason and the way out."""
    return StorageFault(
        f'cannot write {place}: {reason}; free space or give another folder by --results, '
        'then start again: what is recorded is skipped'
    )


def plain(value: Any) -> Any:
    """JSON's own types: numpy scalars and arrays become numbers and lists, paths text, NaN and infinity null."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set)):
        return [plain(item) for item in value]
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if hasattr(value, 'tolist'):  # numpy and torch
        return plain(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f'{value!r} of type {type(value).__name__} cannot be written as JSON')


def write_bytes(path: Path | str, content: bytes, durable: bool = True) -> None:
    """Write a file by a rename, so a reader sees the old content or the new, never a part.

    Args:
        path: the file; its folder is made.
        content: all of it.
        durable: wait until it is on the disk, so it outlives a power cut.
    Raises:
        StorageFault: the disk is full or the folder cannot be written.
    """
    path = Path(path)
    with storage(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=f'.{path.name}.', suffix=PARTIAL, dir=path.parent)
        try:
            with os.fdopen(handle, 'wb') as stream:
                stream.write(content)
                stream.flush()
                if durable:
                    os.fsync(stream.fileno())
            os.chmod(temporary, 0o644)
            os.replace(temporary, path)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary)
            raise
        if durable:
            _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    if os.name != 'posix':
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:  # some network file systems cannot sync a folder; the file itself is synced
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(handle)


def write_json(path: Path | str, value: Any, durable: bool = True) -> None:
    """Write `value` as JSON by a rename; see `write_bytes`."""
    text = json.dumps(plain(value), indent=1, allow_nan=False, ensure_ascii=False)
    write_bytes(path, text.encode() + b'\n', durable)


def parse_json(text: bytes | str) -> Any:
    """The content of JSON. Raises ValueError if it is not JSON, is nested too deeply, or holds lone surrogates."""
    try:
        content = json.loads(text)
        raw = text if isinstance(text, bytes) else text.encode()
        if b'\\u' in raw and b'\\ud' in raw.lower():  # the first look spares most texts a copy
            json.dumps(content, ensure_ascii=False).encode()  # half of a pair cannot be written again
        return content
    except RecursionError:
        raise ValueError('nested too deeply') from None


def read_json(path: Path | str) -> Any | None:
    """The content of a JSON file; None where there is no file, or none that is whole."""
    try:
        return parse_json(Path(path).read_bytes())
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None


def append_line(path: Path | str, value: Any) -> None:
    """Add one JSON line by a single write, so lines of several processes do not mix."""
    with storage(path):
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            os.write(handle, json.dumps(plain(value), ensure_ascii=False).encode() + b'\n')
        finally:
            os.close(handle)


def check_writable(folder: Path) -> None:
    """Raise `StorageFault` now rather than after hours where `folder` cannot be made or written."""
    probe = folder / f'.probe-{os.getpid()}{PARTIAL}'
    with storage(folder):
        folder.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(b'x' * 4096)
        probe.unlink(missing_ok=True)


def read_tensors(path: Path | str) -> tuple[dict[str, str], dict[str, Any]]:
    """Metadata and tensors of a safetensors file, each in half or full precision and finite, or of whole numbers.

    Raises:
        BadInput: there is no such file, it is cut off or of another kind, or holds what no network computes with.
    """
    from safetensors import safe_open

    if not os.path.isfile(path):
        raise BadInput(f'no file {short(str(path), 200)}; other formats than safetensors are not read')
    try:
        with safe_open(path, framework='pt') as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
            about = dict(file.metadata() or {})
    except Exception as error:  # a damaged header makes the library raise more than its own error
        raise BadInput(f'{path} is not a whole safetensors file ({short(str(error), 200)}); fetch it again') from error
    for name, tensor in tensors.items():
        require_numbers(tensor, name, path)
    return about, tensors


def require_numbers(tensor: Any, name: str, path: Path | str) -> None:
    """Raise BadInput for a tensor that is sparse, quantized, complex, of 8 bits or fewer, or not finite."""
    import torch

    floats = torch.float16, torch.bfloat16, torch.float32, torch.float64
    plain_one = tensor.layout is torch.strided and not (tensor.is_quantized or tensor.is_complex() or tensor.is_meta)
    if not plain_one or (tensor.is_floating_point() and tensor.dtype not in floats):
        raise BadInput(
            f'{path}: {short(name)} is not a plain tensor of real numbers in half or full precision ({tensor.dtype}, '
            f'{tensor.layout}, {tensor.device})'
        )
    if tensor.is_floating_point() and not torch.isfinite(tensor.float()).all():
        raise BadInput(
            f'{path}: {short(name)} holds values that are not finite (NaN or infinity); the training that wrote it '
            'diverged'
        )
    if name.endswith('running_var') and (tensor < 0).any():
        raise BadInput(f'{path}: {short(name)} holds variances below 0; the file is spoilt')


def write_tensors(path: Path | str, tensors: dict[str, Any], about: dict[str, str] | None = None) -> Path:
    """Write tensors as safetensors by a rename; see `write_bytes`. `about` is the file's metadata."""
    from safetensors.torch import save

    write_bytes(path, save(tensors, metadata=about))
    return Path(path)
