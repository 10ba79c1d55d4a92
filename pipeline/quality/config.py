"""Settings of quality classifiers (no compiled code here: configurations are read by light commands too)."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from mixloom.pipeline.ingest.config import Source

Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$", max_length=40)]


class Normalisation(BaseModel):
    """What is done to a text before it is scored, in training and after: saved with the model.

    Always: `__label__` and `</s>`, which fastText would obey, lose their meaning. White space only separates words.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    lowercase: bool = Field(False, description="read every text in lower case")
    separate_punctuation: bool = Field(
        False, description="ASCII punctuation and symbols become words of their own"
    )
    max_chars: int | None = Field(
        None, ge=50, description="only so many characters of a document, from its start, are read"
    )


class QualityModelConfig(BaseModel):
    """One classifier of `annotate.quality`; its scores are the column `quality_<name>`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str = Field(
        min_length=1,
        description="folder written by `mixloom quality fit`, or a bare fastText .bin or .ftz (path or URL)",
    )
    label: str | None = Field(
        None,
        description="the label whose probability is the score, such as __label__hq; a folder knows its own, a bare "
        "file needs it",
    )
    calibrated: bool = Field(
        False, description="write the calibrated probability instead of the raw score (folders only)"
    )
    normalisation: Normalisation | None = Field(
        None, description="of a bare file, when it was trained on prepared text; a folder knows its own"
    )


class RunDocuments(BaseModel):
    """Documents of a finished run, instead of files."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal["run"]
    run_dir: str = Field(min_length=1, description="the run directory")
    name: str | None = Field(
        None, pattern=r"^[A-Za-z0-9_-]+$", description="only the documents of this source of the run"
    )
    survivors: str | None = Field(
        None, description="only documents still there after this stage, for example filter or dedup_near"
    )


ExampleSource = Annotated[Source | RunDocuments, Field(discriminator="format")]


class PreSelectConfig(BaseModel):
    """Examples from the losses of several models: good is what stronger models read better (arXiv 2503.00808)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    losses: str = Field(
        min_length=1,
        description="CSV or Parquet with a row per document: doc_id, and a column per model with its loss (bits or "
        "nats per character or byte, the same unit for all)",
    )
    strengths: dict[str, float] = Field(
        min_length=2, description="the benchmark score of each model, by column; higher is stronger"
    )
    run_dir: str = Field(min_length=1, description="the run that holds the documents")
    top_share: float = Field(
        0.2, gt=0, lt=1, description="share of the documents, best rank agreement first, that are positives"
    )
    bottom_share: float = Field(0.2, gt=0, lt=1, description="share, worst first, that are negatives")

    @model_validator(mode="after")
    def _shares(self) -> Self:
        if self.top_share + self.bottom_share > 1:
            raise ValueError("top_share and bottom_share overlap: together they must not exceed 1")
        if len(set(self.strengths.values())) < 2:
            raise ValueError("strengths are all equal: no model is stronger than another")
        return self


class FastTextConfig(BaseModel):
    """How fastText is trained. One thread always: with more the model would differ from run to run."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    dim: int = Field(16, ge=2, le=1000, description="width of the word vectors")
    epochs: int | None = Field(
        None,
        ge=1,
        le=1000,
        description="passes over the training documents; left out: 5, or up to 50 until 100,000 documents were read",
    )
    lr: float = Field(0.5, gt=0, le=10, description="learning rate at the start; it falls to 0")
    word_ngrams: int = Field(2, ge=1, le=5, description="longest word n-gram")
    min_count: int = Field(2, ge=1, description="words seen less often are no words")
    bucket: int = Field(
        500_000, ge=1, le=100_000_000, description="hashed rows shared by all n-grams; dim x 4 bytes each"
    )
    min_chars: int = Field(0, ge=0, le=20, description="shortest character n-gram; 0 with max_chars 0: none")
    max_chars: int = Field(0, ge=0, le=20, description="longest character n-gram")
    quantize: bool = Field(False, description="store the word vectors in a quarter to a tenth of the space")

    def epochs_for(self, documents: int) -> int:
        """The passes over so many documents: few documents need more of them to be learned at all."""
        return self.epochs or min(50, max(5, -(-100_000 // max(1, documents))))

    @model_validator(mode="after")
    def _characters(self) -> Self:
        if self.max_chars < self.min_chars:
            raise ValueError(f"max_chars {self.max_chars} is less than min_chars {self.min_chars}")
        return self


class QualityFitConfig(BaseModel):
    """Everything `mixloom quality fit` does. Examples come from positives and negatives, or from preselect."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    out: str = Field(min_length=1, description="folder of the model (path or URL)")
    data_root: str = Field(".", description="folder or URL against which the paths of sources are resolved")
    positives: tuple[ExampleSource, ...] = Field((), description="where good documents are")
    negatives: tuple[ExampleSource, ...] = Field((), description="where ordinary documents are")
    preselect: PreSelectConfig | None = Field(None, description="examples by the losses of models instead")
    positive_label: str = Field("hq", pattern=r"^[A-Za-z0-9_-]+$", description="label of good documents")
    negative_label: str = Field("cc", pattern=r"^[A-Za-z0-9_-]+$", description="label of ordinary documents")
    normalisation: Normalisation = Field(Normalisation(), description="preparation of the text")
    fasttext: FastTextConfig = Field(FastTextConfig(), description="the classifier")
    max_documents: int | None = Field(None, ge=50, description="documents of each class, at most")
    balance: bool = Field(True, description="take as many documents of the larger class as of the smaller")
    test_share: float = Field(0.1, gt=0, lt=0.5, description="share of the documents held out for the report")
    calibration_share: float = Field(0.1, gt=0, lt=0.5, description="share held out to calibrate")
    calibration: Literal["platt", "isotonic"] = Field(
        "platt",
        description="platt keeps the order of scores strictly; isotonic fits any rising curve, in steps",
    )
    seed: int = Field(0, ge=0, lt=2**31, description="of the choice, the order and the training")

    @model_validator(mode="after")
    def _examples(self) -> Self:
        if self.preselect is not None and (self.positives or self.negatives):
            raise ValueError("give positives and negatives, or preselect, not both")
        if self.preselect is None and not (self.positives and self.negatives):
            missing = "positives" if not self.positives else "negatives"
            raise ValueError(f"there are no {missing}: list at least one source (or use preselect)")
        if self.positive_label == self.negative_label:
            raise ValueError(f"both labels are '{self.positive_label}'; give each class its own")
        return self
