"""LoRA in the stages and on both backbones: what is trained, kept, written, loaded and merged."""

import json
import re
import shutil
from pathlib import Path

import pytest
import tiny_thinker
import torch
import toy
from forked import Ranks, train
from safetensors.torch import save_file

from r1omni.inference import served
from r1omni.lineage import read_provenance, write_provenance
from r1omni.machine.curves import read_curves
from r1omni.model.adapters import (
    ADAPTER,
    ADAPTER_CONFIG,
    adapter_parameters,
    find_base,
    save_adapter,
)
from r1omni.model.backbone import prefill_prompts
from r1omni.model.feature_store import FeatureStore
from r1omni.model.loading import load_backbone, merge_checkpoint
from r1omni.model.weights import read_tensor_file
from r1omni.tracking.provenance import content_hash, file_hashes
from r1omni.training.checkpoints import load_parent
from r1omni.training.reference import AdapterAtStart
from r1omni.training_config import AdapterParams

LORA = AdapterParams(rank=16, alpha=32.0, targets=("attention", "mlp"))
STEPS = {"steps": 4, "lr": 1e-2}


def trained(folder: Path, size: int, kind: str, world: Path, **machine: object) -> Path:
    params = STEPS if kind == "grpo" else {"epochs": 2}
    how = {"adapter": LORA, "processes": size, **machine}
    codes = Ranks(folder, size, train, kind, world, folder, how, params).wait()
    assert codes == [0] * size, (folder / f"said-{size - 1}").read_text()[-3000:]
    return folder


def curves_of(folder: Path) -> list[dict[str, float]]:
    rows = read_curves(folder / "training" / "curves.jsonl")
    return [{k: v for k, v in row.items() if k != "rollout/logprob_gap"} for row in rows]


@pytest.fixture(scope="module")
def alone(world, tmp_path_factory):
    """GRPO with an adapter in one process."""
    return trained(tmp_path_factory.mktemp("alone"), 1, "grpo", world)


@pytest.mark.parametrize(("size", "zero_stage"), [(1, 1), (1, 3), (2, 0), (2, 2), (2, 3)])
def test_every_division_learns_the_same(alone, world, tmp_path, size, zero_stage):
    found = curves_of(trained(tmp_path, size, "grpo", world, zero_stage=zero_stage))
    expected = curves_of(alone)
    assert len(found) == len(expected) == 4
    for ours, theirs in zip(found, expected, strict=True):
        assert ours == pytest.approx(theirs, rel=2e-5, abs=1e-6)
    assert expected[0]["train/kl"] == 0.0  # the start is the policy, to the last bit
    assert expected[-1]["train/kl"] > 1e-5


@pytest.mark.parametrize(("size", "zero_stage"), [(1, 0), (2, 2), (2, 3)])
def test_in_bfloat16_it_learns_and_loads_as_it_was_trained(world, tmp_path, size, zero_stage):
    base = content_hash(world / "parent")
    folder = trained(tmp_path, size, "sft", world, zero_stage=zero_stage, dtype="bf16")
    losses = [row["train/loss"] for row in curves_of(folder)]
    assert all(0.0 < loss < 20.0 for loss in losses)
    assert len(set(losses)) == len(losses)
    loaded = load_backbone(folder / "checkpoint", base=world / "parent")
    assert {p.dtype for p in adapter_parameters(loaded).values()} == {torch.bfloat16}
    assert loaded.language_model.lm_head.weight.dtype == torch.bfloat16
    assert content_hash(world / "parent") == base


def test_a_checkpoint_holds_the_adapter_and_names_its_base(alone, world):
    made = alone / "checkpoint"
    assert not (made / "model.safetensors").exists()
    record = read_provenance(made)
    assert record["adapter"] == {"rank": 16, "alpha": 32.0, "targets": ["attention", "mlp"]}
    assert record["base"]["content_hash"] == content_hash(world / "parent")
    config = json.loads((made / ADAPTER_CONFIG).read_text())
    assert config["base_model_name_or_path"] == record["base"]["content_hash"]
    assert str(world) not in (made / ADAPTER_CONFIG).read_text()
    towers = ("vision", "audio", "bert")
    names = list(adapter_parameters(load_backbone(made, base=world / "parent")))
    assert len(names) == 2 * 7  # A and B of q, k, v, o, gate, up and down of the toy's one layer
    assert not any(tower in name for name in names for tower in towers)


def test_a_served_adapter_takes_its_base_from_where_serve_is_told(
    alone, world, tmp_path, monkeypatch
):
    shutil.copytree(alone / "checkpoint", tmp_path / "model" / "checkpoint")
    monkeypatch.chdir(tmp_path)  # no place that the adapter records leads to its base from here
    monkeypatch.setattr("r1omni.media.pool.start_forkserver", lambda: None)
    record = read_provenance(tmp_path / "model" / "checkpoint")
    record["base"]["places"] = ["gone"]
    write_provenance(tmp_path / "model" / "checkpoint", record)
    with pytest.raises(ValueError, match=r"is an adapter of a base .* serve and demo take"):
        served._load_pyfunc(str(tmp_path / "model"))
    monkeypatch.setenv(served.BASE_FOLDER, str(world / "parent"))
    assert served._load_pyfunc(str(tmp_path / "model")) is not None


def test_a_state_holds_what_is_trained_and_goes_on_bit_for_bit(alone, world, tmp_path):
    shutil.copytree(alone, tmp_path, dirs_exist_ok=True)
    state = toy.state_in(tmp_path) / "step-000002"
    weights = tmp_path / "checkpoint" / ADAPTER
    n = sum(tensor.numel() for tensor in read_tensor_file(weights).values())
    sizes = [file.stat().st_size for file in state.rglob("*.pt")]
    assert 8 * n < sum(sizes) < 4 * 8 * n  # two moments in float32 are 8 bytes a parameter
    expected = weights.read_bytes()
    shutil.rmtree(weights.parent)  # as if it had been killed in its last steps
    (state / "kept").touch()  # a state made again would not have it
    trained(tmp_path, 1, "grpo", world)
    assert (state / "kept").exists()
    assert weights.read_bytes() == expected
    assert trained_numbers(tmp_path) == trained_numbers(alone)


def trained_numbers(folder: Path) -> list[dict[str, float]]:
    return [
        {name: value for name, value in row.items() if not name.startswith("time/")}
        for row in curves_of(folder)
    ]


def test_a_training_without_an_adapter_saves_all_but_the_frozen_towers(world, tmp_path):
    trained(tmp_path, 1, "sft", world, adapter=None)
    state = torch.load(next(toy.state_in(tmp_path).rglob("*model_states.pt")), weights_only=False)
    parent = load_parent(world / "parent").module.named_parameters()
    learned = {name.replace(".", "/") for name, weight in parent if weight.requires_grad}
    assert not any("tower" in name for name in learned)
    assert set(state["module"]) == learned


class Case:
    """A backbone on disk, and prompts about its clips."""

    def __init__(self, base: Path, features: list) -> None:
        self.base, self.features = base, features

    def logits(self, backbone) -> torch.Tensor:
        asked = ["What is felt?"] * len(self.features)
        with torch.no_grad():
            prefix = prefill_prompts(backbone, self.features, asked)
            return backbone.language_model.lm_head(prefix.last_hidden).float()

    def adapted(self, dtype: torch.dtype = torch.float32):
        """A policy as a training of that precision leaves it."""
        policy = load_parent(self.base, LORA, seed=3)
        generator = torch.Generator().manual_seed(4)
        for parameter in adapter_parameters(policy).values():
            parameter.data = 0.05 * torch.randn(parameter.shape, generator=generator)
        for parameter in policy.module.parameters():  # as DeepSpeed casts them
            parameter.data = parameter.data.to(dtype)
        return policy

    def write(self, policy, folder: Path) -> Path:
        folder.mkdir()
        write_provenance(folder, save_adapter(policy, folder, self.base, folder))
        return folder


@pytest.fixture(scope="module", params=["humanomni", "qwen2_5_omni"])
def case(request, world, tmp_path_factory):
    if request.param == "humanomni":
        names = [f"clip-{i}" for i in range(3)]
        return Case(world / "parent", FeatureStore([world / "features"]).load(names))
    base = tmp_path_factory.mktemp("thinker") / "base"
    thinker = tiny_thinker.tiny_thinker()
    thinker.save(base, None)
    return Case(base, thinker.encode(tiny_thinker.noise_clips(thinker.preparation)))


def test_a_fresh_adapter_changes_nothing_and_reaches_the_decoder_alone(case):
    plain = load_parent(case.base)
    policy = load_parent(case.base, LORA, seed=3)
    assert torch.equal(case.logits(policy), case.logits(plain))
    learned = {name for name, p in policy.module.named_parameters() if p.requires_grad}
    layers = policy.language_model.model.layers
    assert len(learned) == 2 * 7 * len(layers)
    assert all(
        ".lora_" in name and "tower" not in name and "visual" not in name for name in learned
    )
    attention = load_parent(case.base, LORA.model_copy(update={"targets": ("attention",)}))
    assert len(adapter_parameters(attention)) == 2 * 4 * len(layers)
    again, other = (load_parent(case.base, LORA, seed=seed) for seed in (3, 4))
    for name, parameter in adapter_parameters(policy).items():
        assert torch.equal(adapter_parameters(again)[name], parameter)
        is_a = ".lora_A." in name
        assert torch.equal(adapter_parameters(other)[name], parameter) != is_a  # B starts at 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_saved_and_loaded_it_answers_bit_for_bit(case, tmp_path, dtype):
    before = file_hashes(case.base)
    policy = case.adapted(dtype)
    made = case.write(policy, tmp_path / "made")
    assert file_hashes(case.base) == before
    loaded = load_backbone(made)
    assert torch.equal(case.logits(loaded), case.logits(policy))
    assert not torch.equal(case.logits(loaded), case.logits(load_backbone(case.base)))
    towers = {p.dtype for name, p in loaded.module.named_parameters() if "tower" in name}
    assert towers == {torch.float32}  # as in the base: features need no other precision


def test_in_another_precision_than_trained_it_would_answer_otherwise(case, tmp_path):
    """peft's own way, float32 beside bfloat16: what the test above would then find."""
    policy = case.adapted(torch.bfloat16)
    loaded = load_backbone(case.write(policy, tmp_path / "made"))
    for parameter in adapter_parameters(loaded).values():
        parameter.data = parameter.data.float()
    assert not torch.equal(case.logits(loaded), case.logits(policy))


def test_merged_it_is_a_whole_checkpoint_with_the_same_answers(case, tmp_path):
    policy = case.adapted()
    made = case.write(policy, tmp_path / "made")
    before = file_hashes(made), file_hashes(case.base)
    merge_checkpoint(made, tmp_path / "merged")
    assert (file_hashes(made), file_hashes(case.base)) == before
    whole = load_backbone(tmp_path / "merged")
    assert whole.adapter is None and not adapter_parameters(whole)
    expected = case.logits(policy)
    assert (case.logits(whole) - expected).abs().max() <= 1e-5 * expected.abs().max()
    assert set(whole.module.state_dict()) == set(load_backbone(case.base).module.state_dict())
    record = read_provenance(tmp_path / "merged")
    assert record["merged"]["content_hash"] == content_hash(made)
    assert record["parameters"] == load_backbone(case.base).sizes()
    with pytest.raises(FileExistsError, match="exists already"):
        merge_checkpoint(made, tmp_path / "merged")
    with pytest.raises(ValueError, match="is whole already"):
        merge_checkpoint(case.base, tmp_path / "other")
    with pytest.raises(ValueError, match="nowhere: no such folder"):
        merge_checkpoint(tmp_path / "nowhere", tmp_path / "other")
    with pytest.raises(ValueError, match="is whole, no adapter: it has no base"):
        load_backbone(case.base, base=case.base)
    assert not (tmp_path / "other").exists()


def test_peft_itself_loads_the_file(case, tmp_path):
    from peft import PeftModel

    policy = case.adapted()
    made = case.write(policy, tmp_path / "made")
    plain = load_backbone(case.base)
    PeftModel.from_pretrained(plain.module, made)
    assert torch.equal(case.logits(plain), case.logits(policy))


def test_another_base_is_refused_by_both_hashes(case, tmp_path):
    made = case.write(case.adapted(), tmp_path / "made")
    other = tmp_path / "other"
    shutil.copytree(case.base, other)
    (other / "more.txt").write_text("a byte more")
    with pytest.raises(ValueError) as caught:
        load_backbone(made, base=other)
    said = str(caught.value)
    assert content_hash(case.base) in said and content_hash(other) in said and "--base" in said
    moved = tmp_path / "deep" / "er" / "made"
    shutil.copytree(made, moved)
    with pytest.raises(ValueError, match="is not there"):
        find_base(moved)
    assert find_base(moved, case.base) == case.base


def test_a_tensor_too_few_is_named(case, tmp_path):
    made = case.write(case.adapted(), tmp_path / "made")
    tensors = read_tensor_file(made / ADAPTER)
    lost = sorted(tensors)[0]
    del tensors[lost]
    save_file(tensors, made / ADAPTER)
    with pytest.raises(ValueError, match=f"{re.escape(lost)}: found None"):
        load_backbone(made)


def test_the_reference_is_the_start_while_the_policy_goes_on(case):
    """Inside, the start's numbers; outside, the policy's; and its gradient does not notice."""
    start = case.logits(load_parent(case.base))
    policy = load_parent(case.base, LORA, seed=3)
    reference = AdapterAtStart(policy)
    reference.follow(policy)
    moved = case.adapted()
    for name, parameter in adapter_parameters(policy).items():
        parameter.data.copy_(adapter_parameters(moved)[name])
    expected = case.logits(moved)

    def gradient(enter: bool) -> list[torch.Tensor]:
        prefix = prefill_prompts(policy, case.features[:1], ["What is felt?"])
        if enter:
            with reference as frozen:
                assert torch.equal(case.logits(frozen), start)
        assert torch.equal(case.logits(policy), expected)
        parameters = list(adapter_parameters(policy).values())
        return list(torch.autograd.grad(prefix.last_hidden.square().sum(), parameters))

    for plain, entered in zip(gradient(False), gradient(True), strict=True):
        assert torch.equal(plain, entered)


def test_a_training_goes_on_from_an_adapter_and_keeps_the_base(alone, world, tmp_path):
    """Its KL is measured from that adapter, and not from the base below it."""
    start = tmp_path / "world"
    shutil.copytree(world, start)
    shutil.rmtree(start / "parent")
    shutil.copytree(alone / "checkpoint", start / "parent")
    record = read_provenance(start / "parent")
    record["base"]["places"] = ["../below"]
    write_provenance(start / "parent", record)
    shutil.copytree(world / "parent", start / "below")
    folder = trained(tmp_path / "on", 1, "grpo", start)
    curves = curves_of(folder)
    assert curves[0]["train/kl"] == 0.0
    assert curves[-1]["train/kl"] > 1e-5
    made = read_provenance(folder / "checkpoint")
    assert made["base"]["content_hash"] == content_hash(world / "parent")
    assert load_backbone(folder / "checkpoint").adapter == LORA
    with pytest.raises(ValueError, match="merge the checkpoint first"):
        load_parent(start / "parent", LORA.model_copy(update={"rank": 2}))
    whole = load_parent(start / "parent")  # without engine.adapter all of the decoder is trained
    assert whole.adapter is None
    assert whole.language_model.lm_head.weight.requires_grad
