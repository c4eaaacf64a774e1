"""The JavaScript of docs/migrating.md gives the right moment, in Node."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.requirements import require

PAGE = (Path(__file__).parents[2] / "docs" / "migrating.md").read_text()
EXPRESSIONS = re.findall(r"^```js\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
ISO, US = "2022-01-15 14:25:40", "01/15/2022 14:25:40"
MOMENT = "2022-01-15T14:25:40.000Z"


@pytest.mark.parametrize(
    ("expression", "generated_at", "moment"),
    [("fromIso", ISO, MOMENT), ("fromUs", US, MOMENT), ("fromIso", US, None)],
)
@pytest.mark.parametrize("zone", ["UTC", "America/New_York"])
def test_javascript_dates_of_both_formats(expression: str, generated_at: str, moment: str | None, zone: str) -> None:
    node = shutil.which("node")
    require(node, "node runs the expressions (Debian: apt-get install nodejs)")
    source = f"{EXPRESSIONS[0]}\nconsole.log(JSON.stringify({expression}({json.dumps(generated_at)})))"
    environment = os.environ | {"TZ": zone}
    ended = subprocess.run([str(node), "-e", source], env=environment, capture_output=True, text=True, check=True)
    assert json.loads(ended.stdout) == moment
