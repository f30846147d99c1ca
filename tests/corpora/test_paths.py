"""Paths from outside stay in the corpus root."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from r1omni.corpora.paths import EscapesRoot, relative_path, resolve_clip


@pytest.mark.parametrize(
    "text",
    ["../x.mp4", "/x.mp4", "a/../../x.mp4", "..", "", ".", "C:\\x", "C:x", "\\\\host\\x", "a\0"],
)
def test_a_path_that_leaves_the_root_is_named(tmp_path, text):
    with pytest.raises(ValueError, match="relative path inside the corpus root"):
        resolve_clip(tmp_path, text)


def test_a_link_out_of_the_root_is_named_and_one_inside_is_followed(tmp_path):
    root = tmp_path / "root"
    root.mkdir()
    (tmp_path / "secret.mp4").touch()
    (root / "out.mp4").symlink_to(tmp_path / "secret.mp4")
    (root / "loop.mp4").symlink_to(root / "loop.mp4")
    (tmp_path / "alias").symlink_to(root)
    with pytest.raises(EscapesRoot, match=r"'out.mp4' leads out of the corpus root"):
        resolve_clip(root, "out.mp4")
    assert resolve_clip(root, "loop.mp4") == root / "loop.mp4"
    assert resolve_clip(tmp_path / "alias", "a/b.mp4") == tmp_path / "alias/a/b.mp4"


@given(st.text())
def test_whatever_the_text_the_path_is_inside_or_refused(text):
    try:
        path = relative_path(text)
    except EscapesRoot:
        return
    assert not path.startswith("/") and ".." not in path.split("/")
