"""The shipped model behind an HTTP address, in this process."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator

import torch
import uvicorn

import dougong
from dougong.server.app import make_app
from dougong.server.gate import LOOPBACK, Gate


@contextlib.contextmanager
def nano_engine() -> Iterator[dougong.Engine]:
    """An engine on one thread, which the tests' machines can spare."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with dougong.Engine("nano") as started:
        yield started
    torch.set_num_threads(threads)


@contextlib.contextmanager
def served(engine: dougong.Engine) -> Iterator[str]:
    """The address that clients are given."""
    listening = socket.create_server(("127.0.0.1", 0))
    app = Gate(make_app(engine, "nano"), hosts=LOOPBACK)
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", lifespan="off"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    yield f"http://127.0.0.1:{listening.getsockname()[1]}/v1"
    server.should_exit = True
    thread.join()
