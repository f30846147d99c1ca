"""The automation that marks a flow run as Crashed when its process has died.

A process that is killed reports nothing, and its run would stay Running for ever. Flow runs send a
heartbeat; a run whose heartbeat stays out is Crashed, and the next run in the queue starts.
`python -m flows.automations` installs it on the server that Prefect's settings name.
Source: https://docs.prefect.io/v3/advanced/detect-zombie-flows
"""

from datetime import timedelta

HEARTBEAT_SECONDS = 30  # Prefect's least
SILENCE_SECONDS = 90  # without a heartbeat: a busy machine may delay one or two
NAME = "crashed runs"


def install() -> None:
    """Create the automation, or replace the one of that name."""
    from prefect.automations import Automation
    from prefect.client.schemas.objects import StateType
    from prefect.events.actions import ChangeFlowRunState
    from prefect.events.schemas.automations import EventTrigger, Posture
    from prefect.events.schemas.events import ResourceSpecification

    ends = ("Completed", "Failed", "Cancelled", "Crashed")
    heartbeat = "prefect.flow-run.heartbeat"
    wanted = Automation(
        name=NAME,
        description="A run whose process has died is Crashed",
        trigger=EventTrigger(
            after={heartbeat},
            expect={heartbeat, *(f"prefect.flow-run.{end}" for end in ends)},
            match=ResourceSpecification({"prefect.resource.id": ["prefect.flow-run.*"]}),
            for_each={"prefect.resource.id"},
            posture=Posture.Proactive,
            threshold=1,
            within=timedelta(seconds=SILENCE_SECONDS),
        ),
        actions=[
            ChangeFlowRunState(
                state=StateType.CRASHED,
                message=f"its process sent no heartbeat for {SILENCE_SECONDS} s",
            )
        ],
    )
    try:
        known = Automation.read(name=NAME)
    except ValueError:
        wanted.create()
        return
    wanted.id = known.id  # type: ignore[attr-defined]
    wanted.update()


if __name__ == "__main__":
    install()
