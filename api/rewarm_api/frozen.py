"""Values that are written once: immutable, strict about names, with a digest. Snapshots and pins are made of them."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel


class Frozen(BaseModel):
    """A value: immutable, strict about names, camelCase in JSON."""

    model_config = ConfigDict(frozen=True, extra="forbid", alias_generator=to_camel, populate_by_name=True)

    def to_json(self) -> dict[str, Any]:
        return self.model_dump(mode="json", by_alias=True)


def digest_of(value: Any) -> str:
    """`sha256:` and the digest of the canonical JSON of `value` (sorted keys, no spaces, UTF-8)."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()


def added(value: Any, description: str) -> Any:
    """A field that older snapshots do not have: `value` means "as before" and is left out, so that digests stay."""
    return Field(default=value, description=description, exclude_if=lambda found: found == value)
