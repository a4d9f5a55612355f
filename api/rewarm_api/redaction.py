"""Addresses without the user and password that they may hold: for everything that is shown or written down."""

from __future__ import annotations

import re

USERINFO = r"://[^/\s]*@"
"""What stands between a scheme and a host where somebody put credentials into an address. `hf://OWNER/NAME@REVISION`
has none: its @ comes after a slash."""

_USERINFO = re.compile(USERINFO)


def redacted(text: str) -> str:
    """The text with `***` for user and password of every address in it."""
    return _USERINFO.sub("://***@", text)


def has_credentials(uri: str) -> bool:
    """Whether user or password stand in this address."""
    return _USERINFO.search(uri) is not None
