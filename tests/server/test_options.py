"""MII's generate options, without a server."""

import pytest

from mii.errors import InvalidRequest, UnknownArgument
from mii.options import ModelLimits, mii_options

LIMITS = ModelLimits(max_model_len=2048, vocab_size=100, eos_token_ids=(2, 3))


def max_tokens(prompt: int, limits: ModelLimits = LIMITS, **options) -> int:
    return mii_options(options).to_params(prompt, limits).sampling.max_tokens


@pytest.mark.parametrize(
    ("prompt", "options", "expected"),
    [
        (24, {}, 1000),
        (24, {"max_length": 100}, 76),
        (24, {"max_new_tokens": 5}, 5),
        (24, {"max_new_tokens": 90, "max_length": 100}, 76),
        (1500, {"max_new_tokens": 5}, 5),  # the default max_length does not bind an explicit max_new_tokens
        (1500, {"max_length": 2048}, 548),
    ],
)
def test_lengths(prompt, options, expected):
    assert max_tokens(prompt, **options) == expected


def test_default_max_length_is_clamped_to_a_short_model():
    assert max_tokens(24, ModelLimits(512, 100, ())) == 488


@pytest.mark.parametrize(
    ("prompt", "options", "param"),
    [
        (100, {"max_length": 100}, "max_length"),
        (1024, {}, "max_length"),
        (10, {"max_length": 2049}, "max_length"),
        (10, {"max_new_tokens": 2039}, "max_new_tokens"),
        (10, {"max_new_tokens": 3, "min_new_tokens": 4}, "min_new_tokens"),
        (2048, {}, "prompts"),
        (0, {}, "prompts"),
    ],
)
def test_lengths_that_cannot_be(prompt, options, param):
    with pytest.raises(InvalidRequest) as refused:
        max_tokens(prompt, **options)
    assert refused.value.param == param
    assert param in str(refused.value)


def test_unknown_option_is_named():
    with pytest.raises(UnknownArgument, match=r"'max_tokens'.*max_new_tokens"):
        mii_options({"max_tokens": 5})


@pytest.mark.parametrize(
    "option",
    [
        {"top_p": 0}, {"top_p": 1.01}, {"top_k": 0}, {"temperature": 0}, {"temperature": float("nan")},
        {"max_length": 0}, {"max_length": "9"}, {"max_length": None}, {"do_sample": 1}, {"stop": [""]},
        {"stop": 1},
    ],
    ids=str,
)  # fmt: skip
def test_bad_values_are_named(option):
    with pytest.raises(InvalidRequest) as refused:
        mii_options(option)
    assert next(iter(option)) in str(refused.value)
    assert refused.value.param.removesuffix("[0]") == next(iter(option))


@pytest.mark.parametrize("stop", ["a", ["a"], ("a",)])
def test_stop_takes_one_or_many(stop):
    assert mii_options({"stop": stop}).to_params(1, LIMITS).stop == ("a",)


def test_all_eos_tokens_are_passed():
    assert mii_options({}).to_params(1, LIMITS).sampling.eos_token_ids == (2, 3)


def test_seeds_are_numbered():
    options = mii_options({"seed": 5})
    assert [options.to_params(1, LIMITS, index=i).sampling.seed for i in range(3)] == [5, 6, 7]


def test_seeds_are_random_without_one():
    seeds = {mii_options({}).to_params(1, LIMITS).sampling.seed for _ in range(8)}
    assert len(seeds) == 8


@pytest.mark.parametrize("seed", [-1, 2**63 - 1, 2**70])
def test_any_seed_fits_the_wire(seed):
    assert 0 <= mii_options({"seed": seed}).to_params(1, LIMITS, index=1).sampling.seed < 2**63


def test_any_top_k_fits_the_wire():
    assert mii_options({"top_k": 10**30}).to_params(10, LIMITS).sampling.top_k == LIMITS.vocab_size
