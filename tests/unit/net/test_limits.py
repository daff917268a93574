"""Rates per address, in virtual time."""

from warden.net.limits import RateLimit, limit_key


def test_a_burst_is_let_through_then_one_at_a_time_at_the_rate() -> None:
    rate = RateLimit(per_s=10, burst=3)
    assert [rate.allows("192.0.2.1", 100.0) for _ in range(5)] == [True, True, True, False, False]
    assert [rate.allows("192.0.2.1", 100.1) for _ in range(2)] == [True, False]
    assert [rate.allows("192.0.2.1", 110.0) for _ in range(4)] == [True, True, True, False]


def test_one_address_does_not_use_up_the_rate_of_another() -> None:
    rate = RateLimit(per_s=1, burst=1)
    assert rate.allows("192.0.2.1", 0.0)
    assert not rate.allows("192.0.2.1", 0.0)
    assert rate.allows("192.0.2.2", 0.0)


def test_addresses_that_fell_silent_are_forgotten_first_and_memory_stays_bounded() -> None:
    rate = RateLimit(per_s=1, burst=10, keys_max=100)
    for _ in range(10):
        rate.allows("busy", 0.0)
    for number in range(99):
        rate.allows(f"quiet{number}", 0.0)
    assert rate.allows("new", 5.0)
    assert len(rate) == 2
    assert [rate.allows("busy", 5.0) for _ in range(6)] == [True] * 5 + [False]


def test_a_flood_from_more_addresses_than_are_remembered_does_not_grow_the_table() -> None:
    rate = RateLimit(per_s=1, burst=10, keys_max=100)
    for number in range(1_000):
        assert rate.allows(str(number), 0.0)
        assert len(rate) <= 100


def test_limits_count_an_ipv6_site_as_one_address() -> None:
    assert limit_key("192.0.2.1") == "192.0.2.1"
    assert limit_key("2001:db8:1:2:3::4") == limit_key("2001:db8:1:2::9") != limit_key("2001:db8:1:3::9")
    assert limit_key("fe80::1%eth0") == limit_key("fe80::2%eth0")
