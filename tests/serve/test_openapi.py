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

from vicuna.serve.api.openapi import document

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
    """The description with requests that can reach a worker: they ask for a model that is there, for text that it can
    read, and none gives up before it could be answered."""
    described = copy.deepcopy(described)
    schemas = described["components"]["schemas"]
    part = {"type": "object", "properties": {"type": {"const": "text"}, "text": {"type": "string"}}}
    texts = {"type": "array", "items": part | {"required": ["type", "text"]}}
    schemas["ChatMessage"]["required"] = ["role", "content"]
    schemas["ChatMessage"]["properties"]["content"] = {"anyOf": [{"type": "string"}, texts]}
    for schema in schemas.values():
        if "priority" in schema.get("properties", {}):
            schema["properties"]["model"] = {"const": "echo"}
    for path in described["paths"].values():
        for operation in path.values():
            for parameter in operation["parameters"]:
                if parameter["name"] == "x-vicuna-timeout":
                    parameter["schema"]["exclusiveMinimum"] = 30
    return described


SCHEMA: Any = schemathesis.openapi.from_dict(aimed(document()))
OPERATIONS = [each.ok() for each in SCHEMA.get_all_operations()]
GOOD_AND_BAD = [
    pytest.param(each, mode, id=f"{each.label} {mode.value}")
    for each in OPERATIONS
    for mode in GenerationMode
    if each.body or mode is GenerationMode.POSITIVE  # where there is no body, nothing can be wrong with it
]
ANSWERED = (
    "/v1/models",
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/embeddings",
    "/tokenize",
    "/health",
    "/metrics",
)
"""What draws by chance are answered; others need a worker's name, or the fleet's secret."""


@pytest.mark.parametrize(("operation", "mode"), GOOD_AND_BAD)
def test_whatever_is_sent_the_answer_is_as_described(api: Site, operation: Any, mode: GenerationMode) -> None:
    statuses = set()

    @settings(max_examples=50, deadline=None, suppress_health_check=list(HealthCheck))
    @given(case=operation.as_strategy(generation_mode=mode))
    def check(case: Any) -> None:
        reply = case.call_and_validate(base_url=api.api, checks=CHECKS)
        statuses.add(reply.status_code)
        assert b"Traceback" not in reply.content
        assert b'File "' not in reply.content
        assert reply.headers["x-request-id"]

    check()
    if mode is GenerationMode.POSITIVE and operation.path in ANSWERED:
        assert 200 in statuses


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
