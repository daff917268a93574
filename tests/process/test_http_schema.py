"""The API does what its description says, whatever is sent: requests made from the description, right and wrong."""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import positive_data_acceptance

from pbx import Pbx

EXAMPLES = 12
"""Per operation and kind; all are done within seconds."""


@pytest.fixture(scope="module")
def pbx(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pbx]:
    pbx = Pbx(tmp_path_factory.mktemp("node"), pairs=20)
    pbx.add_extensions("1001", "1002")
    with pbx.up():
        yield pbx


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
def test_every_answer_is_one_that_the_description_has(pbx: Pbx, mode: GenerationMode) -> None:
    url = f"http://127.0.0.1:{pbx.http_port}"
    description = httpx.get(f"{url}/api/v1/openapi.json", trust_env=False).json()
    # Each request shall have a token. That none passes without one is another test's business.
    del description["security"]
    headers = {"Authorization": f"Bearer {(pbx.data / 'operator.token').read_text()}"}
    schema = schemathesis.openapi.from_dict(description)
    schema.config.update(base_url=url)
    tried = 0
    for found in schema.get_all_operations():
        assert isinstance(found, Ok), found
        operation = found.ok()
        described = description["paths"][operation.path][operation.method]
        if mode is GenerationMode.NEGATIVE and not described.keys() & {"parameters", "requestBody"}:
            continue  # There is nothing in it that could be wrong.

        @settings(
            max_examples=EXAMPLES,
            deadline=None,
            database=None,
            derandomize=True,
            suppress_health_check=list(HealthCheck),
        )
        @given(case=operation.as_strategy(generation_mode=mode))
        def answers_as_described(case: Any) -> None:
            # A password's strength and a cursor's sense are more than a schema can say.
            case.call_and_validate(headers=headers, excluded_checks=[positive_data_acceptance])

        answers_as_described()
        tried += 1
    assert tried == (33 if mode is GenerationMode.POSITIVE else 21)
    assert httpx.get(f"{url}/health", trust_env=False).status_code == 200
