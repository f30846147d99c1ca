"""Media files opened by PyAV: the accepted kinds, and the errors for all others."""

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import av
from av.container import InputContainer
from av.error import FFmpegError
from av.stream import Disposition
from decord import DECORDError

COMPLETE: Final = 0.9  # the fraction of frames, and of audio packets, that must decode
# FFmpeg's demuxers that read one file only. Playlists and scripts (hls, dash, concat, sdp, image
# sequences) are left out: they name other files, and hosts to fetch from.
KINDS: Final = (
    "mov,mp4,m4a,3gp,3g2,mj2,avi,matroska,webm,mpegts,mpeg,mpegvideo,h264,hevc,m4v,ivf,obu,flv,"
    "live_flv,asf,ogg,gif,apng,mxf,dv,rm,nut,yuv4mpegpipe,wav,w64,aiff,au,caf,mp3,aac,flac,amr,"
    "amrnb,amrwb,gsm,ac3,eac3,dts,truehd,wv,ape,tta,mpc,mpc8,voc"
)
_OPTIONS: Final = {"format_whitelist": KINDS, "protocol_whitelist": "file"}
TOO_LARGE: Final = "takes more memory than a decoding process may have (machine.clip_memory_mb)"
_SOURCE_LINE = re.compile(r"\[[\d:]+\] \S+:\d+: |^\[/.*\]")  # decord's time and source line
_DECODING_ERRORS = (DECORDError, FFmpegError, RuntimeError, OSError, UnicodeError)
_OTHERS: Final = (  # first bytes, in lower case, of files that are often taken for a clip
    (b"\x89png", "a picture (PNG), neither video nor sound"),
    (b"\xff\xd8\xff", "a picture (JPEG), neither video nor sound"),
    (b"#extm3u", "a playlist (M3U8), not media: it only names other files"),
    (b"ffconcat", "a playlist (ffconcat), not media: it only names other files"),
    (b"[playlist]", "a playlist (PLS), not media: it only names other files"),
    (b"v=0", "a session description (SDP), not media: it only names other places"),
    (b"<!doctype html", "HTML, not media"),
    (b"<html", "HTML, not media"),
    (b"<head", "HTML, not media"),
    (b"<?xml", "XML, not media"),
    (b"{", "JSON or other text, not media"),
)
_HEAD: Final = 4096  # bytes that are examined
_PRINTABLE: Final = frozenset(range(32, 256)) | set(b"\t\n\r\f\x1b")


class UnreadableMedia(ValueError):
    """A file that cannot be decoded as a clip; the message names the file and the reason."""


@contextmanager
def translate_decoder_errors(path: Path) -> Iterator[None]:
    """Turn decoders' errors about `path` into UnreadableMedia."""
    try:
        yield
    except MemoryError as error:  # also PyAV's, for FFmpeg's ENOMEM
        raise UnreadableMedia(f"{path}: {TOO_LARGE}") from error
    except _DECODING_ERRORS as error:
        text = getattr(error, "strerror", None) or str(error)
        lines = text.strip().splitlines() or [repr(error)]
        reason = _SOURCE_LINE.sub("", lines[0])
        raise UnreadableMedia(f"{path}: cannot be decoded: {reason}") from error


@contextmanager
def open_media(path: Path, max_pixels: int | None = None) -> Iterator[InputContainer]:
    """The open file. Raises UnreadableMedia if it is none of `KINDS`, or its frames are too large.

    No playlist and no network address is followed. The path is made absolute, because FFmpeg would
    read "a:b.mp4" as a protocol.
    """
    absolute = os.path.abspath(path)  # noqa: PTH100
    try:
        container = av.open(absolute, container_options=_OPTIONS)
    except FFmpegError as error:
        if found := _non_media_kind(path):
            raise UnreadableMedia(f"{path}: is {found}") from error
        raise
    with container:
        for video in container.streams.video:
            _check_size(path, video, max_pixels)
        yield container


def moving_pictures(container: InputContainer) -> Sequence[av.VideoStream]:
    """The video streams without cover art."""
    return [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]


def picture_stream(path: Path, container: InputContainer) -> av.VideoStream:
    """The first video stream. Raises UnreadableMedia if there is none."""
    pictures = moving_pictures(container)
    if not pictures:
        raise UnreadableMedia(f"{path}: has no video stream")
    refuse_unknown_codec(path, pictures[0])
    return pictures[0]


def refuse_unknown_codec(path: Path, stream: av.VideoStream | av.AudioStream) -> None:
    """Raise UnreadableMedia if there is no decoder for the stream."""
    if stream.codec_context is None:
        raise UnreadableMedia(
            f"{path}: cannot be decoded: the codec of its {stream.type} (stream {stream.index}) is "
            "not known"
        )


def _check_size(path: Path, video: av.VideoStream, max_pixels: int | None) -> None:
    if max_pixels is None or video.codec_context is None:
        return
    if video.width * video.height > max_pixels:
        raise UnreadableMedia(
            f"{path}: its frames have {video.width} x {video.height} pixels, more than "
            f"ingest.max_pixels, {max_pixels:,}, allows"
        )
    video.codec_context.options = {
        "max_pixels": str(min(max_pixels, 2**31 - 1))
    }  # a later frame may be larger


def _non_media_kind(path: Path) -> str | None:
    """The kind of a file that FFmpeg does not open (empty, HTML, text …); None if unknown."""
    if not path.is_file():
        return None
    with path.open("rb") as file:
        head = file.read(_HEAD)
    if not head:
        return "empty"
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    for first, kind in _OTHERS:
        if start.startswith(first):
            return kind
    return "text, not media" if set(head) <= _PRINTABLE and _is_text(head) else None


def _is_text(head: bytes) -> bool:
    try:
        head.decode("utf-8")
    except UnicodeDecodeError as error:
        return len(head) == _HEAD and error.start >= len(head) - 3  # a character cut in two
    return True
