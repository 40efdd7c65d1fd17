"""Requests that schemathesis makes from our own description of our routes, right ones and wrong ones."""

import json

import pytest
import schemathesis
from helpers.server import running
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import load_all_checks

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # of schemathesis' own, as is the other
    pytest.mark.filterwarnings("ignore::hypothesis.errors.HypothesisDeprecationWarning"),
]
load_all_checks()

from schemathesis.specs.openapi.checks import content_type_conformance, status_code_conformance  # noqa: E402

EXAMPLES = 40  # of each route, right ones and as many wrong ones
TAKING = {"submit", "make", "replay", "records"}  # a body, of which there are wrong ones
ROUTES = {"show", "cancel", "watch", "picture", "settings", *TAKING}
CHECKS = [status_code_conformance, content_type_conformance]
IN_TIME = {"x-deadline-seconds": "0.5"}  # a right request may ask for any amount of work


@pytest.fixture(scope="module")
def operations(tiny_pipe):
    with running(tiny_pipe) as server:
        schema = schemathesis.openapi.from_url(f"{server.url}/openapi.json")
        found = [result.ok() for result in schema.get_all_operations()]
        yield {operation.definition.raw["operationId"]: operation for operation in found}


def test_every_route_is_tried(operations):
    assert operations.keys() == ROUTES


@pytest.mark.parametrize(
    ("route", "mode"),
    [
        *((route, GenerationMode.POSITIVE) for route in sorted(ROUTES)),
        *((route, GenerationMode.NEGATIVE) for route in sorted(TAKING)),
    ],
)
def test_answers_are_those_that_are_described(operations, route, mode):
    """No crash, no status or media type that the description has not, and each refusal says what is wrong."""
    operation = operations[route]

    @settings(
        max_examples=EXAMPLES, deadline=None, derandomize=True, database=None, suppress_health_check=[*HealthCheck]
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def check(case):
        answer = case.call(headers=IN_TIME)
        assert answer.status_code not in (500, 502)
        if answer.status_code >= 400:
            refused = json.loads(answer.content)["error"]
            assert refused["message"] and refused["status"] == answer.status_code
        case.validate_response(answer, checks=CHECKS)

    check()
