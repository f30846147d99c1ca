"""Predictions for the held-out clips, which no training learns from: what the gate compares."""

from collections.abc import Sequence
from pathlib import Path

from r1omni.config import PredictParams
from r1omni.corpora.clip import read_manifest
from r1omni.corpora.origin import read_origins
from r1omni.corpora.sets import Member, features_of, manifests_of
from r1omni.emotions import EMOTIONS
from r1omni.evaluation.held_out import write_held_out
from r1omni.evaluation.predict import predict_clips
from r1omni.evaluation.predictions import TableMetadata
from r1omni.inference.loading import lineage_of, load_checkpoint
from r1omni.machine.device import Device
from r1omni.machine.environment import is_first
from r1omni.model.feature_rejects import without_rejects
from r1omni.model.feature_store import FeatureStore
from r1omni.training.held_out import set_aside
from r1omni.training_config import HeldOutParams


def run_predict_held_out(
    checkpoint: Path,
    learned: Sequence[Member],
    out: Path,
    *,
    held_out: HeldOutParams,
    predict: PredictParams,
    batch_size: int,
    device: Device = "auto",
) -> None:
    """Write the checkpoint's completions for the held-out clips of the training corpora.

    They are the clips that label SFT and GRPO set aside under the same params. With
    `held_out.clips` 0 the table has no rows, and the model is not loaded.
    """
    manifests, features = manifests_of(learned), features_of(learned)
    listed = [clip for manifest in manifests for clip in read_manifest(manifest)]
    _, clips = set_aside(without_rejects(listed, features), held_out)
    rows = []
    if clips:
        backbone = load_checkpoint(checkpoint, device=device)
        rows = predict_clips(
            checkpoint.name,
            backbone,
            clips,
            FeatureStore(features),
            predict=predict,
            batch_size=batch_size,
        )
    about = TableMetadata(
        read_origins(manifests, "train"),
        lineage_of(checkpoint),
        labels={member.corpus: member.labels or EMOTIONS for member in learned},
    )
    if is_first():
        write_held_out(rows, clips, out, about)
