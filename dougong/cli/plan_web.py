"""`dougong plan web`: the planner as a page."""

from __future__ import annotations

from pathlib import Path

import click

from dougong.cli import options, plan_options


@click.command("web")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8431,
    show_default=True,
    help="Port on 127.0.0.1; 0 takes a free one.",
)
@click.option("--open", "open_browser", is_flag=True, help="Open the page in your browser.")
@plan_options.chip_file_option
@options.json_option
def command(port: int, open_browser: bool, chip_file: Path | None, as_json: bool) -> None:
    """Serve the planner's page on this machine until Ctrl-C: sliders for chip, bandwidth, link,
    context, batch and format; roofline and cost redraw as you drag, and the URL keeps the state.

    \b
    Example:
      dougong plan web --open

    \b
    JSON: url
    """  # fmt: skip
    from dougong.errors import InputError
    from dougong.plan.web import PlanServer

    try:
        server = PlanServer(port, plan_options.all_chips(chip_file))
    except OSError as error:
        raise InputError(f"port {port} cannot be used ({error}); try --port 0") from None
    options.emit({"url": server.url}, as_json, f"{server.url}  (Ctrl-C ends it)")
    if open_browser:
        click.launch(server.url)
    with server:
        server.serve_forever()
