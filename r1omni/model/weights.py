"""Where a checkpoint lies, and its tensors: no pickle, and errors that name the file.

Safetensors are preferred; .bin files go through `torch.load(weights_only=True)` and nothing else.
"""

import json
import pickle
import re
from collections.abc import Callable, Mapping
from os import PathLike
from pathlib import Path
from typing import Any, get_args

import torch
from huggingface_hub import snapshot_download
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from r1omni.prompts import AnswerMode

SAFETENSORS = ("model.safetensors.index.json", "model.safetensors")
PICKLED = ("pytorch_model.bin.index.json", "pytorch_model.bin")
GENERATION_FILE = "generation_config.json"
HUB_ID = re.compile(r"[\w-][\w.-]*/[\w.-]+")
HUB_OPTIONS = ("revision", "cache_dir", "token", "local_files_only", "force_download")


def find_directory(
    path: str | PathLike[str], options: Mapping[str, Any], *, weights: bool = True
) -> Path:
    """The local folder of a checkpoint; a hub repository is downloaded (`weights`: with tensors).

    Raises ValueError for what is neither a folder nor the form of a hub id.
    """
    if Path(path).is_dir():
        return Path(path) / (options.get("subfolder") or "")
    if not is_hub_id(path):
        raise ValueError(f"{path}: no such folder, nor the form of a hub repository (owner/name)")
    hub = {name: options[name] for name in HUB_OPTIONS if options.get(name) is not None}
    patterns = ["*.json", "*.txt"] + ["*.safetensors"] * weights
    directory = Path(snapshot_download(str(path), allow_patterns=patterns, **hub))
    if weights and not any((directory / name).exists() for name in SAFETENSORS):
        patterns = ["*.json", "*.txt", "*.bin"]
        directory = Path(snapshot_download(str(path), allow_patterns=patterns, **hub))
    return directory / (options.get("subfolder") or "")


def is_hub_id(path: str | PathLike[str]) -> bool:
    """Whether `path` is no folder here and has the form of a hub repository, owner/name."""
    return not Path(path).exists() and HUB_ID.fullmatch(str(path)) is not None


def read_json(file: Path) -> dict[str, Any]:
    """The object in a JSON file. Raises ValueError, naming the file, for anything else."""
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"{file}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise ValueError(f"{file}: is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise ValueError(f"{file}: expected a JSON object, found {type(value).__name__}")
    return value


def read_mode(directory: Path) -> AnswerMode | None:
    """How a checkpoint's config.json records that it answers; None where it does not say.

    Raises ValueError, naming the file, for another word than the modes.
    """
    mode: Any = read_json(directory / "config.json").get("answer_mode")
    if mode not in (None, *get_args(AnswerMode)):
        known = ", ".join(get_args(AnswerMode))
        raise ValueError(f"{directory / 'config.json'}: answer_mode is {mode!r}; expected {known}")
    known_mode: AnswerMode | None = mode
    return known_mode


def read_end_tokens(directory: Path) -> list[int]:
    """The end tokens in a checkpoint's generation_config.json: none, one or some.

    Raises ValueError, naming the file, for anything else.
    """
    file = directory / GENERATION_FILE
    if not file.is_file():
        return []
    value = read_json(file).get("eos_token_id")
    found = value if isinstance(value, list) else [] if value is None else [value]
    if not all(type(token) is int for token in found):
        raise ValueError(f"{file}: eos_token_id: expected a number or a list of them, got {value}")
    return found


def read_weights(
    directory: Path, wanted: Callable[[str], bool] = lambda name: True
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The `wanted` tensors of a checkpoint folder, and the name of the file that each came from.

    Raises ValueError, naming the file, for one that is missing, truncated or no plain tensor file,
    and for a tensor that stands in two files.
    """
    tensors: dict[str, Tensor] = {}
    files: dict[str, str] = {}
    for file in _weight_files(directory):
        for name, tensor in read_tensor_file(file, wanted).items():
            if name in tensors:
                raise ValueError(f"{file}: tensor {name} stands in {files[name]} too")
            tensors[name], files[name] = tensor, file.name
    return tensors, files


def _weight_files(directory: Path) -> list[Path]:
    for index, single in (SAFETENSORS, PICKLED):
        if (directory / index).exists():
            shards = read_json(directory / index).get("weight_map")
            if not isinstance(shards, dict) or not shards:
                raise ValueError(f"{directory / index}: expected a weight_map of tensor to file")
            names = sorted({str(name) for name in shards.values()})
            for name in names:
                if Path(name).name != name:
                    raise ValueError(f"{directory / index}: {name} is not the name of a file here")
            return [directory / name for name in names]
        if (directory / single).exists():
            return [directory / single]
    raise ValueError(f"{directory}: no weights; expected {SAFETENSORS[1]} or {PICKLED[1]}")


def read_tensor_file(
    file: Path, wanted: Callable[[str], bool] = lambda name: True
) -> dict[str, Tensor]:
    """The `wanted` tensors of one file. Raises ValueError, naming it, where it holds no tensors."""
    try:
        if file.suffix == ".safetensors":
            # copied: a mapped tensor lies at the file's alignment, where CPU kernels sum in another
            # order, and the same weights from two files would give logits that differ by 1e-5
            read = load_file(file)
            return {name: tensor.clone() for name, tensor in read.items() if wanted(name)}
        values = torch.load(file, map_location="cpu", weights_only=True)
    except OSError as error:
        raise ValueError(f"{file}: cannot be read: {error}") from error
    except (SafetensorError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise ValueError(f"{file}: truncated, or not a plain file of tensors: {error}") from error
    if not isinstance(values, dict):
        raise ValueError(f"{file}: expected names and tensors, found {type(values).__name__}")
    for name, value in values.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise ValueError(f"{file}: entry {name!r} is a {type(value).__name__}, not a tensor")
    return {name: value for name, value in values.items() if wanted(name)}
