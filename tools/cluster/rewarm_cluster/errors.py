"""The one error of these tools: a sentence that says what is wrong and what to do."""

from __future__ import annotations


class ClusterError(RuntimeError):
    """Something that the person at the keyboard can mend. Its text is the whole message."""
