"""docs/api/rest/event-collector.yaml against the code, and the OpenAPI document against itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from ingestion_service.openapi import DEFAULT_FILE, document, main
from tests.unit.ingestion import Ingestion

ROOT = Path(__file__).parents[2]
FORMS = {"EventIn", "ProductEventIn", "LearnerEventIn", "CollectRequest"}
S4_STATUSES = {"200", "207", "400", "413", "422", "503"}


@pytest.fixture(scope="module")
def made() -> dict[str, Any]:
    return document()


def test_the_file_is_what_the_code_says(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--check", str(ROOT / DEFAULT_FILE)]) == 0, capsys.readouterr().err


def test_the_file_holds_all_that_the_running_service_shows(made: dict[str, Any]) -> None:
    found = yaml.safe_load((ROOT / DEFAULT_FILE).read_text())

    assert found == made
    assert {server["url"] for server in found["servers"]} == {"http://localhost:8001", "http://localhost:8000"}


async def test_the_service_serves_the_same_document(made: dict[str, Any]) -> None:
    served = (await Ingestion().request("GET", "/openapi.json")).json()

    assert served == {name: part for name, part in made.items() if name != "servers"}


def test_what_the_environment_says_does_not_change_the_document(
    made: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INGESTION_CORS_ORIGINS", "https://shop.example")
    monkeypatch.setenv("SERVICE_NAME", "mine")
    monkeypatch.setenv("MAX_BUFFER_SIZE_MB", "none")  # not even what is no setting

    assert document() == made


def test_a_file_that_differs_is_told_with_what_differs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "api" / "collector.yaml"

    assert main(["--check", str(file)]) == 1
    assert main([str(file)]) == 0
    assert main(["--check", str(file)]) == 0
    file.write_text(file.read_text().replace("/api/v1/collect:", "/api/v2/collect:"))
    capsys.readouterr()
    assert main(["--check", str(file)]) == 1
    told = capsys.readouterr().err
    assert "-  /api/v2/collect:\n+  /api/v1/collect:" in told
    assert "make api-docs" in told


def test_both_hot_endpoints_document_their_bodies_their_headers_and_every_status(made: dict[str, Any]) -> None:
    events = made["paths"]["/events"]["post"]
    collect = made["paths"]["/api/v1/collect"]["post"]

    assert set(events["requestBody"]["content"]) == {
        "application/json",
        "text/plain",
        "application/cloudevents+json",
        "application/cloudevents-batch+json",
    }
    assert set(collect["requestBody"]["content"]) == {"application/json", "text/plain"}
    for operation in (events, collect):
        assert operation["requestBody"]["required"] is True
        assert {parameter["name"] for parameter in operation["parameters"]} == {
            "verbose",
            "Content-Encoding",
            "X-Request-ID",
        }
        for response in operation["responses"].values():
            assert {"X-Request-ID", "X-Process-Time"} <= set(response["headers"])
            assert "application/json" in response["content"]
        assert "Retry-After" in operation["responses"]["503"]["headers"]
    assert set(events["responses"]) == {"202", "207", "400", "408", "409", "413", "415", "422", "503"}
    assert set(collect["responses"]) == S4_STATUSES | {"408", "415"}


def test_every_form_is_documented_with_an_example(made: dict[str, Any]) -> None:
    assert set(made["components"]["schemas"]) >= FORMS
    for path, names in {"/events": 2, "/api/v1/collect": 2}.items():
        assert len(made["paths"][path]["post"]["requestBody"]["content"]["application/json"]["examples"]) == names


@pytest.mark.parametrize("path", ["/events", "/api/v1/collect"])
async def test_the_examples_are_accepted_as_they_are(path: str, made: dict[str, Any]) -> None:
    content = made["paths"][path]["post"]["requestBody"]["content"]
    examples = [
        (media_type, example)
        for media_type, said in content.items()
        for example in [*(one["value"] for one in said.get("examples", {}).values()), said.get("example")]
        if example is not None
    ]

    assert examples
    for media_type, example in examples:
        reply = await Ingestion().request("POST", path, json=example, headers={"content-type": media_type})
        assert reply.status_code in (200, 202), (media_type, reply.text)
        assert not reply.json().get("rejected_count")


def test_every_operation_has_a_summary_and_a_name_of_its_own(made: dict[str, Any]) -> None:
    operations = [operation for path in made["paths"].values() for operation in path.values()]

    assert all(operation["summary"] for operation in operations)
    assert len({operation["operationId"] for operation in operations}) == len(operations)
