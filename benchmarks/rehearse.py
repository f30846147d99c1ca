"""`make rehearse`: runs the paper profile's DVC graph on small stand-ins, minutes on two cores.

    python -m benchmarks.rehearse [--backbone qwen2_5_omni] [--folder .sweep/rehearsal]

params/paper.yaml, or params/qwen2_5_omni.yaml with its adapter, runs in a copy of this project;
only sizes and paths are changed. Corpora of a few
clips in the real layouts are outside the project, as signed copies would be. A small random
checkpoint in the public layout is converted. Two processes train under ZeRO-2. The numbers of its
Table 1 mean nothing; a printed table shows that every stage runs on files of the real layout.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
LEFT_OUT = (".git", ".venv", ".sweep", ".state", ".prefect", "data", "mlartifacts",
            "mlflow.db*", "__pycache__", "tmp", "cache", ".*_cache", "dvc.lock")  # fmt: skip
PROFILES = {"humanomni": "paper.yaml", "qwen2_5_omni": "qwen2_5_omni.yaml"}
CHECKPOINTS = {"humanomni": "HumanOmni-0.5B", "qwen2_5_omni": "Qwen2.5-Omni"}
CLIPS = {"reasoning": 40, "dfew": 105, "mafw": 165, "ravdess": 48}
SMALL: dict[str, Any] = {
    "validation": {"min_clips_per_label": 0, "min_clips": 10},
    "cold_start": {"epochs": 40, "lr": 3.0e-3},  # a random model must first learn to write text
    "label_sft": {"epochs": 1},
    "grpo": {"steps": 3, "clips_per_step": 4, "group_size": 4, "max_new_tokens": 48},
    "machine": {"device": "cpu", "processes": 2, "zero_stage": 2, "save_every": 2, "workers": 2},
    "predict": {"max_new_tokens": 48},
    "score": {"bootstrap_samples": 100},
    "tracking": {"system_metrics": False},
}


def main() -> None:
    """Make the stand-ins that are missing, and run the pipeline on them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backbone", choices=PROFILES, default="humanomni")
    parser.add_argument("--folder", type=Path, default=ROOT / ".sweep/rehearsal")
    arguments = parser.parse_args()
    folder, backbone = arguments.folder.absolute(), arguments.backbone
    write_corpora(folder / "corpora")
    checkpoint = folder / CHECKPOINTS[backbone]
    if not (checkpoint / "config.json").is_file():
        write_checkpoint(backbone, checkpoint, folder / "corpora/reasoning")
    project = folder / ("project" if backbone == "humanomni" else f"project-{backbone}")
    shutil.copytree(ROOT, project, ignore=shutil.ignore_patterns(*LEFT_OUT), dirs_exist_ok=True)
    (project / "data/truth").mkdir(parents=True, exist_ok=True)  # as a clone has it
    (project / ".dvc/config.local").write_text("[core]\n    no_scm = true\n")
    params = profile(folder, backbone)
    (project / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
    binaries = Path(sys.executable).parent
    environment = {
        **os.environ,
        "PATH": f"{binaries}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(project),
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run([binaries / "r1omni", "repro"], cwd=project, env=environment, check=False)
    raise SystemExit(done.returncode)


def profile(folder: Path, backbone: str = "humanomni") -> dict[str, Any]:
    """A profile's params with the stand-ins' paths and SMALL's sizes; nothing is fetched."""
    text = (ROOT / "params" / PROFILES[backbone]).read_text()
    params: dict[str, Any] = yaml.safe_load(text)
    for section, values in SMALL.items():
        params[section] |= values
    for name, corpus in params["corpora"].items():
        corpus["root"] = str(folder / "corpora" / name)
    params["hub"] = {}
    params["base"]["source"] = str(folder / CHECKPOINTS[backbone])
    return params


def write_corpora(root: Path) -> None:
    """Render a few clips per corpus in its real layout, if its folder is missing."""
    from r1omni.config import SyntheticCorpusParams
    from r1omni.corpora.synthetic.synthesize import run_synthesize
    from r1omni.params_file import read_params

    synthetic = read_params(ROOT / "params.yaml").synthetic
    sizes = {
        name: SyntheticCorpusParams(clips=clips, shortcut=0.0, label_noise=0.0)
        for name, clips in CLIPS.items()
    }
    synthetic = synthetic.model_copy(update={"corpora": sizes})
    for name in CLIPS:
        if not (root / name).is_dir():
            truth = root.parent / "truth" / f"{name}.parquet"
            run_synthesize(root / name, truth, corpus=name, synthetic=synthetic)


def write_checkpoint(backbone: str, folder: Path, reasoning: Path) -> None:
    """Write a random backbone of the default's widths in the layout of the public checkpoints.

    Its tokenizer is trained on the words of the reasoned clips.
    """
    import torch

    from benchmarks.original_layout import write_original
    from benchmarks.whole_thinker import make_whole
    from r1omni.base_model import humanomni, qwen_omni
    from r1omni.params_file import read_params

    torch.manual_seed(0)
    entries = json.loads((reasoning / "annotations.json").read_text("utf-8"))
    spoken = [turn["value"] for e in entries for turn in e["conversations"][1:]]
    if backbone == "humanomni":
        params = read_params(ROOT / "params.yaml")
        built = humanomni.build_untrained(spoken, spoken, model=params.model, media=params.media)
        write_original(built.model, built.processor, folder, towers_inside=False)
        return
    params = read_params(ROOT / "params/tiny_qwen.yaml")
    audio = params.model.audio.model_copy(update={"num_mel_bins": 128})  # as the public ones
    model = params.model.model_copy(update={"audio": audio})
    qwen_omni.build_untrained(spoken, spoken, model=model, media=params.media).save(folder, None)
    make_whole(folder)


if __name__ == "__main__":
    main()
