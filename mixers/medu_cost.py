"""What a judge will cost, before anything is asked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mixloom.mixers.judge import ChatJudge, estimated_tokens
from mixloom.mixers.medu_config import EndpointConfig, MeduConfig
from mixloom.mixers.medu_prompts import Request
from mixloom.pipeline.errors import UserError

Counter = Callable[[str], int]


@dataclass(frozen=True, slots=True)
class Cost:
    """An estimate. `calls` are to be made; `known` are answered by the ledger already, and cost nothing.

    prompt_tokens: about. answer_tokens: at most, as every answer may be as long as allowed. price: in the currency of
    the prices given, or None where they are not. basis: how tokens were counted.
    """

    calls: int
    known: int
    prompt_tokens: int
    answer_tokens: int
    price: float | None
    basis: str

    def lines(self) -> list[str]:
        """The estimate in words."""
        out = [
            f"{self.calls:,} calls to make, {self.known:,} known from the ledger",
            f"about {self.prompt_tokens:,} tokens of prompts ({self.basis}), at most {self.answer_tokens:,} of answers",
        ]
        if self.price is not None:
            out.append(f"price: at most about {self.price:,.2f}, at the prices given per million tokens")
        return out


class CostCounter:
    """Adds up questions, those that are known apart."""

    def __init__(self, count: Counter, basis: str) -> None:
        self._count, self._basis = count, basis
        self.calls = self.known = self.prompt_tokens = self.answer_tokens = 0

    def tokens(self, text: str) -> int:
        """Tokens of a text, exactly or by estimate."""
        return self._count(text)

    def add(self, request: Request, known: bool = False, extra_tokens: int = 0) -> None:
        """Count a question; `extra_tokens` stand for what its prompt will hold and is not written yet."""
        if known:
            self.known += 1
            return
        self.calls += 1
        self.prompt_tokens += self._count(request.system) + self._count(request.user) + extra_tokens
        self.answer_tokens += request.max_tokens

    def cost(self, config: MeduConfig) -> Cost:
        """What it comes to."""
        amount = price(config, self.prompt_tokens, self.answer_tokens)
        return Cost(self.calls, self.known, self.prompt_tokens, self.answer_tokens, amount, self._basis)


def price(config: MeduConfig, prompt_tokens: int, answer_tokens: int) -> float | None:
    """What so many tokens cost, or None where the prices are not given."""
    judge = config.judge
    if not isinstance(judge, EndpointConfig) or judge.price_in is None or judge.price_out is None:
        return None
    return (prompt_tokens * judge.price_in + answer_tokens * judge.price_out) / 1e6


def token_counter(config: MeduConfig, judge: ChatJudge | None) -> tuple[Counter, str]:
    """How tokens are counted, and how that is called in the estimate."""
    if judge is not None and judge.count_tokens("a") is not None:
        known = judge

        def count(text: str) -> int:
            return known.count_tokens(text) or 0

        return count, "by the tokenizer of the model"
    if config.tokenizer is not None:
        tokenizer = read_tokenizer(config.tokenizer)
        return (
            lambda text: len(tokenizer.encode(text, add_special_tokens=False).ids)
        ), "by the tokenizer given"
    return estimated_tokens, "estimated as one per four bytes"


def read_tokenizer(path: str) -> Any:
    """A `tokenizer.json` that counts tokens.

    Raises:
        UserError: it is not there or cannot be read.
    """
    from tokenizers import Tokenizer

    file = Path(path).expanduser()
    file = file / "tokenizer.json" if file.is_dir() else file
    if not file.is_file():
        raise UserError(
            f"tokenizer: {path} does not exist", fix="name a tokenizer.json, or the folder with it"
        )
    try:
        return Tokenizer.from_file(str(file))
    except Exception as e:  # the library raises bare exceptions
        raise UserError(f"tokenizer: {path} cannot be read: {e}", fix="name a tokenizer.json") from None


def cut_to_tokens(text: str, tokenizer: Any, most: int) -> str:
    """The beginning of a text that is `most` tokens long, or all of it."""
    encoding = tokenizer.encode(text, add_special_tokens=False)
    return text if len(encoding.ids) <= most else text[: encoding.offsets[most - 1][1]]
