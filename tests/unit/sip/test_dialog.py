"""Dialogs from both ends (RFC 3261 section 12): what goes into requests, what is learned, what is refused."""

import msgspec
import pytest

from warden.core.address import Address, Flow, Transport
from warden.core.errors import MalformedMessage
from warden.sip.dialog import ROUTES_MAX, Dialog, OutOfOrder, dialog_as_uac, dialog_as_uas
from warden.sip.message import Request, Response

FLOW = Flow(Transport.UDP, Address("192.0.2.1", 5060), Address("192.0.2.2", 5060))
P1, P2, P3 = "<sip:p1.example.org;lr>", "<sip:p2.example.org;lr>", "<sip:p3.example.org;lr>"

INVITE = Request(
    "INVITE",
    "sip:bob@example.org",
    (
        ("Via", "SIP/2.0/UDP 192.0.2.1;branch=z9hG4bKa"),
        ("From", '"Alice, at \\"home\\"" <sip:alice@example.org;transport=tcp>;tag=a1;x=y'),
        ("To", "Bob <sip:bob@example.org>"),
        ("Call-ID", "call-1"),
        ("CSeq", "7 INVITE"),
        ("Contact", '"A" <sip:alice@192.0.2.1:5070;ob>;expires=60'),
    ),
)


def answer(*fields: tuple[str, str], status: int = 200, invite: Request = INVITE) -> Response:
    contact = () if any(name == "Contact" for name, _ in fields) else (("Contact", "<sip:bob@192.0.2.2:5080>"),)
    return invite.respond(status, *contact, *fields, to_tag="b1")


def make_uac(*fields: tuple[str, str]) -> Dialog:
    return dialog_as_uac(INVITE, answer(*fields), FLOW)


def make_uas(*fields: tuple[str, str]) -> Dialog:
    return dialog_as_uas(INVITE.with_fields(*fields), "b1", "<sip:bob@192.0.2.2:5080>", FLOW)


def request_in(dialog: Dialog, method: str, cseq: int, *fields: tuple[str, str]) -> Request:
    """A request as the dialog's other side sends it."""
    return Request(
        method,
        "sip:us@192.0.2.1",
        (
            ("From", f"{dialog.remote_uri};tag={dialog.remote_tag}"),
            ("To", f"{dialog.local_uri};tag={dialog.local_tag}"),
            ("Call-ID", dialog.call_id),
            ("CSeq", f"{cseq} {method}"),
            *fields,
        ),
    )


def test_both_sides_of_a_call_make_dialogs_that_mirror_each_other() -> None:
    uac, uas = make_uac(("Record-Route", f"{P1}, {P2}"), ("Record-Route", P3)), make_uas(("Record-Route", f"{P1},{P2}"))
    assert (uac.local_tag, uac.remote_tag) == (uas.remote_tag, uas.local_tag) == ("a1", "b1")
    assert (uac.local_uri, uac.remote_uri) == (uas.remote_uri, uas.local_uri)
    assert uac.local_uri == '"Alice, at \\"home\\"" <sip:alice@example.org;transport=tcp>;x=y'
    assert uac.remote_uri == '"Bob" <sip:bob@example.org>'
    assert (uac.local_seq, uac.remote_seq) == (7, -1)
    assert (uas.local_seq, uas.remote_seq) == (0, 7)
    assert uac.route_set == (P3, P2, P1), "the caller reads Record-Route from the callee's end"
    assert uas.route_set == (P1, P2)
    assert (uac.remote_target, uas.remote_target) == ("sip:bob@192.0.2.2:5080", "sip:alice@192.0.2.1:5070;ob")
    assert uac.contact == INVITE.get("Contact")
    assert uas.contact == "<sip:bob@192.0.2.2:5080>"


def test_a_request_within_a_dialog_names_both_ends_and_takes_the_next_cseq() -> None:
    dialog, bye = make_uac().request("BYE", ("Reason", "Q.850;cause=16"))
    assert bye.start_line == "BYE sip:bob@192.0.2.2:5080 SIP/2.0"
    assert bye.fields == (
        ("Max-Forwards", "70"),
        ("From", '"Alice, at \\"home\\"" <sip:alice@example.org;transport=tcp>;x=y;tag=a1'),
        ("To", '"Bob" <sip:bob@example.org>;tag=b1'),
        ("Call-ID", "call-1"),
        ("CSeq", "8 BYE"),
        ("Reason", "Q.850;cause=16"),
    )
    assert dialog.local_seq == 8
    _, first = make_uas().request("BYE")
    assert first.cseq.number == 1


def test_a_target_refresh_request_carries_our_contact_and_others_do_not() -> None:
    dialog = make_uas()
    for method, expected in (("INVITE", [dialog.contact]), ("UPDATE", [dialog.contact]), ("INFO", []), ("BYE", [])):
        assert dialog.request(method)[1].get_all("Contact") == expected
    _, moved = dialog.request("INVITE", ("Contact", "<sip:elsewhere.invalid>"), body=b"v=0\r\n", content_type="a/b")
    assert moved.get_all("Contact") == ["<sip:elsewhere.invalid>"]
    assert (moved.body, moved.content_type) == (b"v=0\r\n", "a/b")


def test_cseq_numbers_grow_by_one_and_never_go_back() -> None:
    dialog = make_uac()
    numbers = []
    for method in ("INVITE", "INFO", "UPDATE"):
        dialog, request = dialog.request(method)
        numbers.append(str(request.cseq))
    assert numbers == ["8 INVITE", "9 INFO", "10 UPDATE"]
    ack = dialog.ack(8, ("Proxy-Authorization", "Digest x"), body=b"sdp", content_type="application/sdp")
    assert (ack.method, str(ack.cseq), ack.body, ack.get("Contact")) == ("ACK", "8 ACK", b"sdp", None)
    assert ack.get("Proxy-Authorization") == "Digest x"
    dialog, cancel = dialog.request("CANCEL", cseq=8)
    assert (str(cancel.cseq), dialog.local_seq) == ("8 CANCEL", 10)
    assert dialog.request("BYE", cseq=20)[0].local_seq == 20


def test_loose_routers_stand_in_route_and_the_target_in_the_request_line() -> None:
    dialog = make_uac(("Record-Route", f"{P1}, {P2}"))
    for request in (dialog.request("BYE")[1], dialog.ack(7)):
        assert request.target == "sip:bob@192.0.2.2:5080"
        assert request.get_all("Route") == [P2, P1]


def test_a_strict_router_gets_its_own_uri_in_the_request_line_and_the_target_comes_last() -> None:
    strict = '"P" <sip:strict.example.org;method=BYE;x=1?Subject=hi>;q=1'
    dialog = make_uac(("Record-Route", f"{P1}, {P2}, {strict}"))
    _, bye = dialog.request("BYE")
    assert bye.target == "sip:strict.example.org;x=1", "without what may not stand in a request line"
    assert bye.get_all("Route") == [P2, P1, "<sip:bob@192.0.2.2:5080>"]
    behind = make_uac(("Record-Route", f"{strict}, {P2}"))
    assert behind.request("BYE")[1].get_all("Route") == [P2, strict], "only the first decides"


def test_a_lower_cseq_is_out_of_order_and_an_ack_is_never() -> None:
    dialog = make_uas()
    later = dialog.received(request_in(dialog, "INFO", 12))
    assert later.remote_seq == 12
    assert later.received(request_in(dialog, "ACK", 7)) == later
    assert later.received(request_in(dialog, "CANCEL", 7)) == later
    with pytest.raises(OutOfOrder):
        later.received(request_in(dialog, "BYE", 11))
    assert later.received(request_in(dialog, "BYE", 12)).remote_seq == 12, "not lower is good enough"
    assert later.received(request_in(dialog, "BYE", 9000)).remote_seq == 9000
    fresh = make_uac()
    assert fresh.received(request_in(fresh, "INFO", 0)).remote_seq == 0, "the first may be any"


def test_only_target_refresh_requests_move_the_target() -> None:
    dialog = make_uas()
    contact = ("Contact", "<sip:alice@198.51.100.7:5090>")
    assert dialog.received(request_in(dialog, "INFO", 8, contact)).remote_target == dialog.remote_target
    assert dialog.received(request_in(dialog, "INVITE", 8)).remote_target == dialog.remote_target
    for method in ("INVITE", "UPDATE"):
        moved = dialog.received(request_in(dialog, method, 8, contact))
        assert moved.remote_target == "sip:alice@198.51.100.7:5090"
        assert moved.request("BYE")[1].target == "sip:alice@198.51.100.7:5090"
        assert moved.route_set == dialog.route_set, "the route set stays for the dialog's life"
    with pytest.raises(MalformedMessage):
        dialog.received(request_in(dialog, "INVITE", 8, ("Contact", '"x <sip:y>')))


def test_a_2xx_moves_the_target_and_only_the_first_one_the_route_set() -> None:
    early = dialog_as_uac(INVITE, answer(("Record-Route", P1), status=183), FLOW)
    early, _ = early.request("PRACK")
    fields = (("Record-Route", f"{P2}, {P1}"), ("Contact", "<sip:bob@203.0.113.5>"))
    confirmed = early.confirmed(answer(*fields))
    assert confirmed.route_set == (P1, P2)
    assert confirmed.remote_target == "sip:bob@203.0.113.5"
    assert confirmed.local_seq == 8, "what was sent meanwhile still counts"
    later = confirmed.refreshed(answer(("Record-Route", P3), ("Contact", "<sip:bob@203.0.113.6>")))
    assert later.remote_target == "sip:bob@203.0.113.6"
    assert later.route_set == confirmed.route_set
    assert later.refreshed(INVITE.respond(200, to_tag="b1")) is later


def test_peers_without_tags_or_contact_still_make_a_dialog_where_one_can_be_made() -> None:
    bare = dialog_as_uac(INVITE, INVITE.respond(200), FLOW)
    assert bare.remote_tag == ""
    assert bare.remote_target == "sip:bob@example.org"
    assert bare.request("BYE")[1].get("To") == '"Bob" <sip:bob@example.org>'
    old = dialog_as_uas(INVITE.with_fields(("From", "sip:alice@example.org")), "b1", "<sip:b@x>", FLOW)
    assert old.request("BYE")[1].get("To") == "<sip:alice@example.org>"
    with pytest.raises(MalformedMessage):
        dialog_as_uas(INVITE.without("Contact"), "b1", "<sip:b@x>", FLOW)


@pytest.mark.parametrize(
    "bad",
    [
        ("Contact", "<sip:alice@192.0.2.1"),
        ("From", "<sip:alice@exa mple.org>;tag=a"),
        ("To", '"Bob <sip:bob@example.org>'),
        ("CSeq", "99999999999 INVITE"),
        ("Record-Route", "<sip:p1.example.org"),
        ("Record-Route", "nonsense"),
        ("Record-Route", ",".join([P1] * (ROUTES_MAX + 1))),
    ],
)
def test_a_peer_that_sends_nonsense_makes_no_dialog(bad: tuple[str, str]) -> None:
    with pytest.raises(MalformedMessage):
        dialog_as_uas(INVITE.with_fields(bad), "b1", "<sip:b@x>", FLOW)


def test_a_dialog_crosses_a_process_border_and_goes_on_with_its_numbers() -> None:
    dialog, _ = make_uac(("Record-Route", P1)).request("INFO")
    back = msgspec.msgpack.decode(msgspec.msgpack.encode(dialog), type=Dialog)
    assert back == dialog
    assert bytes(back.request("BYE")[1]) == bytes(dialog.request("BYE")[1])
    assert back.flow.transport is Transport.UDP
