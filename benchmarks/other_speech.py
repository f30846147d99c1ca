"""The acoustic measures on speech that is not ours: flite's and espeak-ng's voices.

    python -m benchmarks.other_speech [ROOT]

ROOT is a folder into which Debian's packages flite, libflite1, espeak-ng, espeak-ng-data,
libespeak-ng1, libpcaudio0 and libsonic0 were unpacked (`apt-get download`, `dpkg -x`), by default
the machine's own. Each sentence is spoken at a low and a high setting of one attribute. Prints the
AUC of its measures, high against low: over all voices, and within a voice.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import wave
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from benchmarks.judges import auc
from r1omni.judges.acoustics import measures

Floats = NDArray[np.floating]
RATE: Final = 16000  # Hz
SENTENCES: Final = (
    "I cannot believe that you came here today.",
    "We will meet them at the station tomorrow morning.",
    "Please put the yellow book on the table.",
    "Nobody told me about the letter from your mother.",
)
FLITE: Final = {"kal16": 105, "awb": 140, "rms": 95, "slt": 170}  # a voice's usual pitch, in Hz
ESPEAK: Final = ("en-us", "en-gb", "en-us+f3", "en-us+m3", "en-gb+f2")
ATTRIBUTES: Final = {
    "loudness": ("level_speech",),
    "rate": ("nuclei_rate", "syllable_hz"),
    "pitch": ("pitch",),
    "melody": ("pitch_range", "pitch_spread"),
    "tremor": ("tremor_amplitude", "tremor_depth", "tremor_pitch"),
}
Pair = tuple[str, dict[str, float], dict[str, float]]  # voice, measures of low and of high


def read_wave(path: Path) -> Floats:
    """A mono 16-bit file at 16 kHz, (S,); resampled by its spectrum."""
    with wave.open(str(path)) as file:
        samples = np.frombuffer(file.readframes(file.getnframes()), "<i2") / 32768
        rate = file.getframerate()
    if rate == RATE:
        return samples
    n = len(samples) * RATE // rate
    spectrum = np.zeros(n // 2 + 1, dtype=complex)
    found = np.fft.rfft(samples)[: len(spectrum)]
    spectrum[: len(found)] = found
    return np.fft.irfft(spectrum, n) * n / len(samples)


class Speakers:
    """The two programs, run from `root`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        libraries = root / "usr/lib/x86_64-linux-gnu"
        self._environment = os.environ | {
            "LD_LIBRARY_PATH": str(libraries),
            "ESPEAK_DATA_PATH": str(libraries / "espeak-ng-data"),
        }

    def flite(self, voice: str, text: str, **settings: float) -> Floats:
        """The text in one of flite's voices, its features set."""
        given = [x for name, value in settings.items() for x in ("--setf", f"{name}={value}")]
        return self._speak("flite", "-o", "-voice", voice, "-t", text, *given)

    def espeak(self, voice: str, text: str, *options: str) -> Floats:
        """The text in one of espeak-ng's voices."""
        return self._speak("espeak-ng", "-w", "-v", voice, *options, text)

    def _speak(self, program: str, to: str, *arguments: str) -> Floats:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "spoken.wav"
            command = [str(self.root / "usr/bin" / program), to, str(path), *arguments]
            subprocess.run(command, env=self._environment, check=True, capture_output=True)
            return read_wave(path)


def shaken(wave_: Floats) -> Floats:
    """The sound with a tremolo of 7 Hz."""
    time = np.arange(len(wave_)) / RATE
    return wave_ * (1 - 0.35 * (1 + np.sin(2 * np.pi * 7 * time)))


def by_flite(speakers: Speakers) -> Iterator[tuple[str, str, Floats, Floats]]:
    """Attribute, voice, and the sound at a low and a high setting."""
    for voice, hz in FLITE.items():
        for text in SENTENCES:
            plain = speakers.flite(voice, text)
            settings = {
                "rate": ("duration_stretch", 1.4, 0.75),
                "pitch": ("int_f0_target_mean", 0.7 * hz, 1.4 * hz),
                "melody": ("int_f0_target_stddev", 0.05 * hz, 0.3 * hz),
            }
            for name, (key, *values) in settings.items():
                low, high = (speakers.flite(voice, text, **{key: value}) for value in values)
                yield name, voice, low, high
            yield "loudness", voice, 0.35 * plain, plain
            yield "tremor", voice, plain, shaken(plain)


def by_espeak(speakers: Speakers) -> Iterator[tuple[str, str, Floats, Floats]]:
    """Attribute, voice, and the sound at a low and a high setting."""
    for voice in ESPEAK:
        for text in SENTENCES:
            plain = speakers.espeak(voice, text)
            options = {
                "rate": ("-s", 120, 240),
                "pitch": ("-p", 15, 85),
                "loudness": ("-a", 35, 100),
            }
            for name, (key, *values) in options.items():
                low, high = (speakers.espeak(voice, text, key, str(value)) for value in values)
                yield name, voice, low, high
            low, high = (
                speakers.espeak(voice, f'<prosody range="{r}%">{text}</prosody>', "-m")
                for r in (20, 180)
            )
            yield "melody", voice, low, high
            yield "tremor", voice, plain, shaken(plain)


def rows(pairs: dict[str, list[Pair]]) -> Iterator[tuple[str, str, float, float]]:
    """Attribute, measure, AUC over voices, mean AUC within a voice."""
    for name, keys in ATTRIBUTES.items():
        for key in keys:
            voices = sorted({voice for voice, _, _ in pairs[name]})
            own = [_auc([p for p in pairs[name] if p[0] == voice], key) for voice in voices]
            yield name, key, _auc(pairs[name], key), float(np.mean(own))


def _auc(pairs: list[Pair], key: str) -> float:
    scores = [low[key] for _, low, _ in pairs] + [high[key] for _, _, high in pairs]
    return auc(np.array(scores), np.repeat([False, True], len(pairs)))


def main() -> None:
    """Print a line for each measure."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("root", type=Path, nargs="?", default=Path("/"))
    speakers = Speakers(parser.parse_args().root)
    for program, spoken in (("flite", by_flite(speakers)), ("espeak-ng", by_espeak(speakers))):
        pairs: dict[str, list[Pair]] = {}
        for name, voice, low, high in spoken:
            pairs.setdefault(name, []).append((voice, measures(low), measures(high)))
        for name, key, over, within in rows(pairs):
            line = f"{program:<10} {name:<9} {key:<17} over voices {over:.2f}, within {within:.2f}"
            sys.stdout.write(f"{line}\n")


if __name__ == "__main__":
    main()
