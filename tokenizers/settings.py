"""What can be declared about tokenizers and codecs. Imports nothing heavy: the run config is read often."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

_MODEL = ConfigDict(extra="forbid", frozen=True)

ImageKind = Literal["fsq", "chameleon", "emu3", "janus", "dalle"]
SpeechKind = Literal["logmel", "hubert", "wav2vec2", "wavlm", "mimi", "encodec", "dac"]
Device = Literal["auto", "cpu", "cuda"]
_DEVICE = (
    "Where the model runs; auto: a GPU where there is one. Another device rounds differently, so it is part of the "
    "fingerprint."
)


class PatchConfig(BaseModel):
    """How raw bytes are grouped into patches, whose lengths are recorded beside the bytes."""

    model_config = _MODEL

    kind: Literal["entropy", "monotonic", "space", "fixed", "none"] = Field(
        default="entropy",
        description="A patch starts where the next byte is hard to guess, where it is harder than the one before, "
        "at every word, or every so many bytes; none: no patches are recorded.",
    )
    bytes: float = Field(
        default=4.5,
        ge=1,
        le=256,
        description="Bytes of a patch: on average, by the choice of the threshold (entropy, monotonic), or each (fixed).",
    )
    longest: int = Field(default=64, ge=1, le=65535, description="Bytes of a patch at most.")
    order: int = Field(
        default=5, ge=0, le=6, description="Bytes the guess is made from (entropy, monotonic)."
    )
    contexts: int = Field(
        default=300_000,
        ge=256,
        le=1 << 26,
        description="Contexts the guessing model keeps, the most frequent, at most (entropy, monotonic).",
    )
    sample_bytes: int = Field(
        default=16_000_000, ge=1, description="Bytes of text the model is counted on, at most."
    )


class SpeechPatchConfig(BaseModel):
    """How units of speech are grouped into patches, whose lengths are recorded beside the units."""

    model_config = _MODEL

    kind: Literal["none", "fixed", "silence", "aligned"] = Field(
        default="none",
        description="none: no patches. fixed: every `size` units. silence: a silence is a patch, speech between is cut every "
        "`size` units. aligned: a patch for each word and each gap between words.",
    )
    size: int = Field(
        default=4, ge=1, le=65535, description="Units of a patch (fixed, and speech between silences)."
    )
    longest: int = Field(
        default=32,
        ge=1,
        le=65535,
        description="Units of a silence, a word or a gap that are one patch, at most.",
    )
    decibels: float = Field(
        default=35.0,
        gt=0,
        le=120,
        description="A unit is silent when it lies so far below the loud tenth of its recording (silence).",
    )
    untimed: Literal["proportional", "fixed"] = Field(
        default="proportional",
        description="aligned, where it is not known when words are said: words of the transcript beside the recording last as "
        "long as they have letters; or patches of `size` units. Without a transcript it is the latter.",
    )


class MicroBatchConfig(BaseModel):
    """How much of the media of a part is held and encoded at a time. It changes memory and time, and no id."""

    model_config = _MODEL

    pixels: int = Field(
        default=1 << 24, ge=1, description="Pixels of pictures, as the codec sees them; one picture at least."
    )
    seconds: float = Field(default=600.0, gt=0, description="Seconds of recordings; one recording at least.")


NO_PATCHES = SpeechPatchConfig()
WHOLE_PART = MicroBatchConfig()


class TextTokenizerConfig(BaseModel):
    """A byte-level BPE trained on the corpus or read from a file, or the bytes themselves."""

    model_config = _MODEL

    kind: Literal["bpe", "bytes"] = Field(
        default="bpe", description="bpe: byte-pair encoding. bytes: one id a byte, with patches beside them."
    )
    patches: PatchConfig = Field(
        default=PatchConfig(), description="Patches of the bytes; of no effect on bpe."
    )
    path: str | None = Field(
        default=None,
        description="A tokenizer.json, a directory of transformers with one, or one fitted before, instead of training.",
    )
    vocab_size: int = Field(
        default=8192, ge=256, le=1_000_000, description="Ids to learn; the 256 bytes are always among them."
    )
    min_frequency: int = Field(
        default=2, ge=1, description="A pair is merged only if it occurs at least this often."
    )
    max_token_length: int = Field(
        default=64, ge=1, description="Longest token in bytes; keeps rulers and padding from becoming tokens."
    )
    sample_documents: int = Field(default=100_000, ge=1, description="Texts to train on, at most.")
    sample_characters: int = Field(default=200_000_000, ge=1, description="Characters to train on, at most.")


class ImageCodecConfig(BaseModel):
    """The image codec: an autoencoder fitted on the corpus (`fsq`), or a model read from a local directory."""

    model_config = _MODEL

    kind: ImageKind = Field(
        default="fsq",
        description="fsq: fitted here. chameleon, emu3, janus, dalle: transformers checkpoints, need `path`.",
    )
    path: str | None = Field(
        default=None,
        description="Directory of a fitted codec or checkpoint, or a hub id; required unless kind is fsq.",
    )
    download: bool = Field(
        default=False, description="Fetch a hub id that this machine's cache does not hold."
    )
    micro_batch: int = Field(
        default=16,
        ge=1,
        le=4096,
        description="Pictures in a pass on a GPU, always so many, and part of the fingerprint there. On a CPU each goes alone.",
    )
    size: int = Field(
        default=64, ge=16, le=1024, multiple_of=8, description="Side in pixels every image is brought to."
    )
    resize: Literal["crop", "pad", "stretch"] = Field(
        default="crop",
        description="How any shape becomes a square: the centre cut out, grey bars added, or stretched.",
    )
    downsample: int = Field(
        default=4, ge=2, le=32, description="Side in pixels of the patch behind one token (fsq)."
    )
    levels: tuple[int, ...] = Field(
        default=(8, 8, 8, 4, 4),
        min_length=1,
        max_length=8,
        description="Levels of each latent; their product is the codebook (fsq).",
    )
    width: int = Field(default=48, ge=8, le=1024, description="Channels of the convolutions (fsq).")
    blocks: int = Field(
        default=2, ge=0, le=32, description="Residual blocks on either side of the quantiser (fsq)."
    )
    steps: int = Field(
        default=5000,
        ge=1,
        description="Optimiser steps of the fit (fsq). A count, not a time: fits repeat exactly.",
    )
    batch: int = Field(default=8, ge=1, le=4096, description="Crops in one step (fsq).")
    crops: int = Field(
        default=4096, ge=1, description="Random crops drawn once from the images and then trained on (fsq)."
    )
    max_images: int = Field(default=2000, ge=1, description="Images to fit on, at most (fsq).")
    lr: float = Field(
        default=4e-3,
        gt=0,
        le=1,
        description="Peak learning rate of AdamW, falling to 0 along a cosine; that of Muon is five times as high (fsq).",
    )
    seed: int = Field(
        default=0, ge=0, description="Seed of the crops, the initial weights and the batches (fsq)."
    )
    threads: int = Field(
        default=1,
        ge=1,
        le=64,
        description="Threads of the fit (fsq). Another number rounds differently: other codes.",
    )
    device: Device = Field(default="auto", description=_DEVICE)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.kind != "fsq" and not self.path:
            raise ValueError(f"kind '{self.kind}' needs `path`, the directory of its checkpoint")
        if self.size % self.downsample:
            raise ValueError(f"size {self.size} is not a multiple of downsample {self.downsample}")
        if any(level < 2 for level in self.levels):
            raise ValueError(f"levels {self.levels}: each needs at least 2")
        if self.width > 3 * self.downsample**2:
            raise ValueError(f"width {self.width} exceeds the {3 * self.downsample**2} values of a patch")
        if len(self.levels) > self.width:
            raise ValueError(f"levels {self.levels} are more than width {self.width}")
        return self


class SpeechCodecConfig(BaseModel):
    """The speech codec: k-means units over log-mel frames (`logmel`) or over features of a model, or a codec model."""

    model_config = _MODEL

    kind: SpeechKind = Field(
        default="logmel",
        description="logmel: fitted here. hubert, wav2vec2, wavlm: fitted here on features of a transformers checkpoint; "
        "mimi, encodec, dac: codecs of transformers; all these need `path`.",
    )
    path: str | None = Field(
        default=None,
        description="Directory of a fitted codec or checkpoint, or a hub id; required unless kind is logmel.",
    )
    download: bool = Field(
        default=False, description="Fetch a hub id that this machine's cache does not hold."
    )
    codebooks: int = Field(
        default=1,
        ge=1,
        le=64,
        description="Codebooks to take, each with its own units (mimi, encodec, dac).",
    )
    layout: Literal["frames", "delayed"] = Field(
        default="frames",
        description="Order of several codebooks: frame by frame, or each one step later than the one before.",
    )
    layer: int = Field(
        default=9, ge=1, le=200, description="Layer the features are taken from (hubert, wav2vec2, wavlm)."
    )
    chunk_seconds: float = Field(
        default=30.0,
        ge=0.1,
        le=3600,
        description="A longer recording goes through a model in pieces of this length.",
    )
    context_seconds: float = Field(
        default=5.0, ge=0, le=600, description="Seconds heard on either side of such a piece."
    )
    micro_batch: int = Field(
        default=8,
        ge=1,
        le=1024,
        description="Whole pieces of long recordings in a pass on a GPU, always so many, and part of the fingerprint there. "
        "On a CPU each goes alone.",
    )
    units: int = Field(
        default=250,
        ge=2,
        le=65536,
        description="Clusters (logmel, hubert, wav2vec2, wavlm); fewer are made when the corpus has fewer frames.",
    )
    stack: int = Field(
        default=4,
        ge=1,
        le=16,
        description="10 ms frames behind one unit: 4 gives 25 units a second (logmel).",
    )
    window: int = Field(
        default=24,
        ge=1,
        le=200,
        description="10 ms frames a unit is judged by, those around it included (logmel).",
    )
    cepstra: int = Field(
        default=20,
        ge=1,
        le=80,
        description="Cosines over the bands: how finely the spectrum is seen (logmel).",
    )
    moves: int = Field(
        default=3,
        ge=1,
        le=16,
        description="Cosines over the window: 1 sees the mean alone, 2 its slope as well, 3 its curve (logmel).",
    )
    normalise: Literal["level", "mean", "none"] = Field(
        default="mean",
        description="What is taken off a clip first (logmel): its loudness, its mean spectrum as well, or nothing.",
    )
    collapse: bool = Field(
        default=True, description="Write a run of equal units once; run lengths are returned beside them."
    )
    iterations: int = Field(default=20, ge=1, le=1000, description="k-means rounds (all fitted kinds).")
    fit_seconds: float = Field(
        default=3600.0, gt=0, description="Seconds of audio to fit on, at most (all fitted kinds)."
    )
    seed: int = Field(default=0, ge=0, description="Seed of k-means (all fitted kinds).")
    device: Device = Field(default="auto", description=_DEVICE)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.codebooks > 1 and self.kind not in ("mimi", "encodec", "dac"):
            raise ValueError(f"codebooks is {self.codebooks}, but kind '{self.kind}' has one: set it to 1")
        if self.kind != "logmel" and not self.path:
            raise ValueError(f"kind '{self.kind}' needs `path`, the directory of its checkpoint")
        return self
