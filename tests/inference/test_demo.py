"""`r1omni demo` in a real browser, where the extra [demo], Playwright and Chromium are there."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from clip_files import write_clip

from r1omni.emotions import EMOTIONS
from r1omni.inference.answer import Answer, answer_files
from r1omni.inference.demo import MISSING, answer_with, build_page, launch, run_demo, texts
from r1omni.inference.files import Refusal
from r1omni.inference.options import DEFAULTS, choose_options
from r1omni.inference.service import Service
from r1omni.judging import judge
from r1omni.lineage import write_provenance
from r1omni.loopback import PortTaken

REPO = Path(__file__).parents[2]
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
EVIL = "<img src=x onerror=\"document.title='harmed'\"><script>document.title='harmed'</script>"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_without_the_extra_one_line_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(ValueError, match="run `make demo`") as error:
        run_demo("nowhere", free_port(), DEFAULTS)
    assert str(error.value) == MISSING


def test_a_busy_port_is_said_before_the_model_is_loaded() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(PortTaken, match=f"port {port} on 127.0.0.1 is taken"):
            run_demo("nowhere", port, DEFAULTS)


def test_a_file_is_deleted_when_it_is_answered_or_refused(tiny: Any, tmp_path: Path) -> None:
    answer = answer_with(Service(tiny, choose_options(None, True, {"max_new_tokens": 2})))
    clip, text = write_clip(tmp_path / "a.mp4"), tmp_path / "b.mp4"
    text.write_text("not a clip")
    emptied, _, _, probabilities, notes = answer(str(clip))
    assert (emptied, notes) == (None, "cut: the answer was stopped after 2 tokens")
    assert probabilities is not None and set(probabilities) == set(EMOTIONS)
    assert answer(str(text)) == (None, "refused: is text, not media", "", None, "")
    assert answer(None) == (None, "", "", None, "")
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium with a camera and a microphone that are not real."""
    pytest.importorskip("gradio", reason="the extra [demo] is not installed")
    playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("there is no Chromium on this machine")
    flags = ["--no-sandbox", "--use-fake-device-for-media-stream"]
    with playwright.sync_playwright() as running:
        browser = running.chromium.launch(
            executable_path=CHROMIUM, args=[*flags, "--use-fake-ui-for-media-stream"]
        )
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tiny: Any) -> Path:
    """A checkpoint of synthetic clips, params with small limits, and a clip."""
    folder = tmp_path_factory.mktemp("demo")
    tiny.model.save_pretrained(folder / "model")
    tiny.processor.save_pretrained(folder / "model")
    write_provenance(folder / "model", {"data": {"dfew": {"data": "synthetic"}}})
    text = (REPO / "params.yaml").read_text().replace("max_body_mb: 64", "max_body_mb: 1")
    (folder / "params.yaml").write_text(text.replace("max_new_tokens: 64", "max_new_tokens: 6"))
    write_clip(folder / "clip.mp4", audio=None)
    (folder / "tmp").mkdir()
    return folder


@pytest.fixture(scope="module")
def address(folder: Path, browser: Any) -> Iterator[str]:
    """The page of a real `r1omni demo`."""
    port = free_port()
    command = [sys.executable, "-m", "r1omni.cli", "demo", "--port", str(port), "--model", "model"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TMPDIR": str(folder / "tmp")}
    environment["PYTHONPATH"] = os.pathsep.join([str(REPO), *sys.path])
    process = subprocess.Popen(command, cwd=folder, env=environment)
    try:
        for _ in range(400):
            with suppress(OSError):
                urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=30).close()
                break
            assert process.poll() is None
            time.sleep(0.3)
        yield f"http://127.0.0.1:{port}/"
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) == 0
        assert not list((folder / "tmp").glob("r1omni-demo-*"))


def opened(browser: Any, address: str, **context: Any) -> Any:
    """The loaded page; a request to any other host fails the test."""
    page = browser.new_context(permissions=["camera", "microphone"], **context).new_page()
    page.set_default_timeout(60_000)
    page.elsewhere = []
    page.on("request", lambda r: r.url.startswith((address, "blob:", "data:"))
            or page.elsewhere.append(r.url))  # fmt: skip
    page.goto(address)
    page.get_by_label("Answer").wait_for()
    return page


def shown(page: Any) -> list[str]:
    """Answer, rationale and notes, when they are there."""
    page.wait_for_function("document.querySelectorAll('textarea')[2].value")
    return [page.get_by_label(name, exact=True).input_value()
            for name in ("Answer", "Rationale", "What was missing or cut")]  # fmt: skip


def test_an_uploaded_clip_is_answered_as_predict_answers_it_and_nothing_is_kept(
    browser: Any, address: str, folder: Path, tiny: Any
) -> None:
    page = opened(browser, address)
    assert "trained on rendered faces only" in page.inner_text("body")
    page.set_input_files("input[type=file]", folder / "clip.mp4")
    options = choose_options(folder / "params.yaml", False, {})
    (expected,) = answer_files(
        [str(folder / "clip.mp4")], tiny, labels=EMOTIONS, limits=options.limits,
        batch_size=options.batch_size, max_new_tokens=options.max_new_tokens,
    )  # fmt: skip
    label, rationale, probabilities, notes = texts(expected)
    assert shown(page) == [label, rationale, notes]
    assert "no audio: the model heard silence" in notes
    assert probabilities is not None
    first, chance = max(probabilities.items(), key=lambda item: item[1])
    assert f"{first} {round(100 * chance)}%" in " ".join(page.inner_text("body").split())
    assert list((folder / "tmp").rglob("*.mp4")) == []
    assert page.elsewhere == []


def test_a_recording_is_made_and_answered_by_the_keyboard_alone(
    browser: Any, address: str, folder: Path
) -> None:
    """On a narrow dark page: 360 pixels wide."""
    page = opened(browser, address, viewport={"width": 360, "height": 740}, color_scheme="dark")
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    colour = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert max(map(int, colour[4:-1].split(","))) < 40
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.innerText") == "Camera and microphone"
    page.keyboard.press("Enter")
    page.get_by_text("Click to Access Webcam").wait_for()
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    record = page.get_by_label("start recording")
    record.filter(has_text="Record").wait_for()
    record.press("Enter")
    record.filter(has_text="Stop").wait_for()
    time.sleep(2.5)
    record.press("Enter")
    answer, _, notes = shown(page)
    assert not answer.startswith("refused")
    assert "no audio" not in notes and "no video" not in notes
    assert [file for file in (folder / "tmp").rglob("*") if file.suffix in (".webm", ".mp4")] == []
    assert page.elsewhere == []


def test_a_file_is_chosen_by_the_keyboard_and_refused_with_its_reason(
    browser: Any, address: str, tmp_path: Path
) -> None:
    page = opened(browser, address)
    for _ in range(3):
        page.keyboard.press("Tab")
    assert "Click to Upload" in page.evaluate("document.activeElement.innerText")
    with page.expect_file_chooser() as chooser:
        page.keyboard.press("Enter")
    text = tmp_path / "text.mp4"
    text.write_text("not a clip\n")
    chooser.value.set_files(text)
    page.wait_for_function("document.querySelectorAll('textarea')[0].value")
    assert page.get_by_label("Answer").input_value() == "refused: is text, not media"


def test_large_files_and_other_names_of_the_host_are_refused(address: str) -> None:
    line = b"--x\r\nContent-Disposition: form-data; name=files; filename=a.mp4\r\n\r\n"
    body = line + b"0" * (2**20 + 1) + b"\r\n--x--\r\n"
    upload = urllib.request.Request(
        f"{address}gradio_api/upload", body, {"Content-Type": "multipart/form-data; boundary=x"}
    )
    rebound = urllib.request.Request(address, headers={"Host": "evil.example"})
    for request, status in ((upload, 413), (rebound, 400)):
        with pytest.raises(urllib.error.HTTPError) as error:
            urllib.request.urlopen(request, timeout=30)
        assert error.value.code == status


class Harmful:
    """Stands for a model that has learned to write HTML."""

    def answer(self, files: list[Path | Refusal]) -> list[Answer | Refusal]:
        completion = f"<think>{EVIL}</think>\n<answer>{EVIL}</answer>"
        judged = judge(completion, "reasoned")
        return [Answer(Path("a.mp4"), completion, judged, {EVIL: 0.75, "sad": 0.25}, (EVIL,))]


def test_html_in_a_completion_is_shown_as_text(
    browser: Any, folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    port = free_port()
    site: Any = build_page(Harmful(), None)  # type: ignore[arg-type]
    launch(site, port, max_mb=1)
    try:
        page = opened(browser, f"http://127.0.0.1:{port}/")
        page.set_input_files("input[type=file]", folder / "clip.mp4")
        answer, rationale, notes = shown(page)
        assert (answer, rationale, notes) == (f'no known emotion ("{EVIL}")', EVIL, EVIL)
        page.get_by_text(EVIL, exact=False).first.wait_for(state="attached")
        assert page.title() == "R1-Omni: the emotion in a clip"
        assert page.locator("img[src=x]").count() == 0
    finally:
        site.close()
