"""Write the tables of fields in ``docs/run.md``, from the dataclasses.

``--check`` only says whether they are up to date.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from pathlib import Path

from fuse_index.run.captions import ROLES
from fuse_index.run.describe import describe_captions, describe_fields

PAGE = Path(__file__).parents[1] / "docs" / "run.md"
Row = tuple[str, str, str, str]


def section(title: str, rows: Iterable[Row]) -> str:
    """One section: its name in bold, what it is, and a table."""
    name, _, summary = title.partition(": ")
    lines = [f"**{name}**" + (f": {summary}" if summary else "")]
    cells = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    if cells:
        lines += ["", "| field | type | default | meaning |", "| --- | --- | --- | --- |"]
        lines += [f"| `{row[0]}` | {row[1]} | {row[2]} | {row[3]} |" for row in cells]
    return "\n".join(lines) + "\n"


def tables() -> dict[str, str]:
    """The generated parts of the page by the name of their markers."""
    every = list(describe_fields())
    shared = {row[0] for row in dict(every)["models.NAME"]}
    roles = [
        (f"{name} (beside the fields of `models.NAME`)", [r for r in rows if r[0] not in shared])
        for name, rows in describe_captions()
        if name in ROLES
    ]
    return {
        "roles": "\n".join(section(*item) for item in roles),
        "fields": "\n".join(section(*item) for item in every),
    }


def main() -> int:
    """Rewrite the page, or with ``--check`` compare it."""
    old = text = PAGE.read_text(encoding="utf-8")
    for name, content in tables().items():
        pattern = rf"(<!-- {name}: begin -->\n).*?(<!-- {name}: end -->)"
        text = re.sub(pattern, lambda m, c=content: f"{m[1]}\n{c}\n{m[2]}", text, flags=re.DOTALL)
    if "--check" in sys.argv[1:]:
        print("up to date" if text == old else "out of date")
        return int(text != old)
    PAGE.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
