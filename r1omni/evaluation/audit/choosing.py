"""Which clips are audited, and with whom each is compared."""

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from r1omni.claims import claims, opening
from r1omni.evaluation.audit.examine import Foreign, Subject
from r1omni.evaluation.audit.shapley import donors
from r1omni.evaluation.predictions import Prediction

Form = tuple[str, int, int]  # opening, claims of the face, claims of the voice


def choose(rows: Sequence[Prediction], *, clips: int, n_donors: int, seed: int) -> list[Subject]:
    """At most `clips` of the rows of one corpus, drawn by `seed`, in the order of their ids.

    Donors and foreign rationales are those of other audited clips. A clip's foreign rationales have
    another answer than its own; `same_form` has equally many claims of each side and the same
    opening, too.
    """
    ordered = sorted(rows, key=lambda row: row.clip_id)
    drawn = np.random.default_rng(seed).permutation(len(ordered))[:clips]
    chosen = [ordered[i] for i in sorted(drawn)]
    theirs = donors(len(chosen), n_donors, seed)
    foreign = _Foreign(chosen)
    return [
        Subject(
            row.clip_id,
            row.corpus,
            row.label,
            row.prediction,
            row.rationale,
            tuple((chosen[j].clip_id, chosen[j].rationale) for j in theirs[:, i]),
            foreign.beside(i, None),
            foreign.beside(i, foreign.forms[i]),
        )
        for i, row in enumerate(chosen)
    ]


def form_of(rationale: str) -> Form:
    """What a rationale looks like, whatever it says."""
    sides = [claim.side for claim in claims(rationale)]
    return opening(rationale), sides.count("face"), sides.count("voice")


class _Foreign:
    def __init__(self, rows: Sequence[Prediction]) -> None:
        self._rows = rows
        self.forms = [None if r.rationale is None else form_of(r.rationale) for r in rows]
        self._places: dict[Form | None, list[int]] = defaultdict(list)
        for i, (row, form) in enumerate(zip(rows, self.forms, strict=True)):
            if form is not None and row.prediction is not None:
                self._places[form].append(i)
                self._places[None].append(i)

    def beside(self, i: int, form: Form | None) -> Foreign | None:
        """The rationale of the next clip (in a circle) of this form whose answer differs."""
        if self.forms[i] is None:
            return None
        places = self._places[form]
        for j in sorted(places, key=lambda j: (j - i) % len(self._rows)):
            row = self._rows[j]
            if row.prediction != self._rows[i].prediction and row.rationale and row.prediction:
                return Foreign(row.rationale, row.prediction)
        return None
