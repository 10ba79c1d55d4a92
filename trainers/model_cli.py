"""`mixloom evaluate`, `generate` and `export`: what can be done with a trained model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mixloom.pipeline.errors import UserError

if TYPE_CHECKING:
    from mixloom.trainers.evaluate import Row

Trained_ = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="A run that was trained, a folder of a training, one of its checkpoints, or an exported model.",
    ),
]
Device = Annotated[str, typer.Option(help="cpu, cuda, or auto for cuda where there is one.")]
Tokenizer = Annotated[
    str,
    typer.Option(metavar="DIR", help="Tokenizers to use, or a run that has them; default: those of the run."),
]


def evaluate(
    model: Trained_,
    shards: Annotated[
        list[str],
        typer.Argument(metavar="SHARDS...", help="Held-out shards: runs, folders of shards or manifests."),
    ],
    domain: Annotated[
        list[str] | None, typer.Option(help="Only this domain; may be given several times.")
    ] = None,
    contexts: Annotated[
        int, typer.Option(min=0, help="Contexts per domain at most, spread over it. 0: all.")
    ] = 0,
    batch_contexts: Annotated[int, typer.Option(min=1, help="Contexts read at a time.")] = 8,
    json_file: Annotated[
        str, typer.Option("--json", metavar="FILE", help="Write the figures here too.")
    ] = "",
    device: Device = "auto",
) -> None:
    """Losses of a model on held-out shards, per modality and per domain: a table, and JSON where asked for.

    Losses are nats per target. The shards must have the vocabulary the model was trained with.
    """
    from mixloom.pipeline.console import Console
    from mixloom.pipeline.shard_reader import ShardReader
    from mixloom.trainers import evaluate as evaluation
    from mixloom.trainers.trained import load_trained

    trained = load_trained(model, device)
    console, told = Console(), []
    for path in shards:
        reader = ShardReader(path)
        with console.progress(f"evaluate {path}") as advance:
            rows = evaluation.evaluate(
                trained.model,
                trained.vocabulary,
                reader,
                domains=domain or None,
                most=contexts or None,
                batch_contexts=batch_contexts,
                progress=advance,
            )
        print_rows(f"{model} on {path}", rows)
        told.append(
            {
                "shards": path,
                "manifest": reader.manifest.fingerprint,
                "rows": [{**r._asdict(), "perplexity": r.perplexity} for r in rows],
            }
        )
    if json_file:
        about = {"model": model, "checkpoint": trained.folder.name, "step": trained.step}
        _write_json(json_file, {**about, "vocabulary": trained.vocabulary.get("fingerprint"), "on": told})
        print(f"wrote {json_file}")


def print_rows(title: str, rows: list[Row]) -> None:
    """A table of losses on the terminal."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    for name in ("domain", "modality"):
        table.add_column(name)
    for name in ("loss", "perplexity", "bits per byte", "targets"):
        table.add_column(name, justify="right")
    last = ""
    for r in rows:
        figures = [
            "" if x is None else f"{x:,.{digits}f}"
            for x, digits in ((r.loss, 4), (r.perplexity, 2), (r.bits_per_byte, 4))
        ]
        table.add_row("" if r.domain == last else r.domain, r.modality, *figures, f"{r.targets:,}")
        last = r.domain
    Console(highlight=False).print(table)


def generate(
    model: Trained_,
    out: Annotated[
        str, typer.Option(metavar="DIR", help="Folder for index.html, texts, pictures and recordings.")
    ] = "samples",
    prompt: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TEXT|@FILE|@gap",
            help="What the document begins with; several in order. @FILE is a picture or a recording, @gap a part to "
            "fill in, for models trained with cm3 or fim.",
        ),
    ] = None,
    samples: Annotated[
        int, typer.Option("-n", "--samples", min=1, max=10_000, help="Documents to sample.")
    ] = 4,
    max_tokens: Annotated[
        int, typer.Option(min=0, help="Tokens of a document, prompt included. 0: the length trained on.")
    ] = 0,
    temperature: Annotated[float, typer.Option(min=0.0, help="0 takes the likeliest token each time.")] = 1.0,
    top_k: Annotated[int, typer.Option(min=0, help="Draw among so many of the likeliest. 0: all.")] = 0,
    top_p: Annotated[
        float, typer.Option(help="Draw among the likeliest with this probability together.")
    ] = 1.0,
    only: Annotated[
        str,
        typer.Option(
            metavar="NAMES", help="Modalities that may be sampled, such as text,image. Default: all."
        ),
    ] = "",
    infill: Annotated[str, typer.Option(help="How a gap is asked for: cm3 or fim.")] = "cm3",
    seed: Annotated[int, typer.Option(min=0, help="Seed of the first sample; the next have the next.")] = 0,
    tokenizer: Tokenizer = "",
    device: Device = "auto",
) -> None:
    """Sample documents of text, pictures and speech from a model, and write them as files and as a page.

    An image always has the number of codes its codec can draw, and every element that is opened is closed.
    """
    from mixloom.trainers.samples import prompt_ids, write_samples
    from mixloom.trainers.sampling import Draws, sample_documents
    from mixloom.trainers.trained import load_trained

    if infill not in ("cm3", "fim"):
        raise UserError(
            f"--infill is '{infill}'; allowed: cm3, fim", fix="give the objective of the training"
        )
    trained = load_trained(model, device)
    decoders = trained.decoders(tokenizer)
    start = prompt_ids(prompt or [], decoders, "fim" if infill == "fim" else "cm3")
    draws = Draws(
        max_tokens=max_tokens or trained.model.config.seq_len,
        temperature=temperature,
        top_k=top_k or None,
        top_p=top_p,
        modalities=tuple(x.strip() for x in only.split(",") if x.strip()) or None,
    )
    found = sample_documents(trained, decoders, start, draws, range(seed, seed + samples))
    about = {"model": model, "checkpoint": trained.folder.name, "step": trained.step, "prompt": prompt or []}
    write_samples(Path(out), found, decoders, f"Samples of {model}", {**about, **draws._asdict()})
    lengths = [len(s.ids) for s in found]
    print(f"{len(found)} samples of {min(lengths)} to {max(lengths)} tokens: {Path(out) / 'index.html'}")


def export(
    model: Trained_,
    out: Annotated[str, typer.Argument(metavar="DIR", help="The folder to write.")],
    llama: Annotated[
        bool,
        typer.Option("--llama", help="Write a dense model as a Llama or Qwen3, which needs no code of ours."),
    ] = False,
    dtype: Annotated[str, typer.Option(help="float32 or bfloat16: type of the stored weights.")] = "float32",
    tokenizer: Tokenizer = "",
) -> None:
    """Write a model as a Hugging Face style folder: safetensors, config, loader and tokenizers.

    AutoModelForCausalLM.from_pretrained(DIR, trust_remote_code=True) reads it, without mixloom.
    """
    from mixloom.trainers.export import export_folder
    from mixloom.trainers.trained import load_trained

    written = export_folder(
        load_trained(model, "cpu"), Path(out), llama=llama, dtype=dtype, tokenizer=tokenizer
    )
    print(f"wrote {out}: {', '.join(written)}")


def served(
    training: Annotated[
        str,
        typer.Argument(metavar="TRAINING", help="A training, such as RUN/train, or a run for its training."),
    ],
    step: Annotated[int, typer.Option(min=0, help="Which update, from 0.")] = 0,
    contexts: Annotated[int, typer.Option(min=1, help="Contexts to show.")] = 8,
    out: Annotated[str, typer.Option(metavar="FILE", help="Where to write the page.")] = "served.html",
    tokenizer: Tokenizer = "",
) -> None:
    """Show contexts of one update as the model gets them: in the order of the stream, rearranged by its objectives."""
    from mixloom.mixers.served import read_served
    from mixloom.tokenizers.inspect_decoders import find_decoders
    from mixloom.tokenizers.inspect_page import inspect_page
    from mixloom.tokenizers.vocab import Vocabulary
    from mixloom.trainers.trained import stream_of

    stream = stream_of(training)
    if step >= stream.steps:
        raise UserError(f"the training has {stream.steps} updates, and --step is {step}", fix="count from 0")
    reader = stream.reader
    decoders = find_decoders(Vocabulary.from_json(reader.manifest.vocabulary), reader.directory, tokenizer)
    read = read_served(stream, step, decoders, most=contexts)
    notes = [*decoders.missing.values(), f"Objectives: {getattr(stream, 'description', 'none')}."]
    page = inspect_page(f"Update {step} of {training}", read, notes=notes)
    Path(out).write_text(page, encoding="utf-8")
    print(f"{len(read)} contexts of update {step} in {out}")


def experts(
    config: Annotated[str, typer.Argument(metavar="CONFIG", help="A YAML configuration file.")],
    rest: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]...", help="Overrides such as train.steps=50."),
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="Say nothing but errors.")] = False,
) -> None:
    """Branch, train, merge: an expert per domain of a run, one model made of them, and their ensemble, compared.

    An interrupted command goes on where it was; experts that are done are not trained again.
    """
    from mixloom.pipeline.config import load_config
    from mixloom.pipeline.console import Console
    from mixloom.trainers.experts_config import ExpertsRecipe
    from mixloom.trainers.experts_run import FILE, experts_recipe

    settings = load_config(ExpertsRecipe, config, rest or [])
    about = experts_recipe(settings, Console(quiet))
    names = list(next(iter(about["losses"].values())))
    print(f"{'nats per target':<16}" + "".join(f"{n:>10}" for n in names))
    for who, losses in about["losses"].items():
        print(f"{who:<16}" + "".join(f"{losses[n]:>10.4f}" for n in names))
    if not about["held_out"]:
        print("on contexts of the run itself, which the models were trained on; held_out names others")
    print(f"wrote {Path(settings.run_dir) / settings.name / FILE}")


def _write_json(path: str, value: Any) -> None:
    file = Path(path)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")
