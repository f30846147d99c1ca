"""What is known of a corpus stands in its own module: no other code names one."""

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from r1omni.corpora import known, read_clips
from r1omni.corpora.known import find_corpus, known_names
from r1omni.corpora.record import Corpus
from r1omni.params_file import read_params

# The synthetic worlds imitate named corpora; the paper's table has named columns.
# So does a study: its settings are those of the synthetic worlds.
MAY_NAME = ("r1omni/corpora/known/", "r1omni/corpora/synthetic/",
            "r1omni/evaluation/report/paper.py", "r1omni/experiments/")  # fmt: skip
# config.SyntheticCorpus lists the synthetic worlds; their generic clips are conversations.
ALLOWED = {("r1omni/config.py", name) for name in ("dfew", "mafw", "ravdess")}
ALLOWED |= {("r1omni/base_model/towers.py", "conversations")}


def strings(path: Path) -> Iterator[str]:
    """Every string of the code that is no docstring."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    docstrings = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        is_text = isinstance(node, ast.Constant) and isinstance(node.value, str)
        if is_text and id(node) not in docstrings:
            yield re.sub(r"[A-Z-]+-SFT", "", node.value)  # the paper's names of checkpoints


def named(repo: Path) -> set[tuple[str, str]]:
    word = re.compile(rf"\b({'|'.join(known_names())})\b", re.IGNORECASE)
    files = [path for top in ("r1omni", "flows") for path in sorted((repo / top).rglob("*.py"))]
    files += sorted((repo / "r1omni").rglob("*.jinja"))
    found = set()
    for path in files:
        name = path.relative_to(repo).as_posix()
        if not name.startswith(MAY_NAME):
            texts = strings(path) if path.suffix == ".py" else [path.read_text(encoding="utf-8")]
            found |= {(name, match.lower()) for text in texts for match in word.findall(text)}
    return found


def test_no_other_module_names_a_corpus(repo):
    assert named(repo) - ALLOWED == set()


def test_every_module_of_the_folder_holds_the_record_of_its_name():
    assert len(known_names()) >= 6
    for name in known_names():
        corpus = find_corpus(name)
        assert isinstance(corpus, Corpus) and corpus.name == name
        assert corpus.labels is None or corpus.labels == tuple(dict.fromkeys(corpus.labels))
        assert set(corpus.ids.values()) <= set(corpus.labels or ())
        assert len(corpus.folds_rows) in (0, corpus.folds)


MODULE = """
from r1omni.corpora.ingestion.lists import Listed
from r1omni.corpora.record import Corpus

def read_rows(root, fold):
    for path in sorted(root.glob("*.mp4")):
        yield Listed(f"enterface/{path.stem}", (path.name,), "happy", "test", path.name)

CORPUS = Corpus(
    name="enterface", title="eNTERFACE", about="eNTERFACE", ask="", layout="*.mp4",
    read_rows=read_rows, splits=("test",), labels=("happy", "sad"),
)
"""


def test_one_module_and_three_lines_of_params_add_a_corpus(
    repo, root, place, tmp_path, monkeypatch
):
    """The lines are the how-to's; nothing else of the program is edited."""
    (tmp_path / "enterface.py").write_text(MODULE)
    monkeypatch.setattr(known, "__path__", [*known.__path__, str(tmp_path)])
    place("1.mp4")
    text = (repo / "docs/how-to/add-a-corpus.md").read_text()
    (entry,) = re.findall(r"```yaml\n(  enterface:\n(?:    .*\n){3})```", text)
    params = (repo / "params.yaml").read_text().replace("corpora:\n", f"corpora:\n{entry}", 1)
    (tmp_path / "params.yaml").write_text(params)
    try:
        assert read_params(tmp_path / "params.yaml").corpora["enterface"].roles == ("test",)
        (clip,), rejects = read_clips("enterface", root, workers=1)
        assert (clip.clip_id, clip.label, rejects) == ("enterface/1", "happy", [])
    finally:
        sys.modules.pop("r1omni.corpora.known.enterface", None)
