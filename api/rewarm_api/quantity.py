"""Token quantities ("500K", "20M", "2B"), percentages and lengths: what people write, as exact integers.

Definitions: design, trainer.md, "Quantities". K, M, B and T are powers of 1000; a quantity comes to a whole number; a
bare number is tokens, never percent; a percentage is read as a decimal, and its tokens are rounded down.
Nothing here ever goes through binary floating point, except to refuse a float that is no whole number.
"""

from __future__ import annotations

import re
from decimal import Decimal
from fractions import Fraction

MAXIMUM = 2**63 - 1
"""Largest quantity: what a signed 64-bit integer holds."""

PATTERN = r"^[0-9]+(\.[0-9]{1,3})?[KMBT]?$"
"""Text forms of a quantity that an API server accepts (operator.md)."""

LENGTH_PATTERN = r"^[0-9]+(\.[0-9]{1,3})?[KMBT%]?$"
PERCENT_PATTERN = r"^[0-9]+(\.[0-9]{1,3})?%$"
MAXIMUM_TEXT = 16

_SCALE = {"": 1, "K": 10**3, "M": 10**6, "B": 10**9, "T": 10**12}
_TOKENS = re.compile(r"([0-9]+(?:\.[0-9]+)?)([KMBT]?)", re.ASCII)
_PERCENT = re.compile(r"([0-9]+(?:\.[0-9]+)?)%", re.ASCII)


class QuantityError(ValueError):
    """Text that is no quantity. `expected` says what may stand there, `fix` what to do."""

    def __init__(self, expected: str, fix: str) -> None:
        self.expected, self.fix = expected, fix
        super().__init__(f"expected {expected}; {fix}")


def parse_tokens(value: object, *, minimum: int = 1) -> int:
    """Tokens of a quantity: an integer, a float with a whole value, or text such as "2B" or "0.5K".

    Raises QuantityError for anything else, for parts of a token, and outside [minimum, 2^63-1].
    """
    expected = f'a token quantity from {minimum} to 2^63-1, such as 4096, "500K", "20M" or "2B"'
    amount = _amount(value)
    if amount is None:
        raise QuantityError(expected, _spelling_fix(value))
    if amount.denominator != 1:
        raise QuantityError(expected, "a quantity must come to a whole number of tokens")
    if not minimum <= amount <= MAXIMUM:
        raise QuantityError(expected, "use a smaller quantity" if amount > MAXIMUM else f"use at least {minimum}")
    return int(amount)


def parse_percent(value: object) -> Decimal:
    """The number before the percent sign: "5%" is Decimal("5"). Raises QuantityError for anything else."""
    found = _PERCENT.fullmatch(value) if isinstance(value, str) else None
    if found is None:
        raise QuantityError('a percentage, such as "5%"', _percent_fix(value))
    return Decimal(found[1])


def is_percent(value: object) -> bool:
    return isinstance(value, str) and value.endswith("%")


def parse_length(value: str | int, plan_tokens: int) -> int:
    """Tokens of a length: a quantity (0 is allowed), or floor(percent x plan tokens).

    Raises QuantityError for text that is neither.
    """
    if is_percent(value):
        return int(Fraction(parse_percent(value)) * plan_tokens // 100)
    return parse_tokens(value, minimum=0)


def canonical_length(value: object, *, minimum: int = 0) -> str:
    """The one text for a length however it was written: "20M" is "20000000", "1.0%" is "1%".

    `minimum` is in tokens; when it is above 0, so must the percentage be. Raises QuantityError.
    """
    expected = f'tokens ("20M", at least {minimum}) or percent of the plan ("1%")'
    try:
        if not is_percent(value):
            return str(parse_tokens(value, minimum=minimum))
        percent = parse_percent(value)
    except QuantityError as error:
        raise QuantityError(expected, error.fix) from None
    if minimum > 0 and percent == 0:
        raise QuantityError(expected, "use more than 0%")
    return plain_decimal(percent) + "%"


def canonical_percent(value: object) -> str:
    """The one text for a percentage from 0% to 100%. Raises QuantityError."""
    percent = parse_percent(value)
    if percent > 100:
        raise QuantityError("0% to 100%", "use at most 100%")
    return plain_decimal(percent) + "%"


def plain_decimal(number: Decimal) -> str:
    """The shortest text of a decimal without an exponent: 1.50 is "1.5", 1E+2 is "100"."""
    text = f"{number:f}"
    return (text.rstrip("0").rstrip(".") if "." in text else text) or "0"


def exact(number: float | int | Decimal) -> Fraction:
    """The number that a person wrote: 0.3 is 3/10, not the nearest binary double."""
    return Fraction(number if isinstance(number, Decimal) else Decimal(repr(number)))


def format_tokens(tokens: int) -> str:
    """Tokens for human eyes, three significant digits: 1_048_576_000 is "1.05B". Not exact: never parse it back."""
    if abs(tokens) < 1000:
        return str(tokens)
    for suffix in "KMBT":
        scaled = Decimal(tokens) / _SCALE[suffix]
        whole = len(str(int(abs(scaled))))
        rounded = round(scaled, max(0, 3 - whole))
        if abs(rounded) < 1000 or suffix == "T":
            break
    return plain_decimal(rounded) + suffix


def _amount(value: object) -> Fraction | None:
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return Fraction(value)
    if isinstance(value, float):
        return Fraction(value) if value - value == 0 else None
    found = _TOKENS.fullmatch(value) if isinstance(value, str) else None
    return Fraction(Decimal(found[1])) * _SCALE[found[2]] if found else None


def _spelling_fix(value: object) -> str:
    if is_percent(value):
        return "write tokens: a percentage is not allowed here"
    if isinstance(value, str):
        tidy = re.sub(r"[\s_,]", "", value).upper().replace("G", "B")
        if _TOKENS.fullmatch(tidy):
            return f"write {tidy}"
    return "write digits and at most one of K, M, B, T (powers of 1000)"


def _percent_fix(value: object) -> str:
    if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= 1:
        return f'write "{plain_decimal(Decimal(repr(value)) * 100)}%"'
    return "write digits and a percent sign"
