"""Personal data: speed, recall on made-up values, hits on real text, and a comparison with datatrove's formatter.

    python benchmarks/pii.py --data ROOT [--quick] [--peer-python PYTHON] [--json FILE]

Values are generated in many written forms and put between real sentences; recall is the share that is masked whole.
Hits on real text are counted by kind (`--show KIND` prints them with a little context, so that they can be judged by
eye; nothing else prints a value). `--peer-python` names the Python of an environment with datatrove: its PIIFormatter then runs
over the same documents, and the places both or only one of them found are counted.
"""

from __future__ import annotations

import json
import random
import string
import subprocess
import tempfile
import time
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa
from recording import options_parser, save
from text_sets import documents, sets

from mixloom.pipeline.pii import find_pii
from mixloom.pipeline.pii_checks import IBAN_LENGTHS, luhn
from mixloom.pipeline.pii_config import KINDS, PiiConfig

PEER = """
import json, sys, time
from datatrove.pipeline.formatters.pii import PIIFormatter
formatter, out = PIIFormatter(), {}
for name, documents in json.load(open(sys.argv[1])).items():
    emails = [[i, *m.span()] for i, d in enumerate(documents) for m in formatter.emails_replacer.regex.finditer(d)]
    ips = [[i, *m.span()] for i, d in enumerate(documents) for m in formatter.ip_replacer.regex.finditer(d)
           if formatter.ip_replacer.validator(m.group())]
    start = time.process_time()
    for d in documents:
        formatter.format(d)
    out[name] = {"email": emails, "ipv4": ips, "seconds": time.process_time() - start}
json.dump(out, open(sys.argv[2], "w"))
"""
_LETTERS_DIGITS = string.ascii_letters + string.digits


def _pick(rng: random.Random, alphabet: str, n: int) -> str:
    return "".join(rng.choice(alphabet) for _ in range(n))


def _digits(rng: random.Random, n: int, first: str = string.digits) -> str:
    return rng.choice(first) + _pick(rng, string.digits, n - 1)


def _iban(rng: random.Random) -> str:
    country = rng.choice(sorted(IBAN_LENGTHS))
    account = _pick(rng, string.digits + string.ascii_uppercase, IBAN_LENGTHS[country] - 4)
    rest = int("".join(str(int(c, 36)) for c in account + country + "00")) % 97
    whole = f"{country}{98 - rest:02d}{account}"
    step = rng.choice([0, 4, 4])
    return " ".join(whole[i : i + 4] for i in range(0, len(whole), 4)) if step else whole


def _card(rng: random.Random) -> str:
    prefix, length = rng.choice(
        [("4", 16), ("51", 16), ("2300", 16), ("37", 15), ("6011", 16), ("3530", 16), ("36", 14), ("62", 16)]
    )
    body = prefix + _pick(rng, string.digits, length - len(prefix) - 1)
    number = next(body + d for d in string.digits if luhn(body + d))
    sep = rng.choice(["", " ", "-"])
    cuts = [0, 4, 8, 12, 16] if length == 16 else [0, 4, 10, length]
    return sep.join(number[a:b] for a, b in pairwise(cuts)) if sep else number


def _phone(rng: random.Random) -> str:
    """Numbers of real plans in the forms of their countries (drawn from what phonenumbers knows as examples)."""
    import phonenumbers as p

    if rng.random() < 0.4:
        area, a, b = (
            rng.choice(["212", "415", "312", "617", "206"]),
            _digits(rng, 3, "23456789"),
            _digits(rng, 4),
        )
        form = rng.choice(
            ["({}) {}-{}", "{}-{}-{}", "{}.{}.{}", "1-{}-{}-{}", "+1 {} {} {}", "({}){}-{}", "{} {} {}"]
        )
        return form.format(area, a, b)
    region = rng.choice(
        ["DE", "GB", "FR", "IT", "ES", "NL", "CH", "AU", "IN", "JP", "BR", "RU", "CN", "PL", "SE", "KR"]
    )
    kind = rng.choice([p.PhoneNumberType.MOBILE, p.PhoneNumberType.FIXED_LINE])
    example = p.example_number_for_type(region, kind)
    number = p.PhoneNumber(country_code=example.country_code, national_number=example.national_number,
                           italian_leading_zero=example.italian_leading_zero)  # fmt: skip
    national = region in PiiConfig().phone_regions and region != "IT" and rng.random() < 0.5
    forms = (
        [p.PhoneNumberFormat.NATIONAL]
        if national
        else [p.PhoneNumberFormat.INTERNATIONAL, p.PhoneNumberFormat.E164]
    )
    written = p.format_number(number, rng.choice(forms))
    return (
        written if written[0] in "+(0" else "Tel. " + written
    )  # other national forms are found after a label


def _email(rng: random.Random) -> str:
    name = rng.choice(
        ["jane.doe", "j_smith", "info", "o'neil", "x", "a+b", "maria-luisa", "user" + _digits(rng, 3)]
    )
    host = rng.choice(
        [
            "example.com",
            "mail.foo.co.uk",
            "uni-ulm.de",
            "x.io",
            "a-b.museum",
            "cs.mit.edu",
            "münchen.de",
            "q.travel",
        ]
    )
    return f"{name}@{host}"


def _secret(rng: random.Random) -> str:
    upper, token = string.ascii_uppercase + string.digits, _LETTERS_DIGITS
    body = "\n".join(_pick(rng, token + "+/", 64) for _ in range(8))
    return rng.choice(
        [
            "AKIA" + _pick(rng, upper, 16),
            "ghp_" + _pick(rng, token, 36),
            "github_pat_" + _pick(rng, token, 22) + "_" + _pick(rng, token, 59),
            "glpat-" + _pick(rng, token, 20),
            f"xoxb-{_digits(rng, 12)}-{_digits(rng, 12)}-{_pick(rng, token, 24)}",
            "sk_live_" + _pick(rng, token, 24),
            "AIza" + _pick(rng, token + "-_", 34) + "x",
            "npm_" + _pick(rng, token, 36),
            "pypi-AgEI" + _pick(rng, token + "-_", 150) + "x",
            "sk-" + _pick(rng, token, 48),
            "sk-proj-" + _pick(rng, token + "-_", 120) + "x",
            "hf_" + _pick(rng, token, 34),
            f"eyJhbGciOiJIUzI1NiJ9.eyJ{_pick(rng, token, 60)}.{_pick(rng, token + '-_', 42)}x",
            f"-----BEGIN PRIVATE KEY-----\n{body}\n-----END PRIVATE KEY-----",
        ]
    )


def _ipv6(rng: random.Random) -> str:
    groups = [f"2a0{rng.randrange(16):x}", *(f"{rng.randrange(65536):x}" for _ in range(7))]
    return (
        ":".join(groups) if rng.random() < 0.5 else ":".join(groups[: rng.randint(2, 4)]) + "::" + groups[-1]
    )


def _ipv4(rng: random.Random) -> str:
    return f"{rng.choice([8, 23, 52, 80, 93, 151, 185, 216])}.{rng.randrange(256)}.{rng.randrange(256)}.{rng.randrange(256)}"


MAKERS = {
    "email": _email,
    "phone": _phone,
    "ipv4": _ipv4,
    "ipv6": _ipv6,
    "iban": _iban,
    "card": _card,
    "secret": _secret,
}
AROUND = [
    (" ", " "),
    ("\n", "\n"),
    (" (", ") "),
    (": ", ", "),
    (" ", ". "),
    ("：", "。"),
    ("联系", "谢谢"),
    (' "', '" '),
    ("<", ">"),
    ("の", "です"),
]


def recall(rounds: int) -> dict[str, dict[str, int]]:
    """Of `rounds` made-up values a kind, each between two of the surroundings: how many were found whole, as that kind."""
    rng = random.Random(20)
    out: dict[str, dict[str, int]] = {}
    for kind in KINDS:
        wanted, texts = [], []
        for _ in range(rounds):
            value = MAKERS[kind](rng)
            left, right = rng.choice(AROUND)
            before = "Some words before it" + left + ("Tel. " if value.startswith("Tel. ") else "")
            value = value.removeprefix("Tel. ")
            wanted.append((len(before.encode()), len((before + value).encode()), kind))
            texts.append(before + value + right + "and some after it.")
        found = find_pii(pa.array(texts, pa.large_string()))
        got: dict[int, list[tuple[int, int, str]]] = {}
        for d, a, b, k in zip(*(c.to_pylist() for c in found.columns)):
            got.setdefault(d, []).append((a, b, k))
        whole = sum(wanted[i] in got.get(i, []) for i in range(rounds))
        covered = sum(
            any(a <= w[0] and w[1] <= b for a, b, _ in got.get(i, [])) for i, w in enumerate(wanted)
        )
        out[kind] = {"planted": rounds, "found_exactly": whole, "masked_whole": covered}
    return out


def places(texts: list[str], found: pa.RecordBatch, kinds: tuple[str, ...]) -> set[tuple[int, int, int]]:
    """Found spans of some kinds in characters, as the peer counts."""
    raw = [t.encode() for t in texts]
    return {
        (d, len(raw[d][:a].decode()), len(raw[d][:b].decode()))
        for d, a, b, k in zip(*(c.to_pylist() for c in found.columns))
        if k in kinds
    }


def compared(mine: set[tuple[int, int, int]], theirs: set[tuple[int, int, int]]) -> dict[str, int]:
    """Equal spans, spans that overlap with another extent, and those only one side has."""
    starts = {d: sorted((a, b) for e, a, b in mine if e == d) for d in {e for e, _, _ in mine}}
    touched, lonely = 0, 0
    hit: set[tuple[int, int, int]] = set()
    for d, a, b in theirs - mine:
        over = [(d, x, y) for x, y in starts.get(d, []) if x < b and a < y]
        touched += bool(over)
        lonely += not over
        hit.update(over)
    return {
        "equal": len(mine & theirs),
        "other_extent": touched,
        "only_peer": lonely,
        "only_ours": len(mine - theirs - hit),
    }


def main() -> None:
    parser = options_parser(__doc__)
    parser.add_argument("--peer-python", type=Path, help="Python of an environment with datatrove")
    parser.add_argument(
        "--show", choices=KINDS, help="print what was found of this kind, with its surroundings"
    )
    options = parser.parse_args()
    find_pii(pa.array(["compile a@b.org"]))
    figures: dict[str, Any] = {"recall": recall(300 if options.quick else 3000), "sets": {}}
    print(f"{'kind':<10}{'planted':>9}{'exact':>9}{'masked':>9}")
    for kind, row in figures["recall"].items():
        print(f"{kind:<10}{row['planted']:>9}{row['found_exactly']:>9}{row['masked_whole']:>9}")
    all_texts = {name: list(documents(path)) for name, path in sets(options.data).items()}
    peer: dict[str, Any] = {}
    if options.peer_python:
        with tempfile.TemporaryDirectory() as folder:
            given, made = Path(folder, "in.json"), Path(folder, "out.json")
            given.write_text(json.dumps(all_texts))
            subprocess.run([options.peer_python, "-c", PEER, given, made], check=True)
            peer = json.loads(made.read_text())
    print(f"\n{'set':<26}{'documents':>10}{'MB':>7}{'MB/s':>8}  found{'':<52}  datatrove")
    for name, texts in all_texts.items():
        array = pa.array(texts, pa.large_string())
        size = sum(len(t.encode()) for t in texts)
        start = time.process_time()
        found = find_pii(array)
        seconds = time.process_time() - start
        counts = dict(sorted(Counter(found.column("kind").to_pylist()).items()))
        row: dict[str, Any] = {
            "documents": len(texts),
            "bytes": size,
            "cpu_seconds": seconds,
            "found": counts,
        }
        note = ""
        if name in peer:
            for kind in ("email", "ipv4"):
                row[f"peer_{kind}"] = compared(
                    places(texts, found, (kind,)), {tuple(x) for x in peer[name][kind]}
                )
            row["peer_cpu_seconds"] = peer[name]["seconds"]
            note = f"{size / 1e6 / max(peer[name]['seconds'], 1e-9):.0f} MB/s " + " ".join(
                f"{kind} {list(row[f'peer_{kind}'].values())}"
                for kind in ("email", "ipv4")
                if any(row[f"peer_{kind}"].values())
            )
        figures["sets"][name] = row
        print(
            f"{name:<26}{len(texts):>10}{size / 1e6:>7.2f}{size / 1e6 / seconds:>8.0f}  {counts!s:<57}  {note}"
        )
        if options.show:
            for d, a, b, kind in zip(*(c.to_pylist() for c in found.columns)):
                if kind == options.show:
                    raw = texts[d].encode()
                    print(
                        "   ",
                        repr(raw[max(0, a - 24) : a].decode(errors="replace")),
                        repr(raw[a:b].decode()),
                        repr(raw[b : b + 12].decode(errors="replace")),
                    )
    save(options.json, options.quick, figures, ("numba", "numpy", "phonenumbers", "pyarrow"))


if __name__ == "__main__":
    main()
