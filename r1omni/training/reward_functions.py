"""The rewards that params name, as functions: our own, those that ask the judges, and a user's."""

import importlib
import inspect
import sys
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from r1omni.claims import Side, Verdict
from r1omni.completions import parse, render
from r1omni.corpora.clip import Clip
from r1omni.judges.evidence import Evidence, read_evidence
from r1omni.own_code import PACKAGE, file_of
from r1omni.rewards import REWARDS, Reward, Rewards, grounding_reward, shortened
from r1omni.training_config import GroundingParams, GRPOParams


def load_rewards(grpo: GRPOParams, evidence: Path, clips: Sequence[Clip]) -> Rewards:
    """The rewards of `grpo.reward_weights`; a user's own goes by its function's name.

    `evidence`: the folder of the stage `judges`, read where a reward asks the judges. Each reward
    is tried on two completions for the first of `clips`. Raises ValueError naming the reward for a
    function that cannot be imported, does not take a completion and a clip, or returns anything
    but a number in [0, 1].
    """
    known = read_evidence(evidence) if grpo.needs_judges else None
    functions, weights = {}, {}
    for path, weight in grpo.reward_weights.items():
        name = path.rpartition(":")[2]
        functions[name], weights[name] = _reward(path, grpo, known, clips), weight
    rewards = Rewards(functions, weights)
    for clip in clips[:1]:
        for text in ("", render("The voice is loud.", str(clip.label))):
            rewards.score(text, clip)
    return rewards


def reward_files(names: Sequence[str]) -> list[Path]:
    """The files of users' own rewards, and what these have imported by now.

    Of the imports those of their own packages and from the working directory, but nothing that is
    installed. A training goes on only if they are unchanged.
    """
    modules = {name.partition(":")[0] for name in names if ":" in name}
    packages = {module.partition(".")[0] for module in modules}
    found = set()
    for name, module in list(sys.modules.items() if modules else ()):
        file = file_of(module)
        if file is None or not Path(file).is_absolute() or Path(file).is_relative_to(PACKAGE):
            continue  # built in, torch's own classes, ours
        places = {Path(file), Path(file).resolve()}  # the working directory may be a link
        installed = any(_is_below(places, top) for top in (sys.prefix, sys.base_prefix))
        own = name.partition(".")[0] in packages or _is_below(places, Path.cwd())
        if name in modules or (own and not installed):
            found.add(Path(file))
    return sorted(found)


def _is_below(places: Collection[Path], top: Path | str) -> bool:
    return any(place.is_relative_to(top) for place in places)


def _reward(
    name: str, grpo: GRPOParams, evidence: Evidence | None, clips: Sequence[Clip]
) -> Reward:
    if ":" in name:
        return _users(name)
    if evidence is None or name in REWARDS:
        return REWARDS[name]
    if name == "reader":
        return partial(_reader_reward, evidence=evidence)
    return partial(
        _grounding, evidence=evidence, dealt=dealt_by_label(evidence, clips), wanted=grpo.grounding
    )


def _users(name: str) -> Reward:
    """The function `module:function`, found from the working directory as well."""
    module_name, _, function_name = name.partition(":")
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        function: Any = getattr(importlib.import_module(module_name), function_name)
    except (Exception, SystemExit) as error:  # whatever the user's file raises
        raise ValueError(f"grpo.reward_weights: {name}: cannot be imported: {error!r}") from error
    try:
        inspect.signature(function).bind("", None)
    except ValueError:  # compiled: it does not tell what it takes, so the trial shows it
        pass
    except TypeError as error:
        raise ValueError(
            f"grpo.reward_weights: {name}: a reward takes a completion and a clip: {error}"
        ) from error
    return _named(function, name)


def _named(function: Reward, name: str) -> Reward:
    def reward(completion: str, clip: Clip) -> float:
        try:
            return function(completion, clip)
        except (Exception, SystemExit) as error:
            raise ValueError(
                f"reward {name}: raised {error!r} for {shortened(completion)} of clip "
                f"{clip.clip_id!r}"
            ) from error

    return reward


def _reader_reward(completion: str, clip: Clip, *, evidence: Evidence) -> float:
    """The reader's probability of the clip's label, given the rationale (0: not well formed).

    It pays for arguing for the label, whether the clip shows it or not: so it is a control only.
    """
    parsed = parse(completion)
    reader = evidence.reader
    if parsed is None or clip.label not in reader.labels:
        return 0.0
    return float(reader.probabilities([parsed.rationale])[0, reader.labels.index(clip.label)])


def _grounding(
    completion: str,
    clip: Clip,
    *,
    evidence: Evidence,
    dealt: Mapping[tuple[str, str | None], Verdict],
    wanted: GroundingParams,
) -> float:
    absent: Side | None = "voice" if not clip.has_audio else "face" if clip.n_frames == 0 else None
    return grounding_reward(
        completion,
        evidence.verdicts.get(clip.clip_id, {}),
        dealt.get((clip.corpus, clip.label), {}),
        sides=wanted.sides,
        absent=absent,
        min_claims=wanted.min_claims,
        term=wanted.term,
    )


def dealt_by_label(
    evidence: Evidence, clips: Sequence[Clip]
) -> dict[tuple[str, str | None], dict[str, tuple[float, float, float]]]:
    """By corpus and label: each judged attribute's mean probabilities over the label's clips."""
    found: dict[tuple[str, str | None], dict[str, list[tuple[float, float, float]]]] = {}
    for clip in clips:
        own = found.setdefault((clip.corpus, clip.label), {})
        for name, p in evidence.verdicts.get(clip.clip_id, {}).items():
            own.setdefault(name, []).append(p)
    return {
        key: {name: tuple(np.mean(rows, axis=0).tolist()) for name, rows in own.items()}
        for key, own in found.items()
    }
