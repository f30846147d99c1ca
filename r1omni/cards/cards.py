"""The stage `cards`: a model card and an ML-BOM for every model, a data card for every corpus."""

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from r1omni.cards.bom import model_bom, read_bom, render_bom, with_packages
from r1omni.cards.data_card import data_card
from r1omni.cards.facts import (
    ancestry,
    read_checkpoint_facts,
    read_corpora,
    released_parents,
)
from r1omni.cards.model_card import render_model_card
from r1omni.config import CorpusParams
from r1omni.evaluation.audit_results import read_audit
from r1omni.evaluation.results import read_metrics

CARD, BOM = "README.md", "bom.json"


def run_cards(
    checkpoints: Sequence[Path],
    metrics: Path,
    manifests: Path,
    rejects: Path,
    validation: Path,
    out: Path,
    audit: Path | None = None,
    *,
    corpora: Mapping[str, CorpusParams],
) -> None:
    """Write MODEL/README.md, MODEL/bom.json and CORPUS.croissant.json into `out`.

    They are a function of the files alone: no time, no commit, no installed package. What is not
    recorded is said so. `audit`: the folder with the models' audits, MODEL.json each. Raises
    ValueError, naming the file, for input that is missing or invalid, and for metrics of another
    checkpoint.
    """
    measured = read_metrics(metrics)
    facts = read_corpora(manifests, rejects, corpora)
    known = [read_checkpoint_facts(folder) for folder in checkpoints]
    rules = _rules(validation)
    partial = out.with_name(f".{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    for checkpoint in known:
        own = measured.get(checkpoint.name, {})
        used = [c for c in facts if c.name in own or c.name in checkpoint.lineage.data]
        steps = ancestry(checkpoint, known)
        released = released_parents(steps)
        folder = partial / checkpoint.name
        folder.mkdir(parents=True)
        audited = None if audit is None else read_audit(audit / f"{checkpoint.name}.json")
        card = render_model_card(checkpoint, steps, released, used, own, audited)
        (folder / CARD).write_text(card, encoding="utf-8")
        bom = render_bom(model_bom(checkpoint, steps, released, used))
        (folder / BOM).write_text(bom, encoding="utf-8")
    for corpus in facts:
        text = json.dumps(data_card(corpus, rules), indent=1, ensure_ascii=False) + "\n"
        (partial / f"{corpus.key}.croissant.json").write_text(text, encoding="utf-8")
    shutil.rmtree(out, ignore_errors=True)
    partial.replace(out)


def write_documents(cards: Path, out: Path) -> None:
    """Write what goes beside a registered checkpoint: the card, and the BOM with the packages.

    `cards`: the model's folder of the stage `cards`. The packages are those installed here, which
    no output of a stage may depend on.
    """
    shutil.copyfile(cards / CARD, out / CARD)
    (out / BOM).write_text(render_bom(with_packages(read_bom(cards / BOM))), encoding="utf-8")


def _rules(validation: Path) -> str:
    """A sentence on the validation of all corpora. Raises ValueError for another file."""
    try:
        rules = json.loads(validation.read_text(encoding="utf-8"))["rules"]
        broken = [str(rule["text"]) for rule in rules if not rule["success"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{validation}: expected validation's summary: {error!r}") from error
    if broken:
        return f"Broken validation rules: {'; '.join(broken)}."
    return f"All {len(rules)} validation rules hold for all corpora together."
