"""What the scan remembers of a document: 72 bytes, whatever its length.

Definition (trainer.md, "Hold-out"): the hold-out key is sha256("rewarm-heldout-v1" + UTF-8 text). With `groupField` it
is sha256("rewarm-heldout-v1" + UTF-8 group), so that documents of one origin stand together; a document without a group
is an origin of its own and keeps the key of its text.
"""

from __future__ import annotations

from hashlib import sha256

import numpy as np

from rewarm_trainer.corpus.readers.base import Document

HELD_OUT_PREFIX = b"rewarm-heldout-v1"
RECORD = np.dtype([("text", ">u8", (4,)), ("key", ">u8", (4,)), ("bytes", "<u8")])
"""`text`: sha256 of the text; `key`: hold-out key; `bytes`: UTF-8 length. Digests compare as big-endian numbers."""

TRAIN, DUPLICATE, HELD_OUT, LEFT_OUT = np.uint8(0), np.uint8(1), np.uint8(2), np.uint8(3)
"""What becomes of a document: one byte each in a selection's mask."""


def record_of(document: Document) -> bytes:
    """One record, as bytes of `RECORD`."""
    text = document.text.encode()
    origin = text if document.group is None else document.group.encode()
    key = sha256(HELD_OUT_PREFIX + origin).digest()
    return sha256(text).digest() + key + len(text).to_bytes(8, "little")


def as_records(data: bytes | bytearray) -> np.ndarray:
    return np.frombuffer(bytes(data), dtype=RECORD)


def digest_bytes(column: np.ndarray) -> bytes:
    """Digests of a column, 32 bytes each, one after another."""
    return np.ascontiguousarray(column, dtype=">u8").tobytes()
