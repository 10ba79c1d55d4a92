"""What every judge that is a language model offers: questions in, answers out, in whatever order they are ready."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from mixloom.mixers.medu_config import EndpointConfig, LocalConfig
from mixloom.mixers.medu_prompts import Request

BYTES_PER_TOKEN = 4  # the estimate where no tokenizer is known


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of one question.

    Attributes:
        text: the answer, or None where there is none.
        error: why there is none, in words that hold no key.
        prompt_tokens, answer_tokens: as the model counted them; None where it did not say.
        seconds: from the first try to the last.
        tries: how often it was asked.
    """

    text: str | None
    error: str | None = None
    prompt_tokens: int | None = None
    answer_tokens: int | None = None
    seconds: float = 0.0
    tries: int = 1


class ChatJudge(Protocol):
    """A language model that answers questions."""

    @property
    def name(self) -> str:
        """What the ledger calls it."""

    @property
    def identity(self) -> dict[str, Any]:
        """Everything besides the question that decides an answer, as JSON; never a key."""

    @property
    def offline(self) -> bool:
        """Whether nothing leaves this machine."""

    def count_tokens(self, text: str) -> int | None:
        """Tokens of a text as the model cuts it, or None where that is not known."""

    def answers(self, requests: Sequence[Request]) -> Generator[tuple[int, Answer], None, None]:
        """Ask all questions; yields the number of a question and its answer as each is ready. Closing it ends the asking.

        Raises:
            UserError: a mistake that every further question would meet too (no such model, a key that is refused).
        """


def open_judge(config: EndpointConfig | LocalConfig, seed: int = 0) -> ChatJudge:
    """The judge of a configuration.

    Raises:
        UserError: the key is missing, or there is no model that can be read.
    """
    if isinstance(config, EndpointConfig):
        from mixloom.mixers.judge_endpoint import EndpointJudge

        return EndpointJudge(config, seed)
    from mixloom.mixers.judge_local import LocalJudge

    return LocalJudge(config)


def estimated_tokens(text: str) -> int:
    """About how many tokens a text has, where no tokenizer is known: one per four bytes of UTF-8, rounded up."""
    return -(-len(text.encode("utf-8", "replace")) // BYTES_PER_TOKEN)
