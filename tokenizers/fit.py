"""Stage `tokenizer`: one text tokenizer and one codec per modality, fitted on the kept documents or loaded.

The outputs lie in `run/tokenizer/`: text/, image/ (with reconstructions.png), speech/ and vocab.json.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from mixloom.pipeline.sample_parts import collect_sample
from mixloom.pipeline.stage import Stage, StageContext, UnitOutput
from mixloom.tokenizers.layout_config import LayoutConfig
from mixloom.tokenizers.settings import (
    ImageCodecConfig,
    MicroBatchConfig,
    SpeechCodecConfig,
    SpeechPatchConfig,
    TextTokenizerConfig,
)

VOCAB = "vocab.json"
_OF_TOKENIZE = {"layout", "speech_patches", "micro_batch"}  # what is fitted does not depend on it


class TokenizerConfig(BaseModel):
    """How each modality becomes tokens."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    text: TextTokenizerConfig = Field(
        TextTokenizerConfig(), description="text: byte-level BPE, trained or loaded"
    )
    image: ImageCodecConfig = Field(
        ImageCodecConfig(), description="images: embedded codec or a local checkpoint"
    )
    speech: SpeechCodecConfig = Field(
        SpeechCodecConfig(), description="speech: embedded units or a local checkpoint"
    )
    layout: LayoutConfig = Field(
        LayoutConfig(), description="order in which captions, recordings and transcripts are written"
    )
    speech_patches: SpeechPatchConfig = Field(
        SpeechPatchConfig(), description="patches of units of speech, recorded beside the tokens"
    )
    micro_batch: MicroBatchConfig = Field(
        MicroBatchConfig(), description="how much of the media of a part is encoded at a time"
    )

    @model_validator(mode="after")
    def _units_can_be_cut(self) -> Self:
        if self.speech.codebooks > 1 and self.speech.layout == "delayed" and self.layout.switching:
            raise ValueError(
                f"layout.by_source.{self.layout.switching[0]}: word_switch cuts recordings at words, and delayed codebooks "
                "lie across any cut; set speech.layout: frames"
            )
        return self


class TokenizerStage(Stage):
    """Kept documents -> fitted tokenizers and the vocabulary."""

    name = "tokenizer"
    version = 3

    def __init__(self, config: TokenizerConfig, survivors: str, roots: dict[str, str]) -> None:
        self.config = config
        self.inputs = ("ingest", survivors)
        self.roots = roots  # where sources lie; moving them changes nothing

    def settings(self) -> dict[str, Any]:
        given = (self.config.text.path, self.config.image.path, self.config.speech.path)
        # What lies at a path counts, not its name alone: an exchanged file redoes the stage.
        return {
            **self.config.model_dump(mode="json", exclude=_OF_TOKENIZE),
            "files": [_stamps(path) for path in given if path],
        }

    def expected_in(self, ctx: StageContext) -> int | None:
        return None  # a fit: no document passes through

    def execute(self, ctx: StageContext) -> None:
        from mixloom.pipeline.transforms import sample_segments

        parts = len(ctx.part_names("ingest"))
        select = partial(sample_segments, media=max(16, -(-4 * self.config.image.max_images // parts)))
        columns = ["doc_id", "source", "segments"]
        sample = collect_sample(ctx, columns, self.config.text.sample_documents, self.inputs[1], select)
        rows = sample.to_pylist()
        if ctx.todo(["text"]):
            ctx.commit(self._text(ctx, [r["text"] for r in rows if r["kind"] == "text"]))
        if ctx.todo(["image"]):
            ctx.commit(self._image(ctx, _distinct_media(rows, "image")))
        if ctx.todo(["speech"]):
            ctx.commit(self._speech(ctx, _distinct_media(rows, "speech")))
        ctx.commit(self._vocabulary(ctx))

    def _text(self, ctx: StageContext, texts: list[str]) -> UnitOutput:
        from mixloom.tokenizers.text_bytes import make_text_tokenizer

        config = self.config.text
        # A corpus without a word gets the 256 bytes alone, with which any text can be written.
        tokenizer, facts = make_text_tokenizer(config, texts or [" "])
        info = {
            "size": tokenizer.size,
            "fingerprint": tokenizer.fingerprint,
            "fitted_on": 0 if config.path else len(texts),
            **facts,
        }
        return UnitOutput("text", files=ctx.save_model("text", tokenizer.save), info=info)

    def _image(self, ctx: StageContext, media: list[dict[str, Any]]) -> UnitOutput:
        from mixloom.pipeline.ingest.media import load_image
        from mixloom.tokenizers.codecs import make_image_codec
        from mixloom.tokenizers.contact_sheet import SHEET_FILE, write_sheet

        config = self.config.image
        read: list[str] = []
        images = self._readable(media[: config.max_images], load_image, read)
        first = next(images, None)
        if first is None:
            return UnitOutput("image", info={"size": 0, "fingerprint": ""})
        shown: list[Any] = []
        with ctx.steps("image codec") as advance:
            codec, facts = make_image_codec(
                config, chain([first], images), advance, lambda *pair: shown.append(pair)
            )
        info = {
            "size": codec.codebook_size,
            "fingerprint": codec.fingerprint,
            "fitted_on": 0 if config.path else len(read) - facts["held_out"],
            **facts,
        }

        def save(folder: Path) -> None:
            codec.save(folder)
            for pictures, drawn in shown:
                write_sheet(folder / SHEET_FILE, pictures, drawn)

        return UnitOutput("image", files=ctx.save_model("image", save), info=info)

    def _speech(self, ctx: StageContext, media: list[dict[str, Any]]) -> UnitOutput:
        from mixloom.pipeline.ingest.media import load_audio
        from mixloom.tokenizers.codecs import make_speech_codec, speech_rate

        config = self.config.speech
        rate = speech_rate(config)
        read: list[str] = []
        waves = self._readable(self._bounded(media), lambda data: load_audio(data, rate), read)
        first = next(waves, None)
        if first is None:
            return UnitOutput("speech", info={"size": 0, "fingerprint": ""})
        codec, facts = make_speech_codec(config, chain([first], waves))
        info = {
            "size": codec.codebook_size,
            "fingerprint": codec.fingerprint,
            "fitted_on": 0 if config.path else len(read),
            **facts,
        }
        return UnitOutput("speech", files=ctx.save_model("speech", codec.save), info=info)

    def _bounded(self, media: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """The first clips that together last as long as the fit may listen."""
        seconds, most = 0.0, 0
        for m in media:
            if seconds >= self.config.speech.fit_seconds:
                break
            seconds += m["seconds"]
            most += 1
        return media[:most]

    def _readable(
        self, media: list[dict[str, Any]], load: Callable[[bytes], Any], read: list[str]
    ) -> Iterator[Any]:
        """What can still be read of the media, one at a time, noted in `read`.

        What cannot be read is a failure of its document, in the next stage.
        """
        from mixloom.pipeline.ingest.media import open_media
        from mixloom.pipeline.ingest.problems import Problem

        for m in media:
            try:
                loaded = load(open_media(self.roots[m["source"]], m["uri"], m["member"]))
            except (Problem, OSError):
                continue
            read.append(m["uri"])
            yield loaded

    def _vocabulary(self, ctx: StageContext) -> UnitOutput:
        from mixloom.tokenizers.vocab import Vocabulary

        info = {r.unit: r.info for r in ctx.directory.units()}
        vocabulary = Vocabulary.build(
            info["text"]["size"],
            info["text"]["fingerprint"],
            image_size=info["image"]["size"],
            image_fingerprint=info["image"]["fingerprint"],
            speech_size=info["speech"]["size"],
            speech_fingerprint=info["speech"]["fingerprint"],
        )
        data = (json.dumps(vocabulary.to_json(), indent=1) + "\n").encode()
        file = ctx.directory.write_file(VOCAB, data)
        return UnitOutput(
            "vocabulary", files=(file,), info={"size": vocabulary.size, "fingerprint": vocabulary.fingerprint}
        )


def _stamps(path: str) -> list[list[str]]:
    """Name, size and time of a file, or of every file of a folder; [] where neither is there."""
    root = Path(path)
    files = sorted(p for p in root.rglob("*") if p.is_file()) if root.is_dir() else [root]
    state = [(p.name, p.stat()) for p in files if p.is_file()]
    return [[name, str(s.st_size), str(s.st_mtime_ns)] for name, s in state]


def _distinct_media(rows: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    """One reference per distinct file, in the order of their hashes: a fit never sees one picture twice."""
    by_hash = {r["sha256"]: r for r in rows if r["kind"] == kind}
    return [by_hash[h] for h in sorted(by_hash)]
