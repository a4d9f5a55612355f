"""The findings by name. A new one is one module here and one line below."""

from __future__ import annotations

from science.finding import Finding
from science.findings import infinite, replay, rewarm, stability

FINDINGS: dict[str, Finding] = {
    finding.name: finding for finding in (rewarm.FINDING, replay.FINDING, infinite.FINDING, stability.FINDING)
}
