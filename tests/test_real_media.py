"""Media as cameras, phones and downloads deliver them, read as players read them."""

import dataclasses
import functools
import http.server
import subprocess
import sys
import threading
from pathlib import Path

import av
import numpy as np
import pytest
from clip_files import LIMITS, write_clip
from media_cases import damage_packet, variable_rate, write_media

from r1omni.corpora.ingestion.probing import Finding, Unreadable, probe_clips
from r1omni.inference.files import DIGITAL_SILENCE, NO_VIDEO, read_file
from r1omni.media import (
    MediaSettings,
    UnreadableMedia,
    decode,
    preprocess,
    probe,
    read_clip,
)
from r1omni.media.pool import Undecoded, decode_clips

M3U8 = "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1.0,\n"
SETTINGS = MediaSettings(4, 48, "pad", 16000, 32000, 400, 320, 40)


def waveform(path: Path) -> np.ndarray:
    wave = decode(path, 1).waveform
    assert wave is not None
    return wave


def loud_from(wave: np.ndarray) -> float:
    """When the tone begins, in seconds."""
    return float(np.argmax(np.abs(wave) > 0.1)) / 16000


def found_in(path: Path, **limits: int) -> Finding | Unreadable:
    """What ingestion's worker says of one file."""
    asked = dataclasses.replace(LIMITS, **limits)
    return dict(probe_clips([(0, path)], workers=1, limits=asked))[0]


@pytest.mark.parametrize("codec", ["pcm_s16le", "pcm_s24le", "pcm_mulaw", "adpcm_ima_qt"])
def test_pcm_sound_in_mov_is_counted_in_samples(tmp_path, codec):
    path = write_media(tmp_path / "camera.mov", acodec=codec)
    assert probe(path).sound.seconds == pytest.approx(2.0, abs=0.01)
    assert len(waveform(path)) == pytest.approx(32000, abs=200)
    assert read_file(path, SETTINGS).inputs.has_audio


def test_pcm_sound_alone_is_answered(tmp_path):
    path = write_media(tmp_path / "sound.mov", vcodec=None, acodec="pcm_s16le")
    assert read_file(path, SETTINGS).notes == (NO_VIDEO,)


def test_pcm_sound_that_is_cut_short_is_still_refused(tmp_path):
    path = tmp_path / "cut.mov"
    write_clip(path, seconds=2, audio=("pcm_s16le", 16000, "mono"), video=False, faststart=True)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * 0.7)])
    with pytest.raises(
        UnreadableMedia, match=r"is cut short: 2\d{4} of the 32000 samples of sound that its header"
    ):
        read_file(path, SETTINGS)


@pytest.fixture(scope="module")
def avi(tmp_path_factory) -> Path:
    """Four seconds of MPEG-4 and MP3: 168 packets of sound."""
    return write_media(
        tmp_path_factory.mktemp("avi") / "whole.avi",
        vcodec="mpeg4", acodec="mp3", n=60, seconds=4.0,
    )  # fmt: skip


def test_a_damaged_packet_of_sound_is_silence_of_its_length(avi, tmp_path):
    path = damage_packet(tmp_path / "one.avi", avi, [50])
    sound = probe(path).sound
    assert sound.n_lost == 1
    whole, damaged = waveform(avi), waveform(path)
    assert len(damaged) == pytest.approx(len(whole), abs=1152)
    lag = np.correlate(whole[40000:48000], damaged[40000 - 36 : 48000 + 36][:8000]).argmax()
    assert lag == 0  # what comes after the gap has kept its time
    notes = read_file(path, SETTINGS).notes
    expected = f"1 of {sound.n_packets} packets of sound could not be decoded"
    assert any(expected in note for note in notes)
    found = found_in(path)
    assert isinstance(found, Finding)
    assert (found.lost_packets, found.has_audio) == (1, True)


def test_sound_much_of_which_is_damaged_is_refused_by_stream_and_time(tmp_path):
    whole = write_media(tmp_path / "whole.mp4")  # 95 packets of 21 ms
    path = damage_packet(tmp_path / "many.mp4", whole, range(50, 70))
    for read in (probe, lambda p: decode(p, 4), lambda p: read_file(p, SETTINGS)):
        with pytest.raises(
            UnreadableMedia, match=r"only 75 of 95 packets of sound decode \(stream 1, .* at 1.0 s"
        ):
            read(path)


@pytest.mark.parametrize("codec", ["aac", "pcm_s16le", "pcm_u8"])
def test_digital_silence_is_noticed(tmp_path, codec):
    path = write_media(tmp_path / "silent.mov", acodec=codec, silent=True)
    assert probe(path).sound.digital_silence
    clip = read_clip(path, SETTINGS)
    assert clip.sound.digital_silence and clip.inputs.has_audio
    assert read_file(path, SETTINGS).notes == (DIGITAL_SILENCE,)
    assert not probe(write_media(tmp_path / "heard.mov", acodec=codec)).sound.digital_silence


def test_a_variable_rate_file_lasts_as_long_as_its_time_stamps_say(tmp_path):
    found = probe(variable_rate(tmp_path / "vfr.mp4"))
    assert (found.duration, found.n_frames) == (10.0, 39)
    assert found.fps == pytest.approx(3.9)


def test_frames_are_sampled_by_number_or_by_time(tmp_path):
    path = variable_rate(tmp_path / "vfr.mp4")

    def reds(sampling, num_frames):
        settings = dataclasses.replace(SETTINGS, sampling=sampling, num_frames=num_frames)
        pixels = preprocess(path, settings).pixels
        return (pixels[:, 0, 24, 24] > pixels[:, 2, 24, 24]).tolist()

    assert reds("index", 4) == [True, True, True, False]
    assert reds("time", 4) == [False] * 4  # at 1.25, 3.75, 6.25 and 8.75 s
    assert reds("time", 10) == [True] + [False] * 9


def test_a_checkpoint_that_does_not_say_samples_by_number():
    from pydantic import TypeAdapter

    saved = dataclasses.asdict(SETTINGS)
    del saved["sampling"]
    assert TypeAdapter(MediaSettings).validate_python(saved).sampling == "index"


def test_long_sound_is_counted_as_cut_by_more_than_an_encoders_padding(tmp_path):
    path = write_media(tmp_path / "long.mp4", seconds=40.0)
    found = found_in(path)
    assert isinstance(found, Finding)
    assert found.audio_duration == pytest.approx(40.0, abs=0.1)
    assert found.duration == 2.0
    assert SETTINGS.cuts(found.audio_duration)
    note = "cut: the model heard the first 2 of 40.0 s of sound"
    assert read_file(path, SETTINGS).notes == (note,)
    exact = write_clip(tmp_path / "exact.mp4", seconds=2.0)
    assert not SETTINGS.cuts(probe(exact).sound.seconds)  # 2.0 s, by AAC 2.048


@pytest.mark.parametrize("width", [16, 24, 48])
@pytest.mark.parametrize(("suffix", "codec"), [("mp4", "libx264"), ("avi", "mpeg4")])
def test_what_decord_cannot_hand_out_is_read(tmp_path, suffix, codec, width):
    path = tmp_path / f"narrow.{suffix}"
    write_clip(path, size=(width, 64), audio=None, codec=codec)
    assert probe(path).n_frames == 8
    frames = decode(path, 8).frames
    with av.open(str(path)) as clip:
        expected = [frame.to_ndarray(format="rgb24") for frame in clip.decode(video=0)]
    np.testing.assert_array_equal(frames, expected)


@pytest.mark.parametrize("size", [(64, 64), (66, 50), (320, 180)])
@pytest.mark.parametrize(
    ("suffix", "codec"),
    [("mp4", "libx264"), ("avi", "mpeg4"), ("mkv", "libvpx"), ("mp4", "libx265")],
)
def test_both_readers_give_the_same_pixels(tmp_path, monkeypatch, suffix, codec, size):
    from r1omni.media import pictures

    path = write_clip(tmp_path / f"a.{suffix}", size=size, audio=None, codec=codec)
    by_decord = decode(path, 8).frames
    monkeypatch.setattr(pictures, "DECORD_PIXELS", 0)
    np.testing.assert_array_equal(decode(path, 8).frames, by_decord)
    by_time = dataclasses.replace(SETTINGS, sampling="time")
    by_pyav = preprocess(path, by_time).pixels
    monkeypatch.undo()
    np.testing.assert_array_equal(preprocess(path, by_time).pixels, by_pyav)


def test_a_phones_turned_picture_is_upright_by_both_readers(tmp_path, monkeypatch):
    from r1omni.media import pictures

    content = bytearray(write_clip(tmp_path / "flat.mp4", size=(96, 64)).read_bytes())
    matrix = content.find(b"tkhd") + 4 + 40  # a quarter turn in the first track's header
    turn = (0, 65536, 0, -65536, 0, 0, 64 << 16, 0, 1 << 30)
    content[matrix : matrix + 36] = b"".join(n.to_bytes(4, "big", signed=True) for n in turn)
    path = tmp_path / "phone.mp4"
    path.write_bytes(content)
    flat, by_decord = decode(tmp_path / "flat.mp4", 4).frames, decode(path, 4).frames
    np.testing.assert_array_equal(by_decord, np.rot90(flat, 3, axes=(1, 2)))
    monkeypatch.setattr(pictures, "DECORD_PIXELS", 0)
    np.testing.assert_array_equal(decode(path, 4).frames, by_decord)


@pytest.fixture(scope="module")
def huge(tmp_path_factory) -> Path:
    """One frame of 36 MiB in a file of a few kilobytes."""
    path = tmp_path_factory.mktemp("huge") / "huge.mp4"
    return write_media(path, n=1, size=(6144, 4096), acodec=None)


def test_frames_above_the_limit_are_refused_before_any_is_decoded(huge):
    command = (
        "import resource, sys; from pathlib import Path\n"
        "from r1omni.media import UnreadableMedia, probe\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "try:\n    probe(Path(sys.argv[1]), 4096 * 2304)\n"
        "except UnreadableMedia as error:\n    print(error)\n"
        "print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", command, huge], capture_output=True, text=True, check=True
    )
    reason, grown = done.stdout.splitlines()
    assert reason.endswith(
        "have 6144 x 4096 pixels, more than ingest.max_pixels, 9,437,184, allows"
    )
    assert int(grown) < 36  # MiB
    for outcome in (found_in(huge), *decode_clips([huge], SETTINGS, 1, LIMITS)):
        assert "ingest.max_pixels" in str(outcome)
    with pytest.raises(UnreadableMedia, match="6144 x 4096"):
        read_file(huge, SETTINGS, LIMITS.max_pixels)


def test_a_worker_that_needs_more_memory_than_it_may_have_refuses_the_clip(huge, tmp_path):
    small = write_media(tmp_path / "small.mp4")
    limits = dataclasses.replace(LIMITS, memory_mb=32, max_pixels=2**26)
    probed = dict(probe_clips(enumerate([huge, small]), workers=1, limits=limits))
    decoded = list(decode_clips([huge, small], SETTINGS, 1, limits))
    assert isinstance(probed[0], Unreadable) and isinstance(probed[1], Finding)
    assert isinstance(decoded[0], Undecoded) and not isinstance(decoded[1], Undecoded)
    assert "memory" in probed[0].detail and "memory" in decoded[0].reason
    assert isinstance(found_in(huge, max_pixels=2**26), Finding)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is empty"),
        (b"<!DOCTYPE html><html><body>404 Not Found</body></html>\n", "is HTML, not media"),
        (b"\n  <HTML>\n", "is HTML, not media"),
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "is a picture (PNG), neither video nor sound"),
        (b"\xff\xd8\xff\xe0\0\x10JFIF\0", "is a picture (JPEG), neither video nor sound"),
        (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', "is XML, not media"),
        (b'{"error": "quota"}', "is JSON or other text, not media"),
        ("Erreur : fichier supprimé\n".encode(), "is text, not media"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "is text, not media"),
    ],
)
def test_what_is_no_media_is_told_apart(tmp_path, content, reason):
    path = tmp_path / "clip.mp4"
    path.write_bytes(content)
    for read in (probe, lambda p: decode(p, 4), lambda p: read_file(p, SETTINGS)):
        with pytest.raises(UnreadableMedia) as refused:
            read(path)
        assert str(refused.value) == f"{path}: {reason}"


@pytest.mark.parametrize("name", ["list.m3u8", "list.mp4", "list.ffconcat", "a.sdp", "b.pls"])
def test_playlists_are_refused_by_rule_and_nothing_is_fetched(tmp_path, name):
    write_clip(tmp_path / "clip.ts")
    asked: list[str] = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            super().do_GET()

        def log_message(self, *_):
            pass

    serving = functools.partial(Handler, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), serving) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/clip.ts"
        path = tmp_path / name
        for where in (url, "clip.ts"):
            path.write_text(
                {
                    "list.ffconcat": f"ffconcat version 1.0\nfile {where}\n",
                    "a.sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\nc=IN IP4 127.0.0.1\n"
                    "m=video 5004 RTP/AVP 96\na=rtpmap:96 H264/90000\n",
                    "b.pls": f"[playlist]\nFile1={where}\n",
                }.get(
                    name,
                    f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1.0,\n{where}\n#EXT-X-ENDLIST\n",
                )
            )
            for read in (probe, lambda p: decode(p, 4), lambda p: read_file(p, SETTINGS)):
                with pytest.raises(UnreadableMedia, match=r"is a (playlist|session description)"):
                    read(path)
        server.shutdown()
    assert asked == []


@pytest.mark.parametrize("layout", ["mono", "stereo", "5.1"])
def test_sound_that_starts_late_keeps_its_time(tmp_path, layout):
    for suffix in ("mp4", "mkv"):
        path = write_media(tmp_path / f"late.{suffix}", layout=layout, late=0.7, seconds=1.0)
        wave = waveform(path)
        assert loud_from(wave) == pytest.approx(0.7, abs=0.03), suffix
        assert (wave[:10000] == 0).all()
        assert len(wave) == pytest.approx(1.7 * 16000, abs=2048)
        assert probe(path).sound.seconds == pytest.approx(1.7, abs=0.06)


@pytest.mark.parametrize("layout", ["stereo", "5.1"])
def test_sound_that_ends_before_its_picture_is_not_made_longer(tmp_path, layout):
    path = write_media(tmp_path / "short.mp4", layout=layout, seconds=1.0)
    wave = waveform(path)
    assert loud_from(wave) < 0.03
    assert len(wave) == pytest.approx(16000, abs=1024)
    assert probe(path).duration == 2.0


def test_sound_of_non_finite_samples_is_refused(tmp_path):
    path = tmp_path / "nan.wav"
    with av.open(str(path), "w") as out:
        stream = out.add_stream("pcm_f32le", rate=16000, layout="mono")
        wave = np.full((1, 4000), np.nan, dtype=np.float32)
        frame = av.AudioFrame.from_ndarray(wave, format="flt", layout="mono")
        frame.sample_rate, frame.pts = 16000, 0
        out.mux(stream.encode(frame))
        out.mux(stream.encode())
    with pytest.raises(UnreadableMedia, match="non-finite"):
        read_file(path, SETTINGS)
