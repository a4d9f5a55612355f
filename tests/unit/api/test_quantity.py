"""What people write as tokens, percentages and lengths, against exact integers."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewarm_api.quantity import (
    MAXIMUM,
    QuantityError,
    canonical_length,
    canonical_percent,
    exact,
    format_tokens,
    parse_length,
    parse_percent,
    parse_tokens,
)

SCALE = {"": 1, "K": 10**3, "M": 10**6, "B": 10**9, "T": 10**12}


@pytest.mark.parametrize(
    ("written", "tokens"),
    [
        (1, 1), (4096, 4096), ("4096", 4096), ("500K", 500_000), ("20M", 20_000_000), ("2B", 2 * 10**9),
        ("1.5K", 1500), ("0.5K", 500), ("2T", 2 * 10**12), (2.5e6, 2_500_000), ("1.048576M", 1_048_576),
        (MAXIMUM, MAXIMUM), ("0.001K", 1), ("007", 7),
    ],
)  # fmt: skip
def test_quantities_are_whole_tokens(written, tokens):
    assert parse_tokens(written) == tokens


@pytest.mark.parametrize(
    "written",
    [
        0, -5, "-5", "0", 0.5, "0.5", "1.5", "1.0005K", "20m", "1_000", "1,000", "20 M", "", "M", "5%", "1e6", True,
        None, [], {}, float("inf"), float("nan"), MAXIMUM + 1, "9223372036855T", 1e30, ".5K", "5.", "+5", "٣", "20MB",
        "1K\n",
    ],
)  # fmt: skip
def test_anything_else_is_refused(written):
    with pytest.raises(QuantityError) as error:
        parse_tokens(written)
    assert "token quantity from 1 to 2^63-1" in error.value.expected
    assert error.value.fix


@pytest.mark.parametrize(
    ("written", "fix"),
    [
        ("20m", "write 20M"),
        ("20 M", "write 20M"),
        ("1_000", "write 1000"),
        ("2G", "write 2B"),
        ("5%", "write tokens: a percentage is not allowed here"),
        (1.5, "a quantity must come to a whole number of tokens"),
        (0, "use at least 1"),
        (MAXIMUM + 1, "use a smaller quantity"),
        ("many", "write digits and at most one of K, M, B, T (powers of 1000)"),
    ],
)
def test_the_fix_says_what_to_write(written, fix):
    with pytest.raises(QuantityError) as error:
        parse_tokens(written)
    assert error.value.fix == fix


@given(st.integers(1, 10**6), st.sampled_from(sorted(SCALE)))
def test_a_suffix_is_a_power_of_a_thousand(number, suffix):
    assert parse_tokens(f"{number}{suffix}") == number * SCALE[suffix]


@given(st.decimals(min_value=0, max_value=10**6, places=3), st.sampled_from("KMBT"))
def test_a_decimal_is_exact_or_refused(number, suffix):
    expected = Fraction(number) * SCALE[suffix]
    text = f"{number:f}{suffix}"
    if expected.denominator == 1 and 1 <= expected <= MAXIMUM:
        assert parse_tokens(text) == expected
    else:
        with pytest.raises(QuantityError):
            parse_tokens(text)


@given(st.integers(0, 10**5), st.integers(1, 10**15))
def test_percent_of_a_plan_is_rounded_down(thousandths, plan):
    percent = Decimal(thousandths) / 1000
    tokens = parse_length(f"{percent:f}%", plan)
    assert tokens <= Fraction(percent) * plan / 100 < tokens + 1


def test_a_percentage_never_passes_through_a_double():
    assert parse_length("0.7%", 1000) == 7
    assert parse_length("14%", 50) == 7
    assert parse_length("33.333%", 10**18) == 333_330_000_000_000_000


def test_lengths_are_tokens_or_percent_and_may_be_nothing():
    assert parse_length("20M", 5) == 20_000_000
    assert parse_length(0, 5) == 0
    assert parse_length("0", 5) == 0
    assert parse_length("100%", 5) == 5
    with pytest.raises(QuantityError):
        parse_length("-1%", 5)


@pytest.mark.parametrize(
    ("written", "text"),
    [("20M", "20000000"), (20_000_000, "20000000"), ("1.0%", "1%"), ("01%", "1%"), ("100%", "100%"), (0, "0")],
)
def test_one_length_has_one_text(written, text):
    assert canonical_length(written) == text


@given(st.integers(0, MAXIMUM) | st.decimals(0, 1000, places=3).map(lambda number: f"{number:f}%"))
def test_canonical_text_is_a_fixed_point_with_the_same_value(written):
    text = canonical_length(written)
    assert canonical_length(text) == text
    assert parse_length(text, 10**6) == parse_length(written, 10**6)


@pytest.mark.parametrize("written", [0, "0", "0%", "0.0%"])
def test_marks_are_above_zero(written):
    with pytest.raises(QuantityError):
        canonical_length(written, minimum=1)


def test_percentages_have_a_percent_sign_and_an_end():
    assert parse_percent("2.50%") == Decimal("2.5")
    assert canonical_percent("2.50%") == "2.5%"
    with pytest.raises(QuantityError) as error:
        canonical_percent(0.05)
    assert error.value.fix == 'write "5%"'
    with pytest.raises(QuantityError, match="0% to 100%"):
        canonical_percent("101%")


def test_numbers_are_what_was_written():
    assert exact(0.3) == Fraction(3, 10)
    assert exact(1) == 1


@pytest.mark.parametrize(
    ("tokens", "text"),
    [
        (0, "0"), (17, "17"), (999, "999"), (1000, "1K"), (1536, "1.54K"), (999_499, "999K"), (999_999, "1M"),
        (1_048_576_000, "1.05B"), (20_000_000, "20M"), (2 * 10**12, "2T"), (10**16, "10000T"), (-1536, "-1.54K"),
    ],
)  # fmt: skip
def test_tokens_for_human_eyes(tokens, text):
    assert format_tokens(tokens) == text


@given(st.integers(1, 10**14))
def test_shown_tokens_are_within_half_a_percent(tokens):
    assert abs(parse_tokens(format_tokens(tokens)) - tokens) <= tokens / 200
