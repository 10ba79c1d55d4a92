"""`mixloom inspect`: what stands in shards is what is shown, in its place, and nothing of it can act."""

from __future__ import annotations

import http.client
import re
import shutil
import subprocess
import threading
import urllib.error
import urllib.request
from dataclasses import replace
from types import SimpleNamespace

import lxml.html
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixloom import cli
from mixloom.pipeline.beside_tokens import cut_patches
from mixloom.pipeline.errors import UserError
from mixloom.pipeline.manifest import build_manifest
from mixloom.pipeline.shards import Context, key_prefix, shard_name, write_shard
from mixloom.tokenizers.codecs import make_image_codec, make_speech_codec
from mixloom.tokenizers.inspect_contexts import read_context, split_text
from mixloom.tokenizers.inspect_decoders import find_decoders
from mixloom.tokenizers.inspect_page import inspect_page
from mixloom.tokenizers.inspect_server import InspectServer
from mixloom.tokenizers.inspect_source import ContextSource, Query, StoredContext
from mixloom.tokenizers.interleave import encode_document
from mixloom.tokenizers.recorded_patches import document_patches
from mixloom.tokenizers.settings import ImageCodecConfig, PatchConfig, SpeechCodecConfig, TextTokenizerConfig
from mixloom.tokenizers.text_bytes import make_text_tokenizer
from mixloom.tokenizers.vocab import MASK_START, Vocabulary

ATTACK = "<script>document.title = 'taken'</script><img src=x onerror=\"document.title='taken'\">\u202e"
SEQ_LEN = 160
ALL = Query()


def picture(seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.repeat(np.repeat(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8), 4, 0), 4, 1)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run's shards and tokenizers: two domains, three sources, pictures, speech, an attack, a document in two contexts."""
    root = tmp_path_factory.mktemp("inspect") / "run"
    folder = root / "tokenizer"
    patches = PatchConfig(kind="fixed", bytes=4)
    text, _ = make_text_tokenizer(TextTokenizerConfig(kind="bytes", patches=patches), ["none"])
    text.save(folder / "text")
    config = ImageCodecConfig(size=16, downsample=4, steps=2, crops=16, width=16, levels=(8, 5, 5))
    image, _ = make_image_codec(config, [picture(i) for i in range(12)])
    image.save(folder / "image")
    t = np.arange(16000) / 16000
    waves = [np.sin(2 * np.pi * f * t * (1 + t)).astype(np.float32) for f in (220, 330, 440, 550)]
    speech, _ = make_speech_codec(SpeechCodecConfig(units=4), waves)
    speech.save(folder / "speech")
    vocabulary = Vocabulary.build(
        text.size,
        text.fingerprint,
        image_size=image.codebook_size,
        image_fingerprint=image.fingerprint,
        speech_size=speech.codebook_size,
        speech_fingerprint=speech.fingerprint,
    )
    vocabulary.save(folder / "vocab.json")
    codes = image.encode_batch([picture(3)])[0]
    units, durations = speech.encode(waves[1])
    grouped = np.array([2] * (len(units) // 2) + [1] * (len(units) % 2), np.int32)  # patches of the recording

    def document(kinds, texts=(), pictures=(), sounds=()):
        ids = text.encode_batch(list(texts))
        return encode_document(kinds, ids, list(pictures), list(sounds), vocabulary)[0].astype(np.uint16)

    def patches_of(row):
        starts = [SEQ_LEN if row is four and i == 0 else 0 for i in range(len(row))]
        out = []
        for (name, _, ids), start in zip(row, starts):
            whole = long if name == "cc01" else ids
            spoken = grouped if name == "bb01" else np.zeros(0, np.int32)
            out.append(
                cut_patches(document_patches(whole, vocabulary, text, spoken), start, start + len(ids))
            )
        return np.concatenate(out)

    one = [
        ("aa01", "web", document(["text"], [ATTACK])),
        ("aa02", "books", document(["text", "image"], ["Überschrift\n"], [codes])),
    ]
    two = [("bb01", "talks", document(["speech", "text"], ["said"], [], [units]))]
    long = document(["text"], ["word " * 40])
    three = [("cc01", "books", long[:SEQ_LEN])]
    four = [("cc01", "books", long[SEQ_LEN:]), ("aa02x", "web", document(["text"], ["last"]))]
    entries = []
    shards = [
        ("first", [one, two] + [[(f"f{i:02d}", "web", document(["text"], [f"n{i}"]))] for i in range(5)])
    ]
    shards.append(("second", [three, four]))
    for d, (domain, rows) in enumerate(shards):
        contexts = [
            Context(
                np.concatenate([p[2] for p in row]),
                [len(p[2]) for p in row],
                [p[0] for p in row],
                [p[1] for p in row],
                [SEQ_LEN if row is four and i == 0 else 0 for i in range(len(row))],
                patches_of(row),
                durations if row is two else None,
            )
            for row in rows
        ]
        name = shard_name(domain, 0, 1)
        entries.append(
            write_shard(
                str(root / "shards"),
                name,
                domain,
                contexts,
                prefix=key_prefix(d, 0),
                seq_len=SEQ_LEN,
                vocabulary=vocabulary.to_json(),
                block=3,
            )
        )
    build_manifest(entries, vocabulary.to_json(), seq_len=SEQ_LEN).save(str(root / "shards"))
    return SimpleNamespace(
        root=root,
        vocabulary=vocabulary,
        codes=codes,
        units=units,
        durations=durations,
        image=image,
        speech=speech,
    )


@pytest.fixture(scope="module")
def decoders(run):
    found = find_decoders(run.vocabulary, str(run.root / "shards"))
    assert not found.missing
    return found


def contexts(run, decoders, query=ALL, start=0, stop=20):
    source = ContextSource(str(run.root))
    return [read_context(source.read(p), decoders) for p in source.find(query, start, stop)]


def test_a_context_is_its_documents_with_every_token_in_one_piece(run, decoders):
    for c in contexts(run, decoders):
        at = 0
        for d in c.documents:
            assert d.at == at
            for p in d.pieces:
                assert p.start == at
                at += len(p.ids)
                assert p.kind != "text" or sum(len(g.ids) for g in p.groups) == len(p.ids)
        assert at == c.tokens == len(c.modalities)


def test_text_pictures_and_sound_come_back_in_their_places(run, decoders):
    first, second = contexts(run, decoders, stop=2)
    attack, mixed = first.documents
    assert [p.text for p in attack.pieces] == ["<doc>", ATTACK, "</doc>"]
    kinds = [p.kind if p.kind != "sentinel" else p.text for p in mixed.pieces]
    assert kinds == ["<doc>", "text", "<image>", "image", "</image>", "</doc>"]
    assert mixed.pieces[1].text == "Überschrift\n"
    assert np.array_equal(mixed.pieces[3].picture, run.image.decode(run.codes[None])[0])
    (spoken,) = [p for p in second.documents[0].pieces if p.kind == "speech"]
    assert len(spoken.ids) == len(run.units)
    assert spoken.rate == 16000
    assert np.array_equal(spoken.wave, run.speech.decode(run.units, run.durations)), "as long as it was"
    assert len(spoken.wave) == 16000


def test_a_document_that_goes_on_elsewhere_says_where_it_stands(run, decoders):
    three, four = contexts(run, decoders, Query(domain="second"))
    assert (three.documents[0].start, three.documents[0].ends) == (0, False)
    assert (four.documents[0].start, four.documents[0].ends) == (SEQ_LEN, True)
    page = inspect_page("t", [three, four])
    assert "goes on in another context" in page
    assert "goes on from an earlier context" in page


def test_patches_begin_where_it_is_stored_that_they_do(run, decoders):
    (c,) = contexts(run, decoders, Query(document="bb01"))
    (text,) = [p for p in c.documents[0].pieces if p.kind == "text"]
    assert [g.patch for g in text.groups] == [i % 4 == 0 for i in range(4)]
    (spoken,) = [p for p in c.documents[0].pieces if p.kind == "speech"]
    assert sorted(spoken.patches) == list(range(0, len(run.units), 2))
    tree = lxml.html.fromstring(inspect_page("t", [c]))
    drawn = tree.xpath("//figure[contains(@class, 'm-speech')]//span[contains(@class, 'u')]")
    assert [("p" in u.get("class").split()) for u in drawn] == [i % 2 == 0 for i in range(len(run.units))]
    assert [int(u.get("title").split()[0]) for u in drawn] == run.durations.tolist()
    assert tree.xpath("//*[@id='show-patches']")


def test_patch_boundaries_are_shown_from_the_start_where_that_is_asked_for(run, tmp_path, capsys):
    out = tmp_path / "page.html"
    assert command(run.root, "--document", "bb01", "--patches", "--out", str(out)) == 0
    body = lxml.html.fromstring(out.read_text()).xpath("//body")[0]
    assert body.get("class").split() == ["inspect", "show-patches"]
    assert body.xpath("//*[@id='show-patches']/@checked")
    capsys.readouterr()
    assert command(run.root, "--document", "bb01", "--patches", "--text") == 0
    shown = capsys.readouterr().out
    assert "\u2016said</doc>" in shown
    assert shown.count("\u2016") == 1 + -(-len(run.units) // 2)
    assert command(run.root, "--document", "bb01", "--patches", "--tokens", "--text") == 0
    assert "\u2016s|a|i|d</doc>" in capsys.readouterr().out


def test_a_patch_that_was_cut_with_its_document_is_drawn_as_it_is_stored(run, decoders):
    """The document begins with <doc>, so after a cut at 160 the patches of four bytes begin at the second token."""
    _, after = contexts(run, decoders, Query(domain="second"))
    (text, *_) = [p for p in after.documents[0].pieces if p.kind == "text"]
    begins = [i for i, g in enumerate(text.groups) if g.patch]
    assert begins[:3] == [0, 1, 5]


def test_without_stored_patches_and_durations_none_are_drawn_and_sound_has_mean_lengths(run, decoders):
    source = ContextSource(str(run.root))
    (place,) = source.find(Query(document="bb01"), 0, 1)
    bare = replace(source.read(place), patches=None, durations=None)
    c = read_context(bare, decoders)
    (spoken,) = [p for p in c.documents[0].pieces if p.kind == "speech"]
    assert "each unit as long as it is on average" in spoken.note
    assert np.array_equal(spoken.wave, run.speech.decode(run.units))
    assert 'id="show-patches"' not in inspect_page("t", [c])
    broken = replace(source.read(place), patches=np.array([3], np.uint16))
    with pytest.raises(ValueError, match="patches do not add up to"):
        read_context(broken, decoders)


def test_specials_that_an_objective_wrote_are_named(run, decoders):
    ids = np.array([MASK_START + 2, 300, 200], np.uint16)
    pieces = {"doc_ids": ["d"], "sources": ["s"], "starts": [0]}
    c = read_context(StoredContext(ids, np.array([3], np.int32), pieces, "d", 0, "s.tar", "k", 0), decoders)
    assert [p.text for p in c.documents[0].pieces if p.kind == "sentinel"] == ["<mask:2>", "<200>"]


def test_a_picture_cut_by_hand_is_a_box_with_its_codes(run, decoders):
    start = run.vocabulary.image.start
    ids = np.array([1, 3, *range(start, start + 5)], np.uint16)
    pieces = {"doc_ids": ["d"], "sources": ["s"], "starts": [0]}
    c = read_context(StoredContext(ids, np.array([7], np.int32), pieces, "d", 0, "s.tar", "k", 0), decoders)
    assert c.documents[0].pieces[-1].note == "5 of 16 codes: cut"
    assert "5 codes</div>" in inspect_page("t", [c])


@given(st.text(max_size=40))
def test_the_tokens_of_a_text_joined_are_the_text(text):
    ids = np.frombuffer(text.encode("utf-8"), np.uint8).astype(np.int64)
    parts = split_text(ids, lambda x: np.asarray(x).astype(np.uint8).tobytes().decode("utf-8", "replace"))
    assert "".join(p for _, p in parts) == text
    assert sum(n for n, _ in parts) == len(ids)
    if "\ufffd" not in text:
        assert [p for _, p in parts] == list(text)


@given(st.binary(max_size=40))
def test_broken_bytes_are_shown_as_the_tokenizer_shows_them(data):
    ids = np.frombuffer(data, np.uint8).astype(np.int64)
    decode = lambda x: np.asarray(x).astype(np.uint8).tobytes().decode("utf-8", "replace")  # noqa: E731
    parts = split_text(ids, decode)
    assert "".join(p for _, p in parts) == decode(ids)
    assert sum(n for n, _ in parts) == len(ids)


def test_a_search_finds_every_context_of_a_document_a_source_and_a_domain(run):
    source = ContextSource(str(run.root))

    def found(**asked):
        return [(p.entry.domain, p.number) for p in source.find(Query(**asked), 0, 99)]

    assert found(document="cc01") == [("second", 0), ("second", 1)]
    assert found(document="aa02") == [("first", 0), ("second", 1)]
    assert found(document="aa02", source="web") == [("second", 1)]
    assert found(source="talks") == [("first", 1)]
    assert found(domain="first") == [("first", i) for i in range(7)]
    assert len(found()) == 9
    assert found(document="zz") == []
    with pytest.raises(UserError, match=r"no source 'talk' \(did you mean 'talks'"):
        found(source="talk")


def test_pages_of_a_search_join_to_the_whole(run):
    source = ContextSource(str(run.root))
    for query in (Query(), Query(source="web"), Query(domain="first")):
        whole = source.find(query, 0, 99)
        paged = [p for i in range(0, 12, 2) for p in ContextSource(str(run.root)).find(query, i, i + 2)]
        assert paged == whole


def test_one_tar_with_its_manifest_is_enough(run, tmp_path):
    name = shard_name("second", 0, 1)
    for file in (name, f"{name}.index.json", "manifest.json"):
        shutil.copy(run.root / "shards" / file, tmp_path)
    source = ContextSource(str(tmp_path / name))
    assert source.contexts == 2
    bare = find_decoders(run.vocabulary, source.directory)
    assert set(bare.missing) == {"text", "image", "speech"}
    c = read_context(source.read(source.find(Query(), 0, 1)[0]), bare)
    page = inspect_page("t", [c], notes=list(bare.missing.values()))
    assert "159 text tokens (its tokenizer is not at hand)" in page
    assert "text is not decoded" in page
    given_ = find_decoders(run.vocabulary, source.directory, str(run.root))
    assert read_context(source.read(source.find(Query(), 0, 1)[0]), given_).documents[0].pieces[1].text


def test_tokenizers_of_another_run_are_refused(run, tmp_path):
    other = Vocabulary.build(256, "other")
    other.save(tmp_path / "vocab.json")
    with pytest.raises(UserError, match="does not match vocabulary"):
        find_decoders(run.vocabulary, str(run.root / "shards"), str(tmp_path))


def test_a_damaged_sample_is_named(run, tmp_path):
    shutil.copytree(run.root / "shards", tmp_path / "shards")
    tar = tmp_path / "shards" / shard_name("first", 0, 1)
    raw = bytearray(tar.read_bytes())
    raw[3000] ^= 1
    tar.write_bytes(bytes(raw))
    source = ContextSource(str(tmp_path))
    with pytest.raises(
        UserError, match=r"sample d000-s00000-b0000 of shard first-00000-of-00001\.tar is damaged"
    ):
        source.read(source.find(Query(), 0, 1)[0])


def check_safe(page: str, links: bool = False) -> lxml.html.HtmlElement:
    """Parse a page; nothing in it may run or lead anywhere but to the server it came from."""
    tree = lxml.html.document_fromstring(page)
    assert len(tree.xpath("//script")) == len(tree.xpath("//style")) == 1
    for element in tree.iter():
        for key, value in element.attrib.items():
            assert not key.startswith("on"), (element.tag, key)
            assert key != "style"
            if key in ("src", "href", "action"):
                local = r"data:(image/png|audio/wav);base64," + (r"|/(\?|$)" if links else "")
                assert re.match(local, value), value[:60]
    return tree


def test_what_a_document_says_is_shown_and_never_run(run, decoders):
    tree = check_safe(inspect_page(ATTACK, contexts(run, decoders)))
    shown = tree.text_content()
    assert "<script>document.title = 'taken'</script>" in shown
    assert "\u202e" not in shown
    assert len(tree.xpath("//img")) == len(tree.xpath("//audio")) == 1


def test_what_does_not_fit_the_page_is_left_out_and_told(run, decoders):
    page = inspect_page("t", contexts(run, decoders), budget=0)
    assert "<img" not in page
    assert "picture left out to keep the page small" in page or "left out to keep the page small" in page


def command(*args):
    return cli.main(["inspect", *map(str, args)])


def test_the_command_writes_one_page_of_the_range_asked_for(run, tmp_path, capsys):
    out = tmp_path / "page.html"
    assert command(run.root, "--contexts", "1:3", "--domain", "first", "--out", out, "--tokens") == 0
    assert "2 of 9 contexts" in capsys.readouterr().out
    tree = check_safe(out.read_text(encoding="utf-8"))
    assert [h.text_content() for h in tree.xpath("//h3")] == ["Context 1 of first", "Context 2 of first"]
    assert tree.xpath("//body")[0].get("class") == "inspect show-tokens"


@pytest.mark.parametrize("given_", ["3:1", "x", "", "-1:2", "2:2"])
def test_a_range_that_is_none_is_told(run, capsys, given_):
    assert command(run.root, f"--contexts={given_}") == 2
    assert "--contexts is" in capsys.readouterr().err


def test_a_document_that_is_not_there_is_told(run, capsys):
    assert command(run.root, "--document", "nope") == 2
    assert "no context matches" in capsys.readouterr().err


def test_the_terminal_shows_text_and_names_the_rest(run, capsys):
    assert command(run.root, "--text", "--contexts", "0:2") == 0
    out = capsys.readouterr().out
    assert "[image of 16 codes, 16 x 16 pixels]" in out
    assert re.search(r"\[speech of \d+ units, \d\.\d s\]", out)
    assert "\x1b" not in out
    assert "\u202e" not in out
    assert "<script>" in out


@pytest.fixture(scope="module")
def server(run, decoders):
    with InspectServer(ContextSource(str(run.root)), decoders, "Contexts") as running:
        thread = threading.Thread(target=running.serve_forever, daemon=True)
        thread.start()
        yield running
        running.shutdown()


def ask(server, path, host=None):
    """(status, body); the path is sent as it is."""
    connection = http.client.HTTPConnection("127.0.0.1", server.server_address[1], timeout=30)
    try:
        connection.request("GET", path, headers={"Host": host} if host else {})
        answer = connection.getresponse()
        return answer.status, answer.read().decode("utf-8")
    finally:
        connection.close()


def test_the_server_listens_on_this_machine_only(server):
    assert server.server_address[0] == "127.0.0.1"


def test_the_server_searches(server):
    with urllib.request.urlopen(f"{server.url}?source=talks", timeout=30) as answer:
        tree = check_safe(answer.read().decode("utf-8"), links=True)
    assert [h.text_content() for h in tree.xpath("//h3")] == ["Context 1 of first"]
    assert tree.xpath("//select[@name='source']/option[@selected]")[0].get("value") == "talks"


def test_the_server_pages_through_all_contexts(server):
    path, seen = "/?count=2", []
    for _ in range(9):
        _, body = ask(server, path)
        tree = check_safe(body, links=True)
        seen += [h.text_content() for h in tree.xpath("//h3")]
        following = [a.get("href") for a in tree.xpath("//a") if a.text_content() == "next"]
        if not following:
            break
        (path,) = following
    assert seen == [
        *(f"Context {i} of first" for i in range(7)),
        "Context 0 of second",
        "Context 1 of second",
    ]


@pytest.mark.parametrize(
    "path",
    ["/etc/passwd", "/../../etc/passwd", "/%2e%2e/%2e%2e/etc/passwd", "/manifest.json", "//etc/passwd"],
)
def test_the_server_has_no_files(server, path):
    status, body = ask(server, path)
    assert status == 404
    assert "root:" not in body


@pytest.mark.parametrize(
    "query",
    [
        "source=%3Cscript%3E1%3C/script%3E",
        "from=-1",
        "count=1000",
        "from=x",
        "other=1",
        "domain=" + "a" * 2000,
    ],
)
def test_a_request_that_makes_no_sense_is_answered_in_words(server, query):
    status, body = ask(server, f"/?{query}")
    assert status == 400
    check_safe(body, links=True)


def test_a_search_without_matches_says_so_and_shows_what_was_asked_as_text(server):
    status, body = ask(server, "/?document=%22%3E%3Cscript%3Ealert(1)%3C/script%3E")
    assert status == 200
    tree = check_safe(body, links=True)
    assert "No context matches." in tree.text_content()
    assert tree.xpath("//input[@name='document']")[0].get("value") == '"><script>alert(1)</script>'


def test_the_server_answers_to_no_other_name(server):
    assert ask(server, "/", host="evil.example")[0] == 403
    assert ask(server, "/", host=f"localhost:{server.server_address[1]}")[0] == 200


def test_the_server_takes_nothing(server):
    request = urllib.request.Request(server.url, data=b"x=1")
    with pytest.raises(urllib.error.HTTPError) as error:
        urllib.request.urlopen(request, timeout=30)
    assert error.value.code == 501


def test_a_taken_port_is_told(server, run, decoders):
    with pytest.raises(UserError, match="cannot listen on 127"):
        InspectServer(ContextSource(str(run.root)), decoders, "t", server.server_address[1])


@pytest.fixture(scope="module")
def browse(tmp_path_factory):
    """url -> the document as a real browser has it after its scripts ran."""
    profile = tmp_path_factory.mktemp("profile")
    found = [p for n in ("chromium", "chromium-browser", "google-chrome") if (p := shutil.which(n))]
    # Some systems have a stub of that name, which only says how to install a browser.
    works = [
        p for p in found if subprocess.run([p, "--version"], capture_output=True, timeout=60).returncode == 0
    ]
    if not works:
        pytest.skip("no browser on this machine; with Debian's package `chromium` this test runs")
    command = [works[0], "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={profile}"]

    def ask_browser(url: str) -> lxml.html.HtmlElement:
        asked = [*command, "--virtual-time-budget=3000", "--dump-dom", url]
        done = subprocess.run(asked, capture_output=True, text=True, timeout=150)
        assert done.returncode == 0, done.stderr[-500:]
        return lxml.html.document_fromstring(done.stdout)

    return ask_browser


def test_a_browser_draws_the_pictures_and_runs_nothing_of_the_documents(run, decoders, browse, tmp_path):
    out = tmp_path / "page.html"
    out.write_text(inspect_page("Contexts", contexts(run, decoders)), encoding="utf-8")
    plain = browse(out.as_uri())
    assert [i.get("data-pixels") for i in plain.xpath("//img")] == ["16x16"]
    assert plain.xpath("//title")[0].text == "Contexts"
    assert plain.xpath("//body")[0].get("class") == "inspect"
    toggled = browse(f"{out.as_uri()}#show=tokens,patches")
    assert set(toggled.xpath("//body")[0].get("class").split()) == {"inspect", "show-tokens", "show-patches"}


def test_a_browser_keeps_the_toggle_from_page_to_page(server, browse):
    tree = browse(f"{server.url}?count=2#show=tokens")
    assert "show-tokens" in tree.xpath("//body")[0].get("class")
    (following,) = [a.get("href") for a in tree.xpath("//a") if a.text_content() == "next"]
    assert following.endswith("#show=tokens")
