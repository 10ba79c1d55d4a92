"""Fitted models on disk: one JSON header and plain `.npy` arrays, each with its sha256, no pickle anywhere.

Called by `TfidfSvd.save/load` (pipeline/tfidf.py) and `Domains.save/load` (pipeline/cluster.py).
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mixloom.pipeline.errors import UserError
from mixloom.pipeline.storage import Store, canonical_json, sha256_hex

HEADER = "model.json"


def array_bytes(array: np.ndarray) -> bytes:
    """The `.npy` bytes of one array (C order, no pickle); equal arrays give equal bytes."""
    buffer = io.BytesIO()
    np.save(buffer, np.ascontiguousarray(array), allow_pickle=False)
    return buffer.getvalue()


def header_of(kind: str, content: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Header with the sha256 of every array and, over all of it, the fingerprint of the model."""
    digests = {name: sha256_hex(array_bytes(a)) for name, a in sorted(arrays.items())}
    body = {"kind": kind, "version": 1, "content": dict(content), "arrays": digests}
    return {**body, "fingerprint": sha256_hex(canonical_json(body))}


def write_model(
    directory: str | Path, kind: str, content: Mapping[str, Any], arrays: Mapping[str, np.ndarray]
) -> None:
    """Write a model to a directory (local path or any fsspec URL); the header goes last.

    Same content and arrays give the same bytes.
    """
    store = Store.at(str(directory))
    for name, array in sorted(arrays.items()):
        store.write(f"{name}.npy", array_bytes(array))
    store.write(HEADER, canonical_json(header_of(kind, content, arrays)))


def read_model(directory: str | Path, kind: str) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Read (content, arrays) back and check every byte.

    Raises:
        UserError: the directory holds no model of this kind, or a file is missing or changed.
    """
    again = "fit it again, or copy the whole directory from where it was fitted"
    store = Store.at(str(directory))
    raw = _read(store, HEADER, again)
    try:
        header = json.loads(raw)
        found, digests, content = header["kind"], header["arrays"], header["content"]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{directory}/{HEADER} is not a model header: {error}", fix=again) from error
    if found != kind:
        raise UserError(
            f"{directory} holds a {found!r} model, and a {kind!r} model is wanted", fix="check the path"
        )
    body = {key: value for key, value in header.items() if key != "fingerprint"}
    if sha256_hex(canonical_json(body)) != header.get("fingerprint"):
        raise UserError(f"{directory}/{HEADER} was changed after it was written", fix=again)
    arrays: dict[str, np.ndarray] = {}
    for name, digest in digests.items():
        data = _read(store, f"{name}.npy", again)
        if sha256_hex(data) != digest:
            raise UserError(f"{directory}/{name}.npy does not match its checksum in {HEADER}", fix=again)
        arrays[name] = np.load(io.BytesIO(data), allow_pickle=False)
    return content, arrays


def _read(store: Store, name: str, fix: str) -> bytes:
    try:
        return store.read(name)
    except FileNotFoundError as error:
        raise UserError(f"{store.url(name)} does not exist: no complete model lies there", fix=fix) from error
