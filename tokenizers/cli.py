"""`mixloom tokenizer`: fit a codec to one's own pictures, texts or recordings, and tell what a saved one is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from mixloom.pipeline.console import Console
    from mixloom.tokenizers.fit_sources import Item

app = typer.Typer(
    help="Fit tokenizers and codecs, and look at them.", no_args_is_help=True, add_completion=False
)
FACTS_FILE = "fit.json"
_KINDS = ("text", "image", "speech")


@app.command("fit")
def fit_command(
    kind: Annotated[str, typer.Argument(metavar="text|image|speech", help="What to fit.")],
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="SOURCE... [KEY=VALUE]...",
            help="Files, folders, globs or run directories; then settings, for example size=128.",
        ),
    ],
    out: Annotated[str, typer.Option(metavar="DIR", help="Where to write the codec.")],
    force: Annotated[bool, typer.Option("--force", help="Write into a folder that is not empty.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Say nothing but errors.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable output.")] = False,
) -> None:
    """Fit a text tokenizer, an image codec or speech units, and write them to a directory.

    The directory is what `path` of tokenizer.text, tokenizer.image and tokenizer.speech takes in a configuration.
    For pictures, reconstructions.png shows some that were held out beside what their codes give back.
    """
    import json

    from mixloom.pipeline.config import apply_overrides, validate
    from mixloom.pipeline.console import Console
    from mixloom.pipeline.errors import UserError, nearest
    from mixloom.tokenizers.fit_sources import find_items
    from mixloom.tokenizers.settings import ImageCodecConfig, SpeechCodecConfig, TextTokenizerConfig

    configs: dict[str, Any] = {
        "text": TextTokenizerConfig,
        "image": ImageCodecConfig,
        "speech": SpeechCodecConfig,
    }
    if kind not in configs:
        raise UserError(
            f"there is no '{kind}' to fit{nearest(kind, configs)}", fix=f"use one of: {', '.join(_KINDS)}"
        )
    places = [s for s in sources if "=" not in s or Path(s).exists()]
    config = validate(
        configs[kind], apply_overrides({}, [s for s in sources if s not in places]), "the command line"
    )
    if config.path:
        raise UserError(
            "path names a codec that is fitted already",
            fix=f"look at it: mixloom tokenizer show {config.path}",
        )
    folder = Path(out)
    if folder.exists() and (not folder.is_dir() or (any(folder.iterdir()) and not force)):
        raise UserError(f"{out} exists and is not an empty folder", fix="name another --out, or add --force")
    console = Console(quiet)
    items = find_items(places, kind)  # type: ignore[arg-type]
    console.say(f"{kind}: {len(items)} found")
    fit: Callable[[list[Item], Any, Path, Console], dict[str, Any]] = {
        "text": _fit_text,
        "image": _fit_image,
        "speech": _fit_speech,
    }[kind]
    facts = fit(items, config, folder, console)
    (folder / FACTS_FILE).write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    print(json.dumps({"out": out, **facts}, indent=1) if as_json else f"{_lines(facts)}\nwrote {out}")


def _fit_text(items: list[Item], config: Any, folder: Path, console: Console) -> dict[str, Any]:
    from mixloom.tokenizers.text_bytes import make_text_tokenizer

    read: list[str] = []
    texts = (text for item in _readable(items, read, console) for text in item)
    with console.progress("text tokenizer"):
        tokenizer, facts = make_text_tokenizer(config, texts)
    tokenizer.save(folder)
    return {**facts, "size": tokenizer.size, "fitted_on": len(read), "fingerprint": tokenizer.fingerprint}


def _fit_image(items: list[Item], config: Any, folder: Path, console: Console) -> dict[str, Any]:
    from mixloom.pipeline.ingest.media import load_image
    from mixloom.tokenizers.codecs import make_image_codec
    from mixloom.tokenizers.contact_sheet import SHEET_FILE, write_sheet

    folder.mkdir(parents=True, exist_ok=True)
    read: list[str] = []
    pictures = _readable(items[: config.max_images], read, console, load_image)
    with console.progress("image codec") as advance:
        codec, facts = make_image_codec(
            config, pictures, advance, lambda *pair: write_sheet(folder / SHEET_FILE, *pair)
        )
    codec.save(folder)
    fitted = len(read) - facts.get("held_out", 0)
    return {**facts, "size": codec.codebook_size, "fitted_on": fitted, "fingerprint": codec.fingerprint}


def _fit_speech(items: list[Item], config: Any, folder: Path, console: Console) -> dict[str, Any]:
    from mixloom.pipeline.ingest.media import load_audio
    from mixloom.tokenizers.codecs import make_speech_codec, speech_rate

    rate = speech_rate(config)
    read: list[str] = []
    clips = _readable(items, read, console, lambda data: load_audio(data, rate))
    with console.progress("speech units"):
        codec, facts = make_speech_codec(config, clips)
    codec.save(folder)
    return {**facts, "size": codec.codebook_size, "fitted_on": len(read), "fingerprint": codec.fingerprint}


def _readable(
    items: list[Item], read: list[str], console: Console, load: Callable[[Any], Any] = lambda data: data
) -> Iterator[Any]:
    """What the items hold, but for those that cannot be read, which are told; the others are noted in `read`."""
    from mixloom.pipeline.errors import UserError
    from mixloom.pipeline.ingest.problems import Problem

    for item in items:
        try:
            loaded = load(item.data())
        except (Problem, UserError, OSError) as error:
            console.say(f"  {item.name} passed over: {error}")
            continue
        read.append(item.name)
        yield loaded


@app.command("show")
def show_command(
    directory: Annotated[str, typer.Argument(metavar="DIR", help="A codec's directory, or RUN/tokenizer.")],
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable output.")] = False,
) -> None:
    """Tell what a saved tokenizer is: kind, size, settings, fingerprint, and how well it was fitted."""
    import json

    from mixloom.tokenizers.described import describe

    found = describe(Path(directory))
    print(json.dumps(found, indent=1) if as_json else _lines(found))


def _lines(facts: dict[str, Any], indent: str = "") -> str:
    width = max(map(len, facts), default=0)
    lines = []
    for key, value in facts.items():
        if isinstance(value, dict):
            lines.append(f"{indent}{key}\n{_lines(value, indent + '  ')}")
        else:
            shown = " ".join(map(str, value)) if isinstance(value, list) else value
            lines.append(f"{indent}{key:<{width}}  {shown}")
    return "\n".join(lines)
