"""The stages of DVC's graph, in an order in which they can be run."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import networkx
from dvc.repo import Repo

from r1omni.pipeline import allow_no_git

# The last stages of each phase; DVC's graph gives the stages before them.
PHASES: Mapping[str, tuple[str, ...]] = {
    "ingest and validate": ("validate",),
    "cold start": ("cold_start", "label_sft"),
    "GRPO": ("grpo",),
    "out-of-distribution evaluation": ("report", "held_out"),
    "register": ("register",),
}
REST = "everything else"


@dataclass(frozen=True)
class Stage:
    """One DVC stage: its name, the stages whose outputs it reads, and its phase."""

    name: str
    upstream: tuple[str, ...]
    phase: str


def read_stages(root: Path, targets: Sequence[str] | None = None) -> list[Stage]:
    """The stages of the DVC repository at `root`, each after its upstream, phase by phase.

    `targets`: only these and their upstream; "predict" means every predict@… of a `foreach`.
    Raises ValueError for an unknown target.
    """
    graph = _upstream_graph(root)
    wanted = list(graph)
    if targets is not None:
        reached = {
            name for target in targets for name in _with_upstream(graph, _matching(graph, target))
        }
        wanted = [name for name in graph if name in reached]
    phase_of = dict(_phases(graph))
    order = [*PHASES, REST]
    wanted.sort(key=lambda name: order.index(phase_of[name]))
    return [Stage(name, tuple(graph.successors(name)), phase_of[name]) for name in wanted]


def _upstream_graph(root: Path) -> networkx.DiGraph:
    """An edge from every stage to each stage it reads from; nodes in an order of execution."""
    allow_no_git(root)
    with Repo(str(root)) as repo:
        # data/*.dvc files are nodes too, but have no command
        stages = [stage for stage in repo.index.stages if stage.cmd]
        place = {stage.addressing: number for number, stage in enumerate(stages)}
        edges = [(a.addressing, b.addressing) for a, b in repo.index.graph.edges]
    downwards = networkx.DiGraph()
    downwards.add_nodes_from(place)
    downwards.add_edges_from((b, a) for a, b in edges if a in place and b in place)
    ordered = networkx.lexicographical_topological_sort(downwards, key=place.__getitem__)
    upwards = networkx.DiGraph()
    upwards.add_nodes_from(ordered)
    upwards.add_edges_from((b, a) for a, b in downwards.edges)
    return upwards


def _matching(graph: networkx.DiGraph, target: str) -> list[str]:
    found = [name for name in graph if target in (name, name.split("@")[0])]
    if not found:
        raise ValueError(f"{target!r} is no stage of dvc.yaml; known: {', '.join(graph)}")
    return found


def _with_upstream(graph: networkx.DiGraph, names: Sequence[str]) -> set[str]:
    return {*names, *(up for name in names for up in networkx.descendants(graph, name))}


def _phases(graph: networkx.DiGraph) -> Iterator[tuple[str, str]]:
    """(stage, phase): the first phase that needs the stage."""
    placed: set[str] = set()
    for phase, goals in PHASES.items():
        ends = [name for name in graph if name.split("@")[0] in goals]
        for name in _with_upstream(graph, ends) - placed:
            placed.add(name)
            yield name, phase
    for name in graph:
        if name not in placed:
            yield name, REST
