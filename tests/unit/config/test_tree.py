"""Values that do not go together are refused, whoever builds the tree."""

from typing import Any

import pytest
from pydantic import ValidationError

from warden.config.contradictions import Contradiction
from warden.config.tree import Config

CERTIFICATE = {"certificate": "cert.pem", "key": "key.pem"}
REDIS = {"redis": {"enabled": True, "nodes": [{"host": "redis1"}]}}
A_SEAT = {"name": "a", "address": "192.0.2.1", "successors": ["node1"]}
B_SEAT = {**A_SEAT, "name": "b", "address": "192.0.2.2"}
A_REGION = {"name": "east", "nodes": [{"host": "192.0.2.1"}]}
IN_A_REGION = {
    "enabled": True, "state_file": "s.sqlite", "seats": [A_SEAT], "regions": [A_REGION, A_REGION | {"name": "west"}],
    "node_id": A_SEAT["successors"][0],
}  # fmt: skip


def contradictions(**sections: Any) -> list[Contradiction]:
    try:
        Config.model_validate(sections)
    except ValidationError as error:
        (detail,) = error.errors()
        return list(detail["ctx"]["found"])
    return []


@pytest.mark.parametrize(
    ("sections", "keys"),
    [
        ({"rtp": {"port_range": [10000, 10000]}}, [("rtp.port_range",)]),
        ({"rtp": {"port_range": [10000, 10002]}}, [("rtp.port_range",)]),
        ({"rtp": {"port_range": [10001, 10004]}}, [("rtp.port_range",)]),
        ({"rtp": {"port_range": [10000, 10003]}}, []),
        ({"rtp": {"port_range": [10001, 10005]}}, []),
        ({"rtp": {"port_range": [5000, 6000]}}, [("rtp.port_range", "sip.bind_port")]),
        ({"rtp": {"port_range": [5000, 6000]}, "sip": {"transports": ["tcp"]}}, []),
        (
            {"sip": {"registration": {"min_expires": 100, "default_expires": 99}}},
            [("sip.registration.default_expires", "sip.registration.min_expires", "sip.registration.max_expires")],
        ),
        (
            {"sip": {"registration": {"max_expires": 3599}}},
            [("sip.registration.default_expires", "sip.registration.min_expires", "sip.registration.max_expires")],
        ),
        (
            {"sip": {"registration": {"min_expires": 100, "max_expires": 99}}},
            [("sip.registration.min_expires", "sip.registration.max_expires")],
        ),
        ({"sip": {"min_se": 100, "session_expires": 99}}, [("sip.min_se", "sip.session_expires")]),
        (
            {"high_availability": {"health_check_interval": 5}},
            [("high_availability.health_check_timeout", "high_availability.health_check_interval")],
        ),
        (
            {"high_availability": {"failover_timeout": 10}},
            [("high_availability.failover_timeout", "high_availability.health_check_interval")],
        ),
        ({"http": {"port": 5060}}, [("sip.bind_port", "http.port")]),
        ({"http": {"port": 5060}, "sip": {"transports": ["udp"]}}, []),
        ({"http": {"port": 5060, "bind_address": "127.0.0.1"}, "sip": {"bind_address": "127.0.0.2"}}, []),
        ({"http": {"port": 5061}}, []),
        ({"http": {"port": 5061}, "sip": {"tls": {"enabled": True, "certificates": [CERTIFICATE]}}},
         [("sip.tls.bind_port", "http.port")]),
        ({"sip": {"tls": {"enabled": True}}}, [("sip.tls.certificates", "sip.tls.enabled")]),
        ({"sip": {"websocket": {"tls_port": 7443}}}, [("sip.tls.certificates", "sip.websocket.tls_port")]),
        ({"sip": {"websocket": {"tls_port": 7443}, "tls": {"certificates": [CERTIFICATE]}}}, []),
        ({"sip": {"websocket": {"bind_port": 5060}}}, [("sip.websocket.bind_port", "sip.bind_port")]),
        ({"http": {"port": 5066}, "sip": {"websocket": {"bind_port": 5066}}},
         [("sip.websocket.bind_port", "http.port")]),
        ({"sip": {"transports": []}}, [("sip.transports", "sip.tls.enabled")]),
        ({"sip": {"transports": [], "tls": {"enabled": True, "certificates": [CERTIFICATE]}}}, []),
        ({"sip": {"transports": ["udp", "udp"]}}, [("sip.transports",)]),
        ({"sip": {"digest_algorithms": ["MD5", "MD5"]}}, [("sip.digest_algorithms",)]),
        ({"sip": {"advertise_address": "2001:db8::1"}}, [("sip.advertise_address", "sip.bind_address")]),
        ({"sip": {"advertise_address": "192.0.2.1", "bind_address": "::"}}, []),
        ({"rtp": {"advertise_address": "2001:db8::1"}}, [("rtp.advertise_address", "rtp.bind_address")]),
        ({"sip": {"bind_address_v6": "::", "advertise_address_v6": "2001:db8::1"}}, []),
        ({"sip": {"bind_address_v6": "192.0.2.1"}}, [("sip.bind_address_v6",)]),
        ({"sip": {"advertise_address_v6": "2001:db8::1"}}, [("sip.advertise_address_v6", "sip.bind_address_v6")]),
        ({"sip": {"bind_address": "::", "bind_address_v6": "::1"}, "rtp": {"bind_address": "::"}},
         [("sip.bind_address_v6", "sip.bind_address", "rtp.bind_address")]),
        ({"redis": {"enabled": True}}, [("redis.nodes", "redis.enabled")]),
        (
            {"secret": "s" * 16, "high_availability": {"enabled": True, "seats": [A_SEAT]}},
            [("redis.enabled", "high_availability.seats")],
        ),
        ({"secret": "s" * 16, "high_availability": {"enabled": True, "state_file": "s.sqlite", "seats": [A_SEAT]}}, []),
        (
            {**REDIS, "high_availability": {"enabled": True, "state_file": "state.sqlite"}},
            [("high_availability.state_file", "redis.enabled")],
        ),
        (
            {**REDIS, "high_availability": {"enabled": True, "seats": [A_SEAT]}},
            [("secret", "high_availability.enabled")],
        ),
        (
            {**REDIS, "secret": "s" * 16, "high_availability": {"enabled": True, "node_id": "n9", "seats": [A_SEAT]}},
            [("high_availability.node_id", "high_availability.seats")],
        ),
        (
            {"high_availability": {"seats": [{**A_SEAT, "successors": ["node1", "node1"]}]}},
            [("high_availability.seats",)],
        ),
        ({"high_availability": {"seats": [A_SEAT, A_SEAT]}}, [("high_availability.seats",)]),
        ({"high_availability": {"failover_driver": "keepalived"}}, []),
        (
            {"high_availability": {"enabled": True, "failover_driver": "keepalived", "failover_enabled": False}},
            [
                ("high_availability.seats", "high_availability.failover_driver"),
                ("high_availability.failover_enabled", "high_availability.failover_driver"),
            ],
        ),
        (
            {
                "secret": "s" * 16,
                "high_availability": {
                    "enabled": True, "state_file": "s.sqlite", "seats": [A_SEAT],
                    "failover_driver": "keepalived", "manage_address": "netlink",
                },
            },
            [
                ("high_availability.manage_address", "high_availability.failover_driver"),
                ("high_availability.address_interface", "high_availability.manage_address"),
            ],
        ),
        (
            {"high_availability": {"enabled": True, "manage_address": "hook"}},
            [
                ("high_availability.seats", "high_availability.manage_address"),
                ("high_availability.address_hook", "high_availability.manage_address"),
            ],
        ),
        (
            {**REDIS, "high_availability": {"enabled": True, "coordinator": "etcd"}},
            [("etcd.nodes", "high_availability.coordinator")],
        ),
        (
            {**REDIS, "high_availability": {"enabled": True, "coordinator": "embedded"}},
            [("high_availability.coordinator_file", "high_availability.coordinator")],
        ),
        (
            {
                **REDIS,
                "high_availability": {"enabled": True, "seats": [A_SEAT, B_SEAT]},
            },
            [("secret", "high_availability.enabled")],
        ),
        (REDIS, []),
        (
            {"redis": {"enabled": True, "nodes": [{"host": "r"}], "cluster": True, "sentinel": {"enabled": True}}},
            [("redis.sentinel.enabled", "redis.cluster")],
        ),
        ({"etcd": {"tls": {"key": "/key.pem"}}}, [("etcd.tls.certificate", "etcd.tls.key")]),
        ({"high_availability": {"region": "east"}}, [("high_availability.region", "high_availability.regions")]),
        ({"secret": "s" * 16, "high_availability": IN_A_REGION | {"region": "east"}}, []),
        (
            {"secret": "s" * 16, "high_availability": IN_A_REGION | {"region": "north"}},
            [("high_availability.region", "high_availability.regions")],
        ),
        (
            {"secret": "s" * 16, "high_availability": IN_A_REGION | {"region": "east", "regions": [A_REGION]}},
            [("high_availability.regions",)],
        ),
        (
            {"high_availability": {"region": "east", "regions": [A_REGION, A_REGION | {"name": "west"}]}},
            [("high_availability.seats", "high_availability.regions")],
        ),
    ],
)  # fmt: skip
def test_values_that_contradict_each_other_are_refused(sections: dict[str, Any], keys: list[tuple[str, ...]]) -> None:
    assert [found.keys for found in contradictions(**sections)] == keys


def test_several_contradictions_are_told_together() -> None:
    with pytest.raises(ValidationError, match=r"sip.bind_port: must not be .*; rtp.port_range: must be"):
        Config.model_validate({"http": {"port": 5060}, "rtp": {"port_range": [20000, 10000]}})
