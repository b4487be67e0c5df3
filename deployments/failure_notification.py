"""Notify people when a run fails or crashes: an automation of the Prefect server calls a webhook.

    NOTIFY_URL=https://… python -m deployments.failure_notification

The message is `{"text": …}`, which Slack, Mattermost and similar services accept. The server stores the address as a
secret, not as a parameter. A second call replaces the automation of the first.
"""

import os
from contextlib import suppress
from typing import Any

from prefect.automations import Automation
from prefect.blocks.notifications import CustomWebhookNotificationBlock
from prefect.events import EventTrigger
from prefect.events.actions import SendNotification

from flows.cli.command import finish
from flows.cli.prefect_server import check_configured
from flows.console.messages import say
from flows.registry import FLOWS
from storage.errors import InputError

NAME = "extract-and-train-failures"
SUBJECT = "{{ flow.name }} {{ flow_run.state.name }}"
BODY = """{{ flow.name }}, run {{ flow_run.name }}: {{ flow_run.state.name }}
{{ flow_run.state.message }}
{{ flow_run|ui_url }}"""


def notify_of_failures(url: str) -> Automation:
    """Create the automation on the server of PREFECT_API_URL: each failed or crashed run of this project calls `url`."""
    block = CustomWebhookNotificationBlock(
        name=NAME,
        url="{{url}}",
        json_data={"text": "{{subject}}\n{{body}}"},
        secrets={"url": url},  # type: ignore[arg-type]
    )
    block_id = block.save(NAME, overwrite=True)
    automation = Automation(
        name=NAME,
        description="A run of this project failed or crashed.",
        trigger=EventTrigger(
            expect={"prefect.flow-run.Failed", "prefect.flow-run.Crashed"},
            match={"prefect.resource.id": "prefect.flow-run.*"},
            match_related={"prefect.resource.role": "flow", "prefect.resource.name": list(FLOWS)},
            posture="Reactive",
            threshold=1,
        ),
        actions=[SendNotification(block_document_id=block_id, subject=SUBJECT, body=BODY)],
    )
    _delete(NAME)
    return automation.create()


def _delete(name: str) -> None:
    with suppress(ValueError):  # no such automation
        Automation.read(name=name).delete()


def main() -> int:
    """Run the command and return its exit status."""
    return finish(lambda arguments, _: run(arguments))


def run(arguments: list[str]) -> dict[str, Any]:
    """Create the automation, and return the JSON record. Raises InputError without an address or a server."""
    url = os.environ.get("NOTIFY_URL", "")
    if arguments:
        raise InputError("the command takes no arguments; NOTIFY_URL is the address to call when a run fails")
    if not url.startswith(("http://", "https://")):
        raise InputError(
            "NOTIFY_URL is not an address; `export NOTIFY_URL=https://…` with the address to call when a run fails"
        )
    check_configured("it names the Prefect server whose runs to report")
    notify_of_failures(url)
    say(f"created the automation {NAME}")
    return {"automation": NAME}


if __name__ == "__main__":
    raise SystemExit(main())
