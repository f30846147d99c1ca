"""Access to Prefect's server: only this user's clients use it, and they use no other server.

Whoever can create a deployment runs commands as the user who started the worker. A worker runs
whatever its server tells it. Hence clients send the secret in .prefect/auth, and no request goes to
a server that somebody else has started on the same port.
"""

import base64
import json
import tomllib
import urllib.error
import urllib.request
from pathlib import Path

import psutil  # type: ignore[import-untyped]

from r1omni.loopback import HOST, listeners, read_secret, write_private

PROFILE = "r1omni"
AUTH_FILE = "auth"
TIMEOUT = 5.0  # seconds for one request


class PortTaken(RuntimeError):
    """Another program, project or user listens on the port."""


def access_environment(home: Path, port: int) -> dict[str, str]:
    """Prefect's settings for a server that this user alone can use, and for its clients.

    Raises ValueError if other users can read the secret.
    """
    auth = read_secret(home / AUTH_FILE)
    return {
        "PREFECT_HOME": str(home),
        "PREFECT_API_URL": f"http://{HOST}:{port}/api",
        "PREFECT_API_AUTH_STRING": auth,
        "PREFECT_SERVER_API_AUTH_STRING": auth,
        "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": f"http://{HOST}:{port}",
    }


def write_profile(environment: dict[str, str]) -> Path:
    """The profile by which prefect's commands reach the server, in this folder (flows/plugin.py).

    It keeps what the user has set in it or in other profiles.
    """
    path = Path(environment["PREFECT_HOME"]) / "profiles.toml"
    kept = tomllib.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    profiles = kept.get("profiles", {})
    mine = {name: environment[name] for name in ("PREFECT_API_URL", "PREFECT_API_AUTH_STRING")}
    profiles[PROFILE] = {**profiles.get(PROFILE, {}), **mine}
    lines = ["# python -m flows.serve writes the server's address and secret.", ""]
    lines.append(f"active = {json.dumps(PROFILE)}")
    for profile, settings in profiles.items():
        lines += ["", f"[profiles.{json.dumps(profile)}]"]
        lines += [f"{name} = {json.dumps(value)}" for name, value in settings.items()]
    write_private(path, "\n".join(lines) + "\n")
    return path


def is_serving(environment: dict[str, str], port: int) -> bool:
    """Whether this project's own server answers; False if it is not up yet.

    Raises PortTaken for any other listener, which gets no request: a request contains the secret.
    """
    found = listeners(port)
    if not found:
        return False
    if not any(process is not None and _is_own_server(process, environment) for process in found):
        raise PortTaken(
            f"port {port} on {HOST} is taken by another program, project or user; "
            "choose another with --port"
        )
    url = f"{environment['PREFECT_API_URL']}/admin/version"
    stranger = _status(url, None)
    if stranger is not None and stranger != 401:
        raise PortTaken(
            f"the Prefect server on port {port} asks for no password (status {stranger} without "
            "one); stop it and try again"
        )
    return stranger == 401 and _status(url, environment["PREFECT_API_AUTH_STRING"]) == 200


def _is_own_server(process: psutil.Process, environment: dict[str, str]) -> bool:
    try:
        home = process.environ().get("PREFECT_HOME")
    except psutil.Error:  # it ended just now
        return False
    return home is not None and Path(home).resolve() == Path(environment["PREFECT_HOME"]).resolve()


def _status(url: str, auth: str | None) -> int | None:
    """The response's HTTP status; None if there is no response."""
    request = urllib.request.Request(url)
    if auth is not None:
        token = base64.b64encode(auth.encode()).decode()
        request.add_header("Authorization", f"Basic {token}")
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT) as response:
            return int(response.status)
    except urllib.error.HTTPError as error:
        return error.code
    except (urllib.error.URLError, OSError):
        return None
