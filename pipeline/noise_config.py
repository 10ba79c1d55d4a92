"""Settings of the noise gate (no compiled code here: light commands read them too)."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

# Kinds of noise. `random`: characters drawn evenly from an alphabet; `base64`: from letters of both cases and digits;
# `binary`: bytes read as Latin-1 or Windows-1252; `control`: control, private and unassigned characters (also UTF-16
# read as Latin-1); `replacement`: U+FFFD; `mojibake`: UTF-8, or letters of another encoding, read as Latin-1 or
# Windows-1252; `hex`: hexadecimal digits.
KINDS: tuple[str, ...] = ("random", "base64", "binary", "control", "replacement", "mojibake", "hex")


class NoiseConfig(BaseModel):
    """What counts as a run of noise, and whether it is removed."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    action: Literal["off", "measure", "remove"] = Field(
        default="remove",
        description="off: not looked for; measure: only the measures of the document; remove: runs are cut out",
    )
    kinds: tuple[Literal["random", "base64", "binary", "control", "replacement", "mojibake", "hex"], ...] = (
        Field(
            default=("random", "base64", "binary", "control", "replacement", "mojibake", "hex"),
            description="the kinds that are looked for",
        )
    )
    min_chars: int = Field(
        default=80, ge=20, le=1_000_000, description="characters of the shortest run that counts"
    )
    min_bits: float = Field(
        default=60.0,
        ge=10.0,
        le=10_000.0,
        description="how much likelier a run must be as noise than as text, in bits (powers of two)",
    )
    min_density: float = Field(
        default=0.7,
        ge=0.0,
        le=1.0,
        description="how sure each character of the run must be on average, as a share of what its alphabet of noise gives",
    )
    margin: float = Field(
        default=0.4, ge=0.0, le=4.0, description="bits a character taken off every step, against unusual text"
    )
    hex_chars: int = Field(
        default=256,
        ge=64,
        le=1_000_000,
        description="hexadecimal digits in one word or dump that are left alone (hashes and signatures are text)",
    )
