"""LoRA (arXiv 2106.09685) on a backbone's decoder, by peft: put on, save, load, merge.

An adapter's checkpoint holds what was trained and names its base by content hash; the base's files
stay as they are. There is no dropout: policy and reference must be one function.
"""

import os
import re
from pathlib import Path
from typing import Any, Final

import torch
from pydantic import ValidationError
from safetensors.torch import save_file
from torch import nn

from r1omni.lineage import PROVENANCE, read_provenance
from r1omni.model.backbone import Backbone
from r1omni.model.weights import read_json, read_mode, read_tensor_file
from r1omni.tracking.provenance import content_hash
from r1omni.training_config import AdapterParams

ADAPTER: Final = "adapter_model.safetensors"
ADAPTER_CONFIG: Final = "adapter_config.json"
_LAYERS: Final = {
    "attention": r"self_attn\.[qkvo]_proj",
    "mlp": r"mlp\.(gate|up|down)_proj",
}
_DECIDING: Final = (  # what in peft's config decides an output, as far as we set it or leave it
    *("r", "lora_alpha", "target_modules", "use_rslora", "use_dora", "rank_pattern"),
    *("alpha_pattern", "bias", "fan_in_fan_out", "modules_to_save"),
)
_NAME: Final = "default"  # the adapter's in peft, which its files leave out
_PREFIX: Final = "base_model.model."  # which they put before a module's name


def is_adapter(checkpoint: Path) -> bool:
    """Whether a folder holds an adapter instead of a whole model."""
    return (checkpoint / ADAPTER_CONFIG).is_file()


def put_on(backbone: Backbone, adapter: AdapterParams, seed: int) -> None:
    """Add a fresh adapter, which changes no output yet, to the decoder; all else is frozen."""
    from peft import inject_adapter_in_model  # imported where it is needed: it takes a second

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        inject_adapter_in_model(_peft_config(backbone, adapter), backbone.module, _NAME)
    backbone.module.requires_grad_(False)
    for parameter in adapter_parameters(backbone).values():
        parameter.requires_grad_(True)
    backbone.adapter = adapter


def adapter_parameters(backbone: Backbone) -> dict[str, nn.Parameter]:
    """The adapter's parameters by their names in `adapter_model.safetensors`; none without one."""
    return {
        _PREFIX + name.replace(f".{_NAME}.", "."): parameter
        for name, parameter in backbone.module.named_parameters()
        if ".lora_" in name
    }


def save_adapter(backbone: Backbone, folder: Path, base: Path, place: Path) -> dict[str, Any]:
    """Write the adapter with settings and tokenizer; what its provenance must say besides.

    `base`: the whole checkpoint below it; `place`: where the folder will lie.
    """
    assert backbone.adapter is not None
    digest = content_hash(base)
    backbone.save_settings(folder)
    tensors = {
        name: parameter.detach().cpu().contiguous()
        for name, parameter in adapter_parameters(backbone).items()
    }
    save_file(tensors, folder / ADAPTER, metadata={"format": "pt"})
    config = _peft_config(backbone, backbone.adapter)
    config.base_model_name_or_path = digest  # peft's would be a path, another on each machine
    config.inference_mode = True
    config.save_pretrained(str(folder))
    places = [os.path.relpath(base, place), *([] if base.is_absolute() else [str(base)])]
    return {
        "adapter": backbone.adapter.recipe(),
        "base": {"content_hash": digest, "places": places},
    }


def find_base(checkpoint: Path, base: Path | None = None) -> Path:
    """The whole checkpoint below an adapter's; without an adapter the checkpoint itself.

    `base`, or else a place that the adapter records: relative to its own folder, and to the folder
    that we run in. Raises ValueError, naming both hashes, for another base.
    """
    if not is_adapter(checkpoint):
        return checkpoint
    record: Any = (read_provenance(checkpoint) or {}).get("base")
    match record:
        case {"content_hash": str(wanted), "places": [str(first), *others]}:
            places = [checkpoint / first, *map(Path, others)]
        case _:
            raise ValueError(
                f"{checkpoint / PROVENANCE}: expected `base` of an adapter, as a training here "
                f"writes it, got {record}; another program's adapter has to be merged there first"
            )
    tried = [base] if base else places
    found: list[str] = []
    for folder in tried:
        if not folder.is_dir():
            found.append(f"{folder} is not there")
            continue
        digest = content_hash(folder)
        if digest == wanted:
            return folder
        found.append(f"{folder} has {digest}")
    raise ValueError(
        f"{checkpoint}: is an adapter of a base with the content hash {wanted}; "
        f"{', '.join(found)}: predict, audit, merge, serve and demo take the right one as --base, "
        "all other commands a merged checkpoint"
    )


def load_adapter(backbone: Backbone, checkpoint: Path) -> None:
    """Put a saved adapter on its base, both in the precision that it was trained in.

    Raises ValueError, naming the file or the tensor, for a checkpoint that does not fit.
    """
    try:
        adapter = AdapterParams.model_validate((read_provenance(checkpoint) or {}).get("adapter"))
    except ValidationError as error:
        raise ValueError(f"{checkpoint / PROVENANCE}: adapter: {error}") from error
    config = read_json(checkpoint / ADAPTER_CONFIG)
    expected = _peft_config(backbone, adapter).to_dict()
    for name in _DECIDING:
        if config.get(name) != expected[name]:
            raise ValueError(
                f"{checkpoint / ADAPTER_CONFIG}: {name} is {config.get(name)}, but by {PROVENANCE} "
                f"it was trained with {expected[name]}"
            )
    tensors = read_tensor_file(checkpoint / ADAPTER)
    towers = {id(p) for tower in backbone.towers() for p in tower.parameters()}
    others = [p for p in backbone.module.parameters() if id(p) not in towers]
    put_on(backbone, adapter, seed=0)
    own = adapter_parameters(backbone)
    if whole := [n for n, tensor in tensors.items() if not tensor.is_floating_point()]:
        raise ValueError(f"{checkpoint / ADAPTER}: {whole[0]}: has whole numbers")
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    fitting = {name: tuple(parameter.shape) for name, parameter in own.items()}
    if wrong := [n for n in {**fitting, **shapes} if fitting.get(n) != shapes.get(n)]:
        raise ValueError(
            f"{checkpoint / ADAPTER}: {wrong[0]}: found {shapes.get(wrong[0])}, expected "
            f"{fitting.get(wrong[0])} ({len(wrong)} such tensors)"
        )
    dtype = tensors[next(iter(own))].dtype
    for parameter in others:
        parameter.data = parameter.data.to(dtype)
    for name, parameter in own.items():
        parameter.data = tensors[name]
    mode = read_mode(checkpoint)
    if mode is not None:
        backbone.answer_mode = mode


def merge(backbone: Backbone) -> None:
    """Add the adapter to the decoder's weights, in their precision, and take it off."""
    from peft.tuners.lora import LoraLayer

    module: Any = backbone.module
    for name, layer in list(module.named_modules()):
        if isinstance(layer, LoraLayer):
            layer.merge(safe_merge=True)
            parent, _, child = name.rpartition(".")
            setattr(module.get_submodule(parent), child, layer.get_base_layer())
    del module.peft_config
    module.requires_grad_(True)
    backbone.adapter = None


def _peft_config(backbone: Backbone, adapter: AdapterParams) -> Any:
    from peft import LoraConfig

    decoder = backbone.language_model.model
    name = next(name for name, part in backbone.module.named_modules() if part is decoder)
    layers = "|".join(_LAYERS[target] for target in _LAYERS if target in adapter.targets)
    # whole names: a tower's layers have the same last parts
    pattern = rf"{re.escape(name)}\.layers\.\d+\.({layers})"
    return LoraConfig(
        r=adapter.rank,
        lora_alpha=adapter.alpha,
        target_modules=pattern,
        lora_dropout=0.0,
        bias="none",
    )
