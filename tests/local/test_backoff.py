from mii.local.backoff import Backoff


def test_doubles_up_to_the_last():
    backoff = Backoff(first=0.2, last=1.0, reset_after=30)
    assert [backoff.after(0) for _ in range(5)] == [0.2, 0.4, 0.8, 1.0, 1.0]


def test_starts_over_after_health():
    backoff = Backoff(first=0.2, last=10, reset_after=30)
    backoff.after(0)
    backoff.after(29)
    assert backoff.after(30) == 0.2
    assert backoff.after(0) == 0.4
