"""Hashes by which data, weights, code and settings are known: SHA-256, cut to hex digits."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

LENGTH = 16


def digest(*parts: bytes | str, length: int = LENGTH) -> str:
    """Hash of parts that are joined by a zero byte."""
    joined = b'\0'.join(part.encode() if isinstance(part, str) else part for part in parts)
    return hashlib.sha256(joined).hexdigest()[:length]


def json_digest(content: Any, length: int = LENGTH) -> str:
    """Hash of a value as JSON with sorted keys."""
    return digest(json.dumps(content, sort_keys=True), length=length)


def file_digest(path: Path, length: int = 64) -> str:
    """Hash of a file's content, read in blocks."""
    with Path(path).open('rb') as file:
        return hashlib.file_digest(file, 'sha256').hexdigest()[:length]


def tensors_digest(tensors: Mapping[str, Any], length: int = LENGTH) -> str:
    """Hash of named tensors over names and values, whatever their device."""
    found = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        found.update(name.encode())
        found.update(tensor.detach().cpu().contiguous().view(-1).numpy().tobytes())
    return found.hexdigest()[:length]
