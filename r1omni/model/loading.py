"""A checkpoint's folder -> its backbone, whichever that is."""

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import torch
from safetensors import SafetensorError

from r1omni.lineage import read_provenance, write_provenance
from r1omni.model.adapters import ADAPTER_CONFIG, find_base, is_adapter, load_adapter, merge
from r1omni.model.backbone import Backbone
from r1omni.model.humanomni.backbone import load_humanomni
from r1omni.model.weights import find_directory, read_json
from r1omni.tracking.provenance import content_hash

QWEN_OMNI: Final = ("qwen2_5_omni", "qwen2_5_omni_thinker")  # a whole one, a thinker


def load_backbone(
    checkpoint: Path, allow: Sequence[str] = (), base: Path | None = None
) -> Backbone:
    """The backbone in a folder, in eval mode on the CPU.

    `allow` names surplus tensors that are left out; `base` is where an adapter's base lies, if not
    where the adapter says. Raises ValueError naming the file, or the tensor that is missing,
    unexpected or of another shape, for another base than the adapter's, and for a `base` of a
    checkpoint that is no adapter.
    """
    directory = find_directory(checkpoint, {}, weights=False)
    if is_adapter(directory):
        directory = find_directory(checkpoint, {})
        backbone = load_backbone(find_base(directory, base), allow)
        load_adapter(backbone, directory)
        _refuse_non_finite(backbone, directory)
        return backbone
    if base is not None:
        raise ValueError(f"{directory}: is whole, no adapter: it has no base (--base {base})")
    if read_json(directory / "config.json").get("model_type") in QWEN_OMNI:
        # imported where it is needed: transformers' module takes a second
        from r1omni.model.qwen_omni.loading import load_qwen_omni

        backbone = load_qwen_omni(checkpoint, allow)
    else:
        backbone = load_humanomni(checkpoint, allow)
    _refuse_non_finite(backbone, directory)
    return backbone


def _refuse_non_finite(backbone: Backbone, directory: Path) -> None:
    """Raise ValueError, naming the tensor, for a weight that is no number: it would still answer.

    A sum is non-finite if one of its terms is, and needs no memory of the weight's size.
    """
    for name, weight in backbone.module.named_parameters():
        if not bool(weight.detach().sum(dtype=torch.float64).isfinite()):
            raise ValueError(f"{directory}: {name} has values that are not finite")


def merge_checkpoint(checkpoint: Path, out: Path, base: Path | None = None) -> None:
    """Write the whole model of an adapter's checkpoint to the new folder `out`.

    Raises ValueError for a checkpoint without an adapter, FileExistsError for an `out` that exists,
    OSError where it cannot be written; nothing is left of it then.
    """
    if not checkpoint.is_dir():
        raise ValueError(f"{checkpoint}: no such folder")
    if not is_adapter(checkpoint):
        raise ValueError(f"{checkpoint}: has no {ADAPTER_CONFIG}: it is whole already")
    if out.exists():
        raise FileExistsError(f"{out}: exists already; nothing was written")
    below = find_base(checkpoint, base)
    partial = out.with_name(f".{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        with _named(out):
            partial.mkdir(parents=True)  # before the work: the folder may be read-only
        backbone = load_backbone(checkpoint, base=below)
        merge(backbone)
        with _named(out):
            backbone.save(partial, below)
            _note_merged(checkpoint, partial, backbone)
            partial.rename(out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


@contextmanager
def _named(out: Path) -> Iterator[None]:
    """Name `out` in errors of writing; safetensors' own is neither an OSError nor a ValueError."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise OSError(f"{out}: cannot be written: {error}") from error


def _note_merged(checkpoint: Path, out: Path, backbone: Backbone) -> None:
    record = dict(read_provenance(checkpoint) or {})
    merged = {
        "merged": {
            "content_hash": content_hash(checkpoint),
            "adapter": record.pop("adapter"),
            "base": record.pop("base")["content_hash"],
        }
    }
    write_provenance(out, record | merged | {"parameters": backbone.sizes()})
