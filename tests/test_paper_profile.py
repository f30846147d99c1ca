"""params/paper.yaml: the recipe with its sources, and what the rehearsal changes of it."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from benchmarks.rehearse import PROFILES, SMALL, profile, write_checkpoint
from r1omni.params_file import read_params


def leaves(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        inner = isinstance(value, dict)
        flat |= leaves(value, f"{prefix}{key}.") if inner else {prefix + key: value}
    return flat


def test_the_papers_recipe_is_what_the_facts_say(repo):
    paper = read_params(repo / "params/paper.yaml")
    sft, grpo = paper.cold_start, paper.grpo
    assert (sft.epochs, sft.lr, sft.warmup, sft.batch_size) == (5, 2e-5, 0.03, 16)
    own = {"start", "clips", "reading_lessons"}
    assert paper.label_sft.model_dump(exclude=own) == sft.model_dump(exclude=own)
    assert (sft.clips, sft.reading_lessons.per_clip) == (None, 0)
    assert (grpo.group_size, grpo.temperature, grpo.max_new_tokens) == (8, 1.0, 512)
    assert (grpo.lr, grpo.kl_coef, grpo.advantage_eps) == (1e-6, 0.04, 1e-4)
    assert (grpo.steps - 1) * grpo.clips_per_step < 2 * 15306 <= grpo.steps * grpo.clips_per_step
    assert [corpus.fold for corpus in paper.corpora.values()] == [None, 1, 1, None]
    assert paper.synthetic.corpora == {}


@pytest.mark.parametrize("section", ["cold_start", "label_sft", "grpo"])
def test_every_value_of_the_recipe_names_its_source(repo, section):
    text = (repo / "params/paper.yaml").read_text()
    body = re.search(rf"^{section}:.*\n((?:  .*\n)+)", text, re.MULTILINE)
    assert body is not None
    silent = [
        line
        for line in body.group(1).splitlines()
        if not re.search(r"#.*(\[[PCRSFO]\])", line) and not line.lstrip().startswith("#")
    ]
    assert silent == []


@pytest.mark.parametrize("backbone", PROFILES)
def test_the_rehearsal_changes_sizes_and_places_only(repo, tmp_path: Path, backbone: str):
    rehearsed = profile(tmp_path, backbone)
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(rehearsed))
    read = read_params(tmp_path / "params.yaml")  # every key is known, every value in range
    assert (read.machine.processes, read.machine.zero_stage) == (2, 2)
    paper = leaves(yaml.safe_load((repo / "params" / PROFILES[backbone]).read_text()))
    changed = {key for key, value in leaves(rehearsed).items() if paper.get(key) != value}
    places = {f"corpora.{name}.root" for name in read.corpora} | {"base.source"}
    assert changed - set(leaves(SMALL)) == places
    assert all(tmp_path in corpus.root.parents for corpus in read.corpora.values())


@pytest.mark.parametrize("backbone", PROFILES)
def test_the_rehearsals_checkpoint_is_made_of_a_rendered_corpus(tmp_path: Path, backbone: str):
    reasoning, folder = tmp_path / "reasoning", tmp_path / "checkpoint"
    reasoning.mkdir()
    turns = [{"from": "human", "value": "Which?"}, {"from": "gpt", "value": "The voice is loud."}]
    (reasoning / "annotations.json").write_text(json.dumps([{"conversations": turns}]))
    (reasoning / "SYNTHETIC.json").write_text(json.dumps({"clips": 1}))  # as every rendered corpus
    write_checkpoint(backbone, folder, reasoning)
    config = json.loads((folder / "config.json").read_text())
    assert config["model_type"] == {"humanomni": "HumanOmni_qwen2"}.get(backbone, backbone)
    assert any(folder.glob("*.safetensors")) or any(folder.glob("pytorch_model*.bin"))
