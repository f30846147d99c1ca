"""Prefect's startup hook: its commands, typed in this folder, reach this project's own server.

prefect.toml switches it on. `prefect deployment run grpo-pipeline` then needs no export, and no
deployment's name if the flow has only one. The hook: https://docs.prefect.io/v3/advanced/plugins
"""

import os
import sys
import tomllib
from functools import wraps
from pathlib import Path
from typing import Any

from prefect.plugins import HookContext, SetupResult, register_hook

from flows.access import PROFILE

HOME = Path(".prefect")  # where `make prefect` keeps the server's address and secret
CHOSEN = ("PREFECT_API_URL", "PREFECT_PROFILE", "PREFECT_HOME")  # the user's own choice of a server


@register_hook
def setup_environment(*, ctx: HookContext) -> SetupResult | None:
    """The address and the secret of the server that `make prefect` has started in this folder.

    None for a direct run (python -m flows.grpo_pipeline), which needs no server, and if the
    environment names a server already.
    """
    if not _is_prefect_command():
        return None
    _accept_flow_names()
    profiles = HOME / "profiles.toml"
    if any(name in os.environ for name in CHOSEN) or not profiles.is_file():
        return None
    settings = tomllib.loads(profiles.read_text(encoding="utf-8"))["profiles"][PROFILE]
    return SetupResult(env={"PREFECT_HOME": str(HOME.absolute()), **settings})


def _is_prefect_command() -> bool:
    """Whether this process is `prefect …` or `python -m prefect …`."""
    return Path(sys.argv[0]).name == "prefect" or sys.orig_argv[1:3] == ["-m", "prefect"]


def _accept_flow_names() -> None:
    """Let a flow's name stand for its only deployment wherever a deployment's name is expected."""
    from prefect.client.orchestration import PrefectClient
    from prefect.client.schemas.filters import FlowFilter, FlowFilterName
    from prefect.exceptions import ObjectNotFound

    by_full_name = PrefectClient.read_deployment_by_name

    @wraps(by_full_name)
    async def read_deployment_by_name(self: PrefectClient, name: str) -> Any:
        if "/" in name:
            return await by_full_name(self, name)
        flow = FlowFilter(name=FlowFilterName(any_=[name]))
        found = await self.read_deployments(flow_filter=flow)
        names = sorted(f"{name}/{deployment.name}" for deployment in found)
        if not names:
            raise ObjectNotFound(ValueError(f"the flow {name} has no deployment"))
        if len(names) > 1:
            raise SystemExit(f"{name} has {len(names)} deployments: choose {' or '.join(names)}")
        return await by_full_name(self, names[0])

    PrefectClient.read_deployment_by_name = read_deployment_by_name  # type: ignore[assignment, method-assign]
