"""A process that opens one clip at a time: a path (and of a segment its start and end) in, a line
of JSON out (`python -m`).

Alone in its process, so that a decoder that hangs or crashes costs one clip and not the run.
A clip that takes too long ends the process by SIGALRM, even inside a system call; one that takes
too much memory is refused.
"""

import hashlib
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np

from r1omni.corpora.ingestion.prints import Sketch
from r1omni.limits import Limits, limit_memory
from r1omni.media import Segment, Source, UnreadableMedia, file_of, probe, probe_segment


def serve(limits: Limits) -> None:
    """Answer every path on standard input until it is closed."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    answers = os.fdopen(os.dup(1), "w", encoding="ascii")
    os.dup2(2, 1)  # what a decoder prints must not stand among the answers
    np.ones((64, 64)) @ np.ones((64, 64))  # OpenBLAS takes its buffers now: they are no clip's
    limit_memory(limits.memory_mb)
    answers.write('"ready"\n')
    answers.flush()
    for line in sys.stdin:
        signal.setitimer(signal.ITIMER_REAL, limits.timeout_seconds)
        path, *times = json.loads(line)
        source = Segment(Path(path), *times) if times else Path(path)
        answer = inspect(source, limits.max_pixels)
        signal.setitimer(signal.ITIMER_REAL, 0)
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def inspect(source: Source, max_pixels: int | None = None) -> dict[str, Any]:
    """The Finding of a source as JSON: its fields, or `{"error": why it is unreadable}`."""
    try:
        sha256 = _sha256(file_of(source))
        sketch = Sketch()
        if isinstance(source, Segment):
            part = f"{sha256} {source.start} {source.end}"
            sha256 = hashlib.sha256(part.encode()).hexdigest()  # other segments are other clips
            found = probe_segment(source, max_pixels, sketch)
        else:
            found = probe(source, max_pixels, sketch)
    except (UnreadableMedia, OSError) as error:
        return {"error": str(error)}
    sound_print, picture_print = sketch.prints()
    return {
        "duration": float(found.duration),
        "fps": float(found.fps),
        "n_frames": int(found.n_frames),
        "has_audio": bool(found.has_audio),
        "sha256": sha256,
        "audio_duration": round(found.sound.seconds, 6),
        "digital_silence": found.sound.digital_silence,
        "lost_packets": found.sound.n_lost,
        "sound_print": sound_print,
        "picture_print": picture_print,
    }


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


if __name__ == "__main__":
    serve(Limits(**json.loads(sys.argv[1])))
