"""What there is to read, and how it is cut: a function of the files alone, never of the number of workers."""

from __future__ import annotations

import hashlib
import posixpath
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import pairwise

from mixloom.pipeline.errors import UserError, nearest
from mixloom.pipeline.ingest.config import (
    CocoCaptions,
    CsvSource,
    HtmlSource,
    ImageCaptionSource,
    JsonlSource,
    KeyframesSource,
    MarkdownSource,
    ParquetSource,
    SidecarCaptions,
    Source,
    SpeechSource,
    TableCaptions,
    TextSource,
    WarcSource,
    XmlSource,
)
from mixloom.pipeline.ingest.decode import compressed, line_safe
from mixloom.pipeline.ingest.files import Entry, SourceFiles, source_files
from mixloom.pipeline.ingest.globs import compile_glob, matches
from mixloom.pipeline.ingest.problems import Problem, printable
from mixloom.pipeline.ingest.split import Split
from mixloom.pipeline.schema import Document

MAX_FILES = 1000  # files in one split
MAX_BYTES = 64 << 20  # bytes in one split; larger files are cut where their format allows

DEFAULT_GLOBS: dict[str, str] = {
    "text": "**/*.txt{,.gz,.zst}",
    "jsonl": "**/*.{jsonl,ndjson}{,.gz,.zst}",
    "keyframes": "**/*.{jsonl,ndjson}{,.gz,.zst}",
    "parquet": "**/*.parquet",
    "csv": "**/*.{csv,tsv,tab}{,.gz,.zst}",
    "markdown": "**/*.{md,markdown}{,.gz,.zst}",
    "html": "**/*.{html,htm,xhtml}{,.gz,.zst}",
    "xml": "**/*.xml{,.gz,.zst}",
    "warc": "**/*.{warc,arc,wet}{,.gz,.zst}",
    "webdataset": "**/*.{tar,tar.gz,tgz,tar.zst}",
    "image_caption": "**/*.{jpg,jpeg,png,webp,gif,bmp,tif,tiff,avif}",
    "speech": "**/*.{wav,flac,mp3,ogg}",
}


def plan_splits(
    source: Source, root: str, *, max_files: int = MAX_FILES, max_bytes: int = MAX_BYTES
) -> list[Split]:
    """Cut a source into splits, sorted by path.

    Small files are grouped; large line-based files and web archives (compressed or not) are cut into byte ranges,
    Parquet by row groups; other compressed files stay whole. With `max_documents`, documents are read until there are enough, and splits after that
    are left out.

    Raises:
        UserError: the path is missing, nothing matches the globs, or a table does not fit the source.
    """
    files = source_files(root)
    entries = list_documents(source, files)
    _check_tables(source, root, entries)
    _check_path_regex(source, entries)
    splits = list(_cut(source, files, entries, max_files, max_bytes))
    if source.max_documents is not None:
        splits = _first_documents(source, root, splits, source.max_documents)
    return splits


def list_documents(source: Source, files: SourceFiles) -> list[Entry]:
    """The files that match the globs of a source, sorted by path.

    Raises:
        UserError: the path is missing, or nothing matches; says what is there instead.
    """
    if not files.exists():
        raise _missing_path(source, files)
    everything = sorted(files.entries(_excluded_folders(source)), key=lambda e: e.uri)
    if files.single is not None:
        return everything
    globs, ignore_case = _globs(source)
    tables = _tables(source)
    found = [
        e
        for e in everything
        if matches(e.uri, globs, ignore_case) and not matches(e.uri, source.exclude) and e.uri not in tables
    ]
    if not found:
        raise _nothing_matches(source, files, everything, globs)
    return found


def list_sidecars(source: Source, files: SourceFiles, suffix: str) -> list[Entry]:
    """Caption files of a source, sorted by path: those below the folders its globs can reach."""
    found = (e for e in files.entries(_excluded_folders(source)) if e.uri.endswith(suffix))
    return sorted((e for e in found if not matches(e.uri, source.exclude)), key=lambda e: e.uri)


def fingerprint(source: Source, root: str) -> str:
    """sha256 over path, size and stamp (time or tag) of every file a source can read.

    Formats whose documents can name other files (images in Markdown, say) count every file below the root.
    """
    files = source_files(root)
    if not files.exists():
        raise _missing_path(source, files)
    globs, ignore_case = _globs(source)
    tables = _tables(source)
    everything = files.single is not None or _names_media(source)
    digest = hashlib.sha256()
    for e in sorted(files.entries(_excluded_folders(source)), key=lambda e: e.uri):
        if matches(e.uri, source.exclude) and e.uri not in tables:
            continue
        if everything or e.uri in tables or matches(e.uri, globs, ignore_case):
            line = f"{e.uri}\0{e.size}\0{e.stamp}\n"
            digest.update(line.encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


def _globs(source: Source) -> tuple[tuple[str, ...], bool]:
    if source.glob is None:
        return (DEFAULT_GLOBS[source.format],), True
    return ((source.glob,) if isinstance(source.glob, str) else source.glob), False


def _excluded_folders(source: Source) -> re.Pattern[str] | None:
    if not source.exclude:
        return None
    return re.compile("|".join(f"(?:{compile_glob(p).pattern})" for p in source.exclude))


def _tables(source: Source) -> tuple[str, ...]:
    if isinstance(source, SpeechSource) and source.transcripts is not None:
        return (posixpath.normpath(source.transcripts.path),)
    if isinstance(source, ImageCaptionSource) and isinstance(source.captions, CocoCaptions | TableCaptions):
        return (posixpath.normpath(source.captions.path),)
    return ()


def _names_media(source: Source) -> bool:
    if isinstance(source, MarkdownSource | HtmlSource | KeyframesSource):
        return True
    if isinstance(source, XmlSource):
        return source.image is not None or source.html or any(e.html for e in source.text_entries())
    if isinstance(source, JsonlSource | ParquetSource | CsvSource):
        return bool(source.image_field or source.audio_field or source.segments_field)
    return isinstance(source, ImageCaptionSource) and isinstance(source.captions, SidecarCaptions)


def _check_tables(source: Source, root: str, entries: list[Entry]) -> None:
    from mixloom.pipeline.ingest.tables import AnyTable, load_table, media_key

    table: AnyTable | None = None
    if isinstance(source, SpeechSource):
        table = source.transcripts
    elif isinstance(source, ImageCaptionSource) and isinstance(source.captions, CocoCaptions | TableCaptions):
        table = source.captions
    if table is None:
        return
    rows = load_table(
        root, table, source.encoding, source.on_encoding_error, source.max_bytes, source.name
    ).rows
    first: dict[str, str] = {}
    for e in entries:
        key = media_key(e.uri, table.match, is_file=True)
        if key in first:
            raise UserError(
                f"source '{source.name}': '{printable(first[key])}' and '{printable(e.uri)}' both answer to "
                f"'{printable(key)}' in '{table.path}'",
                fix="set match: path where the table holds paths (or name, for names with their suffix)",
            )
        first[key] = e.uri
    if not any(key in first for key in rows):
        row = next(iter(rows), None)
        raise UserError(
            f"source '{source.name}': no row of '{table.path}' belongs to any file (the table has "
            f"{'no rows' if row is None else f'{row!r}'}, the files have {printable(next(iter(first)))!r})",
            fix="check the columns, the delimiter and match of the table",
        )


def _check_path_regex(source: Source, entries: list[Entry]) -> None:
    if source.meta_from_path is None or any(re.search(source.meta_from_path, e.uri) for e in entries):
        return
    raise UserError(
        f"source '{source.name}': meta_from_path ({source.meta_from_path}) matches none of {len(entries)} paths, "
        f"for example '{printable(entries[0].uri)}'",
        fix="correct the regex; it is searched in the path relative to the root",
    )


def _cut(
    source: Source, files: SourceFiles, entries: list[Entry], max_files: int, max_bytes: int
) -> Iterator[Split]:
    tables = _tables(source)
    if tables:
        yield Split(source=source.name, unit="table", files=tables)
    elif isinstance(source, ImageCaptionSource) and isinstance(source.captions, SidecarCaptions):
        yield Split(source=source.name, unit="table", files=())
    group: list[Entry] = []
    held = 0  # bytes in the group
    for e in entries:
        pieces = list(_pieces(source, files, e, max_bytes)) if e.size > max_bytes else []
        full = len(group) >= max_files or held + e.size > max_bytes
        if group and (pieces or full):
            yield _grouped(source, group)
            group, held = [], 0
        if pieces:
            yield from pieces
        else:
            group.append(e)
            held += e.size
    if group:
        yield _grouped(source, group)


def _grouped(source: Source, group: list[Entry]) -> Split:
    size = sum(e.size for e in group)
    return Split(source=source.name, unit="files", files=tuple(e.uri for e in group), size=size)


def _pieces(source: Source, files: SourceFiles, e: Entry, max_bytes: int) -> Iterator[Split]:
    """The pieces of one large file; nothing when its format cannot be cut."""
    by_line = isinstance(source, JsonlSource | KeyframesSource)
    by_line = by_line or (isinstance(source, TextSource) and source.split == "lines")
    if isinstance(source, WarcSource) or (by_line and not compressed(e.uri) and line_safe(source.encoding)):
        count = -(-e.size // max_bytes)
        bounds = [e.size * i // count for i in range(count)] + [e.size]
        for a, b in pairwise(bounds):
            yield Split(source=source.name, unit="bytes", files=(e.uri,), start=a, stop=b, size=b - a)
    elif isinstance(source, ParquetSource):
        yield from _row_groups(source, files, e, max_bytes)


def _row_groups(source: Source, files: SourceFiles, e: Entry, max_bytes: int) -> Iterator[Split]:
    from mixloom.pipeline.ingest.parquet import open_parquet

    try:
        with open_parquet(files, e.uri) as file:
            groups = [file.metadata.row_group(g) for g in range(file.metadata.num_row_groups)]
            sizes = [sum(g.column(c).total_compressed_size for c in range(g.num_columns)) for g in groups]
    except Problem:
        return  # read whole, it becomes a failure
    start = size = 0
    for i, s in enumerate(sizes):
        if size and size + s > max_bytes:
            yield Split(source=source.name, unit="row_groups", files=(e.uri,), start=start, stop=i, size=size)
            start, size = i, 0
        size += s
    if sizes:
        stop = len(sizes)
        yield Split(source=source.name, unit="row_groups", files=(e.uri,), start=start, stop=stop, size=size)


def _first_documents(source: Source, root: str, splits: Iterable[Split], most: int) -> list[Split]:
    from mixloom.pipeline.ingest.readers import read_split

    out: list[Split] = []
    left = most
    for split in splits:
        # Counting means reading; what is read is small by intent, and the result depends on the files alone.
        count = sum(isinstance(x, Document) for x in read_split(replace(split, limit=left), source, root))
        out.append(replace(split, limit=left) if count == left else split)
        left -= count
        if left == 0:
            break
    return out


def _missing_path(source: Source, files: SourceFiles) -> UserError:
    what = f"source '{source.name}': the path {printable(files.root)} does not exist"
    parent = posixpath.dirname(files.base.rstrip("/"))
    while parent and parent != "/" and not files.fs.exists(parent):
        parent = posixpath.dirname(parent)
    names: list[str] = []
    if parent and files.fs.exists(parent):
        names = sorted(posixpath.basename(p.rstrip("/")) for p in files.fs.ls(parent, detail=False))
        shown = ", ".join(printable(n) for n in names[:20]) + (", ..." if len(names) > 20 else "")
        what += f". {parent} exists and holds: {shown or 'nothing'}"
    hint = nearest(posixpath.basename(files.base.rstrip("/")), names)
    return UserError(what, fix=f"correct path of the source{hint}")


def _nothing_matches(
    source: Source, files: SourceFiles, everything: list[Entry], globs: tuple[str, ...]
) -> UserError:
    looked = " or ".join(f"'{g}'" for g in globs)
    what = f"source '{source.name}': nothing below {printable(files.root)} matches {looked}"
    if source.exclude:
        what += f" without exclude {', '.join(source.exclude)}"
    if not everything:
        return UserError(f"{what}: there are no files at all", fix="correct path of the source")
    kinds = Counter(posixpath.splitext(e.uri)[1] or "no suffix" for e in everything)
    shown = ", ".join(
        f"{printable(k)} ({n})" for k, n in sorted(kinds.items(), key=lambda x: (-x[1], x[0]))[:8]
    )
    examples = ", ".join(printable(e.uri) for e in everything[:3])
    return UserError(
        f"{what}. Files there by suffix: {shown}; for example {examples}",
        fix="set glob of the source (relative to path; ** crosses folders), or another format",
    )
