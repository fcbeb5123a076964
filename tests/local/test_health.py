import pytest

from mii.local.health import Answer, Vitals

OK, BAD = Answer(True), Answer(False, "no answer")


@pytest.fixture
def vitals():
    return Vitals(startup=60, failures_allowed=3)


def observe(vitals, *answers):
    for second, live in enumerate(answers):
        vitals.observe(live, live, float(second))


def test_nothing_listens_at_first_and_that_is_no_failure(vitals):
    observe(vitals, *[BAD] * 20)
    assert not vitals.verdict
    assert not vitals.ready


def test_three_failures_in_a_row_are_too_many(vitals):
    observe(vitals, OK, BAD, BAD)
    assert not vitals.verdict
    vitals.observe(BAD, BAD, 4.0)
    assert vitals.verdict == "not alive, 3 times in a row: no answer"


def test_a_success_between_forgives(vitals):
    observe(vitals, OK, BAD, BAD, OK, BAD, BAD)
    assert not vitals.verdict


def test_never_ready_is_a_verdict_at_the_startup_timeout(vitals):
    loading = Answer(False, "loading")
    vitals.observe(OK, loading, 59.0)
    assert not vitals.verdict
    vitals.observe(OK, loading, 61.0)
    assert vitals.verdict == "not ready 60 s after its start: loading"


def test_unready_after_ready_is_no_verdict(vitals):
    vitals.observe(OK, OK, 1.0)
    vitals.observe(OK, BAD, 100.0)
    assert not vitals.verdict
    assert not vitals.ready
    assert vitals.healthy_seconds(11.0) == 10.0
