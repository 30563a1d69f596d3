"""The `clx` command: registers the subcommands and turns every error into one line and an exit code."""

import os
import signal
import sys
import warnings
from importlib.metadata import version
from typing import Annotated, Any

import typer

from clx.cli import (
    data,
    doctor,
    embed,
    evaluate,
    export,
    merge,
    mine,
    predict,
    report,
    runs,
    search,
    serve,
    show,
    sweep,
    train,
    zeroshot,
)
from clx.cli.output import ReaderGone, note
from clx.pipelines.system.errors import ClxWarning, out_of_memory

app = typer.Typer(
    name="clx",
    help="Contrastive learning over any mix of image, text, audio, time series and tables.",
    epilog="Examples:  clx train digits  |  clx zeroshot runs/digits a.png --labels zero,one  |  clx recipes",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def show_version(wanted: bool) -> None:
    if wanted:
        print(f"clx {version('clx')}")
        raise typer.Exit


@app.callback()
def options(
    ctx: typer.Context,
    show: Annotated[
        bool, typer.Option("--version", callback=show_version, is_eager=True, help="Print the version.")
    ] = False,
    debug: Annotated[bool, typer.Option(help="Show the traceback of an error.")] = False,
) -> None:
    ctx.obj = debug
    if debug:
        os.environ["CLX_DEBUG"] = "1"


app.command("train")(train.train)
app.command("sweep")(sweep.sweep)
app.add_typer(runs.app, name="runs")
app.command("eval")(evaluate.evaluate)
app.command("predict")(predict.predict)
app.command("zeroshot")(zeroshot.zeroshot)
app.command("embed")(embed.embed)
app.command("search")(search.search)
app.command("serve")(serve.serve)
app.command("mine")(mine.mine)
app.command("merge")(merge.merge)
app.command("report")(report.report)
app.command("export")(export.export)
app.add_typer(data.app, name="data")
app.command("init")(data.init)
app.command("losses")(show.losses)
app.command("encoders")(show.encoders)
app.command("recipes")(show.recipes)
app.add_typer(show.bench, name="bench")
app.command("doctor")(doctor.doctor)


def main() -> None:
    """Entry point of the console script."""
    # Threads that wait by spinning make a machine with other work on it several times slower.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    watch()
    sys.exit(run())


def run() -> int:
    """Run the app; the exit code of whatever happened."""
    try:
        if is_spare(sys.argv[1:]):
            return 0
        return app(sys.argv[1:] or ["--help"], standalone_mode=False) or 0
    except KeyboardInterrupt:
        return fail("interrupted", 130)
    except ReaderGone:
        return 0
    except Exception as error:
        if os.environ.get("CLX_DEBUG"):
            raise
        return fail(*explain(error))
    except BaseException as error:  # `Stopped` is no `Exception`, so that nothing on the way swallows it
        if not hasattr(error, "exit_code"):
            raise
        return fail(str(error), error.exit_code)


SHARED = ("train", "eval", "embed", "predict", "sweep")
"""Commands that the processes of one job do together, or share out."""


def is_spare(arguments: list[str]) -> bool:
    """Whether a launcher has started this command several times, and it is one for rank 0 alone."""
    if any(name in SHARED for name in arguments):
        return False
    from clx.pipelines.system.ranks import place_of

    try:
        place = place_of()
    except ValueError:  # half of a place is none of this command's business
        return False
    return place is not None and place.rank > 0


def watch() -> None:
    """Signals end every command with 130 or 143; what pipelines warn of is a line on stderr."""

    def stop(number: int, frame: object) -> None:
        from clx.pipelines.system.signals import raise_stopped

        raise_stopped(number, frame)

    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) not in (signal.SIG_IGN, None):  # nohup and `&` of a shell script set it so
            signal.signal(number, stop)
    if hasattr(signal, "SIGUSR1"):  # it asks a training to save, and must not end what has nothing to save
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    show_other = warnings.showwarning
    said: set[str] = set()  # a file that is read twice is warned of once

    def show(message: Warning | str, category: type[Warning], *rest: Any) -> None:
        if issubclass(category, ClxWarning):
            if str(message) not in said:
                note(f"warning: {message}")
            said.add(str(message))
        else:
            show_other(message, category, *rest)

    warnings.showwarning = show  # type: ignore[assignment]


def explain(error: Exception) -> tuple[str, int]:
    """One line for the user and the exit code. Errors that know their code carry it as `exit_code`."""
    code = getattr(error, "exit_code", 1)
    if hasattr(error, "format_message"):  # a usage error of the command line
        return error.format_message(), code
    if hasattr(error, "exit_code"):
        return str(error), code
    if out_of_memory(error):
        return "out of memory: fewer rows at a time, or --device cpu where a GPU was too small, need less", code
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename}" if error.filename else error.strerror, code
    message = " ".join(str(error).split())[:300]
    return f"{type(error).__name__}: {message} (clx --debug shows the traceback)", code


def fail(message: str, code: int) -> int:
    plain = code in (130, 143) or message.startswith("Usage:")
    note(message if plain else f"error: {message}")
    return code
