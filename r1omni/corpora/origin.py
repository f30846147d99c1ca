"""Whether a corpus is rendered or real: a file in its root, then a note in its manifest."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from r1omni.corpora.clip import read_note
from r1omni.lineage import UNKNOWN, Origin, joint_origins, origin_from

MARK: Final = "SYNTHETIC.json"  # `synthesize` writes it; a root without it is a real corpus's


def write_mark(root: Path, record: dict[str, Any]) -> None:
    """Write down in the corpus's root that its clips are rendered, and how."""
    text = json.dumps({"data": "synthetic", **record}, indent=2, sort_keys=True)
    (root / MARK).write_text(text + "\n", encoding="utf-8")


def origin_of_root(root: Path) -> Origin:
    """The origin of the corpus at `root`: synthetic if the mark is there, else real.

    Raises ValueError, naming the file, for a mark that cannot be read.
    """
    mark = root / MARK
    if not mark.exists():
        return Origin("real")
    try:
        if not mark.is_file():  # reading a FIFO would never end
            raise ValueError("is no regular file")
        return origin_from(json.loads(mark.read_text(encoding="utf-8")))
    except (OSError, ValueError, AttributeError) as error:
        raise ValueError(
            f"{mark}: expected the mark of a rendered corpus, like "
            f'{{"data": "synthetic", "shortcut": 0.5, "seed": 1}}: {error}'
        ) from error


def read_origin(manifest: Path) -> Origin:
    """The origin that a manifest records; unknown for one without a note.

    Raises ValueError, naming the file, for a note that is none of ours.
    """
    return read_note(manifest, origin_from) or UNKNOWN


def read_origins(manifests: Sequence[Path], split: str) -> dict[str, Origin]:
    """The origin of every corpus with clips of this split, over all the manifests."""
    import pyarrow.parquet as pq  # late: what reads params reads this module

    found = []
    for path in manifests:
        table = pq.read_table(path, columns=["corpus", "split"]).to_pandas()
        origin = read_origin(path)
        corpora = sorted(set(table.corpus[table.split == split]))
        found += [(str(corpus), origin) for corpus in corpora]
    return joint_origins(found)
