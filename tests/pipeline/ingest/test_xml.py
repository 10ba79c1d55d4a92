import pytest

BOOK = """<?xml version="1.0" encoding="utf-8"?>
<m:document xmlns:m="http://x.org/m" xmlns="http://x.org/n">
 <metadata><title>Title again</title></metadata>
 <title>A <emphasis>fine</emphasis> title</title>
 <para>First <term>term</term>, then
   more.<figure><media alt="A  picture"><image src="media/a.png"/></media><caption>Seen here</caption></figure></para>
 <note>not taken</note>
 <para>Last.</para>
</m:document>"""


def test_chosen_elements_images_and_captions_come_in_reading_order(bench, make_png, segments):
    bench.write("media/a.png", make_png())
    bench.write("a.xml", BOOK)
    documents, failures = bench.read(
        "xml",
        text=["title", "para", "term"],
        drop=["metadata"],
        image="image@src",
        alt="media@alt",
        meta_fields={"t": "title"},
    )
    assert failures == []
    assert segments(documents[0]) == [
        ("text", "A fine title\n\nFirst term, then more."),
        ("image", "media/a.png"),
        ("text", "Seen here"),
        ("text", "Last."),
    ]
    assert documents[0].segments[1].attrs == {"alt": "A picture"}
    assert documents[0].segments[2].attrs == {"role": "caption"}


def test_all_text_is_taken_when_none_is_chosen(bench):
    bench.write("a.xml", "<s><num>1</num><head>On <b>bold</b> text</head><p>x</p></s>")
    documents, _ = bench.read("xml")
    assert documents[0].segments[0].text == "1\nOn bold text\nx"


RECORDS = """<qa><focus>F</focus><pairs>
<pair id="1"><q type="t">What?</q><a>This.</a></pair>
<pair id="2"><q type="u">Why?</q><a/></pair>
<pair id="3"><q/><a/></pair></pairs></qa>"""


@pytest.mark.parametrize("record", ["pair", "//pair", "/qa/pairs/pair"])
def test_each_record_is_a_document_by_name_or_xpath(bench, record):
    bench.write("a.xml", RECORDS)
    documents, failures = bench.read(
        "xml",
        record=record,
        text=["q", "a"],
        meta_fields={"id": "@id", "kind": "q@type"},
        timestamp_field="@id",
    )
    assert [(d.segments[0].text, d.locator.offset, d.meta, d.timestamp) for d in documents] == [
        ("What?\n\nThis.", 0, {"id": "1", "kind": "t"}, "1"),
        ("Why?", 1, {"id": "2", "kind": "u"}, "2"),
    ]
    assert [(f.reason, f.outcome, f.locator.offset) for f in failures] == [("empty_document", "dropped", 2)]


def test_records_inside_records_belong_to_the_outermost(bench):
    bench.write("a.xml", "<r><d>a<d>b</d></d><d>c</d></r>")
    documents, _ = bench.read("xml", record="d")
    assert [d.segments[0].text for d in documents] == ["ab", "c"]


def test_html_in_attributes_is_parsed(bench, segments):
    body = "&lt;p&gt;One &amp;amp; two&lt;/p&gt;&lt;img src=&quot;http://x/y.png&quot;&gt;&lt;ul&gt;&lt;li&gt;a&lt;/ul&gt;"
    bench.write(
        "Posts.xml", f'<posts><row Id="1" Title="A &lt;b&gt; title" Body="{body}"/><row Id="2"/></posts>'
    )
    documents, failures = bench.read(
        "xml", record="row", text=["row@Title", {"path": "row@Body", "html": True}], meta_fields={"id": "@Id"}
    )
    assert segments(documents[0]) == [("text", "A <b> title\n\nOne & two\n\n- a")]
    assert sorted(f.reason for f in failures) == ["empty_document", "remote_media"]


def test_damage_keeps_the_records_before_it(bench):
    good = "".join(f"<d>row {i}</d>" for i in range(2000))
    bench.write("a.xml", f"<r>{good}<d>bad & worse</d><d>after</d></r>")
    bench.write("b.xml", f"<r>{good}<d>cut")
    documents, failures = bench.read("xml", record="d")
    assert len(documents) == 4000
    assert [f.reason for f in failures] == ["bad_xml", "bad_xml"]
    assert "after 2000 records: line 1, column" in failures[0].detail
    assert failures[0].locator.offset == 2000


def test_bytes_that_are_no_text_say_where_in_a_stream_too(bench):
    good = "".join(f"<d>row {i}</d>" for i in range(100)).encode()
    bench.write("a.xml", b"<r>" + good + b"<d>\xff</d></r>")
    for record in ("d", None):
        _, failures = bench.read("xml", record=record)
        assert failures[0].reason == "invalid_utf8"
        assert f"byte 0xff at byte offset {len(good) + 6}" in failures[0].detail
    documents, _ = bench.read("xml", record="d", on_encoding_error="replace")
    assert documents[-1].segments[0].text == "\ufffd"


@pytest.mark.parametrize("record", ["d", None])
@pytest.mark.parametrize("encoding", ["iso-8859-1", "utf-16", "utf-8-sig", "shift_jis"])
def test_the_declared_encoding_is_honoured(bench, record, encoding):
    text = "日本" if encoding == "shift_jis" else "größe"
    declared = "utf-8" if encoding == "utf-8-sig" else encoding
    bench.write("a.xml", f'<?xml version="1.0" encoding="{declared}"?><r><d>{text}</d></r>'.encode(encoding))
    documents, failures = bench.read("xml", record=record)
    assert failures == []
    assert documents[0].segments[0].text == text


@pytest.mark.parametrize("record", ["d", None, "//d"])
def test_entities_are_never_expanded_from_files_or_bombs(bench, record):
    secret = bench.root.parent / "secret"
    secret.write_text("top secret")
    doctype = f'<!DOCTYPE r [<!ENTITY x SYSTEM "file://{secret}"><!ENTITY a "AAAA"><!ENTITY b "&a;&a;&a;">]>'
    bench.write("a.xml", f"{doctype}<r><d>one &x; two &b; &amp; &eacute;</d></r>")
    documents, _ = bench.read("xml", record=record)
    for d in documents:
        assert "secret" not in d.segments[0].text
        assert "AAAA" not in d.segments[0].text
        assert "one" in d.segments[0].text
        assert "two" in d.segments[0].text


@pytest.mark.parametrize(
    ("content", "settings", "reason", "words"),
    [
        ("", {}, "empty_document", "the file is empty (0 bytes)"),
        ("<a><b>x</b>", {}, "bad_xml", "line 1, column 12: Premature end of data in tag a"),
        ("no markup", {}, "bad_xml", "line 1, column 1"),
        ("<a/>", {}, "empty_document", "holds no text"),
        (
            "<r><x>1</x></r>",
            {"record": "d"},
            "no_records",
            "matches record 'd' (elements there: r, x); fix: set record",
        ),
        ("<r><x>1</x></r>", {"record": "//d"}, "no_records", "matches record '//d' (elements there: r, x)"),
        ("<a>" * 400 + "x" + "</a>" * 400, {}, "bad_xml", "Excessive depth"),
    ],
)
def test_every_bad_file_is_a_failure_with_its_reason(bench, content, settings, reason, words):
    bench.write("a.xml", content)
    documents, failures = bench.read("xml", **settings)
    assert documents == []
    assert [f.reason for f in failures] == [reason]
    assert words in failures[0].detail
