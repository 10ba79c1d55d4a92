"""Runs of noise: the compiled kernel against a plain one, what must be found, and what must be left alone."""

from __future__ import annotations

import base64
import random
import string
import unicodedata
import uuid
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mixloom.pipeline import noise_kernel as nk
from mixloom.pipeline import noise_symbols as ns
from mixloom.pipeline.edits import SPANS
from mixloom.pipeline.noise import FOUND, _scan, find_noise, noise_edits, noise_measures
from mixloom.pipeline.noise_config import KINDS, NoiseConfig
from mixloom.pipeline.noise_measures import NOISE_MEASURES
from mixloom.pipeline.noise_model import alphabets, mean_bits, step_scores
from mixloom.pipeline.words import utf8_buffers

PROSE = (
    "It was a bright cold day in April, and the clocks were striking thirteen. Nobody looked up from the papers on the "
    "table, where the figures for the third quarter (12.5, 13.1 and 14.8 per cent) had been printed twice by mistake. "
)

# ---- the plain definition -------------------------------------------------------------------------------


def plain_symbols(text: str) -> list[int]:
    table, out, script = ns.symbol_table(), [], -1
    for c in text:
        symbol, own = int(table[ord(c)]) & 255, int(table[ord(c)]) >> 8
        if symbol == ns.OTHER and own:
            symbol = ns.OTHER_SCRIPT if script >= 0 and script != own else symbol
            script = own
        out.append(symbol)
    return out


def plain_misread(text: str) -> list[bool]:
    """Which characters belong to one UTF-8 sequence read as Windows-1252 or Latin-1, or to a word of another encoding."""
    byte = [int(ns.windows_bytes()[ord(c)]) if ord(c) < 0x2200 else 0 for c in text]
    out, tried, i = [False] * len(text), 0, 0
    while i < len(text):
        lead = byte[i]
        more = 1 if 0xC2 <= lead < 0xE0 else 2 if 0xE0 <= lead < 0xF0 else 3 if 0xF0 <= lead < 0xF5 else 0
        # The first is read as Latin-1: all lead bytes are letters of two bytes there.
        tail = byte[i + 1 : i + 1 + more]
        taken = 1
        if more and ord(text[i]) < 0x100 and len(tail) == more and all(0x80 <= b < 0xC0 for b in tail):
            out[i : i + 1 + more] = [True] * (more + 1)
            taken += more
        elif lead >= 0xA1 and i >= tried:
            tried = next((p for p in range(i, len(text)) if byte[p] < 0xA1), len(text))
            word = byte[i:tried]
            letters = sum(b >= 0xC0 and b not in (0xD7, 0xF7) for b in word)
            dull = sum(b - a in (0, 1) for a, b in pairwise(word))
            if len(word) >= 4 and 2 * letters >= len(word) and 2 * dull < len(word):
                out[i:tried] = [True] * len(word)
                taken = len(word)
        i += taken
    return out


def plain_best(scores: list[int], first: int, drop: int) -> list[tuple[int, int, int]]:
    """Stretches whose scores add up: (first, last + 1, score of the best); they begin with a score of at least `first`."""
    out, total, best, begin, end = [], 0, 0, 0, 0
    for i, score in enumerate([*scores, -(10**9)]):
        if total == 0 and score < first:
            continue
        if total == 0:
            begin, best = i, 0
        total += score
        if total > best:
            best, end = total, i + 1
        if total <= 0 or best - total > drop:
            if best > 0:
                out.append((begin, end, best))
            total = 0
    return out


def plain_runs(text: str, config: NoiseConfig) -> set[tuple[int, int, int, int]]:
    """Runs of the alphabets and of broken characters in a text without long hexadecimal words: (run, start, stop, score)."""
    scores = step_scores(config.margin)[0].reshape(ns.SYMBOLS, ns.SYMBOLS, -1).astype(int)
    # An accent that stands apart from its letter is part of it.
    places = [i for i, c in enumerate(text) if not "\u0300" <= c <= "\u036f"]
    symbols = plain_symbols("".join(text[i] for i in places))
    misread = plain_misread(text)
    before = [ns.NEWLINE, *symbols]
    out = set()
    least = config.min_density * mean_bits(config.margin) * nk.UNIT
    for k in range(nk.ALPHABETS):
        steps = []
        for n, (i, s) in enumerate(zip(places, symbols)):
            score = int(scores[before[n], s, k])
            # One of the four bytes before is the same ASCII character.
            again = text[i] in text[max(0, i - 4) : i].encode()[-4:].decode("latin-1") and s < ns.ACCENTED
            steps.append(min(score, -nk.UNIT // 2) if again else score)
        for first, last, best in plain_best(steps, nk.UNIT, 40 * nk.UNIT):
            a, b = places[first], places[last - 1] + 1
            if (
                b - a >= config.min_chars
                and best >= config.min_bits * nk.UNIT
                and 100 * best >= round(100 * least[k]) * (b - a)
            ):
                out.add((k, a, b, best))
    broken = [s in (ns.CONTROL, ns.REPLACEMENT) for s in symbols]
    for k, hits in ((nk.BAD, broken), (nk.MOJIBAKE, [misread[i] for i in places])):
        for first, last, best in plain_best([3 * nk.UNIT if h else -nk.UNIT for h in hits], 1, 40 * nk.UNIT):
            a, b = places[first], places[last - 1] + 1
            if (
                b - a >= config.min_chars
                and best >= config.min_bits * nk.UNIT
                and best >= 0.6 * nk.UNIT * (b - a)
            ):
                out.add((k, a, b, best))
    return out


rng = random.Random(5)


def drawn(alphabet: str, n: int) -> str:
    return "".join(rng.choice(alphabet) for _ in range(n))


# No word here is made of two or more hexadecimal digits alone: those are judged by another rule, tested below.
PIECES = [
    *("The quick brown fox jumps over the lazy dog. ", "\n", "    return self._items[index - 1];\n", "=-=-=-=-", "~~~~~~~~~"),
    *(drawn(string.ascii_lowercase[6:], 60), drawn(string.ascii_uppercase, 60), drawn(string.ascii_letters, 60)),
    *(drawn("".join(map(chr, range(33, 127))), 50), drawn("".join(map(chr, range(0xC0, 0x100))), 30), drawn("\x00\x01\x85\ue000", 30)),
    *("\ufffd" * 40, "Привет, мир. ".encode().decode("latin-1") * 4, "Ã©â€™", "ß“ ", "日本語の文章です。", drawn("".join(map(chr, range(0x4E00, 0x9F00))), 60)),
    *("T\x00h\x00i\x00s\x00 ", "мир и война ", "שלום ", "ไทย", "é", "\u0301", "\u00a0", "😀", "Ω≈ç", "HEADING IN CAPITALS "),
]  # fmt: skip
texts = st.one_of(
    st.lists(st.sampled_from(PIECES), max_size=14).map("".join),
    st.lists(st.sampled_from(PIECES), max_size=8).map(" ".join),
    st.text(
        st.characters(exclude_categories=["Cs"], exclude_characters=string.hexdigits + "\\"), max_size=200
    ),
)
SHORT = NoiseConfig(min_chars=20, min_bits=10)


@settings(max_examples=150, deadline=None)
@given(text=texts)
@example(text="")
@example(text="\x00" * 100)
@example(text=PIECES[5] + PROSE + PIECES[8] * 3)
def test_the_kernel_equals_the_plain_definition(text: str) -> None:
    data, offsets = utf8_buffers(pa.array([text], pa.large_string()))
    found, counts = _scan(data, offsets, SHORT)
    raw = text.encode()
    got = {
        (run, len(raw[:a].decode()), len(raw[:b].decode()), score)
        for _, a, b, run, chars, score in found.tolist()
        if run != nk.HEX and chars == len(raw[a:b].decode())
    }
    assert got == plain_runs(text, SHORT)
    assert counts.tolist() == [[len(text), sum(plain_misread(text))]]


@settings(max_examples=150, deadline=None)
@given(st.lists(texts, max_size=5))
def test_runs_are_sorted_disjoint_and_on_character_borders(documents: list[str]) -> None:
    found = find_noise(pa.array(documents, pa.string()), SHORT)
    assert found.schema == FOUND
    before = (-1, 0)
    for d, a, b, kind in zip(*(found.column(c).to_pylist() for c in ("document", "start", "stop", "kind"))):
        assert before <= (d, a)
        assert a < b
        assert kind in KINDS
        documents[d].encode()[a:b].decode()
        before = (d, b)


@settings(max_examples=60, deadline=None)
@given(st.lists(texts, min_size=1, max_size=5), st.data())
def test_a_document_is_searched_alike_in_any_batch_and_slice(
    documents: list[str], data: st.DataObject
) -> None:
    start = data.draw(st.integers(0, len(documents) - 1))
    alone = [
        find_noise(pa.array([t]), SHORT).drop_columns(["document"]).to_pylist() for t in documents[start:]
    ]
    together = find_noise(pa.array(documents, pa.large_string()).slice(start), SHORT)
    rows: list[list[dict[str, object]]] = [[] for _ in alone]
    for row in together.to_pylist():
        rows[row.pop("document")].append(row)
    assert rows == alone


# ---- what must be found ---------------------------------------------------------------------------------

NOISE: dict[str, list[str]] = {
    "random": [
        *(
            drawn(string.ascii_lowercase, 300),
            drawn(string.ascii_uppercase, 300),
            drawn(string.printable[:94], 300),
        ),
        *(drawn("".join(map(chr, range(0x4E00, 0x9F00))), 300), drawn("".join(map(chr, range(32, 97))), 300)),
        " ".join(drawn(string.ascii_lowercase, rng.randint(4, 9)) for _ in range(50)),
    ],
    "base64": [
        *(drawn(string.ascii_letters + string.digits, 300), base64.b64encode(rng.randbytes(300)).decode()),
        *(base64.encodebytes(rng.randbytes(400)).decode(), base64.urlsafe_b64encode(PROSE.encode()).decode()),
    ],
    "binary": [rng.randbytes(300).decode("latin-1"), rng.randbytes(300).decode("cp1252", "replace")],
    "control": [drawn("".join(map(chr, range(1, 27))), 200), PROSE.encode("utf-16-le").decode("latin-1")],
    "replacement": ["\ufffd" * 100, rng.randbytes(400).decode("utf-8", "replace")],
    "mojibake": [
        ("Все счастливые семьи похожи друг на друга. " * 5).encode().decode("latin-1"),
        ("人不知而不愠，不亦君子乎？" * 8).encode().decode("latin-1"),
        ("Все счастливые семьи похожи друг на друга. " * 5).encode("cp1251").decode("latin-1"),
        ("Το πρωί ο ήλιος ανατέλλει πάνω από τη θάλασσα. " * 5).encode("cp1253").decode("latin-1"),
        ("في قديم الزمان كان هناك ملك حكيم يعيش في قصر. " * 5).encode("iso8859_6").decode("latin-1"),
        ("人不知而不愠不亦君子乎" * 8).encode("gbk").decode("latin-1"),
        ("모든 인간은 태어날 때부터 자유로우며 존엄하다. " * 5).encode("euc_kr").decode("latin-1"),
    ],
    "hex": [
        rng.randbytes(200).hex(),
        "\n".join(f"{i * 16:08x}  {rng.randbytes(16).hex(' ')}  |................|" for i in range(40)),
        ", ".join(f"0x{b:02X}" for b in rng.randbytes(400)),
        "".join(f"\\x{b:02x}" for b in rng.randbytes(400)),
    ],
}


@pytest.mark.parametrize("kind", KINDS)
def test_noise_inside_good_text_is_found_whole_and_named(kind: str) -> None:
    for noise in NOISE[kind]:
        text = PROSE * 3 + "\n" + noise + "\n" + PROSE
        found = find_noise(pa.array([text])).to_pylist()
        assert [row["kind"] for row in found] == [kind], noise[:40]
        begin = len((PROSE * 3 + "\n").encode())
        end = begin + len(noise.encode())
        inside = min(found[0]["stop"], end) - max(found[0]["start"], begin)
        assert inside > 0.9 * (end - begin), noise[:40]
        assert found[0]["stop"] - found[0]["start"] - inside <= 20


def test_hexadecimal_is_left_alone_up_to_the_declared_length() -> None:
    digits = rng.randbytes(128).hex()
    assert len(find_noise(pa.array([PROSE + digits]))) == 0
    assert find_noise(pa.array([PROSE + "0x" + digits + "a1"])).column("kind").to_pylist() == ["hex"]
    assert len(find_noise(pa.array([PROSE + digits + "a1"]), NoiseConfig(hex_chars=1000))) == 0


LEFT_ALONE = {
    "hashes of commits": "\n".join(f"commit {rng.randbytes(20).hex()}" for _ in range(40)),
    "hashes in rows": "\n".join(rng.randbytes(32).hex() for _ in range(40)),
    "addresses": " ".join("0x" + rng.randbytes(20).hex() for _ in range(40)),
    "identifiers": "\n".join(str(uuid.UUID(bytes=rng.randbytes(16))) for _ in range(60)),
    "numbers": "\n".join(", ".join(f"{rng.random() * 1000:.4f}" for _ in range(8)) for _ in range(30)),
    "digits of pi": "14159265358979323846264338327950288419716939937510582097494459230781640628620899862803482534211706798",
    "DNA": drawn("ACGT", 600),
    "a protein": drawn("ACDEFGHIKLMNPQRSTVWY", 400),
    "a drug": "(2S,5R,6R)-3,3-dimethyl-7-oxo-6-(2-phenylacetamido)-4-thia-1-azabicyclo[3.2.0]heptane-2-carboxylic acid " * 2,
    "LaTeX": r"\frac{\partial \mathcal{L}}{\partial \theta_{ij}} = \sum_{k=1}^{N} (\hat{y}_k - y_k)\, \sigma'(z_k)\, x_j " * 3,
    "C#": "public override bool Equals(object obj){return obj is Node n && n._id == _id && n.Kind.Equals(Kind);}" * 3,
    "minified": '!function(e,t){"object"==typeof exports&&"undefined"!=typeof module?module.exports=t():e.Vue=t()}(this,function(){' * 2,
    "capitals": "THE PARTIES AGREE THAT NEITHER OF THEM SHALL BE LIABLE FOR ANY INDIRECT OR CONSEQUENTIAL LOSS. " * 3,
    "Chinese": "北京是中华人民共和国的首都，是全国的政治中心、文化中心，是世界著名古都和现代化国际城市。" * 5,
    "Japanese": "吾輩は猫である。名前はまだ無い。どこで生れたかとんと見当がつかぬ。ニャーニャー泣いていた。" * 5,
    "Thai": "มนุษย์ทั้งหลายเกิดมามีอิสระและเสมอภาคกันในเกียรติศักดิ์และสิทธิ" * 5,
    "Vietnamese": "Tất cả mọi người sinh ra đều được tự do và bình đẳng về nhân phẩm và quyền. " * 4,
    "Czech": "Strč prst skrz krk. Chrt zhltl hrst zrn. Vlk zmrzl, zhltl hrst zrn. " * 4,
    "phonetic": "ðə ˈkwɪk braʊn ˈfɑks ˈʤʌmps ˈoʊvər ðə ˈleɪzi ˈdɔɡ ænd ðɛn ɡoʊz tə ˈslip ˈʌndər ə tri " * 4,
    "many scripts": "Токио (東京, Tōkyō) — Москва, 서울 Seoul, Αθήνα, القاهرة; ירושלים, दिल्ली, กรุงเทพ. " * 4,
    "drawn lines": ("=-" * 40 + "\n" + "^" * 80 + "\n" + "/\\_" * 30 + "\n| o |  | x |\n") * 4,
    "emoji": "😀😃😄😁😆😅🤣😂🙂🙃😉😊😇🥰😍🤩😘😗☺😚😙🥲😋😛😜🤪😝🤑🤗🤭" * 4,
    "a table of Latin-1": "".join(map(chr, range(0xA1, 0x100))) * 3,
    "a drawn ribbon": "¸.·´¯`·.¸¸.·´¯`·.¸><(((º>" * 12 + "øøøøøøøøøø" * 20,
    "umlauts": "ÄÖÜ äöü ß: die Umlaute äöüÄÖÜ stehen über den Vokalen, jäääär und yöjää auch. " * 6,
    "curly quotes misread": "It’s the “best” way, he said, and nobody at the table had a better one. ".encode().decode("cp1252", "replace") * 3,
}  # fmt: skip


@pytest.mark.parametrize("what", sorted(LEFT_ALONE))
def test_what_somebody_wrote_is_left_alone(what: str) -> None:
    text = LEFT_ALONE[what]
    assert find_noise(pa.array([text, PROSE + text + PROSE])).to_pylist() == []


@pytest.mark.parametrize(
    "text",
    [
        "Příliš žluťoučký kůň úpěl ďábelské ódy, a švestky zůstaly ležet v mokré trávě. " * 6,
        "Tất cả mọi người sinh ra đều được tự do và bình đẳng về nhân phẩm và quyền lợi. " * 6,
        "Pójdźże, kiń tę chmurność w głąb flaszy; zażółć gęślą jaźń. " * 6,
        "Ο Κάτων θεωρούσε ότι η πόλη έπρεπε να καταστραφεί, είπαν οι γείτονες. " * 6,
        "Съешь же ещё этих мягких французских булок, да выпей чаю, мой дорогой. " * 6,
    ],
)
def test_decomposed_text_is_no_more_noise_than_composed(text: str) -> None:
    forms = [unicodedata.normalize(form, text) for form in ("NFC", "NFD")]
    assert forms[0] != forms[1]
    assert find_noise(pa.array([*forms, PROSE + forms[1] + PROSE])).to_pylist() == []


# ---- measures, edits, edges -----------------------------------------------------------------------------


def test_measures_say_how_much_of_a_document_is_noise() -> None:
    noise = NOISE["base64"][0]
    french = "L'été dernier, l'élève a mangé près de la forêt. ".encode().decode("latin-1")
    measured = noise_measures(pa.array([PROSE, PROSE + noise + "\n" + PROSE, noise, "", None, french]))
    assert {name: a.type for name, a in measured.items()} == {
        name: kind for name, (kind, _) in NOISE_MEASURES.items()
    }
    share, longest, mojibake = (np.asarray(measured[name]) for name in NOISE_MEASURES)
    assert share[[0, 3, 4, 5]].tolist() == [0, 0, 0, 0]
    assert share[1] == pytest.approx(300 / (2 * len(PROSE) + 301), rel=0.03)
    assert share[2] > 0.97
    assert 290 <= longest[1] <= 305
    assert mojibake[5] == pytest.approx(2 * 7 / len(french))
    assert mojibake[:5].tolist() == [0] * 5


def test_edits_cut_the_runs_out_and_leave_nothing_to_cut() -> None:
    texts = [PROSE + "\n" + n + "\n" + PROSE for ns_ in NOISE.values() for n in ns_] + [PROSE]
    edits = noise_edits(pa.array(texts))
    assert edits.schema == SPANS
    left = [t.encode() for t in texts]
    for row in reversed(edits.to_pylist()):
        assert (row["replacement"], row["limit"]) == ("", 80.0)
        assert row["reason"].removeprefix("noise_") in KINDS
        assert row["value"] >= 80
        raw = left[row["document"]]
        left[row["document"]] = raw[: row["start"]] + raw[row["stop"] :]
    assert len(edits) == len(texts) - 1
    again = [b.decode() for b in left]
    assert len(noise_edits(pa.array(again))) == 0
    assert all(abs(len(t) - 2 * len(PROSE)) < 60 for t in again[:-1])
    assert len(noise_edits(pa.array(texts), NoiseConfig(action="measure"))) == 0


def test_only_the_chosen_kinds_are_reported() -> None:
    text = PROSE + NOISE["hex"][0] + " " + PROSE + NOISE["replacement"][0] + PROSE
    config = NoiseConfig(kinds=("replacement",))
    assert find_noise(pa.array([text]), config).column("kind").to_pylist() == ["replacement"]


def test_nothing_in_nothing_and_only_strings_are_taken() -> None:
    assert len(find_noise(pa.array([None, ""], pa.string()))) == 0
    assert len(find_noise(pa.array([], pa.large_string()))) == 0
    assert all(len(a) == 0 for a in noise_measures(pa.array([], pa.string())).values())
    with pytest.raises(TypeError, match="expected an Arrow string"):
        find_noise(pa.array([1]))


@pytest.mark.parametrize("raw", [b"\xff" * 100, b"ab\xc3", b"\xe2\x82", b"\xc3", b"\xf4\x90\x80\x80x"])
def test_malformed_bytes_are_broken_characters_and_nothing_beyond_the_document_is_read(raw: bytes) -> None:
    data = pa.array([raw, b"good"], pa.large_binary())
    broken = pa.Array.from_buffers(pa.large_string(), 2, data.buffers())
    found = find_noise(broken)
    assert found.column("kind").to_pylist() == (["replacement"] if len(raw) == 100 else [])


@pytest.mark.timeout(60)  # quadratic work would take hours
@pytest.mark.parametrize(
    "unit", ["@", "7", "-", "f", "0x", "\\x", "ab ", "Ã", "Ã©", "\x00", "日", "é", "deadbeef ", "a1B2"]
)
def test_a_megabyte_of_one_thing_is_searched_to_its_end(unit: str) -> None:
    text = unit * (1_000_000 // len(unit)) + "\n" + PROSE + NOISE["base64"][0]
    found = find_noise(pa.array([text], pa.large_string()))
    assert found.column("kind")[len(found) - 1].as_py() == "base64"


def test_ten_megabytes_are_searched_and_only_the_planted_run_is_found() -> None:
    text = PROSE * 44_000
    found = find_noise(pa.array([text + NOISE["random"][0] + " " + PROSE], pa.large_string())).to_pylist()
    assert len(found) == 1
    assert abs(found[0]["start"] - len(text)) < 20


def test_every_alphabet_is_a_distribution_and_scores_for_itself() -> None:
    assert np.allclose(alphabets().sum(axis=1), 1, atol=0.06)
    assert (mean_bits(0.4) > 1.2).all()
