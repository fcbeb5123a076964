"""Durations and quantities as manifests write them."""

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mii_spec.quantities import format_duration, parse_duration, parse_quantity


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("60s", 60),
        ("30m", 1800),
        ("1h30m", 5400),
        ("0s", 0),
        ("1.5s", 1.5),
        ("250ms", 0.25),
        ("1m0.5s", 60.5),
    ],
)
def test_durations(text, seconds):
    assert parse_duration(text) == timedelta(seconds=seconds)


@pytest.mark.parametrize("text", ["", "60", "s", "1d", "-1s", "1 s", "1s\n", "1,5s", "1e3s", "٣s"])
def test_what_is_no_duration(text):
    with pytest.raises(ValueError, match="must be a duration such as"):
        parse_duration(text)


@given(st.integers(0, 10**9))
def test_a_formatted_duration_parses_to_the_same(milliseconds):
    duration = timedelta(milliseconds=milliseconds)
    assert parse_duration(format_duration(duration)) == duration


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("1", 1),
        ("1k", 1000),
        ("1Ki", 1024),
        ("1.5Gi", 3 * 2**29),
        ("100G", 10**11),
        ("2Ti", 2**41),
        ("1Pi", 2**50),
    ],
)
def test_quantities(text, size):
    assert parse_quantity(text) == size


@pytest.mark.parametrize("text", ["", "Gi", "1GB", "1 Gi", "-1Gi", "1gi", "1K"])
def test_what_is_no_quantity(text):
    with pytest.raises(ValueError, match="must be a quantity of bytes such as"):
        parse_quantity(text)
