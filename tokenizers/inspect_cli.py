"""`mixloom inspect`: contexts as a model will see them, as a page, on the terminal, or from a server of this machine."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from mixloom.tokenizers.inspect_contexts import ReadContext
    from mixloom.tokenizers.inspect_decoders import Decoders
    from mixloom.tokenizers.inspect_source import ContextSource, Query

_RANGE = re.compile(r"(\d{0,15})(:?)(\d{0,15})")
_SHOWN = 8  # contexts of a page by default


def inspect(
    path: Annotated[
        str,
        typer.Argument(
            metavar="SHARD|RUN", help="A run, a folder of shards, or one tar with its manifest beside it."
        ),
    ],
    contexts: Annotated[
        str, typer.Option(metavar="A:B", help="Which of the contexts that match, from 0; B is not included.")
    ] = f"0:{_SHOWN}",
    document: Annotated[
        str, typer.Option(metavar="ID", help="Contexts with this document (or the beginning of its id).")
    ] = "",
    source: Annotated[str, typer.Option(metavar="S", help="Contexts with a document of this source.")] = "",
    domain: Annotated[str, typer.Option(metavar="D", help="Contexts of this domain.")] = "",
    tokenizer: Annotated[
        str,
        typer.Option(
            metavar="DIR", help="Where the tokenizers lie; default: those of the run around the shards."
        ),
    ] = "",
    out: Annotated[str, typer.Option(metavar="FILE", help="Where to write the page.")] = "inspect.html",
    tokens: Annotated[bool, typer.Option("--tokens", help="Begin with token boundaries shown.")] = False,
    patches: Annotated[
        bool, typer.Option("--patches", help="Begin with patch boundaries shown, where shards carry patches.")
    ] = False,
    text: Annotated[bool, typer.Option("--text", help="Print to the terminal instead of a page.")] = False,
    serve: Annotated[
        bool, typer.Option("--serve", help="Serve pages with search to this machine until Ctrl+C.")
    ] = False,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port of --serve; 0: a free one.")] = 8765,
) -> int:
    """Show contexts of shards as a model will see them: documents with their boundaries, decoded pictures and sound.

    Where tokenizers are missing, texts are ids and pictures grey boxes, and the page says so.
    """
    from mixloom.tokenizers.inspect_decoders import find_decoders
    from mixloom.tokenizers.inspect_source import ContextSource, Query
    from mixloom.tokenizers.vocab import Vocabulary

    start, stop = _range(contexts)
    shards = ContextSource(path)
    decoders = find_decoders(Vocabulary.from_json(shards.manifest.vocabulary), shards.directory, tokenizer)
    title = f"Contexts of {Path(path).name or path}"
    if serve:
        return _serve(shards, decoders, title, port)
    query = Query(document.strip(), source, domain)
    read = _read(shards, decoders, query, start, stop)
    notes = list(decoders.missing.values())
    if text:
        from rich.console import Console

        from mixloom.tokenizers.inspect_terminal import print_contexts

        console = Console(highlight=False)
        for note in notes:
            console.print(note, markup=False)
        print_contexts(read, console, tokens=tokens, patches=patches)
        return 0
    from mixloom.tokenizers.inspect_page import inspect_page

    page = inspect_page(title, read, notes=notes, tokens=tokens, patches=patches)
    _write(out, page)
    print(f"{len(read)} of {shards.contexts:,} contexts in {out} ({len(page.encode()) / 1e6:.1f} MB)")
    for note in notes:
        print(f"  {note}")
    return 0


def _range(given: str) -> tuple[int, int]:
    """A:B, A:, :B or A as (first, last + 1)."""
    from mixloom.pipeline.errors import UserError

    match = _RANGE.fullmatch(given.strip())
    if match and (match[1] or match[2]):
        start = int(match[1] or 0)
        stop = int(match[3]) if match[3] else start + (_SHOWN if match[2] else 1)
        if stop > start:
            return start, stop
    raise UserError(
        f"--contexts is '{given}'; allowed: A:B with A below B, or one number",
        fix="for example --contexts 0:8 for the first eight",
    )


def _read(
    shards: ContextSource, decoders: Decoders, query: Query, start: int, stop: int
) -> list[ReadContext]:
    from mixloom.pipeline.errors import UserError
    from mixloom.tokenizers.inspect_contexts import read_context

    places = shards.find(query, start, stop)
    if not places:
        there = len(shards.find(query, 0, start))
        raise UserError(
            f"no context matches ({there:,} before context {start:,} do)" if start else "no context matches",
            fix="name a document of these shards (`mixloom explain RUN ID` tells where it went), or another range",
        )
    try:
        return [read_context(shards.read(p), decoders) for p in places]
    except ValueError as error:
        raise UserError(f"these shards are damaged: {error}", fix="run `mixloom verify` on them") from error


def _write(out: str, page: str) -> None:
    from mixloom.pipeline.errors import UserError

    try:
        Path(out).write_text(page, encoding="utf-8")
    except OSError as error:
        raise UserError(f"cannot write {out}: {error.strerror}", fix="name another --out") from None


def _serve(shards: ContextSource, decoders: Decoders, title: str, port: int) -> int:
    from mixloom.tokenizers.inspect_server import InspectServer

    with InspectServer(shards, decoders, title, port) as server:
        print(f"{server.url} shows {shards.contexts:,} contexts to this machine; Ctrl+C ends it", flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print("ended")
    return 0
