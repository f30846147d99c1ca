import os
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from r1omni.loopback import HOST, listeners, read_secret


def test_a_secret_is_made_once_and_only_its_user_can_read_it(tmp_path: Path) -> None:
    path = tmp_path / ".prefect" / "auth"
    secret = read_secret(path)
    assert len(secret) >= 32
    assert read_secret(path) == secret
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert [p.name for p in path.parent.iterdir()] == ["auth"]
    assert read_secret(tmp_path / "other" / "auth") != secret


def test_first_starts_at_once_agree_on_one_secret(tmp_path: Path) -> None:
    program = "import sys; from pathlib import Path; from r1omni.loopback import read_secret\n"
    program += "print(read_secret(Path(sys.argv[1])))"
    command = [sys.executable, "-c", program, str(tmp_path / "auth")]
    started = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    assert len({process.communicate()[0] for process in started}) == 1


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o620])
def test_a_secret_that_others_can_read_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "auth"
    read_secret(path)
    path.chmod(mode)
    with pytest.raises(
        ValueError, match=rf"auth: expected .* only you can read, found mode {mode:o}"
    ):
        read_secret(path)


def test_a_secret_that_is_a_link_or_too_short_is_refused(tmp_path: Path) -> None:
    read_secret(tmp_path / "real")
    (tmp_path / "auth").symlink_to(tmp_path / "real")
    with pytest.raises(ValueError, match="only you can read"):
        read_secret(tmp_path / "auth")
    (tmp_path / "real").write_text("guess me\n")
    with pytest.raises(ValueError, match="too short"):
        read_secret(tmp_path / "real")


def test_who_listens_is_known() -> None:
    with socket.socket() as server:
        server.bind((HOST, 0))
        port = server.getsockname()[1]
        assert listeners(port) == []
        server.listen()
        (found,) = listeners(port)
        assert found is not None
        assert found.pid == os.getpid()
