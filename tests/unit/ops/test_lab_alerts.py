"""What a lab's Prometheus answers is read as it comes, and nothing else is taken for an answer."""

import pytest

from warden.core.errors import WardenError
from warden.ops.lab.alerts import oldest_look, worst_of

ANSWER = """{"status": "success", "data": {"resultType": "vector", "result": [
    {"metric": {"__name__": "ALERTS", "alertname": "PBXNodeDown", "alertstate": "pending", "instance": "a"},
     "value": [1.5, "1"]},
    {"metric": {"__name__": "ALERTS", "alertname": "PBXNodeDown", "alertstate": "firing", "instance": "b"},
     "value": [1.5, "1"]},
    {"metric": {"__name__": "ALERTS", "alertname": "PBXNodeDown", "alertstate": "pending", "instance": "c"},
     "value": [1.5, "1"]},
    {"metric": {"__name__": "ALERTS", "alertname": "RedisDown", "alertstate": "pending"}, "value": [1.5, "1"]}
]}}"""


def test_an_alert_that_fires_anywhere_fires() -> None:
    assert worst_of(ANSWER) == {"PBXNodeDown": "firing", "RedisDown": "pending"}


@pytest.mark.parametrize("answer", ["", "<html>", '{"status": "error"}', ANSWER.replace("firing", "burning")])
def test_what_is_no_answer_is_said(answer: str) -> None:
    with pytest.raises(WardenError, match="what is no answer"):
        worst_of(answer)


def test_the_rules_that_have_waited_longest_say_how_old_the_alerts_may_be() -> None:
    groups = '{"name": "a", "lastEvaluation": "2026-01-01T00:00:20.123456789Z"}, '
    groups += '{"name": "b", "lastEvaluation": "2026-01-01T00:00:05Z"}, {"name": "c", "lastEvaluation": "%s"}'
    said = '{"status": "success", "data": {"groups": [' + groups + "]}}"
    assert oldest_look(said % "2026-01-01T00:00:06.5Z") == 1767225605.0
    # One that was never asked.
    assert oldest_look(said % "0001-01-01T00:00:00Z") < 0
    assert oldest_look('{"data": {"groups": []}}') == 0.0
    with pytest.raises(WardenError, match="what is no answer"):
        oldest_look("404 page not found")
