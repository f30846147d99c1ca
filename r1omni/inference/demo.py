"""`r1omni demo`: a page on this machine that answers an uploaded file or a recording."""

import os
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Final

from r1omni.inference.options import PredictOptions
from r1omni.loopback import HOST, check_port

if TYPE_CHECKING:
    from r1omni.inference.answer import Answer
    from r1omni.inference.files import Refusal
    from r1omni.inference.service import Service

MISSING: Final = (
    "the page needs Gradio, which is not installed here: run `make demo`, which installs the "
    "tested version (extra [demo])"
)
TITLE: Final = "R1-Omni: the emotion in a clip"
_FONTS: Final = ("system-ui", "sans-serif")  # the theme's own are files that a browser would load
_AT_ONCE: Final = 8  # clips in work; the others wait
Shown = tuple[None, str, str, dict[str, float] | None, str]


def run_demo(model: str, port: int, options: PredictOptions, base: Path | None = None) -> None:
    """Serve the page on 127.0.0.1:`port` until SIGINT or SIGTERM. It keeps no file.

    `base`: where an adapter's base lies, if not where the adapter says. Raises PortTaken;
    ValueError for what is no checkpoint, and where Gradio is missing.
    """
    check_port(port)
    for name in ("GRADIO_ANALYTICS_ENABLED", "GRADIO_SHARE", "GRADIO_MCP_SERVER"):
        os.environ[name] = "False"  # read at Gradio's import
    try:
        import gradio  # noqa: F401
    except ImportError as error:
        raise ValueError(MISSING) from error
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    options.set_threads()
    with suppress(KeyboardInterrupt), TemporaryDirectory(prefix="r1omni-demo-") as folder:
        os.environ["GRADIO_TEMP_DIR"] = folder
        service, warning = _load(model, options, base)
        page = build_page(service, warning)
        launch(page, port, options.serve.max_body_mb)
        sys.stderr.write(f"{model}: http://{HOST}:{port} (Ctrl-C stops it)\n")
        try:
            threading.Event().wait()
        finally:
            page.close()


def _load(model: str, options: PredictOptions, base: Path | None) -> "tuple[Service, str | None]":
    """The model, and the warning to show if it was trained on rendered faces alone."""
    from r1omni.inference.loading import find_checkpoint, load_checkpoint
    from r1omni.inference.service import Service
    from r1omni.lineage import caution, read_lineage
    from r1omni.media.pool import start_forkserver

    start_forkserver()
    checkpoint = find_checkpoint(model, options.tracking)
    backbone = load_checkpoint(checkpoint, device=options.device, base=base)
    return Service(backbone, options), caution(read_lineage(checkpoint))


def build_page(service: "Service", warning: str | None) -> Any:
    """The page as gradio.Blocks. Texts of the model stand in text boxes, where HTML is inert."""
    import gradio

    answer = answer_with(service)
    with gradio.Blocks(title=TITLE, analytics_enabled=False) as page:
        gradio.Markdown(f"# {TITLE}")
        if warning is not None:
            gradio.Markdown(f"**Note:** {warning}.")
        with gradio.Tab("File"):
            file = gradio.File(
                label="Video or sound",
                file_types=["video", "audio"],
                height=140,
            )
        with gradio.Tab("Camera and microphone"):
            camera = gradio.Video(
                label="Recording",
                sources=["webcam"],
                webcam_options=gradio.WebcamOptions(mirror=False),
                include_audio=True,
            )
        label = gradio.Textbox(label="Answer", interactive=False)
        rationale = gradio.Textbox(label="Rationale", interactive=False, lines=2)
        notes = gradio.Textbox(label="What was missing or cut", interactive=False)
        probabilities = gradio.Label(label="Probability of each label", show_heading=False)
        gradio.Markdown("Files and recordings are deleted as soon as they are answered.")
        shown = [label, rationale, probabilities, notes]
        private = {"api_visibility": "private", "concurrency_limit": _AT_ONCE}
        file.upload(answer, file, [file, *shown], concurrency_id="model", **private)
        camera.stop_recording(answer, camera, [camera, *shown], concurrency_id="model", **private)
    return page


def launch(page: Any, port: int, max_mb: int) -> None:
    """Serve the page on 127.0.0.1:`port` in other threads, to this machine alone."""
    import gradio
    from starlette.middleware import Middleware
    from starlette.middleware.trustedhost import TrustedHostMiddleware

    page.launch(
        server_name=HOST,
        server_port=port,
        share=False,
        inbrowser=False,
        quiet=True,
        prevent_thread_lock=True,
        ssr_mode=False,
        pwa=False,
        mcp_server=False,
        enable_monitoring=False,
        run_history=False,  # a browser would keep the answers
        footer_links=[],
        max_file_size=f"{max_mb}mb",
        theme=gradio.themes.Default(font=_FONTS, font_mono=("monospace",)),
        app_kwargs={
            # The name of another server that leads to this address (DNS rebinding) is refused.
            "middleware": [Middleware(TrustedHostMiddleware, allowed_hosts=[HOST, "localhost"])]
        },
    )


def answer_with(service: "Service") -> Callable[[str | None], Shown]:
    """A function that answers one file, deletes it, and empties the field that it came from."""

    def answer(path: str | None) -> Shown:
        if path is None:
            return None, "", "", None, ""
        try:
            (outcome,) = service.answer([Path(path)])
        finally:
            Path(path).unlink(missing_ok=True)
        return None, *texts(outcome)

    return answer


def texts(outcome: "Answer | Refusal") -> tuple[str, str, dict[str, float] | None, str]:
    """Answer, rationale, probabilities and notes, as the page shows them."""
    from r1omni.inference.files import Refusal

    if isinstance(outcome, Refusal):
        return f"refused: {outcome.reason}", "", None, ""
    rationale = outcome.judged.rationale or outcome.completion
    notes = "\n".join(outcome.notes) or "nothing"
    return outcome.label_text(), rationale, outcome.probabilities, notes
