"""`dougong serve`: the model behind an HTTP address, in OpenAI's form."""

from __future__ import annotations

import ipaddress
import socket
from pathlib import Path
from typing import Any

import click

from dougong.cli import options
from dougong.errors import InputError

MAX_KEY = 512


@click.command("serve")
@options.model_options
@click.option("--host", default="127.0.0.1", show_default=True, help="IP address to listen on.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8000,
    show_default=True,
    help="Port to listen on; 0 takes a free one.",
)
@click.option(
    "--api-key-file",
    type=click.Path(path_type=Path),
    default=None,
    metavar="FILE",
    help="Answer only requests that carry the key in this file. An address that others can reach "
    "needs one.",
)
@options.profile_option
@options.memory_tokens_option
@options.trace_option
@options.json_option
def command(
    host: str, port: int, api_key_file: Path | None, profile: Any, memory_tokens: int,
    trace: Path | None, as_json: bool, **words: Any,
) -> None:  # fmt: skip
    """Serve Chat Completions (streamed or whole) and Models, until interrupted.

    Any client of OpenAI's API can talk to it. The answer to a request depends on the request alone,
    not on what else is being served. The fields that are understood: docs/serving.md.

    \b
    Examples:
      dougong serve
      dougong serve --model path/to/checkpoint --port 8080 --api-key-file key.txt

    \b
    JSON: once it listens, model, backend, dtype, rounding, name, url
    """
    key = read_key(host, api_key_file)
    try:
        import fastapi  # noqa: F401 - to say at once what is missing
        import uvicorn  # noqa: F401
    except ImportError:
        raise InputError("serve needs fastapi and uvicorn: pip install 'dougong[serve]'.") from None
    how = options.chosen(words)
    listening = listen(host, port)
    model = options.load(words)
    from dougong.api_engine import Engine
    from dougong.server.app import make_app
    from dougong.server.gate import LOOPBACK, Gate
    from dougong.server.run import serve

    name = options.served_name(how["model"])
    engine = Engine(model, memory_tokens=memory_tokens, trace=trace)
    app = make_app(engine, name, profile=profile)
    gate = Gate(app, hosts=(host, *LOOPBACK) if is_loopback(host) else None, key=key)
    address = f"[{host}]" if ":" in host else host
    url = f"http://{address}:{listening.getsockname()[1]}/v1"
    options.emit({**how, "name": name, "url": url}, as_json, f"{name} answers at {url}")
    try:
        serve(gate, engine, listening)
    finally:
        options.mention_fault(engine)


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach the address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        raise InputError(f"--host {host!r} is no IP address; 127.0.0.1 is this machine.") from None


def read_key(host: str, path: Path | None) -> str | None:
    """The key that requests must carry: a file's first line."""
    if path is None:
        if not is_loopback(host):
            raise InputError(
                f"anyone who can reach {host} could use the model; give --api-key-file, or leave "
                "--host out to serve this machine alone."
            )
        return None
    try:
        with path.open(encoding="utf-8") as file:
            key = file.readline(MAX_KEY + 2).strip()
    except (OSError, UnicodeDecodeError) as problem:
        raise InputError(f"{path} cannot be read: {problem}.") from None
    if not 16 <= len(key) <= MAX_KEY:
        raise InputError(f"{path}: the key on its first line must have 16 to {MAX_KEY} characters.")
    return key


def listen(host: str, port: int) -> socket.socket:
    """A socket that is bound before the model is loaded: a taken port is no news to wait for."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
        listening.listen()  # who comes before the model is loaded waits
    except OSError as problem:
        raise InputError(f"cannot listen on {host} port {port}: {problem.strerror}.") from None
    return listening
