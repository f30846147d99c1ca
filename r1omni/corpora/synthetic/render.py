"""One planned clip as an mp4 (H.264, AAC) or wav file, the same bytes whenever it is rendered."""

import os
import wave
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt

from r1omni.config import RenderParams
from r1omni.corpora.synthetic.faces import draw_face, draw_identity
from r1omni.corpora.synthetic.plans import Planned, stream
from r1omni.corpora.synthetic.voices import SAMPLING_RATE, draw_voice

# Fast and alone: one thread, no lookahead, the quick AAC search, and nothing of the clock.
_X264 = {"preset": "ultrafast", "tune": "zerolatency", "qp": "27", "x264-params": "threads=1"}
_AAC = {"aac_coder": "fast", "aac_pns": "0", "aac_tns": "0"}
_MP4 = {"fflags": "+bitexact"}
_AAC_BITS = 80_000  # a second


@dataclass(frozen=True)
class Renderer:
    """Renders clips of one corpus into `root`, by way of files in `scratch`; can be pickled."""

    corpus: str
    seed: int
    render: RenderParams
    root: Path
    scratch: Path

    def __call__(self, planned: Planned) -> str:
        """Render one clip unless it is there already; the path says that it is there, whole."""
        path = self.root / planned.path
        if path.exists():
            return planned.path
        frames, waveform = self._draw(planned)
        partial = self.scratch / f"{os.getpid()}{path.suffix}"
        if path.suffix == ".wav":
            _write_wav(partial, waveform)
        else:
            _write_mp4(
                partial,
                frames,
                waveform if planned.tracks == "both" else None,
                fps=Fraction(self.render.fps).limit_denominator(1001),
            )
        partial.replace(path)
        return planned.path

    def _draw(self, planned: Planned) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float32]]:
        """Frames (F, S, S, 3) and waveform (samples,) of equal duration."""
        rng = stream(self.seed, self.corpus, "clip", planned.index)
        person = stream(self.seed, self.corpus, "person", planned.person)
        seconds = rng.uniform(self.render.min_seconds, self.render.max_seconds)
        n_frames = max(2, round(seconds * self.render.fps))
        size, latent = self.render.frame_size, planned.latent
        canvas = draw_face(
            latent.levels,
            draw_identity(person),
            latent.scene,
            planned.style,
            rng,
            n_frames=n_frames,
            size=size,
        )
        grain = rng.standard_normal((n_frames, size, size), np.float32)
        canvas += grain * np.float32(255 * self.render.visual_noise)
        frames = np.clip(canvas, 0, 255).astype(np.uint8).transpose(1, 2, 3, 0)
        waveform = draw_voice(
            latent.levels,
            latent.speaker,
            rng,
            n_samples=round(n_frames / self.render.fps * SAMPLING_RATE),
            noise=self.render.audio_noise,
        )
        return np.ascontiguousarray(frames), waveform


def _write_mp4(
    path: Path,
    frames: npt.NDArray[np.uint8],
    waveform: npt.NDArray[np.float32] | None,
    *,
    fps: Fraction,
) -> None:
    with av.open(str(path), "w", format="mp4", options=_MP4) as container:
        video = container.add_stream("libx264", rate=fps, options=_X264)
        video.height, video.width = frames.shape[1:3]
        video.pix_fmt = "yuv420p"
        audio = None
        if waveform is not None:
            audio = container.add_stream("aac", rate=SAMPLING_RATE, options=_AAC, layout="mono")
            audio.bit_rate = _AAC_BITS
        for frame in frames:
            container.mux(video.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(video.encode())
        if waveform is not None and audio is not None:
            sound = av.AudioFrame.from_ndarray(waveform[None], format="fltp", layout="mono")
            sound.sample_rate = SAMPLING_RATE
            container.mux(audio.encode(sound))
            container.mux(audio.encode())


def _write_wav(path: Path, waveform: npt.NDArray[np.float32]) -> None:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(SAMPLING_RATE)
        file.writeframes((waveform * 32767).astype("<i2").tobytes())
