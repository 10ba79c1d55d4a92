"""Settings of `mixloom mix judge`: the skills, the documents that are shown, and the judges."""

from __future__ import annotations

from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator


class SkillConfig(BaseModel):
    """One skill: items of its benchmark (a development set, never the test set that is reported), or a description."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: str | None = Field(
        None,
        description="items: a .jsonl, .parquet or text file, a glob, or a folder of files; .gz and .zst are decompressed",
    )
    fields: tuple[str, ...] = Field(
        (),
        description="fields of a .jsonl or .parquet that make an item, joined; default: `text`, else all that hold text",
    )
    text_items: Literal["file", "lines"] = Field(
        "file", description="an item of a text file: the whole file, or each line"
    )
    description: str | None = Field(
        None,
        min_length=1,
        description="what the skill needs, in words; a language model is then not asked to describe items",
    )

    @model_validator(mode="after")
    def _something(self) -> SkillConfig:
        if self.path is None and self.description is None:
            raise ValueError("a skill needs a path to items of its benchmark, or a description")
        return self


class LexicalConfig(BaseModel):
    """Word statistics: deterministic, offline, in seconds. Compares words, understands nothing."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["lexical"] = "lexical"
    items: int = Field(512, ge=8, description="items of each skill that make its word statistics, at most")


class EndpointConfig(BaseModel):
    """Any server that speaks the chat completions protocol of OpenAI."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["endpoint"] = "endpoint"
    base_url: str = Field(description="up to and with the version, for example http://localhost:8000/v1")
    model: str = Field(min_length=1, description="name of the model, as the server knows it")
    key_variable: str | None = Field(
        None,
        pattern=r"^[A-Za-z_][A-Za-z0-9_]*$",
        description="environment variable that holds the key; left out: no key is sent",
    )
    timeout_s: float = Field(120.0, gt=0, le=3600, description="seconds an answer may take in all")
    retries: int = Field(
        5,
        ge=0,
        le=20,
        description="further tries after a timeout, a lost connection, 408, 409, 425, 429 or 5xx",
    )
    backoff_s: float = Field(
        1.0, ge=0, le=60, description="wait before the second try; doubled for each further one"
    )
    max_backoff_s: float = Field(60.0, ge=0, le=600, description="longest wait, whatever the server asks for")
    concurrency: int = Field(4, ge=1, le=256, description="calls at one time")
    requests_per_minute: float | None = Field(
        None, gt=0, description="calls begun in a minute, at most; left out: no limit"
    )
    temperature: float | None = Field(
        0.0, ge=0, le=2, description="null: not sent, for models that refuse it"
    )
    token_limit_field: Literal["max_tokens", "max_completion_tokens"] = Field(
        "max_tokens", description="what the server calls the longest answer"
    )
    extra: dict[str, Any] = Field({}, description="further fields of the request body, for example {seed: 1}")
    price_in: float | None = Field(
        None, ge=0, description="price of a million prompt tokens, for the estimate"
    )
    price_out: float | None = Field(None, ge=0, description="price of a million tokens of answers")

    @field_validator("base_url")
    @classmethod
    def _plain_url(cls, url: str) -> str:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("base_url must begin with http:// or https:// and name a host")
        if parts.username or parts.password or parts.query or parts.fragment:
            raise ValueError(
                "base_url must hold no user, password or query: name an environment variable with the key in key_variable"
            )
        return url.rstrip("/")

    @field_validator("extra")
    @classmethod
    def _own_fields_stay(cls, extra: dict[str, Any]) -> dict[str, Any]:
        taken = {"model", "messages", "stream", "n", "temperature", "max_tokens", "max_completion_tokens"}
        wrong = sorted(taken & set(extra))
        if wrong:
            raise ValueError(f"extra may not hold {', '.join(wrong)}, which are set by fields of their own")
        return extra


class LocalConfig(BaseModel):
    """A causal language model of `transformers` in a folder on this machine."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["local"] = "local"
    path: str = Field(
        min_length=1, description="folder with config.json, .safetensors files and the tokenizer"
    )
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto: a GPU where there is one")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto", description="auto: bfloat16 on a GPU, float32 otherwise"
    )
    batch: int | None = Field(
        None,
        ge=1,
        le=1024,
        description="prompts that go through the model together; default: 1 on the processor, where answers then depend"
        " on nothing but the prompt, 16 on a GPU",
    )


JudgeConfig = Annotated[LexicalConfig | EndpointConfig | LocalConfig, Field(discriminator="kind")]


class MeduConfig(BaseModel):
    """Everything that decides the labels."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    skills: dict[str, SkillConfig] = Field(min_length=1, description="the skills, by name")
    judge: JudgeConfig = Field(LexicalConfig(), description="who labels: lexical, endpoint or local")
    group: Literal["source", "domain"] = Field(
        "source", description="the sources of a run as it names them, or the domains it found"
    )
    documents_per_source: int = Field(
        256, ge=1, le=100_000, description="documents labelled of each source, at most"
    )
    document_characters: int = Field(
        2048, ge=64, le=1_000_000, description="the beginning of a document that is judged"
    )
    document_tokens: int | None = Field(
        None, ge=16, description="cut documents to so many tokens as well; needs `tokenizer`"
    )
    tokenizer: str | None = Field(
        None,
        description="a tokenizer.json that counts tokens for document_tokens and for the estimate; default for the"
        " estimate: one token per four bytes of UTF-8 (a local judge counts with its own)",
    )
    skill_items: int = Field(
        64, ge=1, le=10_000, description="items of each benchmark that a language model is shown"
    )
    items_per_description: int = Field(8, ge=1, le=100, description="items that one description is made from")
    item_characters: int = Field(1024, ge=64, le=100_000, description="the longest piece of an item")
    description_tokens: int = Field(400, ge=16, le=8192, description="longest description, in tokens")
    answer_tokens: int = Field(400, ge=8, le=8192, description="longest answer to a document, in tokens")
    seed: int = Field(0, ge=0, lt=2**31, description="which documents and items are drawn")
    prompts: str | None = Field(None, description="a YAML file of one's own; default: conf/prompts/medu.yaml")
    max_unparsable_share: float = Field(
        0.05, ge=0, le=1, description="share of answers without a label above which nothing is written"
    )
    max_failed_share: float = Field(
        0.02, ge=0, le=1, description="share of calls without an answer above which nothing is written"
    )
    go_on: bool = Field(
        False,
        description="make the calls of an endpoint without being told --yes, after showing the estimate",
    )

    @model_validator(mode="after")
    def _tokens_can_be_counted(self) -> MeduConfig:
        if self.document_tokens is not None and self.tokenizer is None:
            raise ValueError("document_tokens needs tokenizer, the path of a tokenizer.json")
        return self
