"""A registered version is an MLflow Model, loaded and served by MLflow with `predict`'s answers."""

import base64
import json
import os
import shutil
import signal
import sys
import time
import urllib.request
from contextlib import suppress
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from clip_files import write_clip
from forking import run_module
from made_up_model import write_model
from test_server import free_port

from r1omni.config import TrackingParams
from r1omni.emotions import EMOTIONS
from r1omni.inference.answer import answer_files
from r1omni.inference.options import DEFAULTS
from r1omni.inference.served import MEDIA_ROOT, allowed_file
from r1omni.lineage import write_provenance
from r1omni.tracking.registry import run_register
from r1omni.tracking.store import open_client

MODEL = "models:/r1-omni/1"


@pytest.fixture(scope="module")
def once(tmp_path_factory: pytest.TempPathFactory, empty_store: Path, tiny: Any) -> Path:
    """A project whose version 1 is a real, untrained model; tests must not change it."""
    project = tmp_path_factory.mktemp("project")
    shutil.copy(empty_store, project / "mlflow.db")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(project)
        patch.setenv("DVC_ROOT", str(project))
        paths = write_model(project, "grpo")
        tiny.model.save_pretrained(paths["checkpoint"])
        tiny.processor.save_pretrained(paths["checkpoint"])
        write_provenance(paths["checkpoint"], {"stage": "grpo"})
        tracking = TrackingParams(
            uri="sqlite:///mlflow.db", artifacts=None, experiment="r1omni", system_metrics=False,
            registered_model="r1-omni",
        )  # fmt: skip
        run_register(**paths, name="grpo", tracking=tracking)
    return project


@pytest.fixture
def registered(once: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """That project, as the current directory."""
    monkeypatch.chdir(once)
    monkeypatch.setenv("DVC_ROOT", str(once))
    return once


def encoded(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()


def asked(port: int, *rows: dict[str, str]) -> Any:
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/invocations",
        json.dumps({"dataframe_records": rows}).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=60) as response:
        return json.loads(response.read())["predictions"]


@pytest.mark.slow
def test_mlflow_loads_and_serves_what_predict_answers(
    registered: Path, tiny: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from mlflow import pyfunc

    media = registered / "media"
    media.mkdir()
    clip = write_clip(media / "a.mp4")
    monkeypatch.setenv(MEDIA_ROOT, str(media))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{registered}/mlflow.db")
    port, command = free_port(), [sys.executable, "-m", "mlflow", "models", "serve", "-m", MODEL]
    command += ["--env-manager", "local", "--port", str(port), "--host", "127.0.0.1"]
    said = tmp_path / "said"
    served = run_module(command, registered, said, os.environ, os.setsid)
    assert served.pid is not None
    try:
        asking = {"labels": EMOTIONS, "limits": DEFAULTS.limits, "batch_size": DEFAULTS.batch_size}
        asking["max_new_tokens"] = DEFAULTS.max_new_tokens
        (answer,) = answer_files([str(clip)], tiny, **asking)
        expected = json.loads(answer.as_json())
        model = pyfunc.load_model(MODEL)
        rows = [{"path": str(clip)}, {"bytes": encoded(clip)}, {"path": "/etc/passwd"}]
        rows += [{"path": "a.mp4", "bytes": encoded(clip)}, {"bytes": "???"}]
        by_path, by_bytes, outside, both, broken = model.predict(pd.DataFrame(rows))
        assert by_path == expected
        assert by_bytes == {**expected, "file": None}
        assert outside == {"file": "/etc/passwd", "refused": f"is not below {MEDIA_ROOT}"}
        assert both["refused"] == "expected either path or bytes (base64), as text"
        assert broken["refused"].startswith("its bytes are not base64")
        for _ in range(300):
            with suppress(OSError):
                urllib.request.urlopen(f"http://127.0.0.1:{port}/ping", timeout=5)
                break
            assert served.is_alive(), said.read_text()
            time.sleep(0.3)
        assert asked(port, {"path": "a.mp4"}) == [{**expected, "file": "a.mp4"}]
        assert asked(port, {"bytes": encoded(clip)}) == [by_bytes]
    finally:
        os.killpg(served.pid, signal.SIGTERM)
        served.join(timeout=30)
        assert not served.is_alive()
    assert not list(registered.rglob("*.pkl"))


def test_a_damaged_version_is_not_loaded(registered: Path, tmp_path: Path) -> None:
    from mlflow import pyfunc

    whole = next(registered.glob("mlartifacts/models/*/artifacts"))
    folder = shutil.copytree(whole, tmp_path / "artifacts")
    weights = folder / "checkpoint" / "config.json"
    weights.chmod(0o644)
    weights.write_text(weights.read_text() + " ")
    with pytest.raises(ValueError, match="are not those that were registered"):
        pyfunc.load_model(str(folder))


def test_the_model_has_signature_requirements_and_metrics_tied_to_the_held_out_clips(
    registered: Path, tracking: TrackingParams
) -> None:
    client, experiment = open_client(tracking)
    (model,) = client.search_logged_models([experiment])
    assert (model.name, str(model.status)) == ("grpo", "READY")
    version = client.get_model_version("r1-omni", "1")
    (war,) = [m for m in model.metrics if m.key == "eval/held_out/war"]
    assert (war.value, war.dataset_name) == (0.6, "held_out")
    assert version.tags["held_out"].startswith(war.dataset_digest)
    folder = next(registered.glob("mlartifacts/models/*/artifacts"))
    assert "r1omni.inference.served" in (folder / "MLmodel").read_text()
    assert "torch==" in (folder / "requirements.txt").read_text()


def test_a_path_may_not_leave_the_allowed_folder(tmp_path: Path) -> None:
    root = tmp_path / "media"
    (root / "deep").mkdir(parents=True)
    (root / "inside.mp4").symlink_to(root / "deep" / "a.mp4")
    (root / "escape").symlink_to("/etc")
    (root / "loop").symlink_to("loop")
    link = tmp_path / "link"
    link.symlink_to(root)
    for path in ("deep/a.mp4", str(root / "deep/a.mp4"), "inside.mp4", "deep/../deep/a.mp4"):
        for known in (root, link):
            assert allowed_file(path, known) == root / "deep" / "a.mp4"
    for path in ("../a.mp4", "/etc/passwd", "escape/passwd", f"{root}-other/a.mp4"):
        with pytest.raises(ValueError, match=f"is not below {MEDIA_ROOT}"):
            allowed_file(path, root)
    for path in ("http://127.0.0.1/a.mp4", "file:///etc/passwd", "concat://a"):
        with pytest.raises(ValueError, match="URLs are not fetched"):
            allowed_file(path, root)
    with pytest.raises(ValueError, match="null character"):
        allowed_file("a\0.mp4", root)
    with pytest.raises(ValueError, match="names no folder"):
        allowed_file("a.mp4", None)
    assert allowed_file("loop", root).name == "loop"
