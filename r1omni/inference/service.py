"""One loaded model that answers the files of several threads: for MLflow's server and the demo."""

import time
from collections.abc import Sequence
from pathlib import Path
from queue import SimpleQueue

from r1omni.emotions import EMOTIONS
from r1omni.inference.answer import Answer, ByReader, answer_read_files
from r1omni.inference.batching import Batcher
from r1omni.inference.files import ReadFile, Refusal, read_file
from r1omni.inference.options import PredictOptions
from r1omni.inference.reading import FileReader
from r1omni.media.pool import usable_cores
from r1omni.model.backbone import Backbone


class Service:
    """Answers files with `r1omni predict`'s answers, whatever they are batched with.

    `by`: the reader answers in the model's place.

    There is a decoding process per core, and each call uses one. The model answers the files of all
    calls in common batches. So a file that hangs keeps one core, and delays no batch.
    """

    def __init__(
        self, backbone: Backbone, options: PredictOptions, by: ByReader | None = None
    ) -> None:
        self._backbone = backbone
        self._options = options
        self._by = by
        self._readers: SimpleQueue[FileReader] = SimpleQueue()
        for _ in range(usable_cores()):
            self._readers.put(self._new_reader())
        self._model = Batcher(self._answer_batch, options.batch_size)

    def answer(self, files: Sequence[Path | Refusal]) -> list[Answer | Refusal]:
        """An answer or a refusal for each file, in order; a Refusal stays as it is."""
        outcomes = self._read(files)
        answers = iter(self._model.results([o for o in outcomes if isinstance(o, ReadFile)]))
        return [o if isinstance(o, Refusal) else next(answers) for o in outcomes]

    def _read(self, files: Sequence[Path | Refusal]) -> list[ReadFile | Refusal]:
        seconds = self._options.serve.timeout_seconds  # then the client has been told that it ended
        deadline = time.monotonic() + seconds
        late = f"the request took more than {seconds} s (serve.timeout_seconds)"
        outcomes: list[ReadFile | Refusal] = []
        reader = self._readers.get()
        try:
            for file in files:
                if isinstance(file, Path) and time.monotonic() < deadline:
                    outcomes.append(reader.read(file))
                else:
                    outcomes.append(Refusal(str(file), late) if isinstance(file, Path) else file)
            return outcomes
        except BaseException:
            reader.close()
            reader = self._new_reader()
            raise
        finally:
            self._readers.put(reader)

    def _new_reader(self) -> FileReader:
        read = read_file if self._by is None else self._by.read
        return FileReader(self._backbone.preparation, self._options.limits, read)

    def _answer_batch(self, files: list[ReadFile]) -> list[Answer]:
        length = self._options.max_new_tokens
        return answer_read_files(files, self._backbone, EMOTIONS, length, self._by)
