"""What two peers agree about refreshing their session (RFC 4028)."""

import pytest

from warden.core.errors import MalformedMessage
from warden.sip.check import Refused
from warden.sip.message import Fields, Request, Response
from warden.sip.session_timer import SessionTimer, Wish, accept, agreed, check, least_of, request_fields

NOW = 1000.0
WISH = Wish(1800, 90)


def invite(*fields: tuple[str, str]) -> Request:
    return Request("INVITE", "sip:1@x", fields)


@pytest.mark.parametrize(
    ("fields", "refreshes", "says"),
    [
        ((), True, None),
        ((("Session-Expires", "600;refresher=uac"),), True, None),
        ((("Supported", "timer"),), True, "1800;refresher=uas"),
        ((("Supported", "timer"), ("Session-Expires", "600")), True, "600;refresher=uas"),
        ((("Supported", "100rel, timer"), ("Session-Expires", "600;refresher=uac")), False, "600;refresher=uac"),
        ((("Supported", "timer"), ("Session-Expires", "600 ; Refresher=UAS")), True, "600;refresher=uas"),
        ((("Supported", "timer"), ("Session-Expires", "7200;refresher=uac")), False, "1800;refresher=uac"),
        ((("Supported", "timer"), ("Session-Expires", "7200"), ("Min-SE", "3600")), True, "3600;refresher=uas"),
    ],
)
def test_who_refreshes_is_as_the_table_of_section_9_says(fields: Fields, refreshes: bool, says: str | None) -> None:
    answer, timer = accept(NOW, invite(*fields), WISH)
    assert timer.refreshes is refreshes
    assert dict(answer).get("Session-Expires") == says
    assert (("Require", "timer") in answer) is not refreshes
    assert timer.is_agreed is (says is not None)


def test_an_interval_that_is_too_short_is_refused_only_where_the_asking_side_knows_what_that_means() -> None:
    with pytest.raises(Refused) as refused:
        check(invite(("Supported", "timer"), ("Session-Expires", "89")), WISH)
    assert (refused.value.refusal, refused.value.fields) == (422, (("Min-SE", "90"),))
    check(invite(("Supported", "timer"), ("Session-Expires", "90")), WISH)
    check(invite(("Session-Expires", "10")), WISH)


@pytest.mark.parametrize("value", ["", "soon", "-5", "1.5", "99999999999", "٣"])
def test_an_interval_that_is_no_number_is_malformed_in_a_request_and_nothing_in_a_response(value: str) -> None:
    with pytest.raises(MalformedMessage):
        check(invite(("Session-Expires", value)), WISH)
    assert not agreed(NOW, Response(200, "OK", (("Session-Expires", value),)), WISH, 0).is_agreed


def test_a_session_is_refreshed_half_way_and_over_a_third_before_its_end_but_at_most_32_s() -> None:
    timer = SessionTimer(1800, NOW)
    assert (timer.due_at, timer.ends_at) == (NOW + 900, NOW + 1768)
    assert SessionTimer(90, NOW, refreshes=False).due_at == NOW + 60


def test_who_refreshes_tries_at_least_once_before_the_session_is_over() -> None:
    assert not SessionTimer(90, NOW).is_over(NOW + 500)
    assert SessionTimer(90, NOW, again_at=NOW + 60).is_over(NOW + 60)
    assert not SessionTimer(90, NOW, again_at=NOW + 55).is_over(NOW + 55)


def test_a_peer_that_answers_without_a_timer_is_refreshed_by_us() -> None:
    timer = agreed(NOW, Response(200, "OK", ()), WISH, 0)
    assert (timer.interval_s, timer.refreshes, timer.is_agreed) == (1800, True, False)
    theirs = agreed(NOW, Response(200, "OK", (("Session-Expires", "900;refresher=uas"),)), WISH, 0)
    assert (theirs.interval_s, theirs.refreshes) == (900, False)
    absurd = agreed(NOW, Response(200, "OK", (("Session-Expires", "1"),)), WISH, 0)
    assert absurd.interval_s == 90


def test_requests_name_the_refresher_as_it_is_and_the_interval_that_the_peer_can_bear() -> None:
    supported, expires = request_fields(WISH, 0, None)
    assert supported[0] == "Supported"
    assert "timer" in supported[1]
    assert expires == ("Session-Expires", "1800;refresher=uac")
    theirs = SessionTimer(900, NOW, refreshes=False)
    assert request_fields(WISH, 0, theirs)[1] == ("Session-Expires", "900;refresher=uas")
    assert request_fields(WISH, 3600, None)[1:] == (("Session-Expires", "3600;refresher=uac"), ("Min-SE", "3600"))
    assert least_of(Response(422, "", (("Min-SE", "3600"),))) == 3600
    assert least_of(Response(422, "", ())) == least_of(Response(422, "", (("Min-SE", "x"),))) == 0
