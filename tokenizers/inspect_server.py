"""A small server of this machine only, which draws contexts when they are asked for. It serves no file of any path."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from mixloom.pipeline.errors import UserError
from mixloom.tokenizers.inspect_contexts import read_context
from mixloom.tokenizers.inspect_decoders import Decoders
from mixloom.tokenizers.inspect_page import Paging, inspect_page, message_page
from mixloom.tokenizers.inspect_source import ContextSource, Query

HOST = "127.0.0.1"
_CONTEXTS, _MOST = 4, 32  # on one page: by default, and at most
_LONGEST = 1_000  # characters of one field of a search


class InspectServer(ThreadingHTTPServer):
    """Contexts of `source` on http://127.0.0.1:port/; `serve_forever` runs it.

    `/?document=ID&source=S&domain=D&from=N&count=M` shows the contexts from the N-th match on. Every other path is
    answered 404, and requests for another host name 403, so that no page of the network can ask through a name of its own.

    Raises:
        UserError: the port is taken or may not be used.
    """

    daemon_threads = True

    def __init__(self, source: ContextSource, decoders: Decoders, title: str, port: int = 0) -> None:
        self.source, self.decoders, self.title = source, decoders, title
        self.notes: tuple[str, ...] = tuple(decoders.missing.values())
        self.lock = (
            threading.Lock()
        )  # one search and one decoding at a time: codecs and caches are not shared
        try:
            super().__init__((HOST, port), _Handler)
        except OSError as error:
            raise UserError(
                f"cannot listen on {HOST}:{port}: {error.strerror}",
                fix="give another --port, or 0 for a free one",
            ) from None

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.server_address[1]}/"

    def page(self, asked: dict[str, list[str]]) -> str:
        """The page that a query string asks for.

        Raises:
            UserError: a field that is not known or has a value that is not allowed.
        """
        fields = {k: v[-1] for k, v in asked.items()}
        unknown = sorted(set(fields) - {"document", "source", "domain", "from", "count"})
        if unknown or any(len(v) > _LONGEST for v in fields.values()):
            raise UserError(
                f"the address asks for what is not known: {', '.join(unknown) or 'a value too long'}"
            )
        query = Query(*(fields.get(k, "").strip() for k in ("document", "source", "domain")))
        start = _whole(fields, "from", 0, 0, 10**15)
        count = _whole(fields, "count", _CONTEXTS, 1, _MOST)
        with self.lock:
            found = self.source.find(query, start, start + count + 1)
            contexts = [read_context(self.source.read(p), self.decoders) for p in found[:count]]
        paging = Paging(
            query, start, start + len(contexts), len(found) > count, self.source.domains, self.source.sources
        )
        return inspect_page(self.title, contexts, notes=self.notes, paging=paging)


def _whole(fields: dict[str, str], name: str, default: int, low: int, high: int) -> int:
    raw = fields.get(name, "")
    if not raw:
        return default
    if not (raw.isascii() and raw.isdigit() and len(raw) < 16 and low <= int(raw) <= high):
        raise UserError(f"{name} is {raw[:40]!r}; allowed: whole numbers from {low} to {high}")
    return int(raw)


class _Handler(BaseHTTPRequestHandler):
    server: InspectServer
    server_version, sys_version = "mixloom", ""
    timeout = 30

    def do_GET(self) -> None:
        self._answer(body=True)

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def _answer(self, body: bool) -> None:
        status, text = self._reply()
        data = text.encode("utf-8", errors="replace")
        self.send_response(status)
        for name, value in (
            ("Content-Type", "text/html; charset=utf-8"),
            ("Content-Length", str(len(data))),
            ("X-Content-Type-Options", "nosniff"),
            ("X-Frame-Options", "DENY"),
            ("Referrer-Policy", "no-referrer"),
            ("Cache-Control", "no-store"),
        ):
            self.send_header(name, value)
        self.end_headers()
        if body:
            with contextlib.suppress(ConnectionError):  # a browser that has left misses nothing
                self.wfile.write(data)

    def _reply(self) -> tuple[HTTPStatus, str]:
        host = self.headers.get("Host", "").rsplit(":", 1)[0]
        if host not in (HOST, "localhost"):
            return HTTPStatus.FORBIDDEN, message_page("Not here", "This server answers on this machine only.")
        parts = urlsplit(self.path)
        if parts.path != "/":
            return HTTPStatus.NOT_FOUND, message_page("Nothing here", f"There is no page {parts.path[:200]}.")
        return _or_message(lambda: self.server.page(parse_qs(parts.query, keep_blank_values=True)))

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing: requests hold what was searched for."""


def _or_message(make: Callable[[], str]) -> tuple[HTTPStatus, str]:
    try:
        return HTTPStatus.OK, make()
    except UserError as error:
        return HTTPStatus.BAD_REQUEST, message_page("That cannot be shown", str(error))
    except OSError as error:
        return HTTPStatus.INTERNAL_SERVER_ERROR, message_page("That cannot be read", str(error))
    except ValueError as error:
        return HTTPStatus.BAD_REQUEST, message_page("That cannot be shown", f"The data are damaged: {error}")
