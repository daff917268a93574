"""What a lab's Prometheus answers is read as it comes, and nothing else is taken for an answer."""

import pytest

from warden.core.errors import WardenError
from warden.ops.lab.alerts import worst_of

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
