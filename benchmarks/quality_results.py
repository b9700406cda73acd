"""What benchmarks/quality.py passes to its page: where a run keeps its files, and the state of every row."""

from dataclasses import dataclass
from pathlib import Path

from quality_config import SetEntry

ROOT = Path(__file__).resolve().parents[1]


class Missing(Exception):
    """Something that a row needs is not available.

    Attributes:
        what: is missing.
        command: provides it, or shows how to name it.
    """

    def __init__(self, what: str, command: str):
        super().__init__(what)
        self.what, self.command = what, command


@dataclass(frozen=True)
class Workspace:
    """The folders of a run, and the flags it was started with.

    Attributes:
        data: folders of benchmark sets, by the set's name in the config.
        flags: that its commands need besides, such as --config FILE.
    """

    work: Path
    data_root: Path | None
    data: dict[str, Path]
    workers: int
    flags: str

    def command(self, set_name: str, entry: SetEntry, method: str = "") -> str:
        """The command that fills all rows of a set, or that of one method."""
        data = f"--data {set_name}=DIR" if entry.dataset else "" if entry.render else "--data_root $DATA"
        methods = f"--methods {method}" if method else ""
        return " ".join(filter(None, ["python benchmarks/quality.py", self.flags, f"--sets {set_name}", methods, data]))

    def inputs(self, set_name: str) -> Path:
        return self.work / set_name / "inputs"

    def without_paths(self, text: str) -> str:
        """Text with this machine's folders replaced by $WORK, $DATA and the like."""
        folders = {str(self.work.resolve()): "$WORK", str(self.work): "$WORK"}
        if self.data_root:
            folders |= {str(self.data_root.resolve()): "$DATA", str(self.data_root): "$DATA"}
        folders |= {str(path): f"${name}" for name, path in self.data.items()}
        folders[str(ROOT) + "/"] = ""
        for folder in sorted(folders, key=len, reverse=True):
            text = text.replace(folder, folders[folder])
        return text


@dataclass
class Row:
    """The state of a method on a set.

    Attributes:
        status: judged, not run or failed.
        judged: content of judged.json.
        reason: why it was not run, or failed.
        command: fills a row that was not run.
    """

    status: str
    judged: dict | None = None
    reason: str = ""
    command: str = ""


@dataclass
class SetResult:
    """The rows of a set, by method.

    Attributes:
        pictures: how many it has.
        missing: why none of its rows could be run.
        error: why the set could not be prepared.
    """

    rows: dict[str, Row]
    pictures: int = 0
    missing: Missing | None = None
    error: str = ""
