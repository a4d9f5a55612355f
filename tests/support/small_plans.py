"""Plans of a few steps, for tests that need no torch."""

from __future__ import annotations

from rewarm_api.snapshot import Decay, Plan, Segment, SegmentKind

LENGTH = 24


def plan_of(steps: int, *, rows: int = 8, length: int = LENGTH, evaluate: int = 4, commit: int = 3) -> Plan:
    """Warm-up over a quarter, then linear decay; looks and commits every so many steps."""
    batch = rows * length
    quarter = steps * batch // 4
    return Plan(
        requested_tokens=steps * batch,
        tokens_per_step=batch,
        rows_per_step=rows,
        steps=steps,
        tokens=steps * batch,
        segments=(
            Segment(kind=SegmentKind.WARMUP, start=0, end=quarter, first=0.0, last=1e-2),
            Segment(
                kind=SegmentKind.DECAY, start=quarter, end=steps * batch, first=1e-2, last=1e-3, decay=Decay.LINEAR
            ),
        ),
        evaluation_every=evaluate * batch,
        checkpoint_every=commit * batch,
        trunk=False,
    )
