"""A model that stays loaded: its decoding processes stay too, and a late request is ended."""

import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

from clip_files import LIMITS, signal_decoding_process, write_clip

from r1omni.inference.answer import Answer
from r1omni.inference.files import ReadFile, Refusal
from r1omni.inference.options import DEFAULTS
from r1omni.inference.reading import FileReader
from r1omni.inference.service import Service


def test_a_reader_answers_on_after_its_process_was_killed(tiny: Any, tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "a.mp4")
    reader = FileReader(tiny.preparation, LIMITS)
    try:
        assert isinstance(reader.read(clip), ReadFile)
        signal_decoding_process(signal.SIGKILL)
        outcome = reader.read(clip)
        assert isinstance(outcome, Refusal)
        assert outcome.reason == "the decoding process died of it (SIGKILL)"
        assert isinstance(reader.read(clip), ReadFile)
        assert reader.read(tmp_path / "b.mp4") == Refusal(str(tmp_path / "b.mp4"), "no such file")
    finally:
        reader.close()


def test_no_file_is_read_for_a_request_whose_time_is_over(tiny: Any, tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "a.mp4")
    short = replace(DEFAULTS, max_new_tokens=2, batch_size=2)
    over = DEFAULTS.serve.model_copy(update={"timeout_seconds": 0})
    late = "the request took more than 0 s (serve.timeout_seconds)"
    no_file = Refusal("x", "is no file")
    said = Service(tiny, replace(short, serve=over)).answer([clip, no_file])
    assert said == [Refusal(str(clip), late), no_file]
    answered, refused, again = Service(tiny, short).answer([clip, no_file, clip])
    assert isinstance(answered, Answer) and refused == no_file and again == answered
