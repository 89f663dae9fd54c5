"""What ``make proto`` makes of proto/sales_event.proto is what is committed."""

from __future__ import annotations

from pathlib import Path

import pytest
from grpc_tools import protoc  # type: ignore[import-untyped]  # it ships none

ROOT = Path(__file__).parents[2]
SALES = ROOT / "event_consumer" / "sales"


@pytest.mark.parametrize("name", ["sales_event_pb2.py", "sales_event_pb2.pyi"])
def test_the_committed_module_is_made_of_the_proto(name: str, tmp_path: Path) -> None:
    code = protoc.main(
        [
            "protoc",
            f"-I{ROOT / 'proto'}",
            f"--python_out={tmp_path}",
            f"--pyi_out={tmp_path}",
            "sales_event.proto",
        ]
    )
    assert code == 0
    assert (SALES / name).read_bytes() == (tmp_path / name).read_bytes(), "run `make proto`"
