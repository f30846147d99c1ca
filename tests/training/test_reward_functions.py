"""The rewards that params name: a user's own file, and those that ask the judges."""

import sys
from pathlib import Path

import numpy as np
import pytest
import toy

from r1omni.judges.evidence import Evidence, read_evidence, write_evidence
from r1omni.judges.reader import Reader
from r1omni.own_code import CodeChanged
from r1omni.training.reward_functions import dealt_by_label, load_rewards, reward_files

BRIEF = '''
def brief(completion, clip):
    """Short completions of clips with sound."""
    return float(len(completion) < 60 and clip.has_audio)

def twice(completion, clip):
    return 2.0

def needs_three(completion, clip, third):
    return 0.0

def breaks(completion, clip):
    return 1 / len(completion)

def leaves(completion, clip):
    raise SystemExit(0)

def sad(completion, clip):
    return 0.0
'''
READER = Reader(
    ("angry", "sad"), False, {"loudness +1": 0}, np.array([[2.0, 0.0]]), np.zeros(2), 0.9, 100
)
LOUD = "<think>The voice is loud.</think><answer>angry</answer>"


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A folder with a user's rewards, which is the working directory."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own_rewards.py").write_text(BRIEF)
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[name]


def load(weights, folder, clips=None, **grpo):
    params = toy.grpo_params(reward_weights=weights, **grpo)
    return load_rewards(params, folder, clips or [toy.clip_at(1)])


def test_a_users_reward_of_three_lines_trains(own, world):
    weights = {"accuracy": 1.0, "own_rewards:brief": 0.5}
    lines = []
    toy.train_grpo(
        world,
        own / "run",
        toy.machine_params(processes=1),
        toy.grpo_params(steps=2, reward_weights=weights),
        lambda _step, metrics: lines.append(metrics),
    )
    assert len(lines) == 2
    for metrics in lines:
        assert 0.0 <= metrics["reward/brief"] <= 1.0
        assert metrics["reward/total"] == pytest.approx(
            metrics["reward/accuracy"] + 0.5 * metrics["reward/brief"]
        )
    assert reward_files(list(weights)) == [own / "own_rewards.py"]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("own_rewards:nothing", "own_rewards:nothing: cannot be imported"),
        ("no_such_file:brief", "no_such_file:brief: cannot be imported"),
        ("own_rewards:needs_three", "needs_three: a reward takes a completion and a clip"),
        ("own_rewards:twice", "reward twice: 2.0 for the completion '' of clip 'clip-1'"),
        ("own_rewards:breaks", "breaks: raised ZeroDivisionError.* for the completion '' of clip"),
        ("own_rewards:leaves", r"reward own_rewards:leaves: raised SystemExit\(0\)"),
        (
            "math:hypot",
            "reward math:hypot: raised TypeError",
        ),  # compiled: nobody sees its signature
    ],
)
def test_a_wrong_reward_is_refused_by_name_before_the_first_step(own, name, expected):
    with pytest.raises(ValueError, match=expected):
        load({"accuracy": 1.0, name: 1.0}, own)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("def brief(completion, clip)\n", "SyntaxError"),
        ("assert False\n", r"AssertionError\(\)"),
        ("import sys\nsys.exit()\n", r"SystemExit\(\)"),
    ],
)
def test_a_file_that_raises_when_it_is_imported_is_named(own, text, expected):
    (own / "broken_rewards.py").write_text(text)
    with pytest.raises(ValueError, match=f"broken_rewards:brief: cannot be imported: {expected}"):
        load({"accuracy": 1.0, "broken_rewards:brief": 1.0}, own)


def test_what_a_reward_imports_from_the_users_folder_is_part_of_the_recipe(own):
    (own / "pack").mkdir()
    (own / "pack/helper.py").write_text("WORTH = 0.5\n")
    (own / "pack/sub.py").write_text(
        "import json\nimport beside\nfrom pack.helper import WORTH\n\n"
        "def worth(completion, clip):\n    return WORTH\n"
    )
    (own / "beside.py").write_text("")
    (own / "not_imported.py").write_text("")
    load({"pack.sub:worth": 1.0}, own)
    wanted = [own / "beside.py", own / "pack/helper.py", own / "pack/sub.py"]
    assert reward_files(["accuracy", "pack.sub:worth"]) == wanted
    assert reward_files(["accuracy"]) == []
    installed = set(reward_files(["numpy.linalg:norm"])) - set(wanted)
    assert installed == {Path(np.linalg.__file__)}  # of what is installed, the module alone


def test_a_helper_is_found_where_the_working_directory_is_a_link(own, monkeypatch):
    (own / "real").mkdir()
    (own / "link").symlink_to(own / "real")
    (own / "real/linked_helper.py").write_text("")
    (own / "real/linked_rewards.py").write_text(f"import linked_helper\n{BRIEF}")
    monkeypatch.chdir(own / "link")
    monkeypatch.syspath_prepend(str(own / "link"))
    load({"linked_rewards:brief": 1.0}, own)
    found = reward_files(["linked_rewards:brief"])
    assert [file.name for file in found] == ["linked_helper.py", "linked_rewards.py"]


def test_a_reward_that_is_edited_while_grpo_runs_ends_it_before_its_checkpoint(own, world):
    def edit(step, _metrics):
        (own / "own_rewards.py").write_text(f"{BRIEF}\n# {step}\n")

    with pytest.raises(CodeChanged, match=f"^{own}/own_rewards.py changed while training ran"):
        toy.train_grpo(
            world,
            own / "run",
            toy.machine_params(processes=1),
            toy.grpo_params(steps=2, reward_weights={"own_rewards:brief": 1.0}),
            edit,
        )
    assert not toy.paths_in(own / "run").checkpoint.exists()


def test_the_judges_rewards_read_their_evidence(tmp_path):
    clip = toy.clip_at(2)  # angry, with sound
    verdicts = {clip.clip_id: {"loudness": (0.1, 0.1, 0.8)}}
    write_evidence(Evidence(verdicts, READER), tmp_path / "evidence")
    again = read_evidence(tmp_path / "evidence")
    assert again.verdicts == verdicts
    grounding = toy.toy_params().grpo.grounding.model_copy(
        update={"sides": ("voice",), "min_claims": 1, "term": "precision"}
    )
    rewards = load({"grounding": 1.0, "reader": 0.5}, tmp_path / "evidence", [clip],
                   grounding=grounding)  # fmt: skip
    score = rewards.score(LOUD, clip)
    assert score.parts["grounding"] == pytest.approx(0.8)
    assert score.parts["reader"] == pytest.approx(np.exp(2.0) / (np.exp(2.0) + 1.0))
    assert score.reward == pytest.approx(score.parts["grounding"] + 0.5 * score.parts["reader"])
    assert rewards.score("loud", clip).reward == 0.0
    unknown = toy.clip_at(0)  # happy: a label that the reader never saw, a clip never judged
    assert rewards.score(LOUD, unknown).reward == 0.0


def test_a_reward_that_asks_the_judges_needs_their_evidence(tmp_path):
    write_evidence(None, tmp_path / "evidence")
    with pytest.raises(ValueError, match=r"reader\.json"):
        load({"grounding": 1.0}, tmp_path / "evidence")


def test_what_would_be_so_of_any_clip_of_the_label_is_a_mean_by_hand():
    clips = [toy.clip_at(i) for i in (0, 3, 1)]  # happy, happy, sad
    verdicts = {
        "clip-0": {"loudness": (0.0, 0.2, 0.8)},
        "clip-3": {"loudness": (0.4, 0.2, 0.4), "rate": (0.0, 1.0, 0.0)},
    }
    dealt = dealt_by_label(Evidence(verdicts, READER), clips)
    assert dealt["dfew", "happy"]["loudness"] == pytest.approx((0.2, 0.2, 0.6))
    assert dealt["dfew", "happy"]["rate"] == (0.0, 1.0, 0.0)
    assert dealt["dfew", "sad"] == {}
