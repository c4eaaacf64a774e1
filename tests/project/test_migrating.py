"""The JavaScript of docs/migrating.md makes the right moment of what the server sends, in Node."""

import json
import os
import re
import shutil
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import pytest

from genstatus_server.model.jobs import GenerationStatus, Job
from genstatus_server.web.answers import encode_answer
from tests.support.requirements import require

pytestmark = pytest.mark.one_python

PAGE = (Path(__file__).parents[2] / "docs" / "migrating.md").read_text()
EXPRESSIONS = re.findall(r"^```js\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
MOMENT = "2022-01-15T14:25:40.000Z"
JOB = Job(1, GenerationStatus.WAITING, updated_at=datetime(2022, 1, 15, 14, 25, 40, 123456, UTC))


@pytest.mark.parametrize(
    ("expression", "generated_at_format", "moment"),
    [("fromIso", "iso", MOMENT), ("fromUs", "us", MOMENT), ("fromIso", "us", None)],
)
@pytest.mark.parametrize("zone", ["UTC", "America/New_York"])
def test_migration_guide_javascript_reads_both_date_formats(
    expression: str, generated_at_format: str, moment: str | None, zone: str
) -> None:
    node = shutil.which("node")
    require(node, "node runs the expressions (Debian: apt-get install nodejs)")
    generated_at = json.loads(encode_answer(JOB, "D1", None, generated_at_format))["generated_at"]
    source = f"{EXPRESSIONS[0]}\nconsole.log(JSON.stringify({expression}({json.dumps(generated_at)})))"
    environment = os.environ | {"TZ": zone}
    ended = subprocess.run([str(node), "-e", source], env=environment, capture_output=True, text=True, check=True)
    assert json.loads(ended.stdout) == moment
