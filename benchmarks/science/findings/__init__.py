"""The findings by name, in the order of a night. A new one is one module here and one line below."""

from __future__ import annotations

from science.finding import Finding
from science.findings import (
    adaptation,
    budget,
    budgets_study,
    discrepancy,
    experience,
    infinite,
    instruction,
    mixture_study,
    quality,
    remedies,
    replay,
    rewarm,
    skills,
    soups,
    stability,
    upsampling,
    weights,
)

FINDINGS: dict[str, Finding] = {
    finding.name: finding
    for finding in (
        rewarm.FINDING,
        replay.FINDING,
        infinite.FINDING,
        stability.FINDING,
        remedies.FINDING,
        experience.FINDING,
        mixture_study.FINDING,
        mixture_study.INSIDE,
        budgets_study.FINDING,
        upsampling.FINDING,
        quality.FINDING,
        weights.FINDING,
        soups.FINDING,
        instruction.FINDING,
        budget.FINDING,
        discrepancy.FINDING,
        skills.FINDING,
        adaptation.FINDING,
    )
}
