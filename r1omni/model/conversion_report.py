"""An account of a checkpoint's tensors: which are used, left out, missing or not the model's."""

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor


@dataclass
class ConversionReport:
    """What became of every tensor: used ones with their file, unused ones with the reason, and
    casts from one precision to another.
    """

    used: dict[str, str] = field(default_factory=dict)
    unused: dict[str, str] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    reshaped: list[str] = field(default_factory=list)
    towers: dict[str, str] = field(default_factory=dict)
    cast: dict[str, str] = field(default_factory=dict)

    def check(
        self,
        directory: Path,
        tensors: Mapping[str, Tensor],
        expected: Mapping[str, tuple[int, ...]],
        tied: Collection[str] = (),
    ) -> None:
        """Nothing where the used tensors are those of the model, by name and shape.

        Those in `tied` may be missing. Raises ValueError, naming every tensor that is missing,
        unexpected or of another shape.
        """
        self.missing = sorted(expected.keys() - tensors.keys() - set(tied))
        self.unexpected = [
            f"{n} in {self.used[n]}" for n in sorted(tensors.keys() - expected.keys())
        ]
        self.reshaped = [
            f"{name} in {self.used[name]} has shape {tuple(tensors[name].shape)}, expected {shape}"
            for name, shape in expected.items()
            if name in tensors and tuple(tensors[name].shape) != shape
        ]
        if problems := self.problems():
            raise ValueError(f"{directory}: " + "\n".join(problems))

    def note_casts(self, read: Mapping[str, Tensor], loaded: Mapping[str, Tensor]) -> None:
        """Account for every tensor that the model holds in another precision than its file."""
        for name, tensor in read.items():
            before, after = (str(t.dtype).removeprefix("torch.") for t in (tensor, loaded[name]))
            if before != after:
                self.cast[name] = f"{before} to {after}"

    def render(self) -> str:
        """The account as text: used, cast, unused tensors by kind, towers, then every problem."""
        counts = (
            f"{len(self.used)} tensors used, {len(self.unused)} unused, {len(self.missing)} "
            f"missing, {len(self.unexpected)} unexpected, {len(self.reshaped)} reshaped"
        )
        used = Counter((_kind(name), file) for name, file in self.used.items())
        cast = Counter((_kind(name), kinds) for name, kinds in self.cast.items())
        unused = Counter((_kind(name), why) for name, why in self.unused.items())
        lines = [counts]
        lines += [f"used: {n} x {kind} from {file}" for (kind, file), n in used.items()]
        lines += [f"{tower} tower: {source}" for tower, source in self.towers.items()]
        lines += [f"cast: {n} x {kind} from {kinds}" for (kind, kinds), n in cast.items()]
        lines += [f"unused: {n} x {kind} ({why})" for (kind, why), n in unused.items()]
        return "\n".join(lines + self.problems())

    def problems(self) -> list[str]:
        """A line for every tensor that keeps the checkpoint from being loaded."""
        return (
            [f"missing tensor: {name}" for name in self.missing]
            + [f"unexpected tensor: {name}" for name in self.unexpected]
            + [f"reshaped tensor: {text}" for text in self.reshaped]
        )


def _kind(name: str) -> str:
    """What a tensor belongs to: its name up to its third part, or less."""
    place, colon, bare = name.rpartition(": ")
    return f"{place}{colon}{'.'.join(bare.split('.')[:-1][:2]) or bare}"
