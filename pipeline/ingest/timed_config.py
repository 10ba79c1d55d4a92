"""A source of things that happen in time: frames of a film, and what is said over them."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from mixloom.pipeline.ingest.source_base import BaseSource, MediaRoots


class KeyframesSource(BaseSource, MediaRoots):
    """JSON Lines, plain, .gz or .zst: keyframes and a transcript of a film on each line, a document in the order of time.

    An entry of the lists in `items` is a frame {time, image}, or something said {start, stop, text}, with its own
    recording (audio) or without one.
    """

    format: Literal["keyframes"]
    items: tuple[str, ...] = Field(
        ("items",),
        min_length=1,
        description="fields that hold lists of frames and of texts; dots go into objects; all are put into one order",
    )
    time: str = Field("time", min_length=1, description="key of the time of a frame, in seconds")
    image: str = Field("image", min_length=1, description="key of the path of a frame")
    start: str = Field(
        "start", min_length=1, description="key of the time at which a text begins, in seconds"
    )
    stop: str = Field("stop", min_length=1, description="key of the time at which it ends; may be missing")
    text: str = Field("text", min_length=1, description="key of what is said")
    audio: str = Field("audio", min_length=1, description="key of the path of a recording of what is said")
    audio_field: str | None = Field(
        None, description="field of the line with the path of a recording of all of it, which stands first"
    )
    text_at: Literal["start", "middle", "stop"] = Field(
        "start", description="which time of a text counts against the times of frames"
    )
    join: str | None = Field(
        " ",
        description="put between texts with no frame or recording between them, which become one; null: each stays by itself",
    )
    language_field: str | None = Field(None, description="field with the language of the document")
    timestamp_field: str | None = Field(None, description="field with the time of the document (ISO 8601)")
    meta_fields: tuple[str, ...] = Field((), description="fields copied into meta under their own names")

    @model_validator(mode="after")
    def _told_apart(self) -> KeyframesSource:
        if len({self.image, self.text, self.audio}) < 3:
            raise ValueError("image, text and audio must be three keys: by them an entry is told apart")
        return self
