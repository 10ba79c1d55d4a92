"""A judge behind the chat completions protocol of OpenAI, which most servers of language models speak.

The key is read from the environment, sent in the header of a request, and stands nowhere else: not in settings, ledgers,
messages or errors. Redirects are refused, since they would carry it to another host.
"""

from __future__ import annotations

import email.utils
import http.client
import json
import os
import queue
import random
import threading
import time
import urllib.error
import urllib.request
from collections import deque
from collections.abc import Generator, Sequence
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

from mixloom.mixers.judge import Answer
from mixloom.mixers.medu_config import EndpointConfig
from mixloom.mixers.medu_prompts import Request
from mixloom.pipeline.errors import UserError

PATH = "/chat/completions"
_AGAIN = frozenset({408, 409, 425, 429})  # and every 5xx
_HOPELESS = {
    401: "the key is missing or refused: check the environment variable that key_variable names",
    403: "the key may not use this model: check the account, the model and key_variable",
    404: "there is no such address or model: check base_url (up to and with /v1) and model",
    405: "this address takes no questions: check base_url (up to and with /v1)",
}
_MOST_BYTES = 16 << 20
_SHOWN = 300  # characters of what a server says
_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})


class _Refused(Exception):
    """A try that failed. `again`: another may do better; `after`: seconds the server asks to wait."""

    def __init__(
        self, why: str, again: bool, after: float | None = None, hopeless: str | None = None
    ) -> None:
        super().__init__(why)
        self.again, self.after, self.hopeless = again, after, hopeless


class _Pace:
    """When the next call may begin: a rate all threads share, and a pause when the server asks for one."""

    def __init__(self, per_minute: float | None) -> None:
        self._step = 60.0 / per_minute if per_minute else 0.0
        self._next = 0.0
        self._lock = threading.Lock()
        self.stopped = threading.Event()

    def wait(self) -> None:
        with self._lock:
            at = max(self._next, time.monotonic())
            self._next = at + self._step
        self.stopped.wait(max(0.0, at - time.monotonic()))

    def pause(self, seconds: float) -> None:
        with self._lock:
            self._next = max(self._next, time.monotonic() + seconds)


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *args: Any, **kwargs: Any) -> None:
        return None


class EndpointJudge:
    """Questions to a server, several at a time, each tried again a bounded number of times.

    Raises:
        UserError: the environment variable with the key is not set, or the key would travel unencrypted.
    """

    offline = False

    def __init__(self, config: EndpointConfig, seed: int = 0) -> None:
        self.config = config
        self._seed = seed
        self._key = self._read_key()
        self._opener = urllib.request.build_opener(_NoRedirects)

    @property
    def name(self) -> str:
        """The model, as the server knows it."""
        return self.config.model

    @property
    def identity(self) -> dict[str, Any]:
        """Where the model is, and what it is told besides the messages."""
        return {
            "kind": "endpoint",
            "base_url": self.config.base_url,
            "model": self.config.model,
            "temperature": self.config.temperature,
            "extra": self.config.extra,
        }

    def count_tokens(self, text: str) -> int | None:
        """Not known: only the server has the tokenizer."""
        return None

    def answers(self, requests: Sequence[Request]) -> Generator[tuple[int, Answer], None, None]:
        """Ask all questions; see `ChatJudge.answers`. Closing the generator ends the asking."""
        todo = deque(range(len(requests)))
        done: queue.SimpleQueue[tuple[int, Answer | BaseException]] = queue.SimpleQueue()
        pace = _Pace(self.config.requests_per_minute)

        def work() -> None:
            while todo and not pace.stopped.is_set():
                try:
                    i = todo.popleft()
                except IndexError:
                    return
                try:
                    done.put((i, self._ask(requests[i], pace)))
                except BaseException as e:
                    pace.stopped.set()  # here, not where it is read: nothing more is asked in between
                    done.put((i, e))

        # Daemons: an interrupted run ends at once, and not when the last server has answered.
        for _ in range(min(self.config.concurrency, len(requests))):
            threading.Thread(target=work, name="judge", daemon=True).start()
        try:
            for _ in range(len(requests)):
                i, answer = done.get()
                if isinstance(answer, BaseException):
                    raise answer
                yield i, answer
        finally:
            pace.stopped.set()

    def _ask(self, request: Request, pace: _Pace) -> Answer:
        began, wait_s = time.monotonic(), self.config.backoff_s
        jitter = random.Random(f"{self._seed}:{request.fingerprint}")
        for tries in range(1, self.config.retries + 2):
            pace.wait()
            if pace.stopped.is_set():
                return Answer(None, "interrupted", seconds=time.monotonic() - began, tries=tries)
            try:
                answer = self._try(request)
                return replace(answer, seconds=round(time.monotonic() - began, 3), tries=tries)
            except _Refused as e:
                if e.hopeless is not None:
                    raise UserError(f"{self.config.base_url}: {e}", fix=e.hopeless) from None
                if not e.again or tries > self.config.retries:
                    return Answer(None, str(e), seconds=round(time.monotonic() - began, 3), tries=tries)
                if e.after is not None:
                    pace.pause(min(e.after, self.config.max_backoff_s))
                pace.stopped.wait(min(wait_s * (0.5 + jitter.random()), self.config.max_backoff_s))
                wait_s *= 2
        raise AssertionError("unreachable")

    def _try(self, request: Request) -> Answer:
        """One call.

        Raises:
            _Refused: there is no answer.
        """
        deadline = time.monotonic() + self.config.timeout_s
        headers = {"Content-Type": "application/json", "Accept": "application/json", "User-Agent": "mixloom"}
        if self._key is not None:
            headers["Authorization"] = f"Bearer {self._key}"
        call = urllib.request.Request(
            self.config.base_url + PATH, self._body(request), headers, method="POST"
        )
        try:
            with self._opener.open(call, timeout=self.config.timeout_s) as response:
                return self._read(_bounded(response, deadline))
        except urllib.error.HTTPError as e:
            raise self._status(e) from None
        except TimeoutError:
            raise _Refused(f"no answer within {self.config.timeout_s:g} s", again=True) from None
        except (OSError, http.client.HTTPException) as e:  # connection refused, reset, cut off
            if isinstance(getattr(e, "reason", None), TimeoutError):
                raise _Refused(f"no answer within {self.config.timeout_s:g} s", again=True) from None
            raise _Refused(f"no connection: {self._clean(str(e))}", again=True) from None

    def _body(self, request: Request) -> bytes:
        body: dict[str, Any] = {
            "model": self.config.model,
            "messages": [
                {"role": "system", "content": request.system},
                {"role": "user", "content": request.user},
            ],
            self.config.token_limit_field: request.max_tokens,
            **self.config.extra,
        }
        if self.config.temperature is not None:
            body["temperature"] = self.config.temperature
        return json.dumps(body).encode()

    def _read(self, data: bytes) -> Answer:
        try:
            value = json.loads(data)
            content = value["choices"][0]["message"]["content"]
            usage = value.get("usage") or {}
            if not (content is None or isinstance(content, str)):
                raise TypeError("content is no text")
            tokens = [
                n if isinstance(n := usage.get(k), int) else None
                for k in ("prompt_tokens", "completion_tokens")
            ]
        except (ValueError, KeyError, IndexError, TypeError, AttributeError) as e:
            shown = self._clean(data[:_SHOWN].decode("utf-8", "replace"))
            raise _Refused(
                f"not an answer of this protocol ({type(e).__name__}): {shown}", again=True
            ) from None
        # A server may send back half a surrogate pair, which no file can hold.
        text = (content or "").encode("utf-8", "replace").decode()
        return Answer(text, prompt_tokens=tokens[0], answer_tokens=tokens[1])

    def _status(self, error: urllib.error.HTTPError) -> _Refused:
        try:
            said = error.read(_SHOWN * 4).decode("utf-8", "replace")
        except (OSError, http.client.HTTPException):
            said = ""
        why = f"status {error.code}: {self._clean(said)}".rstrip(": ")
        if 300 <= error.code < 400:
            return _Refused(
                why, False, hopeless="redirects are refused: give the address they lead to as base_url"
            )
        if error.code in _HOPELESS:
            return _Refused(why, False, hopeless=_HOPELESS[error.code])
        again = error.code in _AGAIN or error.code >= 500
        return _Refused(why, again, _retry_after(error.headers.get("Retry-After")) if again else None)

    def _clean(self, text: str) -> str:
        """What a server says, on one line, short, and without the key: some quote it in their errors."""
        if self._key:
            text = text.replace(self._key, "***")
        return " ".join(text.split())[:_SHOWN]

    def _read_key(self) -> str | None:
        name = self.config.key_variable
        if name is None:
            return None
        key = os.environ.get(name, "").strip()
        if not key or not key.isprintable() or not key.isascii():
            said = "is not set" if not key else "holds characters that no key has"
            raise UserError(
                f"judge.key_variable: the environment variable {name} {said}",
                fix=f"export {name}=..., or leave key_variable out for a server without keys",
            )
        url = urlsplit(self.config.base_url)
        if url.scheme == "http" and url.hostname not in _LOOPBACK:
            raise UserError(
                f"judge.base_url {self.config.base_url} would carry the key of {name} unencrypted",
                fix="use https, or leave key_variable out",
            )
        return key


def _bounded(response: http.client.HTTPResponse, deadline: float) -> bytes:
    """The body of a response, of bounded size, before a deadline: a socket's own timeout begins anew with every byte."""
    parts, size = [], 0
    while piece := response.read1(1 << 16):
        parts.append(piece)
        size += len(piece)
        if size > _MOST_BYTES:
            raise _Refused(f"the answer has more than {_MOST_BYTES:,} bytes", again=False)
        if time.monotonic() > deadline:
            raise TimeoutError
    return b"".join(parts)


def _retry_after(value: str | None) -> float | None:
    """Seconds to wait, from either form of the header; None where it says nothing that can be read."""
    if value is None:
        return None
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except (TypeError, ValueError):
        return None
