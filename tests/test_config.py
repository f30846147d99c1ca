"""params.yaml: what is wrong is said with file, line, key and what was expected."""

from pathlib import Path

import pytest

from r1omni.params_file import ParamsError, read_params
from r1omni.training_config import AdapterParams, GRPOParams


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


def test_a_file_that_is_no_utf_8_is_named_with_its_line(tmp_path):
    path = tmp_path / "params.yaml"
    path.write_bytes(b"corpora:\n  caf\xe9: 1\n")
    with pytest.raises(ParamsError, match=r"params\.yaml:2: byte 0xe9 is not valid UTF-8"):
        read_params(path)


def test_a_key_that_stands_twice_is_named_with_both_lines(broken, repo):
    line = line_of(repo / "params.yaml", "  kl_coef:")
    message = broken("  kl_coef:", "  kl_coef: 0.5\n  kl_coef:")
    assert f"params.yaml:{line + 1}: kl_coef: occurs twice; first in line {line}" in message


def test_a_key_that_stands_twice_in_braces_is_named(broken, repo):
    line = line_of(repo / "params.yaml", "reward_weights:")
    message = broken("{accuracy: 1.0, format", "{accuracy: 1.0, accuracy: 2.0, format")
    assert f"params.yaml:{line}: accuracy: occurs twice; first in line {line}" in message


def test_a_key_that_overrides_a_merged_one_stands_once(tmp_path, repo, params):
    text = (repo / "params.yaml").read_text().replace("  align: {", "  align: &sft {")
    start, end = text.index("\nlabel_sft:"), text.index("\ngrpo:")
    own = "start: base, modality_dropout: {video: 0.0, audio: 0.0}, epochs: 7"
    path = tmp_path / "params.yaml"
    path.write_text(f"{text[:start]}\nlabel_sft: {{<<: *sft, {own}}}\n{text[end:]}")
    found = read_params(path).label_sft
    assert (found.epochs, found.lr) == (7, params.base.align.lr)


@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        ("{}", "at least one reward must have a weight above 0"),
        ("{accuracy: -1.0}", "the weight of accuracy is -1.0: expected 0 or more"),
        ("{accuracy: 0, format: 0.0}", "at least one reward must have a weight above 0"),
        ("{accuracy: 1, form: 1}", "'form' is no reward: expected one of accuracy, format, votes, "
         "grounding, reader, or your own as package.module:function"),
        ("{'my reward:brief': 1}", "'my reward:brief' is no reward"),
        ("{'mine:': 1}", "'mine:' is no reward"),
        ("{accuracy: 1, 'mine:accuracy': 1}", "'accuracy' is the name of another metric"),
        ("{accuracy: 1, 'mine:total': 1}", "'total' is the name of another metric"),
        ("{accuracy: 1, 'mine:reward': 1}", "'reward' is the name of another metric or of a"),
        ("{accuracy: 1, 'mine:clip_id': 1}", "'clip_id' is the name of another metric"),
    ],
)  # fmt: skip
def test_a_reward_that_nobody_knows_is_refused(broken, weights, expected):
    message = broken("reward_weights: {accuracy: 1.0, format: 1.0}", f"reward_weights: {weights}")
    assert f"grpo.reward_weights: {expected}" in message


def test_an_adapter_names_each_target_once():
    with pytest.raises(ValueError, match="each once, not mlp, mlp"):
        AdapterParams(rank=4, alpha=8.0, targets=("mlp", "mlp"))


def test_settings_that_would_be_ignored_are_refused(params):
    grpo = params.grpo.model_dump()
    with pytest.raises(ValueError, match="each_reward needs advantage: group"):
        GRPOParams(**grpo | {"each_reward": True, "advantage": "none"})
    with pytest.raises(ValueError, match=r"rejection needs rewards that are 0 or 1.*votes"):
        GRPOParams(**grpo | {"advantage": "rejection", "reward_weights": {"votes": 1.0}})
    assert GRPOParams(**grpo | {"advantage": "rejection"}).advantage == "rejection"


def test_skipping_bad_updates_can_be_set_after_the_first(params):
    changed = params.engine.model_copy(update={"skip_nonfinite": 3})
    assert changed.recipe() == params.engine.recipe()


def test_a_users_reward_and_the_judges_are_known(tmp_path, repo):
    path = tmp_path / "params.yaml"
    weights = "{accuracy: 1.0, my.rewards:brief: 0.2}"
    text = (repo / "params.yaml").read_text()
    path.write_text(text.replace("{accuracy: 1.0, format: 1.0}", weights))
    grpo = read_params(path).grpo
    assert grpo.reward_weights == {"accuracy": 1.0, "my.rewards:brief": 0.2}
    assert not grpo.needs_judges
    path.write_text(text.replace("{accuracy: 1.0, format: 1.0}", "{accuracy: 1.0, grounding: 0.0}"))
    assert read_params(path).grpo.needs_judges


def test_no_clip_may_lack_both_picture_and_sound(broken):
    message = broken("{video: 0.0, audio: 0.0} # shares", "{video: 0.6, audio: 0.5} # shares")
    assert "cold_start.modality_dropout.audio: video and audio must not exceed 1" in message


def test_a_reward_may_weigh_nothing(tmp_path, repo):
    path = tmp_path / "params.yaml"
    text = (repo / "params.yaml").read_text()
    path.write_text(text.replace("format: 1.0}", "format: 0}"))
    assert read_params(path).grpo.reward_weights == {"accuracy": 1.0, "format": 0.0}
    path.write_text(text.replace("{accuracy: 1.0, format: 1.0}", "{accuracy: 1e-1}"))  # YAML: text
    assert read_params(path).grpo.reward_weights == {"accuracy": 0.1}


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("max_seconds: 2.0", "max_seconds: 1.3",
         "synthetic.render.max_seconds: must not be below min_seconds, which is 1.4 (got 1.3)"),
        ("max_seconds: 60.0", "max_seconds: 0.4",
         "validation.max_seconds: must not be below min_seconds, which is 0.5 (got 0.4)"),
        ("num_attention_heads: 4, patch", "num_attention_heads: 5, patch",
         "model.vision.num_attention_heads: must divide hidden_size, which is 64 (got 5)"),
        ("encoder_attention_heads: 4", "encoder_attention_heads: 3",
         "model.audio.encoder_attention_heads: must divide d_model, which is 64 (got 3)"),
        ("gate: {hidden_size: 32", "gate: {hidden_size: 33",
         "model.gate.num_attention_heads: must divide hidden_size, which is 33 (got 2)"),
        ("text: {hidden_size: 128", "text: {hidden_size: 130",
         "model.text.num_attention_heads: must divide hidden_size, which is 130 (got 4)"),
        ("num_key_value_heads: 2", "num_key_value_heads: 3",
         "model.text.num_key_value_heads: must divide num_attention_heads, which is 4 (got 3)"),
        ("num_key_value_heads: 2", "num_key_value_heads: 0",
         "model.text.num_key_value_heads: Input should be greater than or equal to 1 (got 0)"),
    ],
)  # fmt: skip
def test_numbers_that_do_not_fit_each_other_are_named(broken, old, new, expected):
    assert broken(old, new).endswith(expected)


@pytest.mark.parametrize(
    ("old", "new", "key"),
    [
        ("kl_coef: 0.04", "kl_coef: .inf", "grpo.kl_coef"),
        ("temperature: 0.7", "temperature: .nan", "grpo.temperature"),
        ("fps: 8.0", "fps: .inf", "synthetic.render.fps"),
        ("steps: 120", "steps: .inf", "grpo.steps"),
        ("{accuracy: 1.0", "{accuracy: .inf", "grpo.reward_weights.accuracy"),
    ],
)
def test_a_number_without_an_end_is_refused(broken, old, new, key):
    assert f"{key}: Input should be a finite number" in broken(old, new)


@pytest.mark.parametrize(
    ("old", "new", "key"),
    [
        ("  steps: 120", "  steps: true", "grpo.steps"),
        ("kl_coef: 0.04", "kl_coef: yes", "grpo.kl_coef"),
        ("dfew: {clips: 2050", "dfew: {clips: true", "synthetic.corpora.dfew.clips"),
        ("{accuracy: 1.0", "{accuracy: true", "grpo.reward_weights"),
    ],
)
def test_true_is_no_number(broken, old, new, key):
    assert f"{key}: expected a number, not true or false" in broken(old, new)


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


def test_two_folds_in_one_run_are_refused(broken):
    message = broken("root: data/synthetic/mafw, fold: 1", "root: data/synthetic/mafw, fold: 2")
    assert "corpora: one fold for all" in message


HUB = """hub:
  base: {repo: a/b, revision: main, folder: data/raw/base, towers: {vision: c/d@main}}
"""


def test_a_checkpoint_of_the_hub_is_read(tmp_path, repo):
    path = tmp_path / "params.yaml"
    path.write_text((repo / "params.yaml").read_text().replace("hub: {}\n", HUB))
    base = read_params(path).hub["base"]
    assert (base.repo, base.revision, str(base.folder)) == ("a/b", "main", "data/raw/base")
    assert base.towers == {"vision": "c/d@main"}


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("data/raw/base", "/data/base", "folder: must be a folder inside the project, as DVC"),
        ("data/raw/base", "data/../../base", "folder: must be a folder inside the project, as DVC"),
        ("data/raw/base", "it's/base", "folder: must hold no apostrophe"),
        ("data/raw/base", ".", "folder: must be a folder inside the project, as DVC"),
        ("a/b", "b", "repo: expected OWNER/NAME (got 'b')"),
        ("a/b", "a/b; rm", "repo: expected OWNER/NAME (got 'a/b; rm')"),
        ("revision: main", "revision: --x", "revision: expected a branch, a tag or a commit"),
        ("revision: main", "revision: 1234567", "revision: Input should be a valid string"),
        ("c/d@main", "c/d", "towers.vision: expected OWNER/NAME@REVISION (got 'c/d')"),
        ("{vision:", "{face:", "towers.face: Input should be 'vision', 'audio' or 'gate'"),
        ("revision:", "version:", "version: unknown key; known here: folder, repo, revision"),
    ],
)
def test_what_is_wrong_with_a_checkpoint_of_the_hub_is_named(broken, repo, old, new, expected):
    line = line_of(repo / "params.yaml", "hub: {}") + 1
    message = broken("hub: {}\n", HUB.replace(old, new, 1))
    assert f"params.yaml:{line}: hub.base.{expected}" in message


RAVDESS = "{adapter: ravdess, root: data/synthetic/ravdess, roles: [test]}"


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("adapter: mafw,", "adapter: mafw_compound,",
         "corpora.mafw.roles: train: clips of MAFW compound may have several emotions, and no"),
        ("adapter: ravdess", "adapter: ravdes", "corpora.ravdess.adapter: unknown corpus 'ravdes'"),
        ("ravdess, roles: [test]", "ravdess, roles: [train, test]",
         "corpora.ravdess.roles: train: RAVDESS has no train split"),
        ("dfew, fold: 1, roles: [train, test]", "dfew, fold: 1, roles: [cold_start]",
         "corpora.dfew.roles: cold_start: DFEW has no rationales"),
        ("roles: [cold_start]", "roles: [cold_start, test]",
         "corpora.reasoning.roles: test: conversations has no test split"),
        ("roles: [cold_start]", "roles: [reasoning]",
         "corpora.reasoning.roles.0: Input should be 'cold_start', 'train' or 'test'"),
        ("roles: [cold_start]", "roles: []", "corpora: no corpus has the role cold_start"),
        ("dfew, fold: 1,", "dfew,", "corpora.dfew.fold: is missing: DFEW has the folds 1 to 5"),
        ("dfew, fold: 1,", "dfew, fold: 7,", "corpora.dfew.fold: there is no fold 7 of DFEW"),
        ("ravdess, roles", "ravdess, fold: 1, roles", "RAVDESS has no folds: leave it out"),
        ("ravdess, roles", "ravdess, labels: [happy], roles", "only a table takes labels"),
        (RAVDESS, "{adapter: table, root: x, roles: [test]}",
         "corpora.ravdess.adapter: ravdess has a module of its own: give the table another name"),
        ("  ravdess: " + RAVDESS, "  mine: {adapter: table, root: x, roles: [test], labels: [joy]}",
         "corpora.mine.labels: unknown label 'joy'; known: neutral, happy"),
        ("  ravdess: " + RAVDESS, "  my/own: {adapter: table, root: x, roles: [test]}",
         "corpora.my/own.adapter: 'my/own' names files: letters, digits, _ and - only"),
    ],
)  # fmt: skip
def test_a_corpus_that_cannot_have_its_role_is_named_before_anything_runs(
    broken, repo, old, new, expected
):
    message = broken(old, new)
    assert f"params.yaml:{line_of(repo / 'params.yaml', old.strip())}: " in message or (
        "corpora: no corpus" in message
    )
    assert expected in message


def test_the_stores_address_in_the_environment_wins(
    repo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://mlflow.lab.example")
    assert read_params(repo / "params.yaml").tracking.uri == "https://mlflow.lab.example"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")
    assert read_params(repo / "params.yaml").tracking.uri == "sqlite:///mlflow.db"
