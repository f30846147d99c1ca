"""docs/map.md names every module with the first line of its docstring.

`python tests/test_map.py` writes it anew.
"""

import ast
from pathlib import Path

REPO = Path(__file__).parents[1]
MAP = REPO / "docs" / "map.md"


def rendered() -> str:
    """A heading per folder, a line per module."""
    lines = ["# Every module and what it is", "", "Written by `python tests/test_map.py`."]
    files = [
        path for top in ("r1omni", "flows", "benchmarks") for path in (REPO / top).rglob("*.py")
    ]
    for folder in sorted({path.parent for path in files}):
        lines += ["", f"## {folder.relative_to(REPO)}/", ""]
        for path in sorted(path for path in files if path.parent == folder):
            docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
            if docstring:  # an empty __init__.py has none
                lines.append(f"- `{path.name}`: {docstring.splitlines()[0]}")
    return "\n".join(lines) + "\n"


def test_the_map_names_every_module_by_its_docstring():
    assert MAP.read_text(encoding="utf-8") == rendered(), "run python tests/test_map.py"


if __name__ == "__main__":
    MAP.write_text(rendered(), encoding="utf-8")
