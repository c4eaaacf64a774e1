"""What a run has found: as text, as JSON, as a picture, and in the documents that show it."""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from benchmarks.chart import growth, svg
from benchmarks.table import Row, markdown

_ROOT: Final = Path(__file__).parent.parent
#: Between these lines of a document stands a table; the name is `benchmark` or `ablation`.
_BEGIN: Final = "<!-- {}: begin; ./run.sh bench --publish writes it -->"
_END: Final = "<!-- {}: end -->"


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
        if any(row.curve for row in self.rows):
            (folder / f"{self.name}-growth.svg").write_text(growth(self.rows, title))

    def publish(self, root: Path = _ROOT) -> None:
        """The whole table into docs/performance.md, that of the rows with a target into the README."""
        text = f"{self.about}\n\n{markdown(self.rows)}"
        if all(row.group == "ablation" for row in self.rows):
            write_between(root / "docs" / "performance.md", "ablation", text)
            return
        write_between(root / "docs" / "performance.md", "benchmark", text)
        table = markdown(
            [row for row in self.rows if row.target], [row for row in self.rows if row.group == "peers" and row.key]
        )
        write_between(root / "README.md", "benchmark", f"{self.about}\n\n{table}")


def write_between(file: Path, name: str, text: str) -> None:
    """Put `text` into `file`, in place of what the last run wrote. Raises ValueError where there is no place for it."""
    begin, end = _BEGIN.format(name), _END.format(name)
    pattern = re.escape(begin) + ".*?" + re.escape(end)
    written, count = re.subn(pattern, lambda _: f"{begin}\n{text}\n{end}", file.read_text(), flags=re.DOTALL)
    if count != 1:
        raise ValueError(f"{file} has no place, or several, for the table")
    file.write_text(written)
