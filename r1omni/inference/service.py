"""One loaded model that answers the files of several threads: for MLflow's server and the demo."""

import threading
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from r1omni.emotions import EMOTIONS
from r1omni.inference.answer import Answer, answer_read_files
from r1omni.inference.batching import Batcher
from r1omni.inference.files import ReadFile, Refusal
from r1omni.inference.options import PredictOptions
from r1omni.inference.reading import read_files
from r1omni.media.pool import usable_cores
from r1omni.model.backbone import Backbone


class Service:
    """Answers files with `r1omni predict`'s answers, whatever they are batched with.

    Each call decodes in a process of its own, as many at once as there are cores. So a file that
    hangs delays no other call. The model answers the files of all calls in common batches.
    """

    def __init__(self, backbone: Backbone, options: PredictOptions) -> None:
        self._backbone = backbone
        self._options = options
        self._decoding = threading.BoundedSemaphore(usable_cores())
        self._model = Batcher(self._answer_batch, options.batch_size)

    def answer(self, files: Sequence[Path | Refusal]) -> list[Answer | Refusal]:
        """An answer or a refusal for each file, in order; a Refusal stays as it is."""
        paths = [file for file in files if isinstance(file, Path)]
        if not paths:
            return [file for file in files if isinstance(file, Refusal)]
        with (
            self._decoding,
            closing(read_files(paths, self._backbone.preparation, self._options.limits)) as read,
        ):
            outcomes = [next(read) if isinstance(file, Path) else file for file in files]
        answers = iter(self._model.results([o for o in outcomes if isinstance(o, ReadFile)]))
        return [o if isinstance(o, Refusal) else next(answers) for o in outcomes]

    def _answer_batch(self, files: list[ReadFile]) -> list[Answer]:
        return answer_read_files(files, self._backbone, EMOTIONS, self._options.max_new_tokens)
