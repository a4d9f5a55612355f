"""Reproductions: findings of papers as sentences written down before the run, arms that are manifests, and a verdict.

claims ─┐
arms ───┴─> rewarm run, seed by seed ─> per-document results ─> intervals ─> table, figure ─> docs/science.md
"""
