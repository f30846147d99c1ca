"""params.yaml: what is wrong is said with file, line, key and what was expected."""

from pathlib import Path

import pytest

from r1omni.config import ParamsError, read_params


@pytest.fixture
def broken(tmp_path, repo):
    """A function (old, new) -> the message for params.yaml with that replacement."""

    def message(old: str, new: str) -> str:
        text = (repo / "params.yaml").read_text()
        assert old in text
        path = tmp_path / "params.yaml"
        path.write_text(text.replace(old, new, 1))
        with pytest.raises(ParamsError) as error:
            read_params(path)
        return str(error.value)

    return message


def line_of(path: Path, text: str) -> int:
    lines = path.read_text().splitlines()
    return next(i for i, line in enumerate(lines, start=1) if text in line)


def test_the_committed_params_are_read(params):
    assert params.grpo.group_size == 8
    assert params.corpora["dfew"].fold == 1


def test_an_unknown_key_is_named_with_its_line_and_the_known_ones(broken, repo):
    message = broken("  kl_coef:", "  kl_ceof:")
    line = line_of(repo / "params.yaml", "  kl_coef:")
    assert f"params.yaml:{line}: grpo.kl_ceof: unknown key" in message
    assert "kl_coef" in message.split("known here:")[1]
    assert "grpo.kl_coef: is missing" in message


def test_an_unknown_key_deep_inside_is_named(broken):
    assert "synthetic.corpora.dfew.clipz: unknown key" in broken("dfew: {clips:", "dfew: {clipz:")


def test_an_unknown_section_is_named(broken):
    assert "grqo: unknown key" in broken("\ngrpo:", "\ngrqo:")


def test_a_value_out_of_range_is_named(broken):
    assert "grpo.group_size" in broken("group_size: 8", "group_size: 1")


def test_a_missing_file_is_said(tmp_path):
    with pytest.raises(ParamsError, match=r"nowhere\.yaml: cannot be read"):
        read_params(tmp_path / "nowhere.yaml")


def test_broken_yaml_is_said(tmp_path):
    path = tmp_path / "params.yaml"
    path.write_text("grpo: {steps: 1\n")
    with pytest.raises(ParamsError, match="not valid YAML"):
        read_params(path)


def test_the_params_are_frozen(params):
    with pytest.raises(ValueError, match="frozen"):
        params.grpo.lr = 1.0


def test_the_paper_profile_has_the_same_keys(repo, params):
    paper = read_params(repo / "params/paper.yaml")
    assert paper.grpo.group_size == 8
    assert paper.grpo.clips_per_step * paper.grpo.steps // 15306 == 2  # epochs
    assert paper.synthetic.corpora == {}
    assert set(paper.corpora) == set(params.corpora)
