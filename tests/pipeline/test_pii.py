"""Finding and masking personal data: against plain definitions over Python strings, and what must never happen."""

from __future__ import annotations

import ipaddress
import re
import string
from collections.abc import Callable, Iterator

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mixloom.pipeline.edits import SPANS
from mixloom.pipeline.pii import FOUND, count_pii, find_pii, pii_drops, pii_edits
from mixloom.pipeline.pii_checks import IBAN_LENGTHS, ISSUERS, luhn
from mixloom.pipeline.pii_config import KINDS, PLACEHOLDERS, PiiConfig, PiiRule

OFF = PiiRule(action="off")


def only(*kinds: str, **more: object) -> PiiConfig:
    return PiiConfig(**{k: OFF for k in KINDS if k not in kinds}, **more)  # type: ignore[arg-type]


def values(text: str, config: PiiConfig | None = None) -> list[tuple[str, str]]:
    found = find_pii(pa.array([text], pa.large_string()), config)
    raw = text.encode()
    return [
        (kind, raw[a:b].decode())
        for a, b, kind in zip(*(found.column(c).to_pylist() for c in ("start", "stop", "kind")))
    ]


def masked(texts: list[str], config: PiiConfig | None = None) -> list[str]:
    spans, _ = pii_edits(pa.array(texts, pa.large_string()), config)
    out = [t.encode() for t in texts]
    for d, a, b, new in reversed(
        list(zip(*(spans.column(c).to_pylist() for c in ("document", "start", "stop", "replacement"))))
    ):
        out[d] = out[d][:a] + new.encode() + out[d][b:]
    return [t.decode() for t in out]


# ---- the plain definitions ------------------------------------------------------------------------------

Finder = Callable[[str], Iterator[tuple[int, int]]]
TWO_BYTES = "\u00c0-\u07ff"


def plain_email(text: str) -> Iterator[tuple[int, int]]:
    one = f"[0-9A-Za-z{TWO_BYTES}]"
    label = f"{one}(?:(?:{one}|-){{0,61}}{one})?"
    domain = re.compile(
        rf"(?:{label}\.){{1,8}}(?:xn--[0-9A-Za-z-]{{2,59}}|[A-Za-z{TWO_BYTES}]{{2,63}})(?!{one})"
        rf"|\[(?:[0-9]{{1,3}}\.){{3}}[0-9]{{1,3}}\]"
    )
    for at in (m.start() for m in re.finditer("@", text)):
        local = re.search(rf"[0-9A-Za-z_.%+'{TWO_BYTES}-]*\Z", text[:at])
        name = local.group().rpartition("..")[2].lstrip(".%+'-") if local else ""
        found = domain.match(text, at + 1)
        if not name or len(name) > 64 or name.endswith(".") or name == "git" or not found:
            continue
        if found.group().rpartition(".")[2].lower() not in ("png", "jpg", "jpeg", "gif", "svg", "webp", "css", "js",
                                                            "json", "html", "php"):  # fmt: skip
            yield at - len(name), found.end()


def plain_ipv4(text: str) -> Iterator[tuple[int, int]]:
    words = (
        "v|oid|ver|version|versions|release|rel|build|revision|rev|firmware|update|section|sections|sec|chapter|clause|article|"
        "paragraph|para|figure|fig|table|step|appendix|annex|equation|eq|rule|requirement"
    )
    for m in re.finditer(
        r"(?<![0-9A-Za-z_])(?<![0-9A-Za-z_]\.)(?<![A-Za-z_][-/+~])[0-9]{1,3}(?:\.[0-9]{1,3}){3}"
        r"(?![0-9A-Za-z_]|\.[0-9]|-[A-Za-z])",
        text,
    ):
        try:
            value = ipaddress.IPv4Address(m.group())
        except ValueError:
            continue
        head = text[: m.start()]
        numbered = re.search(
            rf"(?:(?<![0-9A-Za-z_])(?:{words})|§)[ \t\n.:=#(\"']{{0,3}}\Z|[=<>~!^]=[ ]?\Z", head, re.I | re.A
        )
        heading = (
            len(m.group()) == 7
            and re.search(r"\n[ \t#*]{0,8}\Z", head)
            and re.match(r"\.?[ \t]{1,4}[A-Za-z]", text[m.end() :])
        )
        public = value.is_global and not value.is_multicast
        if public and not numbered and not heading and is_announced(text, *m.span(), list(value.packed)):
            yield m.span()


def is_announced(text: str, start: int, stop: int, numbers: list[int]) -> bool:
    """Whether four numbers are large enough for an address, or the 48 bytes before or a port or mask after say so."""
    head = text[:start].encode()[-48:].decode("latin-1")
    words = (
        "ip|ipv4|ips|addr|address|addresses|host|hosts|server|servers|dns|nameserver|resolver|gateway|router|ping|"
        "proxy|subnet|client|peer|remote"
    )
    said = (
        re.search(rf"(?<![0-9A-Za-z_])(?:{words})(?![0-9A-Za-z_])[^\n.]{{0,24}}\Z", head, re.I | re.A)
        or re.search(r"(?:://(?:[^ \t\n\r\f\v/@]{1,40}@)?|[@\[])\Z", head)
        or re.match(
            r":[0-9]{1,5}(?![0-9A-Za-z_.])|/(?:[89]|[12][0-9]|3[0-2])(?![0-9A-Za-z_./])|\]", text[stop:]
        )
    )
    return numbers[0] >= 16 or max(numbers) >= 100 or said is not None


def plain_ipv6(text: str) -> Iterator[tuple[int, int]]:
    for m in re.finditer(r"(?<![0-9A-Za-z_:])[0-9A-Fa-f]{0,4}:[0-9A-Fa-f:.]+", text):
        run = m.group()
        while run and (run[-1] == "." or (run[-1] == ":" and run[-2:] != "::")):
            run = run[:-1]
        after = text[m.start() + len(run) : m.start() + len(run) + 1]
        if (
            run.count(":") < 2
            or len(m.group()) >= 48
            or (after and after in string.ascii_letters + string.digits + "_")
        ):
            continue
        try:
            value = ipaddress.IPv6Address(run)
        except ValueError:
            continue
        groups = run.strip(":").split(":")
        if value.is_global and value in ipaddress.ip_network("2000::/3") and len(groups) >= 3:
            yield m.start(), m.start() + len(run)


def plain_iban(text: str) -> Iterator[tuple[int, int]]:
    for m in re.finditer(r"(?<![0-9A-Za-z_])[A-Z]{2}[0-9]{2}", text):
        length = IBAN_LENGTHS.get(m.group()[:2], 0)
        at, chars = m.start(), ""
        while length and len(chars) < length and at < len(text):
            if chars and len(chars) % 4 == 0 and text[at] in " -\u00a0\u202f\u2011":
                at += 1
                continue_ok = at < len(text) and text[at] in string.ascii_uppercase + string.digits
                if not continue_ok:
                    break
            if text[at] not in string.ascii_uppercase + string.digits:
                break
            chars += text[at]
            at += 1
        whole = length and len(chars) == length and not re.match("[0-9A-Za-z_]", text[at:])
        if whole and int("".join(str(int(c, 36)) for c in chars[4:] + chars[:4])) % 97 == 1:
            yield m.start(), at


PLAIN: dict[str, Finder] = {"email": plain_email, "ipv4": plain_ipv4, "ipv6": plain_ipv6, "iban": plain_iban}


def plain(kind: str, text: str) -> list[str]:
    """The values of a kind from left to right, none over another, and again in what remains between those found."""
    found: list[str] = []
    end = 0
    for a, b in PLAIN[kind](text):
        if a >= end:
            found += [*plain(kind, text[end:a]), text[a:b]]
            end = b
    return [*found, *plain(kind, text[end:])] if found else []


# ---- what to try ----------------------------------------------------------------------------------------


def iban(country: str, account: str) -> str:
    account = (account * 40)[: IBAN_LENGTHS[country] - 4]
    rest = int("".join(str(int(c, 36)) for c in account + country + "00")) % 97
    return f"{country}{98 - rest:02d}{account}"


def card(prefix: str, length: int) -> str:
    body = (prefix + "8201937465" * 2)[: length - 1]
    return next(body + d for d in string.digits if luhn(body + d))


def fours(text: str, sep: str) -> str:
    return sep.join(text[i : i + 4] for i in range(0, len(text), 4))


JWT = "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"
PEM = "-----BEGIN RSA PRIVATE KEY-----\n" + "MIIEpAIBAAKCAQEA7bq3x9Zk\n" * 6 + "-----END RSA PRIVATE KEY-----"
POSITIVES: dict[str, list[str]] = {
    "email": [
        *(
            "a@b.org",
            "jane.doe+tag@mail.example.co.uk",
            "o'brien@foo.ie",
            "x_y-z%h@a-b.io",
            "user@münchen.de",
        ),
        *("иван@пример.рф", "root@[10.1.2.3]", "a@xn--bcher-kva.example", "JOE@HOST.BITNET", "n@1.museum"),
    ],
    "phone": [
        *(
            "+49 30 1234567",
            "+49 (0)30 123456",
            "(212) 555-0143",
            "212-555-0143",
            "1.212.555.0143",
            "+33 1 23 45 67 89",
        ),
        *(
            "01 23 45 67 89",
            "(030) 1234567",
            "0171/1234567",
            "020 7946 0958",
            "0049 30 1234567",
            "+12125550143",
        ),
        *(
            "+1 (412) 268 - 7698",
            "1 (800) 555-0199",
            "+86 138 1234 5678",
            "+81-3-1234-5678",
            "(11) 96123-4567",
            "081234 56789",
        ),
    ],
    "ipv4": ["203.0.114.77", "93.184.216.34", "18.24.0.12", "5.9.104.2"],
    "ipv6": ["2001:4860:4860::8888", "2a00:1450:4001:82b::200e", "2606:2800:220:1:248:1893:25c8:1946"],
    "iban": [
        *(iban("DE", "370400440532013000"), fours(iban("GB", "WEST12345698765432"), " ")),
        *(
            fours(iban("FR", "20041010050500013M02606"), "-"),
            iban("NO", "86011117947"),
            fours(iban("MT", "MALT0110"), "\u00a0"),
        ),
    ],
    "card": [
        *(
            "4111 1111 1111 1111",
            "5555-5555-5555-4444",
            "378282246310005",
            "3782 822463 10005",
            "6011000990139424",
        ),
        *(
            "30569309025904",
            "3530111333300000",
            "4222222222222",
            card("62", 19),
            card("5018", 16),
            card("2221", 16),
        ),
    ],
    "secret": [
        *(
            "AKIAIOSFODNN7EXAMPLE",
            "ghp_" + "a1B2c3" * 6,
            "github_pat_" + "11A_bC2dE3" * 8,
            "glpat-" + "x9-Y8_z7W6v5U4t3S2r1",
        ),
        *("xoxb-123456789012-abcDEF456ghi", "sk_live_" + "4eC39HqLyjWDarjtT1zdp7dc", "AIza" + "SyA-b_1" * 5),
        *(
            "npm_" + "aB3dE6" * 6,
            "pypi-AgEI" + "cHlwaS5vcmc" * 6,
            "sk-proj-" + "aB3_d" * 12,
            "sk-" + "Ab1" * 16,
            JWT,
            PEM,
        ),
        "hf_" + "aBcDe1" * 6,
        *(
            "GOCSPX-" + "aB3_d7E" * 4,
            "AccountKey=" + "aB3/" * 21 + "xY==",
            "dop_v1_" + "0a1b2c3d" * 8,
            "glrt-" + "x9-Y8_z7" * 3,
        ),
        *(
            "rubygems_" + "0a1b2c" * 8,
            "dckr_pat_" + "aB3-d_E" * 4,
            "gsk_" + "aB3d" * 13,
            "r8_" + "aB3d" * 9 + "x",
        ),
        *(
            "whsec_" + "aB3d" * 8,
            "shpat_" + "0a1b2c3d" * 4,
            "SG." + "aB3-d_E7fG" * 2 + "." + "aB3-d_E7fG" * 4,
            "sq0atp-" + "aB3_d7E" * 4,
        ),
        *(
            "lin_api_" + "aB3d" * 10,
            "AGE-SECRET-KEY-1" + "QPZRY9X8" * 7 + "GF",
            "PMAK-" + "0a1b2c" * 4 + "-" + "0a1b2c3d4" * 3 + "0a1b2c3",
        ),
    ],
}
CLEAN = [
    *(
        "The quick brown fox.",
        "2024-01-02 10:30:45",
        "ISBN 978-0-306-40615-7",
        "0-306-40615-2",
        "$1,234,567.89",
        "1990-1995",
    ),
    *(
        "12 34 56 78 90 12 34",
        "EIP-1559",
        "version 1.2.3.4",
        "v8.8.8.8",
        "openssl-1.0.2.7",
        "Chrome/91.0.44.12",
        "§ 9.8.7.6",
        "OID 1.3.101.112",
    ),
    *(
        "10.0.0.1",
        "192.168.1.1",
        "127.0.0.1",
        "203.0.113.9",
        "fe80::1",
        "::1",
        "2001:db8::1",
        "std::vector<int>",
        "A::B",
    ),
    *(
        "logo@2x.png",
        "git@github.com:a/b.git",
        "user@host",
        "@handle",
        "mAP@0.5",
        "@Override",
        "a@b",
        "font@12px",
    ),
    *(
        "DE89 3704 0044 0532 0130 01",
        "4111 1111 1111 1112",
        "1234567812345678",
        "0x" + "ab12" * 10,
        "NJ 08003-2132",
    ),
    *(
        "+1000",
        "+ 12 345",
        "1.234.567.890",
        "(1234567)",
        "555-1234",
        "2001 2002 2003 2004",
        "-----BEGIN CERTIFICATE-----",
    ),
    *(
        "sk-fading-circle-and-other-names-of-classes",
        "grep -----BEGIN PRIVATE KEY----- file",
        "eyJ",
        "npm_config_registry",
    ),
    *(
        "1/2/2003 4:05",
        "3-4-5",
        "ISSN 1234-5679",
        "37,421.55",
        "12-345-678-90",
        "1st 2nd 3rd",
        "GPT-4 4000 5000 6000 7000",
    ),
]
AROUND = [
    *(
        " ",
        "\n",
        "",
        ", ",
        ". ",
        " (",
        ") ",
        ": ",
        '"',
        "'",
        "<",
        ">",
        "。",
        "谢谢",
        "は",
        "\u00a0",
        "\t",
        "/",
        "-",
        "=",
        "|",
        "[",
        "1",
    )
]
pieces = st.sampled_from([*(v for vs in POSITIVES.values() for v in vs), *CLEAN, *AROUND])
texts = st.one_of(
    st.lists(pieces, max_size=12).map("".join),
    st.lists(pieces, max_size=12).map(" ".join),
    st.lists(
        st.sampled_from([*"0123456789.:@-+() /", "4111", "DE89", "::", "2001", "a@b.co", "tel ", "é"]),
        max_size=40,
    ).map("".join),
    st.text(max_size=60),
)


@pytest.mark.parametrize("kind", KINDS)
def test_every_written_form_is_found_whole_and_named_whatever_stands_around_it(kind: str) -> None:
    around = [
        ("", ""),
        (" ", " "),
        ("(", ")"),
        ("\n", "\n"),
        ("联系", "谢谢"),
        ("«", "»"),
        ('"', '",'),
        ("", "."),
        ("см. ", "; да"),
    ]
    for value in POSITIVES[kind]:
        for left, right in around:
            assert values(left + value + right) == [(kind, value)], (left, value, right)


@pytest.mark.parametrize("text", CLEAN)
def test_what_is_nobodys_data_is_left_alone(text: str) -> None:
    for whole in (text, f"see {text} here", f"({text})", f"\n{text}\n"):
        assert values(whole) == []


@pytest.mark.parametrize("kind", sorted(PLAIN))
@settings(max_examples=250, deadline=None)
@given(text=texts)
@example(text="a@b.c@d.org@e.net 1.2.3.4.5.6.7.8 ::1::2 DE8937040044DE89")
@example(text="a@b.orgjane.doe+tag@mail.example.co.uka@b.org")
@example(text="name==203.0.114.77 name>= 203.0.114.78 x=203.0.114.79")
@example(text="ver 80.8.8.8\n8.8.8.8 X\nIP: 9.9.9.9\nfoo-70.7.7.7 60.6.6.6-x ip 1.1.1.1, 8.8.8.8")
def test_the_finder_equals_the_plain_definition(kind: str, text: str) -> None:
    assert [v for _, v in values(text, only(kind))] == plain(kind, text)


@settings(max_examples=250, deadline=None)
@given(st.lists(texts, max_size=5))
def test_spans_are_sorted_disjoint_and_on_character_borders(documents: list[str]) -> None:
    found = find_pii(pa.array(documents, pa.string()))
    assert found.schema == FOUND
    before = (-1, 0)
    for d, a, b in zip(*(found.column(c).to_pylist() for c in ("document", "start", "stop"))):
        assert before <= (d, a)
        assert a < b
        documents[d].encode()[a:b].decode()
        before = (d, b)


@settings(max_examples=400, deadline=None)
@given(texts)
@example("4111 1111 1111 1111 4111 1111 1111 1111 212-555-0143")
@example("212-555-0143/212-555-0144/a@b.org.93.184.216.34")
def test_masking_twice_changes_nothing_more(text: str) -> None:
    once = masked([text])
    assert masked(once) == once


@settings(max_examples=100, deadline=None)
@given(st.lists(texts, min_size=1, max_size=6), st.data())
def test_a_document_is_searched_alike_in_any_batch_slice_and_string_type(
    documents: list[str], data: st.DataObject
) -> None:
    start = data.draw(st.integers(0, len(documents) - 1))
    alone = [values(t) for t in documents[start:]]
    found = find_pii(pa.array(documents, pa.string()).slice(start))
    together: list[list[tuple[str, str]]] = [[] for _ in alone]
    for d, a, b, kind in zip(*(c.to_pylist() for c in found.columns)):
        together[d].append((kind, documents[start + d].encode()[a:b].decode()))
    assert together == alone


def test_nulls_and_empty_batches_hold_nothing() -> None:
    assert len(find_pii(pa.array([None, "", "x"], pa.string()))) == 0
    assert len(find_pii(pa.array([], pa.large_string()))) == 0
    spans, counts = pii_edits(pa.array([None], pa.string()))
    assert (len(spans), counts.column("pii_email").to_pylist()) == (0, [0])
    with pytest.raises(TypeError, match="expected an Arrow string"):
        find_pii(pa.array([1]))


def test_a_card_needs_issuer_length_and_check_digit() -> None:
    for name, pattern in ISSUERS.items():
        assert name
        assert pattern.fullmatch("9" * 16) is None
    assert values("4111111111111112 9111111111111111 411111111111111 4444444444444444") == []


def test_a_key_without_its_end_is_masked_to_its_last_line() -> None:
    cut = PEM.rpartition("\n")[0]
    assert masked([f"before\n{cut}\n\nand prose after it"]) == ["before\n<SECRET>\n\nand prose after it"]
    one_line = cut.replace("\n", "\\n")
    assert masked([f'{{"key": "{one_line}"}}'])[0].startswith('{"key": "<SECRET>')


def test_private_addresses_are_found_when_asked_for() -> None:
    config = PiiConfig(public_ip_only=False)
    assert values("10.0.0.1, 192.168.1.1; fe80::1 and A::B", config) == [
        ("ipv4", "10.0.0.1"), ("ipv4", "192.168.1.1"), ("ipv6", "fe80::1"),
    ]  # fmt: skip


def test_a_label_announces_numbers_of_any_form() -> None:
    for label in (
        "Tel.: ",
        "phone number ",
        "FAX: ",
        "电话：",
        "我的手机",
        "联系Tel.",
        "Тел. ",
        "téléphone : ",
    ):
        assert values(f"{label}555 1234") == [("phone", "555 1234")], label
    assert values("hotel 555 1234, phone 1990-1995, показател 555 1234") == []


@pytest.mark.parametrize(
    "text",
    ["Τηλ. 210 3384000", "هاتف: 011 401 1999", "טלפון: 640 8111", "फ़ोन: 98765 43210", "ስልክ: 551 7700", "携帯98765432", "휴대폰 9876 5432"],
)  # fmt: skip
def test_labels_of_other_scripts_announce_numbers(text: str) -> None:
    assert [kind for kind, _ in values(text)] == ["phone"]


def test_a_year_in_brackets_before_pages_is_no_area() -> None:
    for text in ("Nature 412 (2019) 123-456.", "vgl. (2019) 123-456", "(2020) 12 345 678", "(1998) 123–1304"):
        assert values(text) == [], text
    assert values("(030) 1234567") == [("phone", "(030) 1234567")]


def test_a_version_that_is_required_is_no_address() -> None:
    for text in ("foo==23.1.2.10", "foo>=23.1.2.10", "foo ~= 23.1.2.10", "a != 93.184.216.34"):
        assert values(text) == [], text
    assert values("host=93.184.216.34") == [("ipv4", "93.184.216.34")]


def test_four_small_numbers_are_an_address_only_where_the_text_says_so() -> None:
    for text in (
        "sqlite (3.8.7.2)",
        "Bump to 1.0.99.0",
        "Changes in 1.2.0.8",
        'd="m3 2 3.51.98.32 2.03"',
        "zlib 8.8.8.8",
    ):
        assert values(text) == [], text
    for left, right in (
        ("IP 8", ""),
        ("the server at 8", ""),
        ("https://8", "/"),
        ("8", ":53 "),
        ("8", "/24"),
        ("[8", "]"),
    ):
        assert values(f"{left}.8.8.8{right}") == [("ipv4", "8.8.8.8")], left


def test_rows_and_paths_of_digits_are_no_numbers_of_anybody() -> None:
    for text in (
        "0635 0645 0645",
        "01 02 03 04 05",
        "news/0104/010417.html",
        "[.4181.0033.0002.8005]",
        "Oct 15 2000::",
    ):
        assert values(text) == [], text


def test_actions_placeholders_and_limits() -> None:
    config = PiiConfig(
        email=PiiRule(placeholder="|||EMAIL_ADDRESS|||", max_count=2),
        ipv4=PiiRule(action="count"),
        card=PiiRule(action="drop"),
        phone=OFF,
    )
    texts = [
        "a@b.org 93.184.216.34 +49 30 1234567",
        "a@b.org c@d.org e@f.org",
        "4111 1111 1111 1111",
        "nothing",
    ]
    assert masked(texts, config) == [
        "|||EMAIL_ADDRESS||| 93.184.216.34 +49 30 1234567", " ".join(["|||EMAIL_ADDRESS|||"] * 3), texts[2], texts[3],
    ]  # fmt: skip
    spans, counts = pii_edits(pa.array(texts), config)
    assert spans.schema == SPANS
    assert set(spans.column("reason").to_pylist()) == {"pii_email"}
    assert counts.column("pii_ipv4").to_pylist() == [1, 0, 0, 0]
    assert counts.column("pii_phone").to_pylist() == [0, 0, 0, 0]
    assert pii_drops(counts, config).to_pylist() == [
        {"document": 1, "reason": "pii_email", "value": 3.0, "limit": 2.0},
        {"document": 2, "reason": "pii_card", "value": 1.0, "limit": 0.0},
    ]


@pytest.mark.parametrize("bad", ["", "mail@x.org", "<IP4>", "EMAIL", "a<b>", "<" + "x" * 30 + ">", "<é>"])
def test_a_placeholder_that_could_be_found_itself_is_refused(bad: str) -> None:
    with pytest.raises(ValueError, match="between brackets or bars"):
        PiiRule(placeholder=bad)
    with pytest.raises(ValueError, match="'XX' is no country code"):
        PiiConfig(phone_regions=("US", "XX"))


def test_placeholders_and_all_outputs_carry_no_value() -> None:
    text = " ".join(v for vs in POSITIVES.values() for v in vs)
    spans, counts = pii_edits(pa.array([text]))
    shown = repr(spans.to_pylist()) + repr(counts.to_pylist()) + repr(find_pii(pa.array([text])).to_pylist())
    for vs in POSITIVES.values():
        assert not any(v in shown for v in vs)
    assert set(spans.column("replacement").to_pylist()) == set(PLACEHOLDERS.values())
    assert find_pii(pa.array([" ".join(PLACEHOLDERS.values())])).num_rows == 0


@pytest.mark.parametrize(
    "unit",
    [
        "@",
        "7",
        "-",
        ":",
        "1-",
        "a@",
        "1.2.3.4.",
        "01 ",
        "eyJ-",
        "eyJhbGciOiJIUzI1NiIs.",
        "-----BEGIN PRIVATE KEY-----",
        *("DE89 ", "a.", "+1 ", "xoxb-", "2001:", "4111 1111 1111 1111 ", "ghp_", "é", "(0", "tel "),
    ],
)
@pytest.mark.timeout(60)  # quadratic work would take hours
def test_a_megabyte_of_one_thing_is_searched_to_its_end(unit: str) -> None:
    found = find_pii(pa.array([unit * (1_000_000 // len(unit)) + "\na@b.org"], pa.large_string()))
    starts, stops = (np.asarray(found.column(c)) for c in ("start", "stop"))
    assert (starts[1:] >= stops[:-1]).all()
    assert found.column("kind")[len(found) - 1].as_py() == "email"


def test_ten_megabytes_are_searched_and_only_the_planted_value_is_found() -> None:
    filler = "The quick brown fox jumps over 12 lazy dogs at 10:30. " * 190_000
    text = filler + "a@b.org " + filler[:1000]
    found = find_pii(pa.array([text], pa.large_string()))
    assert found.to_pylist() == [
        {"document": 0, "start": len(filler), "stop": len(filler) + 7, "kind": "email"}
    ]


def test_counts_are_per_document_and_kind() -> None:
    found = find_pii(pa.array(["a@b.org", "", "93.184.216.34 a@b.org a@b.org"]))
    counts = count_pii(found, 3)
    assert counts.schema.names == [f"pii_{k}" for k in KINDS]
    assert np.asarray(counts.column("pii_email")).tolist() == [1, 0, 2]
    assert counts.column("pii_ipv4").type == pa.int32()
