"""Settings of the search for personal data and secrets (no compiled code here: light commands read them too)."""

from __future__ import annotations

import re
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

# Kind -> what stands in its place when it is masked, unless the config says otherwise.
PLACEHOLDERS: dict[str, str] = {
    "email": "<EMAIL>",
    "phone": "<PHONE>",
    "ipv4": "<IP>",
    "ipv6": "<IP>",
    "iban": "<IBAN>",
    "card": "<CARD>",
    "secret": "<SECRET>",
}
KINDS: tuple[str, ...] = tuple(PLACEHOLDERS)

# What is found must not depend on a placeholder beside it, or masking twice would mask more than masking once.
_PLACEHOLDER = re.compile(r"[<\[{|][A-Za-z_ |-]{0,22}[>\]}|]")

Action = Literal["off", "count", "mask", "drop"]


class PiiRule(BaseModel):
    """What to do with one kind."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    action: Action = Field(
        default="mask",
        description="off: not looked for; count: counted, text left as it is; mask: replaced by the placeholder; "
        "drop: the document is dropped when it has more than `max_count`",
    )
    placeholder: str | None = Field(
        default=None,
        description="what replaces it: at most 24 ASCII letters, '_', '-', '|' and spaces inside brackets or bars, "
        "such as <EMAIL>, [phone] or |||IP|||; null: the usual one of the kind",
    )
    max_count: int | None = Field(
        default=None,
        ge=0,
        description="a document with more of this kind is dropped, whatever the action (Dolma: 5); null: no limit "
        "for count and mask, 0 for drop",
    )

    @field_validator("placeholder")
    @classmethod
    def _no_text_of_its_own(cls, value: str | None) -> str | None:
        if value is not None and not _PLACEHOLDER.fullmatch(value):
            raise ValueError(
                f"placeholder {value!r} must be at most 24 ASCII letters, '_', '-', '|' and spaces between brackets "
                "or bars, for example <EMAIL>"
            )
        return value

    @property
    def limit(self) -> int | None:
        """The most of this kind that a document may have; None where there is no limit."""
        if self.action == "off" or (self.max_count is None and self.action != "drop"):
            return None
        return self.max_count or 0


class PiiConfig(BaseModel):
    """Which kinds of personal data and secrets are looked for, and what happens to them."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    email: PiiRule = Field(default=PiiRule(), description="e-mail addresses")
    phone: PiiRule = Field(default=PiiRule(), description="telephone numbers")
    ipv4: PiiRule = Field(default=PiiRule(), description="IPv4 addresses")
    ipv6: PiiRule = Field(default=PiiRule(), description="IPv6 addresses")
    iban: PiiRule = Field(
        default=PiiRule(), description="international bank account numbers (checksum and length)"
    )
    card: PiiRule = Field(default=PiiRule(), description="payment card numbers (issuer, length, checksum)")
    secret: PiiRule = Field(
        default=PiiRule(), description="keys and tokens of known prefixes, private keys, JWTs"
    )
    public_ip_only: bool = Field(
        default=True, description="leave private, reserved and documentation IP addresses alone"
    )
    phone_regions: tuple[str, ...] = Field(
        default=("US", "GB", "DE", "FR", "IT", "NL", "ES", "CH", "AU", "IN", "JP", "BR"),
        description="ISO 3166 codes of countries whose national numbers (without +) are looked for",
    )

    @field_validator("phone_regions")
    @classmethod
    def _known(cls, regions: tuple[str, ...]) -> tuple[str, ...]:
        import phonenumbers

        for region in regions:
            if region not in phonenumbers.SUPPORTED_REGIONS:
                raise ValueError(
                    f"phone_regions: {region!r} is no country code of two capitals such as US or DE"
                )
        return regions

    def rule(self, kind: str) -> PiiRule:
        """The rule of one of `KINDS`."""
        found: PiiRule = getattr(self, kind)
        return found

    @property
    def sought(self) -> tuple[str, ...]:
        """The kinds that are looked for, in the order of `KINDS`."""
        return tuple(k for k in KINDS if self.rule(k).action != "off")
