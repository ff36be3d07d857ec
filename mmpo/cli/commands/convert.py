"""mmpo convert IN OUT"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mmpo.cli.app import app
from mmpo.cli.visible import echo

if TYPE_CHECKING:
    from mmpo.data.convert import Converted


@app.command()
def convert(
    source: Annotated[Path, typer.Argument(metavar="IN", help="A file, or a folder of files.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The folder to write.")],
    from_: Annotated[
        str | None, typer.Option("--from", metavar="NAME", help="Format of IN. Without it: detected from the rows.")
    ] = None,
    to: Annotated[
        str, typer.Option("--to", metavar="NAME", help="mmpo, trl, llamafactory, ms-swift or responses.")
    ] = "mmpo",
    images: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Where image paths start. Without it: the folder of IN.")
    ] = None,
    media: Annotated[
        str | None,
        typer.Option(
            metavar="HOW",
            help="embed (in the rows), copy (files in OUT/images) or reference (paths as they are). Without it: the "
            "first of these that the written format can.",
        ),
    ] = None,
    split: Annotated[str, typer.Option(help="The split to read, where IN has several.")] = "train",
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="An option of the format: --set pairs_per_image=1. Repeatable."
        ),
    ] = None,
    ignore: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY", help="A key whose pictures, videos or sounds are not the pairs'. Repeatable."),
    ] = None,
    allow_links: Annotated[
        bool,
        typer.Option("--allow-links", help="Follow links out of the folder of images, as hub caches and DVC have."),
    ] = False,
    plugin: Annotated[
        list[str] | None,
        typer.Option(metavar="MODULE", help="A module to import first, which registers a format. Repeatable."),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier conversion in OUT.")] = False,
    json_: Annotated[bool, typer.Option("--json", help="Print the account as JSON.")] = False,
) -> None:
    """Convert preference data between formats.

    Reads mmpo, trl, llamafactory, ms-swift, llava, povid, hadpo, rlhf-v,
    rlaif-v, seva, mia-dpo, mdpo, sentinel, llava-hound, vlfeedback, bpo,
    opa-dpo and responses (groups of scored answers, for nca and infonca);
    docs/convert.md has the options of each (--set). A row that cannot be used,
    or that holds media its format does not read, is listed in OUT/rejects.jsonl
    with file, row and reason.

    [bold]Examples[/bold]

      mmpo convert RLHF-V-Dataset pairs
      mmpo convert hadpo/llava-v1.5 pairs --images vg --set pairs_per_image=9
      mmpo convert runs/mine/build/pairs lf --to llamafactory
      mmpo convert rows.jsonl pairs --images hub/snapshot --allow-links
      mmpo convert rows.jsonl pairs --plugin my_package.my_format
    """
    import json
    from dataclasses import asdict

    from mmpo import plugins
    from mmpo.cli import console
    from mmpo.data.convert import convert as run
    from mmpo.errors import UserError
    from mmpo.outside import Unreadable, yaml_of
    from mmpo.preflight.commands import examine_convert
    from mmpo.progress import reporting

    for module in plugin or ():
        plugins.load(module)
    options = {}
    for text in set_ or ():
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise UserError(f"--set {text}: not of the form key=value")
        try:
            options[key] = yaml_of(value)
        except Unreadable as error:
            raise error.at(f"--set {text}", lines=False) from None

    given: dict[str, Any] = {
        "source_format": from_, "out_format": to, "images": images, "media": media, "split": split,
        "options": options, "overwrite": overwrite, "allow_links": allow_links,
    }  # fmt: skip
    for warning in examine_convert(source, out, **given):
        console.warn(warning)

    def work() -> Converted:
        return run(source, out, ignore=ignore or (), **given)

    if json_:
        result = work()
        echo(json.dumps(asdict(result), indent=2, ensure_ascii=False))
    else:
        with reporting(console.reporter()):
            result = work()
        _print(result)
    if not result.kept:
        where = "--images DIR says where image paths start" if "decode/missing" in result.quarantined else None
        raise UserError(
            f"{source}: no row could be used",
            hint=where or f"{out}/rejects.jsonl says why; --from NAME, if it is of another format",
        )


def _print(result: Converted) -> None:
    """Print the counts, with the first quarantined row of each reason."""
    from mmpo.cli import console

    console.heading(f"{result.source} → {result.out}")
    found = " (detected)" if result.detected else ""
    console.line(f"read as {result.source_format}{found}, written as {result.out_format}")
    what = "groups" if result.out_format == "responses" else "pairs"
    console.line(f"{result.rows} rows read, {result.kept} kept, {result.pairs} {what} written")
    if result.without_media:
        console.line(f"{result.without_media} of {result.pairs} {what} hold no picture and no video")
    console.line(
        f"{result.rows - result.kept} rows quarantined" + (", see rejects.jsonl" if result.quarantined else "")
    )
    for reason, count in sorted(result.quarantined.items(), key=lambda item: -item[1]):
        console.line(f"  {count:6d}  {reason}, as {result.examples[reason][:160]}")
    for name, why in result.skipped.items():
        console.line(f"  not read: {name} ({why})")
    if "convert/unread_media" in result.quarantined:
        console.line("name the key `images` or `videos` to have it read, or give --ignore KEY if it is not the pair's")
