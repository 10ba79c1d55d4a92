"""The noise gate: what it finds of planted noise, by kind and length, and what it takes from real text, by set.

    python benchmarks/noise.py --data ROOT [--quick] [--show] [--json FILE]

Noise of every kind is planted between two words of real documents (from sets and documents that the table of the gate was
not counted over); recall is the share of the planted characters that lie in a run found, spill the real characters
beside them that a run takes along. Then every real set is searched as it is: documents with a run, and the bytes in runs.
Some of those are noise indeed (uuencoded files, signatures, base64 in addresses): `--show` prints the beginning of each.
"""

from __future__ import annotations

import base64
import random
import string
import time
import zlib
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
from recording import options_parser, save
from text_sets import documents, sets

from mixloom.pipeline.noise import find_noise, noise_measures
from mixloom.pipeline.noise_config import NoiseConfig

PROSE = (
    "text-wikitext2",
    "text-movie-reviews",
    "text-eips",
    "text-books",
    "text-current-events",
    "text-tatoeba",
)
LENGTHS = (64, 100, 160, 400, 2000)
Maker = Callable[[random.Random, int, str], str]


def _of(alphabet: str) -> Maker:
    return lambda rng, n, text: "".join(rng.choice(alphabet) for _ in range(n))


def _lines(text: str, width: int) -> str:
    return "\n".join(text[i : i + width] for i in range(0, len(text), width))


def _words(rng: random.Random, n: int, text: str) -> str:
    out = ""
    while len(out) < n:
        out += "".join(rng.choice(string.ascii_lowercase) for _ in range(rng.randint(3, 9))) + " "
    return out[: n - 1] + "q"


def _dump(rng: random.Random, n: int, text: str) -> str:
    raw, lines = rng.randbytes(n), []
    for at in range(0, n, 16):
        row = raw[at : at + 16]
        shown = "".join(chr(b) if 32 <= b < 127 else "." for b in row)
        lines.append(f"{at:08x}  {row.hex(' ')}  |{shown}|")
    return "\n".join(lines)[:n]


def _unicode(rng: random.Random, n: int, text: str) -> str:
    codes = (rng.randrange(0x100, 0x30000) for _ in iter(int, 1))
    return "".join(chr(c) for c, _ in zip((c for c in codes if not 0xD800 <= c < 0xE000), range(n)))


def _uuencoded(rng: random.Random, n: int, text: str) -> str:
    import binascii

    return "".join(binascii.b2a_uu(rng.randbytes(45)).decode() for _ in range(n // 62 + 1))[:n]


RUSSIAN = "Все счастливые семьи похожи друг на друга, каждая несчастливая семья несчастлива по-своему. "
CHINESE = "学而时习之，不亦说乎？有朋自远方来，不亦乐乎？人不知而不愠，不亦君子乎？"
MAKERS: dict[str, tuple[str, Maker]] = {
    "printable characters": ("random", _of(string.printable[:95])),
    "small letters": ("random", _of(string.ascii_lowercase)),
    "capitals": ("random", _of(string.ascii_uppercase)),
    "words of random letters": ("random", _words),
    "random Han": ("random", lambda rng, n, text: "".join(chr(rng.randrange(0x4E00, 0x9FF0)) for _ in range(n))),
    "random Unicode": ("random", _unicode),
    "UTF-16 of English, bytes swapped": ("random", lambda rng, n, text: text[:n].encode("utf-16-le").decode("utf-16-be")),
    "English read as UTF-16": ("random", lambda rng, n, text: (text * 2)[: 2 * n].encode("ascii", "replace").decode("utf-16-le")),
    "uuencoded": ("random", _uuencoded),
    "letters and digits": ("base64", _of(string.ascii_letters + string.digits)),
    "base64 of bytes": ("base64", lambda rng, n, text: base64.b64encode(rng.randbytes(n)).decode()[:n]),
    "base64 in lines": ("base64", lambda rng, n, text: _lines(base64.b64encode(rng.randbytes(n)).decode(), 76)[:n]),
    "base64 for addresses": ("base64", lambda rng, n, text: base64.urlsafe_b64encode(rng.randbytes(n)).decode()[:n]),
    "base64 of English": ("base64", lambda rng, n, text: base64.b64encode(text[:n].encode()).decode()[:n]),
    "base64 of zlib": ("base64", lambda rng, n, text: base64.b64encode(zlib.compress((text * 9).encode() + rng.randbytes(n))).decode()[:n]),
    "bytes read as Latin-1": ("binary", lambda rng, n, text: rng.randbytes(n).decode("latin-1")),
    "bytes read as Windows-1252": ("binary", lambda rng, n, text: rng.randbytes(n).decode("cp1252", "replace")),
    "zlib read as Latin-1": ("binary", lambda rng, n, text: zlib.compress(rng.randbytes(n)).decode("latin-1")[:n]),
    "control characters": ("control", lambda rng, n, text: "".join(chr(rng.randrange(32)) for _ in range(n))),
    "UTF-16 read as Latin-1": ("control", lambda rng, n, text: text[:n].encode("utf-16-le").decode("latin-1")[:n]),
    "bytes read as UTF-8": ("replacement", lambda rng, n, text: rng.randbytes(2 * n).decode("utf-8", "replace")[:n]),
    "U+FFFD for every letter": ("replacement", lambda rng, n, text: "".join(" " if c.isspace() else "\ufffd" for c in text[:n])),
    "Russian as Windows-1252": ("mojibake", lambda rng, n, text: (RUSSIAN * 40).encode().decode("latin-1")[:n]),
    "Chinese as Latin-1": ("mojibake", lambda rng, n, text: (CHINESE * 60).encode().decode("latin-1")[:n]),
    "hexadecimal in one word": ("hex", lambda rng, n, text: rng.randbytes(n).hex()[:n]),
    "hexadecimal in lines of 72": ("hex", lambda rng, n, text: _lines(rng.randbytes(n).hex(), 72)[:n]),
    "hexadecimal dump": ("hex", _dump),
    "bytes of a C array": ("hex", lambda rng, n, text: _lines(", ".join(f"0x{b:02x}" for b in rng.randbytes(n)), 72)[:n]),
}  # fmt: skip


def _plant(text: str, noise: str, rng: random.Random) -> tuple[str, int]:
    """The text with the noise as a paragraph or a word of its own near its middle, and the character it starts at."""
    spaces = [i for i, c in enumerate(text[len(text) // 4 : 3 * len(text) // 4]) if c == " "]
    at = len(text) // 4 + rng.choice(spaces) + 1 if spaces else len(text)
    joint = rng.choice([" ", "\n", "\n\n"])
    return text[:at] + joint + noise + joint + text[at:], at + len(joint)


def planted(hosts: list[str], rounds: int) -> dict[str, dict[str, dict[str, float]]]:
    """By kind of noise and length: share of planted characters found, share of plants found at 80 % or more, characters of
    real text taken along for each plant, and the kinds that were reported."""
    rng = random.Random(7)
    english = " ".join(" ".join(hosts[0].split()).encode("ascii", "ignore").decode().split())
    out: dict[str, dict[str, dict[str, float]]] = {}
    for name, (kind, maker) in MAKERS.items():
        out[name] = {}
        for length in LENGTHS:
            texts, where = [], []
            for _ in range(rounds):
                shift = rng.randrange(1000)
                noise = maker(rng, length, english[shift:] + english[:shift])
                text, at = _plant(rng.choice(hosts), noise, rng)
                texts.append(text)
                where.append((at, at + len(noise)))
            found = find_noise(pa.array(texts, pa.large_string()))
            hit, spill, kinds = np.zeros(rounds), np.zeros(rounds), Counter[str]()
            for d, a, b, reported, _ in zip(*(c.to_pylist() for c in found.columns)):
                raw = texts[d].encode()
                first, last = len(raw[:a].decode()), len(raw[:b].decode())
                inside = max(0, min(last, where[d][1]) - max(first, where[d][0]))
                hit[d] += inside / (where[d][1] - where[d][0])
                spill[d] += last - first - inside
                kinds[reported] += inside > 0
            out[name][str(length)] = {
                "characters_found": round(float(hit.mean()), 4),
                "found": round(float((hit >= 0.8).mean()), 4),
                "spill": round(float(spill.mean()), 2),
                "right_kind": round(kinds[kind] / max(1, sum(kinds.values())), 3),
            }
    return out


def main() -> None:
    parser = options_parser(__doc__)
    parser.add_argument(
        "--show", action="store_true", help="print the beginning of each run found in real text"
    )
    options = parser.parse_args()
    folders = sets(options.data)
    hosts = [t for name in PROSE if name in folders for t in list(documents(folders[name]))[1::2][:200]]
    hosts = [t[:8000] for t in hosts if len(t) > 30]
    rounds = 20 if options.quick else 200
    figures: dict[str, Any] = {"planted": planted(hosts, rounds), "sets": {}}
    print(
        f"share of planted noise found, by characters ({rounds} plants each; runs of less than {NoiseConfig().min_chars} are left alone)"
    )
    print(f"{'noise':<38}" + "".join(f"{n:>8}" for n in LENGTHS) + "   spill at 400   named right")
    for name, row in figures["planted"].items():
        shares = "".join(f"{row[str(n)]['characters_found']:>8.3f}" for n in LENGTHS)
        print(f"{name:<38}{shares}{row['400']['spill']:>12.1f}{row['2000']['right_kind']:>14.2f}")
    print(
        f"\n{'set':<26}{'documents':>10}{'hit':>6}{'share':>10}{'bytes in runs':>15}{'share':>10}{'MB/s':>7}  kinds"
    )
    for name, folder in folders.items():
        texts = list(documents(folder))
        array = pa.array(texts, pa.large_string())
        size = sum(len(t.encode()) for t in texts)
        start = time.process_time()
        found = find_noise(array)
        seconds = time.process_time() - start
        taken = int(np.sum(np.asarray(found.column("stop")) - np.asarray(found.column("start"))))
        hit = len(set(found.column("document").to_pylist()))
        unseen = [i for i in set(found.column("document").to_pylist()) if i % 2]
        mojibake = np.asarray(noise_measures(array)["mojibake_char_share"])
        kinds = dict(sorted(Counter(found.column("kind").to_pylist()).items()))
        figures["sets"][name] = {
            "documents": len(texts),
            "bytes": size,
            "documents_hit": hit,
            "documents_hit_not_counted_over": len(unseen),
            "bytes_in_runs": taken,
            "kinds": kinds,
            "most_mojibake": round(float(mojibake.max()), 5) if len(mojibake) else 0.0,
            "cpu_seconds": seconds,
        }
        print(
            f"{name:<26}{len(texts):>10}{hit:>6}{hit / len(texts):>10.4%}{taken:>15}{taken / size:>10.4%}{size / 1e6 / seconds:>7.0f}  {kinds}"
        )
        if options.show:
            for d, a, b, kind, score in zip(*(c.to_pylist() for c in found.columns)):
                shown = texts[d].encode()[a : min(b, a + 70)].decode(errors="replace")
                print(f"    {kind} {b - a} bytes, {score:.0f}: {shown!r}")
    save(options.json, options.quick, figures, ("numba", "numpy", "pyarrow"))


if __name__ == "__main__":
    main()
