"""Every endpoint, fuzzed from the API's own description against a live fleet; and the description itself."""

import copy
import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from serve_stack import Site, site, until

from vicuna.serve.openapi import document

CHECKS: Any = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]
KEY = "VICUNA_FLEET_SECRET"


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("site")
    with site(folder, "--limits.gap", "0.1", **{KEY: "fuzzed " * 8}) as made:
        made.worker("echo", "", "--model.max_length", "60")
        yield made


def aimed(described: dict[str, Any]) -> dict[str, Any]:
    """The description with requests that can reach a worker: half of them ask for a model that is there, and none
    gives up before it could be answered."""
    described = copy.deepcopy(described)
    for schema in described["components"]["schemas"].values():
        if "priority" in schema.get("properties", {}):
            schema["properties"]["model"] = {"anyOf": [{"const": "echo"}, schema["properties"]["model"]]}
    for path in described["paths"].values():
        for operation in path.values():
            for parameter in operation["parameters"]:
                if parameter["name"] == "x-vicuna-timeout":
                    parameter["schema"]["exclusiveMinimum"] = 30
    return described


SCHEMA: Any = schemathesis.openapi.from_dict(aimed(document()))
OPERATIONS = [each.ok() for each in SCHEMA.get_all_operations()]


@pytest.mark.parametrize("mode", list(GenerationMode), ids=lambda mode: mode.value)
@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda each: each.label)
def test_whatever_is_sent_the_answer_is_as_described(api: Site, operation: Any, mode: GenerationMode) -> None:
    @settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
    @given(case=operation.as_strategy(generation_mode=mode))
    def check(case: Any) -> None:
        reply = case.call_and_validate(base_url=api.api, checks=CHECKS)
        assert b"Traceback" not in reply.content
        assert b'File "' not in reply.content
        assert reply.headers["x-request-id"]

    check()


def test_after_all_that_the_fleet_is_well(api: Site) -> None:
    until(lambda: api.fleet()["in_flight"] == 0, "all slots to be free")
    (worker,) = api.fleet()["workers"]
    assert (worker["state"], worker["failures_in_a_row"]) == ("live", 0)
    assert not [line for command in api.commands for line in command.output().splitlines() if "Traceback" in line]


def test_the_description_names_every_route_and_the_same_everywhere(api: Site) -> None:
    found = httpx.get(f"{api.api}/openapi.json").json()
    assert found == json.loads(json.dumps(document()))
    for path, operations in found["paths"].items():
        for method in operations:
            reply = httpx.request(method, f"{api.api}{path.replace('{model}', 'echo')}", content=b"{}")
            assert reply.status_code not in (404, 405), (method, path)
    assert "127.0.0.1" not in json.dumps(found)
