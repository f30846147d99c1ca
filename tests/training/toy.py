"""A whole stage at toy size: checkpoint, manifest and features of a dozen clips on disk.

For processes that train, die and train again; `python toy.py` is not meant to be run.
"""

import hashlib
import json
from functools import lru_cache
from pathlib import Path

import pandas as pd
import torch
from noise import noise_features

from r1omni import completions, prompts
from r1omni.base_model.humanomni import build_untrained
from r1omni.config import MachineParams, Params
from r1omni.corpora.clip import Clip, write_manifest
from r1omni.corpora.sets import Member
from r1omni.corpora.sets import write_set as write_set_file
from r1omni.machine.curves import Log, read_curves
from r1omni.machine.state_folders import TrainingPaths
from r1omni.model.checksums import write_sums
from r1omni.model.feature_store import INDEX, Features, join_rows, write_shard
from r1omni.model.humanomni.backbone import HumanOmniBackbone
from r1omni.params_file import read_params
from r1omni.rewards import Rewards
from r1omni.training.examples import Example
from r1omni.training.sft import train_supervised
from r1omni.training_config import AdapterParams, EngineParams, GRPOParams, HeldOutParams, SFTParams

REPO = Path(__file__).parents[2]
LABELS = ("happy", "sad", "angry")
CLIPS = 7  # an odd number: the last rank's share of a batch is another one's plus one


@lru_cache
def toy_params() -> Params:
    """params.yaml with a model of some ten thousand parameters."""
    params = read_params(REPO / "params.yaml")
    tower = {"num_hidden_layers": 1, "num_attention_heads": 2}
    model = params.model.model_copy(
        update={
            "vision": params.model.vision.model_copy(
                update={"hidden_size": 8, "intermediate_size": 8, "num_attention_heads": 2}
            ),
            "audio": params.model.audio.model_copy(
                update={
                    "d_model": 8,
                    "encoder_ffn_dim": 8,
                    "encoder_layers": 1,
                    "encoder_attention_heads": 2,
                }
            ),
            "gate": params.model.gate.model_copy(
                update={"hidden_size": 8, "intermediate_size": 8, **tower}
            ),
            "text": params.model.text.model_copy(
                update={
                    "hidden_size": 16,
                    "intermediate_size": 24,
                    "num_key_value_heads": 1,
                    **tower,
                }
            ),
            "max_vocab_size": 320,
        }
    )
    media = params.media.model_copy(update={"num_frames": 2, "image_size": 24})
    return params.model_copy(update={"model": model, "media": media})


def write_set(world: Path, path: Path) -> Path:
    """A set file that leads to the manifest and the features of `world`."""
    member = Member("dfew", world / "manifest.parquet", world / "features", (), "")
    write_set_file(path, [member])
    return path


def build_world(root: Path) -> Path:
    """`root` with parent/ (a checkpoint), manifest.parquet and features/ in it."""
    params = toy_params()
    torch.manual_seed(0)
    texts = ["the voice is loud"] + [completions.render("it", label) for label in LABELS] * 50
    backbone = build_untrained(texts, texts, model=params.model, media=params.media)
    clips = [clip_at(i) for i in range(CLIPS)]
    write_manifest(clips, root / "manifest.parquet")
    generator = torch.Generator().manual_seed(1)
    names = [clip.clip_id for clip in clips]
    features = noise_features(backbone.model.config, CLIPS, generator)
    _teach(backbone, dict(zip(names, features, strict=True)), root / "taught")
    backbone.save(root / "parent", None)
    (root / "parent" / "provenance.json").write_text(json.dumps({"fold": 1, "mode": "reasoned"}))
    (root / "features").mkdir()
    half = [{name: x.half() for name, x in clip.items()} for clip in features]
    checksum = write_shard(join_rows(names, half), root / "features" / "0.safetensors")
    pd.DataFrame(
        {
            "clip_id": names,
            "key": names,
            "shard": "0.safetensors",
            "row": range(CLIPS),
            "has_audio": [clip.has_audio for clip in clips],
            "towers": "toy",
            "sha256": checksum,
        }
    ).to_parquet(root / "features" / INDEX)
    write_sums(root / "features")
    return root


def _teach(backbone: HumanOmniBackbone, features: dict[str, Features], folder: Path) -> None:
    """Answers in the right form with any label, so that sampled rewards differ."""
    backbone.freeze()
    question = prompts.instruction("reasoned")
    examples = [
        Example(name, question, completions.render("it", label), label)
        for name in features
        for label in LABELS
    ]

    folder.mkdir()
    train_supervised(
        backbone,
        lambda wanted: [features[name] for name in wanted],
        examples,
        TrainingPaths(folder, folder, folder),
        sft=sft_params(epochs=60, batch_size=21, lr=1e-2),
        engine=EngineParams(dtype="fp32", adapter=None, skip_nonfinite=0),
        machine=machine_params(save_every=1000),
        log=lambda _step, _metrics: None,
        recipe="taught",
    )


def clip_at(i: int) -> Clip:
    """The i-th clip; every third has no audio."""
    digest = hashlib.sha256(str(i).encode()).hexdigest()
    label = LABELS[i % len(LABELS)]
    return Clip(
        clip_id=f"clip-{i}",
        corpus="dfew",
        path=f"{i}.mp4",
        label=label,
        split="train",
        fold=1,
        subject=None,
        rationale=f"a voice like {label}",
        duration=1.0,
        fps=8.0,
        n_frames=8,
        has_audio=i % 3 > 0,
        sha256=digest,
    )


def paths_in(folder: Path) -> TrainingPaths:
    """Where a training of the toy writes."""
    return TrainingPaths(folder / "checkpoint", folder / "training", folder / ".state" / "toy")


def state_in(folder: Path) -> Path:
    """The folder of the newest recipe's state in such a folder; not there before one begins."""
    stage = paths_in(folder).state
    begun = [note.parent for note in stage.glob("[!.]*/recipe")]
    return max(begun, key=lambda state: state.stat().st_mtime, default=stage / "none")


def steps_in(folder: Path) -> list[dict[str, float]]:
    """The curves of that training so far."""
    return read_curves(state_in(folder) / "curves.jsonl")


def machine_params(**update: object) -> MachineParams:
    """Params of the machine: the CPU, with a state every second step."""
    base = {"device": "cpu", "save_every": 2}
    return toy_params().machine.model_copy(update={**base, **update})


def grpo_params(**update: object) -> GRPOParams:
    """Small groups of short completions."""
    base = {
        "steps": 6,
        "clips_per_step": 3,
        "group_size": 4,
        "max_new_tokens": 24,
        "temperature": 0.5,
        "lr": 1e-3,
    }
    return toy_params().grpo.model_copy(update={**base, **update})


def watching_rewards(seen: list[Clip]) -> Rewards:
    """A reward of 0 that notes the clips which it is given."""

    def note(_completion: str, clip: Clip) -> float:
        seen.append(clip)
        return 0.0

    return Rewards({"note": note}, {"note": 1.0})


# A reward that differs in most groups: the policy of the toy is seldom right.
BY_LENGTH = Rewards({"length": lambda text, _clip: float(len(text) % 2)}, {"length": 1.0})


def sft_params(**update: object) -> SFTParams:
    """Six steps of three examples."""
    base = {"epochs": 2, "batch_size": 3, "lr": 5e-3}
    return toy_params().cold_start.model_copy(update={**base, **update})


def train_grpo(
    world: Path,
    folder: Path,
    machine: MachineParams,
    grpo: GRPOParams,
    log: Log,
    held_out: int = 0,
    every: int = 2,
    dtype: str = "fp32",
    adapter: AdapterParams | None = None,
) -> None:
    """The GRPO stage from the world's checkpoint, with some clips to look at every few steps."""
    from r1omni.training.grpo import run_grpo

    run_grpo(
        world / "parent",
        [world / "manifest.parquet"],
        [world / "features"],
        world / "evidence",
        paths_in(folder),
        grpo=grpo,
        held_out=HeldOutParams(clips=held_out, seed=1, every=every),
        engine=EngineParams(dtype=dtype, adapter=adapter, skip_nonfinite=0),
        machine=machine,
        log=log,
    )


def train_sft(
    world: Path,
    folder: Path,
    machine: MachineParams,
    sft: SFTParams,
    log: Log,
    held_out: int = 0,
    dtype: str = "fp32",
    adapter: AdapterParams | None = None,
) -> None:
    """The cold start from the world's checkpoint, with some clips to look at if asked for."""
    from r1omni.training.sft import run_sft

    run_sft(
        world / "parent",
        [world / "manifest.parquet"],
        [world / "features"],
        paths_in(folder),
        mode="reasoned",
        sft=sft,
        engine=EngineParams(dtype=dtype, adapter=adapter, skip_nonfinite=0),
        machine=machine,
        log=log,
        held_out=HeldOutParams(clips=held_out, seed=1, every=2) if held_out else None,
    )
