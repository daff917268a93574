"""Tokens by which the nodes of a cluster know each other."""

import pytest

from warden.web.auth import NODE_TOKEN_S, is_node_token, make_node_token

KEY, NOW = b"k" * 32, 1_700_000_000.0
TOKEN = make_node_token(KEY, NOW).encode()


def test_a_token_is_good_for_a_minute_and_for_clocks_that_differ_by_one() -> None:
    for later in (-NODE_TOKEN_S, 0, NODE_TOKEN_S):
        assert is_node_token(KEY, TOKEN, NOW + later)
    for later in (-NODE_TOKEN_S - 1, NODE_TOKEN_S + 1):
        assert not is_node_token(KEY, TOKEN, NOW + later)


@pytest.mark.parametrize(
    "token",
    [
        b"",
        b"node",
        b"node..",
        b"node.1700000060.",
        b"node.1700000060." + b"0" * 64,
        TOKEN[:-1],
        TOKEN.replace(b"node.17", b"node.18"),
        b"node." + b"9" * 5000 + b".x",
        "node.\u0661.x".encode(),
        b"\xff\xfe",
    ],
)
def test_what_nobody_signed_is_none(token: bytes) -> None:
    assert not is_node_token(KEY, token, NOW)


def test_another_secret_signs_for_nobody_and_no_secret_neither() -> None:
    assert not is_node_token(b"other", TOKEN, NOW)
    assert not is_node_token(b"", make_node_token(b"", NOW).encode(), NOW)
