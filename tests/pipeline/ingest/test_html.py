import pytest

from mixloom.pipeline.ingest.html import html_fragment_items
from mixloom.pipeline.ingest.layout import Flow


def _text(html: str) -> str:
    return "".join(i.text for i in html_fragment_items(html)).strip()


@pytest.mark.parametrize(
    ("html", "text"),
    [
        ("<p>One\n  two</p><p>three", "One two\n\nthree"),
        ("<div>a</div><div>b <b>c</b>d</div>", "a\nb cd"),
        ("<p>see <a href='x'>this link</a>, please", "see this link, please"),
        ("<ul><li>a<li>b<ul><li>c</ul></ul>after", "- a\n- b\n  - c\n\nafter"),
        ("x<pre>  keep\n   this </pre>y", "x\n\n  keep\n   this \n\ny"),
        ("a&nbsp;&lt;b&gt; &eacute; &#233;", "a\xa0<b> é é"),
        ("one<br>two<br><br><br>three", "one\ntwo\n\nthree"),
        ("<table><tr><th>a<th>b<tr><td>1<td>2</table>", "a\tb\n1\t2"),
        ("a <!-- not this --> b<script>nor(this)</script>", "a b"),
        ("<b>a</b> <i>b</i>", "a b"),
        ("a\0b", "a\ufffdb"),
        ("", ""),
        ("<!-- only a comment -->", ""),
    ],
)
def test_html_is_laid_out_like_a_browser(html, text):
    assert _text(html) == text


def test_strongest_separator_wins():
    flow = Flow()
    for value in ("a", " "):
        flow.text(value)
    flow.tab()
    flow.lines(1)
    flow.text(" b")
    assert flow.finish()[0].text == "a\nb"


PAGE = """<html lang="en"><head><title>A  page</title><style>p{}</style></head><body>
<nav>menu</nav><p class="ad big">Buy!</p>
<h2>First</h2><p>Text one.</p>
<figure><a href="full.jpg"><img src="t.png" alt="A thing" title="T"></a><figcaption>The caption</figcaption></figure>
<h2>Second <i>one</i></h2><p>Before <img src="gone.png"> after.</p></body></html>"""


def test_a_page_is_text_images_and_captions_in_order(bench, make_png, segments):
    bench.write("t.png", make_png())
    bench.write("x.html", PAGE)
    documents, failures = bench.read("html", drop=["nav", "p.ad"])
    assert segments(documents[0]) == [
        ("text", "First\n\nText one."),
        ("image", "t.png"),
        ("text", "The caption"),
        ("text", "Second one\n\nBefore after."),
    ]
    assert documents[0].segments[1].attrs == {"alt": "A thing", "title": "T"}
    assert documents[0].segments[2].attrs == {"role": "caption"}
    assert documents[0].meta == {"title": "A page"}
    assert documents[0].language == "en"
    assert [(f.scope, f.reason) for f in failures] == [("media", "missing_media")]


@pytest.mark.parametrize("split_on", ["h2", "//h2"])
def test_a_heading_starts_a_document(bench, split_on):
    bench.write("x.html", PAGE)
    documents, _ = bench.read("html", drop=["nav", ".ad"], split_on=split_on, images=False)
    assert [d.locator.member for d in documents] == ["section-1", "section-2"]
    assert [d.meta["heading"] for d in documents] == ["First", "Second one"]
    assert documents[1].segments[0].text == "Second one\n\nBefore after."
    assert len({d.doc_id for d in documents}) == 2


def test_what_stands_before_the_first_heading_is_a_document_too(bench):
    bench.write("x.html", PAGE)
    documents, _ = bench.read("html", split_on="h2", images=False)
    assert documents[0].locator.member == "section-0"
    assert documents[0].segments[0].text == "Buy!"


def test_boilerplate_is_cut_before_images_are_looked_for(bench):
    page = "<p>licence <img src=gone.png></p><p>*** START OF X ***</p><p>Tale.</p><p>*** END OF X</p><img src=gone2.png>"
    bench.write("x.html", page)
    documents, failures = bench.read(
        "html", boilerplate_start=r"\*\*\* START.*?\*\*\*", boilerplate_end=r"\*\*\* END"
    )
    assert documents[0].segments[0].text == "Tale."
    assert failures == []


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        ('<meta charset="iso-8859-1"><p>caf\xe9'.encode("latin-1"), "café"),
        (b"<meta charset=windows-1252><p>\x93q\x94 \x81.", "“q” \x81."),
        (
            b'<?xml version="1.0" encoding="shift_jis"?><html><p>'
            + "日本".encode("shift_jis")
            + b"</p></html>",
            "日本",
        ),
        ("<p>größe".encode("utf-16"), "größe"),
        ('<meta charset="utf-16"><p>é'.encode(), "é"),
        ('<meta charset="no-such"><p>é'.encode(), "é"),
        (b"<p>\xef\xbf\xbd ok", "\ufffd ok"),
    ],
)
def test_the_declared_charset_is_honoured(bench, raw, text):
    bench.write("x.html", raw)
    documents, failures = bench.read("html")
    assert failures == []
    assert documents[0].segments[0].text == text.strip()


def test_the_configured_encoding_is_the_last_resort(bench):
    bench.write("x.html", b"<p>caf\xe9")
    assert bench.read("html", encoding="latin-1")[0][0].segments[0].text == "café"
    _, failures = bench.read("html")
    assert failures[0].reason == "invalid_utf8"
    assert "byte 0xe9 at byte offset 6" in failures[0].detail


def test_xhtml_is_read_as_xml_and_falls_back_to_html(bench):
    head = '<?xml version="1.0"?><html xmlns="http://www.w3.org/1999/xhtml" xml:lang="en-GB"><head><title/></head><body>'
    bench.write("a.xhtml", head + '<script src="x"/><p>after a script</p></body></html>')
    bench.write("b.xhtml", head + "<p>not &nbsp; well-formed<br></body></html>")
    documents, failures = bench.read("html")
    assert failures == []
    assert documents[0].segments[0].text == "after a script"
    assert documents[0].language == "en-GB"
    assert documents[1].segments[0].text == "not \xa0 well-formed"


@pytest.mark.parametrize(
    ("page", "reason", "words"),
    [
        ("", "empty_document", "holds no text"),
        ("<html><body></body></html>", "empty_document", "holds no text"),
        ("<div>" * 600 + "x" + "</div>" * 600 + "lost?", "bad_html", "Excessive depth"),
    ],
)
def test_a_page_without_content_or_without_end_is_a_failure(bench, page, reason, words):
    bench.write("x.html", page)
    documents, failures = bench.read("html")
    assert documents == []
    assert failures[0].reason == reason
    assert words in failures[0].detail


@pytest.mark.parametrize("extract", ["resiliparse", "trafilatura"])
def test_the_main_content_of_a_page_with_its_images(bench, segments, make_png, extract):
    words = "Words that make a paragraph of a length an extractor takes for content. " * 4
    bench.write("img/a.png", make_png())
    bench.write(
        "a.html",
        f"<html lang='de'><head><title>The &amp; title</title></head><body><nav><a href='/'>Menu</a></nav><article>"
        f"<h1>Heading</h1><p>{words}</p><img src='img/a.png'><p>{words}</p><img src='gone.png'></article>"
        "</body></html>",
    )
    (document,), failures = bench.read("html", extract=extract)
    assert [kind for kind, _ in segments(document)] == ["text", "image", "text"]
    assert "Menu" not in (document.segments[0].text or "")
    assert (document.meta, document.language) == ({"title": "The & title"}, "de")
    assert [(f.scope, f.reason) for f in failures] == [("media", "missing_media")]
    documents, failures = bench.read("html", extract=extract, images=False)
    assert failures == []
    assert [s.kind for s in documents[0].segments] == ["text"]


def test_a_late_image_is_found_by_its_other_name(bench, segments, make_png):
    bench.write("b.png", make_png())
    bench.write(
        "a.html",
        "<p>x</p><img src='data:image/gif;base64,R0' data-src='b.png'><img srcset='gone.png, b.png 2x'>",
    )
    (document,), failures = bench.read("html")
    assert failures == []
    assert segments(document) == [("text", "x"), ("image", "b.png"), ("image", "b.png")]


def test_a_picture_whose_image_is_not_there_is_found_by_one_of_its_sources(bench, segments, make_png):
    bench.write("b.png", make_png())
    bench.write(
        "a.html",
        "<p>x</p><picture><source srcset='gone.webp, b.png 2x'><img src='gone.png' alt='it'></picture>",
    )
    (document,), failures = bench.read("html")
    assert failures == []
    assert segments(document) == [("text", "x"), ("image", "b.png")]


@pytest.mark.parametrize("extract", ["all", "resiliparse", "trafilatura"])
def test_images_lie_where_the_base_element_says_or_else_beside_the_page(bench, segments, make_png, extract):
    for name in ("p/img/a.png", "p/b.png", "c.png"):
        bench.write(name, make_png())
    words = "A paragraph of some length says what there is to be said about the matter. " * 4
    body = "".join(f"<p>{words}</p><img src='{name}'>" for name in ("a.png", "b.png", "/c.png"))
    bench.write(
        "p/page.html", f"<html><head><base href='img/'></head><body>{body}<p>{words}</p></body></html>"
    )
    (document,), failures = bench.read("html", extract=extract)
    assert failures == []
    assert [what for kind, what in segments(document) if kind == "image"] == [
        "p/img/a.png",
        "p/b.png",
        "c.png",
    ]


def test_a_base_element_with_an_address_moves_no_file(bench, segments, make_png):
    bench.write("a.png", make_png())
    bench.write("a.html", "<head><base href='https://a.org/x/'></head><p>x</p><img src='a.png'>")
    (document,), failures = bench.read("html")
    assert (failures, segments(document)) == ([], [("text", "x"), ("image", "a.png")])
