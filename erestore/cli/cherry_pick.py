"""Commands that move what one commit changed: cherry-pick, revert."""

from __future__ import annotations

import click

from erestore.cli.derived import (
    conflict_options,
    conflicts_as_data,
    mainline_option,
    message_options,
    name_option,
    report,
)
from erestore.cli.session import Session, json_option, verb


@verb(
    "cherry-pick",
    "Add what one commit changed to another variant.",
    example="erestore cherry-pick fix --onto task-a\nerestore cherry-pick style~1 --onto task-a --scale 0.5 --name styled\n"
    "erestore cherry-pick style --onto task-a --tensors '*attention*' --components 1-4",
)
@click.argument("revision")
@click.option("--onto", required=True, metavar="REVISION", help="The variant to add it to.")
@name_option("the next version of the branch --onto names")
@click.option("--scale", default="1", metavar="X", help="Factor to apply to it. Default: 1.")
@click.option("--tensors", metavar="PATTERN", help="Only tensors whose names match, as '*attention*' does.")
@click.option("--components", metavar="A-B", help="Only components A to B of factors; the first is the strongest.")
@mainline_option
@conflict_options
@message_options
@json_option
@click.pass_obj
def cherry_pick(
    session: Session,
    *,
    revision: str,
    onto: str,
    name: str | None,
    scale: str,
    tensors: str | None,
    components: str | None,
    mainline: int | None,
    choose: str | None,
    message: str,
    author: str | None,
    as_json: bool,
) -> None:
    """Add what the commit REVISION changed since its parent to another variant of the same base."""
    with session.open() as store, conflicts_as_data(as_json=as_json):
        store.author = author or store.author
        done = store.cherry_pick(
            revision,
            onto=onto,
            name=name,
            scale=scale,
            tensors=tensors,
            components=components,
            mainline=mainline,
            choose=choose,
            message=message,
        )
    report(session, done, as_json=as_json)


@verb(
    "revert",
    "Reverse one commit's change in a variant.",
    example="erestore revert task-a~1\nerestore revert 3f1c09aa21be --on task-a",
)
@click.argument("revision")
@click.option(
    "--on", metavar="REVISION", help="The variant to revert it in. Default: the branch that REVISION starts from."
)
@name_option("the next version of that branch")
@mainline_option
@conflict_options
@message_options
@json_option
@click.pass_obj
def revert(
    session: Session,
    *,
    revision: str,
    on: str | None,
    name: str | None,
    mainline: int | None,
    choose: str | None,
    message: str,
    author: str | None,
    as_json: bool,
) -> None:
    """Reverse what the commit REVISION changed since its parent, in a variant that contains it; later changes stay."""
    with session.open() as store, conflicts_as_data(as_json=as_json):
        store.author = author or store.author
        done = store.revert(revision, on=on, name=name, mainline=mainline, choose=choose, message=message)
    report(session, done, as_json=as_json)
