"""What a training is to give, as one hash: where it is the same, a killed training goes on."""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

from r1omni.own_code import code_hash
from r1omni.section import Section


def fingerprint(sections: Iterable[Section], inputs: Iterable[Path]) -> str:
    """A hash of recipe, input files and our code: only where it is the same a state is resumed.

    What changes time and memory alone (params.yaml's `machine`) is no part of it.
    """
    digest = hashlib.sha256(code_hash().encode())
    for section in sections:
        digest.update(json.dumps(section.recipe()).encode())
    for path in inputs:
        for file in sorted(
            p for p in ([path] if path.is_file() else path.rglob("*")) if p.is_file()
        ):
            digest.update(file.name.encode())
            digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()
