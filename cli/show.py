"""`clx losses`, `clx encoders`, `clx recipes` and `clx bench`: what there is."""

from typing import Annotated, Any

import typer

from clx.cli.output import emit_json, emit_table

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def losses(
    name: Annotated[str | None, typer.Argument(help="One loss in full.")] = None,
    json: Json = False,
) -> None:
    """List the objectives by family, or show one: formula, parameters, cost, when to use it."""
    from clx.pipelines.catalogue import describe_loss, list_losses

    if name is None:
        show(list_losses(), json, "objectives")
        return
    described = describe_loss(name)
    if json:
        emit_json(described)
        return
    parameters = described.pop("parameters")
    for key, value in described.items():
        print(f"{key:>8}  {value}")
    print()
    emit_table(parameters)


def encoders(
    name: Annotated[str | None, typer.Argument(help="One encoder, or a family such as open_clip.")] = None,
    json: Json = False,
) -> None:
    """List the encoders of every modality with their parameter counts."""
    from clx.pipelines.catalogue import list_encoders

    show(list_encoders(name), json, "encoders")


def recipes(
    name: Annotated[str | None, typer.Argument(help="Print this recipe, ready to be copied.")] = None,
    schema: Annotated[bool, typer.Option("--schema", help="Print the JSON Schema of a config file.")] = False,
    json: Json = False,
) -> None:
    """List the built-in recipes, or print one."""
    from clx.pipelines import config

    known = config.recipes()
    if schema:
        from clx.pipelines.build import schema as whole

        emit_json(whole())
    elif name is None:
        about = {key: text.splitlines()[0].lstrip("# ") for key, text in sorted(known.items())}
        show([{"recipe": key, "about": value} for key, value in about.items()], json, "recipes")
    elif name not in known:
        raise config.BadInput(f"unknown recipe {name!r}{config.nearest(name, known)}")
    elif json:
        emit_json(config.read_source(name))
    else:
        print(known[name], end="")


def show(rows: list[dict[str, Any]], json: bool, title: str) -> None:
    if json:
        emit_json(rows)
    else:
        emit_table(rows, title)
