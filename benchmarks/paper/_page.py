"""docs/paper.md: each script writes its own section between two marks, and leaves the rest as it is."""

from __future__ import annotations

import re
from pathlib import Path

from onnxlrp.perturbation.statistics import Band


def put(page: Path, name: str, script: str, text: str) -> None:
    """Write a section in its place, or at the end.

    name : of the section        script : the file's name in benchmarks/paper that wrote it
    """
    start, end = f"<!-- {name}: written by benchmarks/paper/{script} -->", f"<!-- {name}: end -->"
    marked = f"{start}\n\n{text.strip()}\n\n{end}"
    content = page.read_text(encoding="utf-8") if page.exists() else "# The paper's experiments\n"
    between = re.compile(f"{re.escape(start)}.*{re.escape(end)}", re.DOTALL)
    found = between.search(content)
    new = between.sub(lambda _: marked, content) if found else f"{content.rstrip()}\n\n{marked}\n"
    page.write_text(new, encoding="utf-8")


def signed(band: Band | None, digits: int = 3) -> str:
    """A difference with its interval, bold where that excludes zero; "" for none."""
    if band is None:
        return ""
    text = f"{band.mean:+.{digits}f} [{band.low:+.{digits}f}, {band.high:+.{digits}f}]".replace("-", "−")
    return f"**{text}**" if band.low > 0 or band.high < 0 else text
