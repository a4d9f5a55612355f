"""Words for CEL rules that several parts of the CRD use."""

from __future__ import annotations

from typing import Any

CelRule = dict[str, Any]


def rule(expression: str, message: str, **more: str) -> CelRule:
    return {"rule": expression, "message": message, **more}


def exactly_one(*names: str) -> CelRule:
    options = ", ".join(f"has(self.{name})" for name in names)
    return rule(f"[{options}].exists_one(x, x)", f"exactly one of {' | '.join(names)}")


def local_only(name: str, instead: str) -> CelRule:
    return rule(
        f"!has(self.{name})", f"a cluster cannot read this machine's files; use {instead}", fieldPath=f".{name}"
    )


def address(pattern: str, expected: str) -> CelRule:
    return rule(f"self.matches('{pattern}')", f"expected {expected}: a cluster cannot read this machine's files")
