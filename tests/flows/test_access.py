import socket
import stat
import tomllib
from pathlib import Path

import pytest

from flows.access import PortTaken, access_environment, is_serving, write_profile
from flows.serve import main


def test_the_profile_is_private_and_keeps_what_the_user_has_set(tmp_path: Path) -> None:
    environment = access_environment(tmp_path, 4200)
    path = write_profile(environment)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    mine = {
        "PREFECT_API_URL": "http://127.0.0.1:4200/api",
        "PREFECT_API_AUTH_STRING": (tmp_path / "auth").read_text().strip(),
    }
    assert tomllib.loads(path.read_text()) == {"active": "r1omni", "profiles": {"r1omni": mine}}
    own = 'PREFECT_LOGGING_LEVEL = "DEBUG"\n[profiles."my own"]\nPREFECT_LOGGING_LEVEL = "INFO"\n'
    path.write_text(path.read_text() + own)
    write_profile(access_environment(tmp_path, 4300))
    moved = mine | {"PREFECT_API_URL": "http://127.0.0.1:4300/api"}
    assert tomllib.loads(path.read_text())["profiles"] == {
        "r1omni": moved | {"PREFECT_LOGGING_LEVEL": "DEBUG"},
        "my own": {"PREFECT_LOGGING_LEVEL": "INFO"},
    }


def test_a_strange_server_on_the_port_is_refused_and_gets_no_request(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A request would reveal the secret, and a worker would run the server's commands."""
    monkeypatch.chdir(tmp_path)
    with socket.socket() as strange:
        strange.bind(("127.0.0.1", 0))
        port = strange.getsockname()[1]
        environment = access_environment(tmp_path / ".prefect", port)
        assert not is_serving(environment, port)
        strange.listen()
        with pytest.raises(PortTaken, match=f"port {port} .* is taken by another .* --port"):
            is_serving(environment, port)
        assert main(["--port", str(port)]) == 1
        strange.settimeout(0.2)
        with pytest.raises(TimeoutError):
            strange.accept()
    assert "is taken by another" in capsys.readouterr().err


def test_a_secret_that_others_can_read_stops_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    access_environment(tmp_path / ".prefect", 4200)
    (tmp_path / ".prefect" / "auth").chmod(0o644)
    assert main(["--port", "1"]) == 1
