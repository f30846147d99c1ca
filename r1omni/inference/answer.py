"""Answers for any media file: the same preprocessing and decoding as the pipeline's."""

import json
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TypeVar

from rich.console import Console
from rich.progress import Progress

from r1omni.inference.files import ReadFile, Refusal, read_file
from r1omni.inference.finding import find_files
from r1omni.inference.greedy import Answered, answer_batch
from r1omni.inference.judged import UNKNOWN_LABELS, Judges, verdict_on
from r1omni.inference.probabilities import label_probabilities
from r1omni.inference.reading import Read, read_files
from r1omni.inference.sampled import sample_answers
from r1omni.judges.judge import Floats
from r1omni.judges.reader import Reader
from r1omni.judges.selection import best_by_judges, mean_probabilities
from r1omni.judging import Judgement, judge
from r1omni.limits import Limits
from r1omni.model.backbone import Backbone
from r1omni.model.feature_store import Features

Item = TypeVar("Item")


@dataclass(frozen=True)
class ByReader:
    """The reader answers in the model's place, from `samples` completions of each file.

    1: the greedy one. More are sampled at `temperature`: the reader's mean probability over them
    answers, and the rationale that the judges support most is shown.
    """

    judges: Judges
    samples: int = 1
    temperature: float = 1.0

    def beside(self, backbone: Backbone) -> "ByReader":
        """It, with judges that know whether they were calibrated on this model's towers."""
        return replace(self, judges=self.judges.beside(backbone))

    @property
    def read(self) -> Read:
        """How a file is read: with its waveform where the judges are to hear it."""
        from r1omni.inference.hearing import read_and_hear  # it imports pandas

        return read_and_hear if self.samples > 1 else read_file


@dataclass(frozen=True)
class Answer:
    """The model's answer to one file, parsed and judged.

    `probabilities` of the asked labels sum to 1; None where the completion is not well formed.
    `notes`: what was missing, cut or repeated on the way. `read`: the label that a reader of the
    rationale answers in the model's place; prediction and probabilities are the reader's then.
    `samples`: how many completions it read, of which this one is shown.
    """

    path: Path
    completion: str
    judged: Judgement
    probabilities: dict[str, float] | None
    notes: tuple[str, ...]
    read: str | None = None
    samples: int = 1

    @property
    def prediction(self) -> str | None:
        """The label that is answered, by the reader if there is one."""
        return self.read or self.judged.prediction

    def as_text(self) -> str:
        """The answer on some lines for people."""
        lines = [f"{self.path}: {self.label_text()}"]
        lines.append(f"  {self.judged.rationale or self.completion}")
        if self.probabilities is not None:
            ranked = sorted(self.probabilities.items(), key=lambda item: -item[1])
            lines.append("  " + " · ".join(f"{label} {p:.2f}" for label, p in ranked))
        return "\n".join(lines + [f"  ({note})" for note in self.notes])

    def label_text(self) -> str:
        """The predicted label, or that there is none and what the model answered."""
        if self.read is not None:
            if self.samples == 1:
                return f"{self.read}, read from the rationale (the model: {self.judged.prediction})"
            shown = f"the one shown answers {self.judged.prediction}"
            return f"{self.read}, read from {self.samples} completions ({shown})"
        if self.judged.prediction is not None:
            return self.judged.prediction
        word = " ".join((self.judged.answer or "").split())
        return f'no known emotion ("{word}")' if word else "no known emotion"

    def as_json(self) -> str:
        """The answer as one line of JSON."""
        return json.dumps(
            {
                "file": str(self.path),
                "prediction": self.prediction,
                "answered_by": "model" if self.read is None else "reader",
                "samples": self.samples,
                "answer": self.judged.answer,
                "rationale": self.judged.rationale,
                "well_formed": self.judged.well_formed,
                "probabilities": self.probabilities,
                "notes": list(self.notes),
                "completion": self.completion,
            },
            ensure_ascii=False,
        )


def answer_files(
    names: Sequence[str],
    backbone: Backbone,
    *,
    labels: Sequence[str],
    batch_size: int,
    max_new_tokens: int,
    limits: Limits,
) -> Iterator[Answer | Refusal]:
    """An answer or a refusal for every file that `names` stand for (see `find_files`), in order."""
    files = find_files(names).items
    batches = answer_batches(
        files,
        backbone,
        labels=labels,
        batch_size=batch_size,
        max_new_tokens=max_new_tokens,
        limits=limits,
    )
    with closing(batches):
        for batch in batches:
            yield from batch


def answer_batches(
    files: Sequence[Path | Refusal],
    backbone: Backbone,
    *,
    labels: Sequence[str],
    batch_size: int,
    max_new_tokens: int,
    limits: Limits,
    by: ByReader | None = None,
) -> Generator[list[Answer | Refusal], None, None]:
    """An answer or a refusal for every file, in order, as soon as each batch is answered.

    Batches grow from one file to `batch_size`: the first answer waits for no other, and no
    later one for more files than were answered before. `by`: the reader answers, from the model's
    rationale. A file that takes more than the limits is refused. A bar shows the progress where
    standard error is a terminal. Closing the generator ends the process that reads.
    """
    console = Console(stderr=True)
    progress = Progress(console=console, transient=True, disable=not console.is_terminal)
    task = progress.add_task("predict", total=len(files))
    paths = [file for file in files if isinstance(file, Path)]
    how = read_file if by is None else by.read
    by = by and by.beside(backbone)
    with closing(read_files(paths, backbone.preparation, limits, how)) as read:
        outcomes = (next(read) if isinstance(file, Path) else file for file in files)
        progress.start()
        try:
            for batch in _growing_groups(outcomes, batch_size):
                known = [item for item in batch if isinstance(item, ReadFile)]
                answers = iter(answer_read_files(known, backbone, labels, max_new_tokens, by))
                progress.advance(task, len(batch))
                progress.stop()  # no bar between the lines that are printed now
                yield [item if isinstance(item, Refusal) else next(answers) for item in batch]
                progress.start()
        finally:
            progress.stop()


def answer_read_files(
    files: Sequence[ReadFile],
    backbone: Backbone,
    labels: Sequence[str],
    max_new_tokens: int,
    by: ByReader | None = None,
) -> list[Answer]:
    """The answer to each file. It does not depend on the other files, not even by rounding.

    Only the greedy completions are decoded in a batch. Features and probabilities are computed clip
    by clip, because a matrix product of another height rounds differently.
    """
    features = [backbone.encode([file.inputs])[0] for file in files]
    if by is None or by.samples == 1:
        answers = _greedy(files, features, backbone, labels, max_new_tokens)
        return (
            answers if by is None else [read_answer(a, by.judges.reader, labels) for a in answers]
        )
    return [
        _sampled(file, own, backbone, labels, max_new_tokens, by)
        for file, own in zip(files, features, strict=True)
    ]


def read_answer(answer: Answer, reader: Reader, labels: Sequence[str]) -> Answer:
    """The reader's answer in the model's place; the model's own where there is no rationale.

    Probabilities are the reader's, shared out among `labels`; one that it does not know has 0.
    """
    chances = mean_probabilities([answer.judged], reader)
    if chances is None:
        note = "answered by the model: there is no rationale for a reader"
        return replace(answer, notes=(*answer.notes, note))
    return _read(answer, chances, reader, labels)


def _greedy(
    files: Sequence[ReadFile],
    features: Sequence[Features],
    backbone: Backbone,
    labels: Sequence[str],
    max_new_tokens: int,
) -> list[Answer]:
    if not files:
        return []
    answered = answer_batch(backbone, features, max_new_tokens)
    probabilities = [
        label_probabilities(backbone, [own], [answer.completion], labels)[0]
        for own, answer in zip(features, answered, strict=True)
    ]
    return [
        Answer(
            file.path,
            answer.completion,
            judge(answer.completion, backbone.answer_mode),
            chances,
            (*file.notes, *_remarks(answer, chances)),
        )
        for file, answer, chances in zip(files, answered, probabilities, strict=True)
    ]


def _sampled(
    file: ReadFile,
    features: Features,
    backbone: Backbone,
    labels: Sequence[str],
    max_new_tokens: int,
    by: ByReader,
) -> Answer:
    """The reader's answer from several completions; the greedy one's where none has a rationale."""
    completions = sample_answers(
        backbone, features, by.samples, max_new_tokens=max_new_tokens, temperature=by.temperature
    )
    samples = [judge(found.completion, backbone.answer_mode) for found in completions]
    chances = mean_probabilities(samples, by.judges.reader)
    if chances is None:
        (own,) = _greedy([file], [features], backbone, labels, max_new_tokens)
        note = f"answered by the model: none of {by.samples} completions has a rationale"
        return replace(own, notes=(*own.notes, note))
    verdict, notes = verdict_on(file, features, by.judges)
    if not verdict:
        notes.append("no claim can be judged: of the completions the first is shown")
    best = best_by_judges(samples, verdict)
    shown = next(i for i, sample in enumerate(samples) if sample is best)
    unread = sum(sample.rationale is None for sample in samples)
    if unread:
        notes.append(f"{unread} of {by.samples} completions have no rationale for the reader")
    own = Answer(file.path, completions[shown].completion, samples[shown], None,
                 (*file.notes, *notes), samples=by.samples)  # fmt: skip
    return _read(own, chances, by.judges.reader, labels)


def _read(answer: Answer, chances: Floats, reader: Reader, labels: Sequence[str]) -> Answer:
    """The answer with the reader's likeliest label among `labels`, as far as it knows them."""
    among = [i for i, label in enumerate(reader.labels) if label in labels] or range(len(chances))
    known = dict(zip(reader.labels, chances.tolist(), strict=True))
    asked = {label: known.get(label, 0.0) for label in labels}
    total = sum(asked.values())
    return replace(
        answer,
        notes=answer.notes if total else (*answer.notes, UNKNOWN_LABELS),
        probabilities={label: p / total for label, p in asked.items()} if total else asked,
        read=reader.labels[max(among, key=lambda i: chances[i])],
    )


def _remarks(answer: Answered, probabilities: dict[str, float] | None) -> Iterator[str]:
    if not answer.finished:
        yield f"cut: the answer was stopped after {answer.n_tokens} tokens"
    if probabilities is None:
        yield "not well formed: without an answer's place, labels have no probability"


def _growing_groups(items: Iterable[Item], largest: int) -> Iterator[list[Item]]:
    """The items in groups of 1, 2, 4 and so on up to `largest`."""
    iterator, size = iter(items), 1
    while group := list(islice(iterator, size)):
        yield group
        size = min(2 * size, largest)
