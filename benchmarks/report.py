"""What a run has found: as text, as JSON, as a picture, and in the documents that show it."""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from benchmarks.chart import svg
from benchmarks.table import Row, markdown

_ROOT: Final = Path(__file__).parent.parent
_BEGIN: Final = "<!-- benchmark: begin; ./run.sh bench --publish writes it -->"
_END: Final = "<!-- benchmark: end -->"


@dataclass(frozen=True)
class Report:
    """One run: when, where and how it was measured (`head`), its rows, and why some groups have none (`failed`)."""

    name: str
    head: dict[str, Any]
    rows: list[Row]
    failed: dict[str, str]

    @property
    def about(self) -> str:
        """Date, command and machine, in three lines."""
        head = self.head
        return (
            f"{head['date']}, commit {head['commit']}: `{head['command']}`, {head['minutes']} minutes, load average "
            f"{head['load_average_before']} before.\n{head['machine']}, {head['system']}, Python {head['python']}, "
            f"MongoDB {head['mongodb']}.\nPinned: {head['cores']}."
        )

    def write(self, folder: Path) -> None:
        """The JSON and the picture."""
        folder.mkdir(parents=True, exist_ok=True)
        content = self.head | {"failed": self.failed, "rows": [row.as_json() for row in self.rows]}
        (folder / f"{self.name}.json").write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")
        title = f"{self.head['date']}, {self.head['machine']}, {self.head['command']}"
        (folder / f"{self.name}.svg").write_text(svg(self.rows, title))

    def publish(self, root: Path = _ROOT) -> None:
        """The whole table into docs/performance.md, that of the rows with a target into the README."""
        write_between(root / "docs" / "performance.md", f"{self.about}\n\n{markdown(self.rows)}")
        with_target = [row for row in self.rows if row.target]
        write_between(root / "README.md", f"{self.about}\n\n{markdown(with_target)}")


def write_between(file: Path, text: str) -> None:
    """Put `text` into `file`, in place of what the last run wrote. Raises ValueError where there is no place for it."""
    pattern = re.escape(_BEGIN) + ".*?" + re.escape(_END)
    written, count = re.subn(pattern, lambda _: f"{_BEGIN}\n{text}\n{_END}", file.read_text(), flags=re.DOTALL)
    if count != 1:
        raise ValueError(f"{file} has no place, or several, for the table")
    file.write_text(written)
