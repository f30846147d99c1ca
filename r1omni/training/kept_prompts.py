"""The reference's prompts, kept from epoch to epoch: it never changes, so neither do they.

Shapes: `P` prompts, `K` key/value heads, `L` prompt positions, `d` head width, `D` width.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from r1omni.model import HumanOmniForConditionalGeneration
from r1omni.model.prompting import PromptBatch, prefill_batch
from r1omni.model.shared_prefix import Prefix


@dataclass(frozen=True)
class _Kept:
    """One clip's prefix without padding, in host memory."""

    keys_values: Tensor  # (layers, 2, K, L, d)
    last_hidden: Tensor  # (D,)

    @property
    def n_bytes(self) -> int:
        return self.keys_values.nbytes + self.last_hidden.nbytes


class KeptPrompts:
    """Prefixes of one frozen model by clip, up to `limit` bytes of host memory; 0 keeps nothing.

    What fits first stays: epochs pass over the clips in turn, and dropping the oldest would drop
    just what comes next. Each rank keeps the clips that it met itself. A kept prefix equals a new
    one to rounding, since the batch that it was made in was another; a run that was stopped and
    resumed may so differ from one that was not.
    """

    def __init__(self, model: HumanOmniForConditionalGeneration, limit: int) -> None:
        self._model, self._limit, self._n_bytes = model, limit, 0
        self._kept: dict[str, _Kept] = {}

    def __len__(self) -> int:
        return len(self._kept)

    @torch.no_grad()
    def prefix(self, prompts: PromptBatch, clip_ids: Sequence[str]) -> Prefix:
        """The prompts' prefix, outside of any graph; only clips that are not kept are prefilled.

        `clip_ids` (P) name the clips; one name must always come with the same instruction.
        """
        missing = [i for i, clip_id in enumerate(clip_ids) if clip_id not in self._kept]
        if len(missing) == len(clip_ids):
            made = prefill_batch(self._model, prompts)
            self._keep(made, clip_ids)
            return made
        rows = [self._kept.get(clip_id) for clip_id in clip_ids]
        if missing:
            index = torch.tensor(missing, device=prompts.input_ids.device)
            made = prefill_batch(self._model, prompts.select(index))
            self._keep(made, [clip_ids[i] for i in missing])
            for i, one in zip(missing, _apart(made), strict=True):
                rows[i] = one
        return _together([row for row in rows if row is not None], prompts.input_ids.device)

    def _keep(self, made: Prefix, clip_ids: Sequence[str]) -> None:
        if self._n_bytes >= self._limit:
            return
        for clip_id, one in zip(clip_ids, _apart(made), strict=True):
            if clip_id not in self._kept and self._n_bytes + one.n_bytes <= self._limit:
                self._kept[clip_id] = _Kept(one.keys_values.cpu(), one.last_hidden.cpu())
                self._n_bytes += one.n_bytes


def _apart(prefix: Prefix) -> list[_Kept]:
    """Each prompt's own, without its padding."""
    keys_values = torch.stack(
        [torch.stack(pair) for pair in zip(prefix.keys, prefix.values, strict=True)]
    )
    return [
        _Kept(keys_values[:, :, i, :, mask].clone(), prefix.last_hidden[i].clone())
        for i, mask in enumerate(prefix.mask)
    ]


def _together(rows: Sequence[_Kept], device: torch.device) -> Prefix:
    """One batch, left-padded with zeros to its longest prompt."""
    lengths = [row.keys_values.shape[3] for row in rows]
    longest = max(lengths)
    padded = torch.stack(
        [functional.pad(row.keys_values.to(device), (0, 0, longest - row.keys_values.shape[3], 0))
         for row in rows],
        dim=2,
    )  # (layers, 2, P, K, L, d)  # fmt: skip
    positions = torch.arange(longest, device=device)
    own = torch.tensor(lengths, device=device)
    return Prefix(
        [layer[0] for layer in padded],
        [layer[1] for layer in padded],
        positions[None] >= longest - own[:, None],
        own,
        torch.stack([row.last_hidden.to(device) for row in rows]),
    )
