"""Commands that ask a running server: `rfc generate`, `rfc status`, `rfc cancel`."""

from __future__ import annotations

import json
import sys
from typing import Any

import click

from ..artifacts.errors import RocmforgeError, printable
from .options import NumberRange

_URL = click.option("--url", envvar="ROCMFORGE_URL", default="http://127.0.0.1:8080", show_default=True, help="Server.")


@click.command()
@click.argument("prompt")
@_URL
@click.option("-n", "--max-tokens", type=click.IntRange(1), default=100, show_default=True)
@click.option("--temperature", type=NumberRange(0, 2), default=1.0, show_default=True, help="0: most likely.")
@click.option("--top-k", type=click.IntRange(0), default=50, show_default=True, help="0: off.")
@click.option("--top-p", type=NumberRange(0, 1), default=0.9, show_default=True)
@click.option("--seed", type=click.IntRange(0, 2**64 - 1), help="For the same text again.")
@click.option("--stream/--no-stream", default=True, show_default=True, help="Print the text as it comes.")
@click.option("--json", "as_json", is_flag=True, help="The answer, or each event of the stream, as JSON.")
def generate(prompt: str, url: str, stream: bool, as_json: bool, **sampling: Any) -> None:
    """Have a running server continue PROMPT."""
    from ..runtime.client import Client

    body = {"prompt": prompt, **{key: value for key, value in sampling.items() if value is not None}}
    client = Client(url)
    events = client.generate_stream(body) if stream else iter([client.generate(body)])
    for event in events:
        if not isinstance(event.get("text"), str) or "finish_reason" not in event:
            raise RocmforgeError(f"{printable(url)}: expected text and finish_reason: not a rocmforge server?")
        click.echo(json.dumps(event) if as_json else event["text"], nl=as_json)
        sys.stdout.flush()
        if event["finish_reason"] == "failed":
            raise RocmforgeError(f"generation {event['request_id']} failed: {printable(event.get('error') or '?')}")
    if not as_json:
        click.echo()


@click.command()
@click.argument("request_id", type=click.IntRange(0))
@_URL
def status(request_id: int, url: str) -> None:
    """How far a server's generation REQUEST_ID is, as JSON."""
    from ..runtime.client import Client

    click.echo(json.dumps(Client(url).status(request_id)))


@click.command()
@click.argument("request_id", type=click.IntRange(0))
@_URL
def cancel(request_id: int, url: str) -> None:
    """End a server's generation REQUEST_ID; what it had come to, as JSON."""
    from ..runtime.client import Client

    click.echo(json.dumps(Client(url).cancel(request_id)))
