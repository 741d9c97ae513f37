"""The commands. Each parses, calls a room, and leaves with an exit code; torch is imported by what needs it."""

from __future__ import annotations

import sys
from importlib import import_module
from itertools import groupby
from typing import Annotated, Any

import typer

from flowref import __version__
from flowref.bench.presets import KINDS, PASSES, PRESETS, USUAL
from flowref.gate.options import DEFAULT_TARGET, OPTIONS, Settings, Unusable

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Judges implementations of the AllInOneBlock of normalizing flows against its specification.",
)


FLAG = " "  # how help shows the value of an option that takes none: <bool> would ask for one


def _option(name: str, *more: str) -> Any:
    option = OPTIONS[name]
    if option.flag or option.values.isupper():  # FILE, DIR, ID
        return typer.Option(name, *more, metavar=FLAG if option.flag else option.values, help=option.help)
    return typer.Option(name, *more, help=f"{option.help} [dim]({option.values})[/]")


@app.callback(invoke_without_command=True)
def _version(
    version: Annotated[bool, typer.Option("--version", metavar=FLAG, help="Print the version and leave.")] = False,
) -> None:
    if version:
        typer.echo(f"flowref {__version__}")
        raise typer.Exit


@app.command()
def check(
    targets: Annotated[
        list[str] | None,
        typer.Argument(metavar="[TARGET]...", help=f"{OPTIONS['--target'].help}; without any, {DEFAULT_TARGET}"),
    ] = None,
    dialect: Annotated[str | None, _option("--dialect")] = None,
    profile: Annotated[str, _option("--profile")] = "ci",
    device: Annotated[str, _option("--device")] = "auto",
    precision: Annotated[str, _option("--precision")] = "float32,float64",
    known_failures: Annotated[str | None, _option("--known-failures")] = None,
    report: Annotated[str | None, _option("--report")] = None,
    law: Annotated[list[str] | None, _option("--law")] = None,
    first: Annotated[bool, typer.Option("-x", metavar=FLAG, help="stop at the first broken law")] = False,
    no_shrink: Annotated[bool, _option("--no-shrink")] = False,
    call_timeout: Annotated[str, _option("--call-timeout")] = "60",
    workers: Annotated[str, typer.Option("-n", metavar="auto|N", help="processes that judge")] = "auto",
) -> None:
    """Judge targets by every law, and end with a verdict. Exit codes: 0 held, 1 broken, 2 to 5 no verdict."""
    given: dict[str, Any] = {
        "--target": targets or [DEFAULT_TARGET],
        "--dialect": dialect,
        "--profile": profile,
        "--device": device,
    }
    given |= {"--precision": precision, "--known-failures": known_failures, "--report": report, "--law": law}
    given |= {"--no-shrink": no_shrink, "--call-timeout": call_timeout}
    raise typer.Exit(_check(Settings.read(given.get), _workers(workers), first))


def _check(settings: Settings, workers: str, first: bool) -> int:
    from rich.console import Console

    from flowref.gate import check, progress, summary

    console = Console(emoji=False)  # my_block.py:X: is a name
    console.print(f"Judging {settings}", markup=False, highlight=False, soft_wrap=True)
    with progress.shown_on(console) as show:
        evidence, verdict, output = check.run(settings, workers, first, show)
    summary.write(settings, evidence, verdict)
    summary.show(console, evidence, verdict, output)
    return verdict.code


def _workers(text: str) -> str:
    if text != "auto" and not text.isdecimal():
        raise Unusable(f"-n={text!r} is no number of processes: need auto, or a whole number from 0. Use auto.")
    return text


@app.command()
def replay(
    case: Annotated[str, typer.Argument(help="A saved case: its .json file, beside its .safetensors.")],
    target: Annotated[str, typer.Argument(help=OPTIONS["--target"].help)] = DEFAULT_TARGET,
    dialect: Annotated[str | None, typer.Option("--dialect", help="the case's own; another is refused")] = None,
    precision: Annotated[str, typer.Option("--precision", help="the target's dtype")] = "float32",
    device: Annotated[str, typer.Option("--device", help="where the target runs: cpu, cuda or cuda:1")] = "cpu",
    law: Annotated[str | None, typer.Option("--law", metavar="ID", help="hold this law to the case, too")] = None,
) -> None:
    """Run one saved case on a target, and show where it first leaves its bound. Exit codes: 0 nowhere, 1 somewhere."""
    from rich.console import Console

    from flowref.gate.replay import replay

    raise typer.Exit(replay(case, target, dialect, precision, device, law, Console(emoji=False)))


@app.command()
def bench(
    targets: Annotated[
        list[str] | None, typer.Argument(metavar="[TARGET]...", help="blocks of your own, beside the others")
    ] = None,
    preset: Annotated[
        str, typer.Option("--preset", help=f"sizes that users have [dim]({', '.join(PRESETS)})[/]")
    ] = "shapes",
    shapes: Annotated[str | None, typer.Option("--shapes", help="other sizes [dim](48x32x32@8,512@256)[/]")] = None,
    passes: Annotated[str | None, typer.Option("--passes", help=f"some only [dim]({','.join(PASSES)})[/]")] = None,
    kinds: Annotated[str | None, typer.Option("--kinds", help=f"some only [dim]({','.join(KINDS)})[/]")] = None,
    beside: Annotated[
        str | None,
        typer.Option(
            "--beside", help=f"who is measured, the first is the measure [dim]({','.join(USUAL)}; also index)[/]"
        ),
    ] = None,
    compiled: Annotated[
        bool, typer.Option("--compiled", metavar=FLAG, help="torch.compile of anomalib's block, too")
    ] = False,
    decoder: Annotated[
        bool, typer.Option("--decoder", metavar=FLAG, help="8 blocks in a row with their real subnets")
    ] = False,
    device: Annotated[str, _option("--device")] = "auto",
    threads: Annotated[int | None, typer.Option("--threads", min=1, help="as torch has them, or so many")] = None,
    rounds: Annotated[int, typer.Option("--rounds", min=1, help="turns of each contender")] = 15,
    seconds: Annotated[float, typer.Option("--seconds", min=0, help="of one contender in one round, about")] = 0.02,
    cpu_time: Annotated[
        bool, typer.Option("--cpu-time", metavar=FLAG, help="CPU time of one thread instead of wall time")
    ] = False,
    json: Annotated[str | None, typer.Option("--json", metavar="FILE", help="write all times there")] = None,
    plot: Annotated[str | None, typer.Option("--plot", metavar="FILE", help="draw them, .png or .svg")] = None,
    compare: Annotated[
        str | None, typer.Option("--compare", metavar="FILE", help="with a run that --json wrote")
    ] = None,
    unverified: Annotated[
        bool, typer.Option("--unverified", metavar=FLAG, help="skip smoke; all that is shown says so")
    ] = False,
) -> None:
    """Measure blocks side by side, if smoke holds them. Exit codes: 0 shown, 1 refused, 4 can't be used, 5 nothing."""
    given = locals() | {"targets": tuple(targets or ())}
    from rich.console import Console

    from flowref.bench import command

    raise typer.Exit(command.run(command.Asked(**given), Console(emoji=False)))


@app.command()
def laws(
    name: Annotated[str | None, typer.Argument(metavar="[ID]", help="A law or a family; without it, all.")] = None,
) -> None:
    """List the laws: id, statement and formula. With ID, the whole text."""
    from flowref.laws import registry

    try:
        found = registry.find(name) if name else registry.all()
    except KeyError as unknown:
        raise Unusable(unknown.args[0]) from None
    for family, group in groupby(found, key=lambda law: law.family):
        if not name:
            typer.echo(f"\n# {family}: {_about(family)}\n")
        for law in group:
            typer.echo(_whole(law) if name else f"{law.id}\n  {law.statement}: {law.formula}")


def _about(family: str) -> str:
    """What the family is about: the first line of its module."""
    return (import_module(f"flowref.laws.{family}").__doc__ or "").partition("\n")[0]


def _whole(law: Any) -> str:
    lines = [law.id, f"  {law.statement}.", f"  Formula: {law.formula}"]
    lines += [f"  {key}: {value}" for key, value in law.text.items()]
    lines += [f"  Regimes: {', '.join(law.regimes) or 'none required'}", f"  Broken by: {', '.join(law.broken_by)}"]
    lines += [f"  On request only: flowref check TARGET --law {law.id}"] * bool(law.parts)
    return "\n".join([*lines, "  Source: {}:{}".format(*law.source), ""])


golden_app = typer.Typer(no_args_is_help=True, help="Vectors that are right to the last bit, for any language.")
app.add_typer(golden_app, name="golden")


@golden_app.command("generate")
def golden_generate(
    out: Annotated[str, typer.Option("--out", metavar="DIR", help="the folder to write")],
    spec: Annotated[str | None, typer.Option("--spec", metavar="FILE", help="specs of your own, TOML or JSON")] = None,
    replace: Annotated[
        bool, typer.Option("--replace", metavar=FLAG, help="write over vectors that are there and differ")
    ] = False,
    workers: Annotated[str, typer.Option("-n", metavar="auto|N", help="processes that compute")] = "auto",
) -> None:
    """Write the vectors of golden/v1, the same bytes everywhere; or, with --spec, those of your own specs."""
    from rich.console import Console

    from flowref.golden import commands

    raise typer.Exit(commands.generate(out, spec, replace, _workers(workers), Console(emoji=False)))


@golden_app.command("verify")
def golden_verify(
    target: Annotated[str, typer.Argument(help=OPTIONS["--target"].help)] = DEFAULT_TARGET,
    dialect: Annotated[str | None, _option("--dialect")] = None,
    skip: Annotated[
        list[str] | None, typer.Option("--skip", metavar="FLAG", help="leave out vectors of a flag")
    ] = None,
    device: Annotated[str, typer.Option("--device", help="where the target runs: cpu or cuda")] = "cpu",
    folder: Annotated[str | None, typer.Option("--dir", metavar="DIR", help="vectors of your own")] = None,
    files: Annotated[bool, typer.Option("--files", metavar=FLAG, help="check the files instead of a target")] = False,
    sample: Annotated[int, typer.Option("--sample", min=0, help="with --files: how many to compute again")] = 16,
) -> None:
    """Judge a target by the vectors, flag by flag. Exit codes: 0 held, 1 broken, 4 can't be used, 5 no evidence."""
    from rich.console import Console

    from flowref.golden import commands

    console = Console(emoji=False)
    raise typer.Exit(
        commands.check_files(folder, sample, console)
        if files
        else commands.verify(target, dialect, skip or [], folder, device, console)
    )


@golden_app.command("add")
def golden_add(
    case: Annotated[str, typer.Argument(help="A saved case: its .json file, beside its .safetensors.")],
    to: Annotated[str, typer.Option("--to", metavar="DIR", help="the folder of vectors, made if need be")],
) -> None:
    """Turn a saved case, such as a shrunk counterexample, into a vector."""
    from rich.console import Console

    from flowref.golden import commands

    raise typer.Exit(commands.add(case, to, Console(emoji=False)))


def main() -> None:
    """The script `flowref`. What can't be used ends with 4, in pytest's numbering, and a message."""
    try:
        code = app(standalone_mode=False)
    except Unusable as error:
        typer.echo(f"flowref: {error}", err=True)
        code = 4
    except Exception as error:  # a usage error of the parser, which knows how to show itself
        if not hasattr(error, "show"):
            raise
        error.show()
        code = 4
    sys.exit(code or 0)


if __name__ == "__main__":
    main()
