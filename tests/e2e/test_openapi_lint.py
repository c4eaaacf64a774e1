"""The linters that users of OpenAPI run; what they do not complain of is in their settings, with the reason."""

import json
from pathlib import Path

import pytest

from genstatus_server.web.openapi import openapi_document
from tests.support import npm


@pytest.mark.parametrize(
    "command",
    ["spectral lint --fail-severity hint --ruleset spectral.yaml", "redocly lint --config redocly.yaml"],
    ids=["spectral", "redocly"],
)
def test_openapi_document_passes_the_linters(tmp_path: Path, command: str) -> None:
    document = tmp_path / "openapi.json"
    document.write_text(json.dumps(openapi_document()))
    said = npm.run(*command.split(), str(document))
    assert "warning" not in said.lower()
