"""The other leg sees our address and ports, and the rest as it was written."""

from pathlib import Path

import pytest

from warden.core.address import Address
from warden.core.errors import MalformedMessage
from warden.sdp.relay import STREAMS_MAX, StreamInfo, rewrite, streams
from warden.sdp.session import Direction, parse

SAMPLES = {
    path.stem: path.read_text("utf-8").replace("\n", "\r\n")
    for path in sorted((Path(__file__).parent / "samples").glob("*.sdp"))
}
HEAD = "v=0\r\no=- 1 1 IN IP4 192.0.2.1\r\ns=-\r\nt=0 0\r\n"


def relayed(sdp: str, *ports: int, host: str = "127.0.0.1") -> str:
    return rewrite(sdp, host=host, ports=ports, session_id=77, version=3)


def test_only_origin_connection_and_port_change_in_an_ordinary_offer() -> None:
    offer = SAMPLES["yealink"]
    expected = (
        offer.replace("o=- 20817 20817 IN IP4 192.0.2.20", "o=warden 77 3 IN IP4 127.0.0.1")
        .replace("c=IN IP4 192.0.2.20", "c=IN IP4 127.0.0.1")
        .replace("m=audio 11780 ", "m=audio 30000 ")
    )
    assert relayed(offer, 30000) == expected
    assert relayed(offer.replace("\r\n", "\n"), 30000) == expected


@pytest.mark.parametrize("name", SAMPLES)
def test_no_address_of_the_peer_reaches_the_other_leg(name: str) -> None:
    out = relayed(SAMPLES[name], 30000, 30002, 30004)
    parsed = parse(out)
    # MSRP's path belongs to a stream that is refused, so nobody follows it.
    kept = "\r\n".join(line for line in out.split("\r\n") if not line.startswith("a=path:"))
    assert not any(peer in kept for peer in ("192.0.2.", "198.51.100.", "2001:db8", "0.0.0.0"))
    assert {c.host for c in (parsed.connection, *(m.connection for m in parsed.media)) if c} == {"127.0.0.1"}


def test_ipv4_and_ipv6_legs_are_joined() -> None:
    out = relayed(SAMPLES["yealink"], 30000, host="2001:db8::1")
    assert "o=warden 77 3 IN IP6 2001:db8::1\r\n" in out
    assert "c=IN IP6 2001:db8::1\r\n" in out
    assert "c=IN IP4 127.0.0.1\r\n" in relayed(SAMPLES["asterisk"], 30000)


def test_ice_rtcp_and_bundling_are_taken_out_and_the_rest_of_the_attributes_stay() -> None:
    out = relayed(SAMPLES["linphone"], 30000)
    gone = ("a=ice-", "a=candidate", "a=rtcp:", "a=rtcp-mux")
    kept = [line for line in SAMPLES["linphone"].split("\r\n") if line[:2] == "a=" and not line.startswith(gone)]
    assert [line for line in out.split("\r\n") if line[:2] == "a="] == kept
    assert "a=rtcp-fb:* ccm tmmbr" in kept
    bundled = HEAD + "a=group:BUNDLE 0\r\nm=audio 4000 RTP/AVP 0\r\nc=IN IP4 192.0.2.1\r\na=mid:0\r\n"
    assert "a=" not in relayed(bundled, 30000)


@pytest.mark.parametrize(
    "attribute",
    [
        "rtcp:4001",
        "rtcp-mux ",
        "rtcp-mux-only",
        "candidate:1 1 UDP 1 192.0.2.1 4000 typ host",
        "remote-candidates:1 192.0.2.1 4000",
        "end-of-candidates",
        "ice-lite",
        "ice-mismatch",
        "ice-options:trickle",
        "ice-pacing:50",
        "ice-pwd:ec2f5d8f0a6bf3c1f6c1cd95",
        "ice-ufrag:8f2a31b7",
        "ice2",
        "altc:1 IP4 192.0.2.1 4000",
        "group:BUNDLE 0",
        "mid:0",
        "bundle-only",
    ],
)
def test_an_attribute_that_leads_around_the_relay_is_taken_out_wherever_it_stands(attribute: str) -> None:
    media = "m=audio 4000 RTP/AVP 0\r\nc=IN IP4 192.0.2.1\r\na=ptime:20\r\n"
    for sdp in (HEAD + f"a={attribute}\r\n" + media, HEAD + media + f"a={attribute}\r\n"):
        assert relayed(sdp, 30000) == relayed(HEAD + media, 30000)


def test_a_second_connection_line_is_taken_out_and_the_first_one_counts() -> None:
    first = HEAD + "m=audio 4000 RTP/AVP 0\r\nc=IN IP4 192.0.2.1\r\n"
    assert relayed(first + "c=IN IP4 0.0.0.0\r\n", 30000) == relayed(first, 30000)


def test_streams_over_tcp_dtls_or_srtp_of_somebody_else_are_refused_and_keep_their_place() -> None:
    fax = parse(relayed(SAMPLES["fax"], 30000, 30002, 30004))
    assert [(m.kind, m.port) for m in fax.media] == [("audio", 0), ("image", 30002), ("message", 0)]
    browser = parse(relayed(SAMPLES["browser"], 30000, 30002))
    assert [m.port for m in browser.media] == [0, 0]


def test_keys_of_one_peer_never_reach_the_other() -> None:
    for sdp in (SAMPLES["fax"], SAMPLES["fax"].replace("RTP/SAVP", "RTP/AVP")):
        assert "a=crypto:" in sdp
        assert "crypto" not in relayed(sdp, 30000, 30002, 30004)


def test_a_refused_stream_stays_refused_and_a_stream_without_a_port_becomes_so() -> None:
    sdp = SAMPLES["polycom"].replace("m=video 2230", "m=video 0")
    assert [m.port for m in parse(relayed(sdp, 30000, 30002)).media] == [30000, 0]
    assert [m.port for m in parse(relayed(SAMPLES["polycom"], 30000)).media] == [30000, 0]
    assert [m.port for m in parse(relayed(SAMPLES["polycom"], 0, 30002)).media] == [0, 30002]


def test_more_streams_than_warden_relays_are_refused() -> None:
    sdp = HEAD + "c=IN IP4 192.0.2.1\r\n" + "m=audio 4000 RTP/AVP 0\r\n" * (STREAMS_MAX + 2)
    ports = [30000 + 2 * i for i in range(STREAMS_MAX + 2)]
    assert [m.port for m in parse(relayed(sdp, *ports)).media] == [*ports[:STREAMS_MAX], 0, 0]
    assert [s.active for s in streams(sdp)] == [True] * STREAMS_MAX + [False] * 2


@pytest.mark.parametrize(
    ("session_level", "media_level", "expected"),
    [
        ((), (), ["a=sendonly"]),
        ((), ("a=sendrecv",), ["a=sendonly"]),
        ((), ("a=sendonly",), ["a=sendonly"]),
        ((), ("a=recvonly",), ["a=inactive"]),
        (("a=recvonly",), (), ["a=recvonly", "a=inactive"]),
        (("a=inactive",), (), ["a=inactive", "a=inactive"]),
    ],
)
def test_hold_by_the_null_address_becomes_hold_by_direction(
    session_level: tuple[str, ...], media_level: tuple[str, ...], expected: list[str]
) -> None:
    lines = (*session_level, "m=audio 4000 RTP/AVP 0", *media_level, "a=ptime:20")
    for connection_at in (0, len(session_level) + 1):
        placed = (*lines[:connection_at], "c=IN IP4 0.0.0.0", *lines[connection_at:])
        out = relayed(HEAD + "\r\n".join(placed) + "\r\n", 30000)
        assert [x for x in out.split("\r\n") if x[2:] in ("sendrecv", "sendonly", "recvonly", "inactive")] == expected
        assert "a=ptime:20\r\n" in out
        assert "c=IN IP4 127.0.0.1\r\n" in out


def test_only_the_held_stream_is_held() -> None:
    sdp = (
        HEAD
        + "c=IN IP4 0.0.0.0\r\nm=audio 4000 RTP/AVP 0\r\nc=IN IP4 192.0.2.1\r\na=sendrecv\r\n"
        + "m=video 4002 RTP/AVP 31\r\n"
    )
    assert [s.direction for s in streams(relayed(sdp, 30000, 30002))] == [Direction.SENDRECV, Direction.SENDONLY]
    assert [s.direction for s in streams(sdp)] == [Direction.SENDRECV, Direction.SENDONLY]


def test_missing_session_lines_are_added_for_the_stricter_other_side() -> None:
    sdp = "v=0\no=- 1 1 IN IP4 192.0.2.1\nc=IN IP4 192.0.2.1\nm=audio 4000 RTP/AVP 0\n"
    assert relayed(sdp, 30000) == (
        "v=0\r\no=warden 77 3 IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\nm=audio 30000 RTP/AVP 0\r\n"
    )


@pytest.mark.parametrize(
    ("sdp", "status"),
    [
        (HEAD + "m=audio 4000 RTP/AVP 0\r\n", 400),
        (HEAD + "o=- 1 1 IN IP4 192.0.2.1\r\n", 400),
        ("v=0\r\ns=-\r\nt=0 0\r\n", 400),
        (HEAD + "c=IN IP4 192.0.2.1\r\n" + "m=audio 4000 RTP/AVP 0\r\n" * 17, 488),
        (HEAD + "rubbish\r\n", 400),
    ],
)
def test_what_cannot_be_relayed_is_refused(sdp: str, status: int) -> None:
    with pytest.raises(MalformedMessage) as caught:
        relayed(sdp, 30000)
    assert caught.value.status == status


def test_streams_tell_where_packets_go() -> None:
    assert streams(SAMPLES["linphone"]) == (
        StreamInfo(
            kind="audio",
            active=True,
            rtp=Address("192.0.2.40", 7078),
            rtcp=Address("192.0.2.40", 41000),
            direction=Direction.SENDRECV,
            protocol="RTP/AVPF",
        ),
    )
    fax = streams(SAMPLES["fax"])
    assert [(s.kind, s.active, s.rtp) for s in fax] == [
        ("audio", False, None),
        ("image", True, Address("198.51.100.6", 4002)),
        ("message", False, None),
    ]
    assert [s.active for s in streams(SAMPLES["browser"])] == [False, False]
