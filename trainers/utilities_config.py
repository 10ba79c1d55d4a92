"""Settings of the stage `utilities`: what small models are trained for, and what they are judged by. Nothing heavy."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from mixloom.pipeline.ingest.config import Source
from mixloom.trainers.config import ModelConfig, TrainConfig


class ShardSkill(BaseModel):
    """A held-out set that is tokenised already, by the very tokenizers of the run."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal["shards"]
    name: str = Field(pattern=r"^[A-Za-z0-9_-]+$", description="name of the skill")
    path: str = Field(
        min_length=1, description="folder of shards with a manifest.json, or a run that has one"
    )


Skill = Annotated[Source | ShardSkill, Field(discriminator="format")]


class UtilitiesConfig(BaseModel):
    """How much each domain is worth for each skill, measured by small trainings.

    A skill is a held-out set, written like a source: a name, a format, a path and what the format needs. Its documents
    are read as they are, without rules or deduplication; they must not be among the sources.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    method: Literal["ablation", "merge"] = Field(
        "ablation",
        description="ablation: one model per domain, from fresh weights. merge: one model per domain, branched from"
        " one that read all of them, and averages of their weights evaluated",
    )
    skills: tuple[Skill, ...] = Field(
        min_length=1,
        description="held-out sets, written like sources; `format: shards` names shards tokenised by this run's tokenizers",
    )
    skill_tokens: int = Field(
        50_000,
        ge=100,
        description="tokens of a skill that are evaluated, at most; documents are drawn by hash",
    )
    skill_characters: int = Field(
        4000,
        ge=1,
        description="characters of a held-out document of text that are read; the rest is left out, so that many"
        " documents fit into skill_tokens",
    )
    model: ModelConfig = Field(
        ModelConfig(dim=64, layers=2, heads=2, untie=(), tie_embeddings=True, init_std=0.1),
        description="the small model; its context length is that of the shards",
    )
    train: TrainConfig = Field(
        TrainConfig(steps=60, batch_contexts=8, lr=6e-3, min_lr=6e-4, warmup=6, log_every=10),
        description="training of each small model; threads: 1 on a busy machine; its seed is the one below",
    )
    seed: int = Field(
        0, ge=0, lt=2**31, description="seed of the first training, and of the contexts it may read"
    )
    seeds: int = Field(
        1, ge=1, le=100, description="trainings per domain, each with its own seed; losses are averaged"
    )
    simulate_epochs: bool = Field(
        True,
        description="cut every domain to (contexts of a small training / contexts of the run), so that it repeats"
        " as it would in the run; false: small trainings read from everything",
    )
    branch_steps: int = Field(
        60, ge=1, description="for merge: steps of the model that all others branch from"
    )
    trials: int = Field(
        0,
        ge=0,
        le=100_000,
        description="small trainings on random mixtures, for mixture.method: regmix; the authors take 512; 0: none",
    )
    excess: bool = Field(
        False, description="train the reference and the proxy of DoReMi, for mixture.method: doremi"
    )
    compare: int = Field(
        3,
        ge=0,
        le=100,
        description="seeds under which a small model on the mixture found is compared with one on UniMax's, to warn"
        " where it loses; 0: it is not",
    )
    cache: str | None = Field(
        None,
        description="folder for trained small models and their losses, by content, shared by runs that name it;"
        " left out: utilities-cache in the run directory",
    )

    @model_validator(mode="after")
    def _names(self) -> Self:
        names = [s.name for s in self.skills]
        twice = sorted({n for n in names if names.count(n) > 1})
        if twice:
            raise ValueError(f"two skills are named '{twice[0]}'; give each a name of its own")
        return self
