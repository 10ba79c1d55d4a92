import re
from html import escape, unescape

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mixloom.pipeline.ingest.assemble import Ref
from mixloom.pipeline.ingest.html import html_items
from mixloom.pipeline.ingest.markup import parse_html
from mixloom.pipeline.ingest.web_config import MARKUP_TAGS


def items(page, tags=None):
    tree = parse_html(page)
    return [] if tree is None else html_items(tree, drop=("script", "nav"), markup=tags)


def kept(page, tags=MARKUP_TAGS):
    """The page with its markup; images as their tags."""
    return "".join(x.before if isinstance(x, Ref) else x.text for x in items(page, tags))


def plain(page):
    """(text, role) and images in order, white space at the ends of texts left out as ingest does."""
    out = [x.target if isinstance(x, Ref) else (x.text.strip(), x.attrs.get("role")) for x in items(page)]
    return [x for x in out if isinstance(x, str) or x[0]]


def again(page, tags=MARKUP_TAGS):
    """The same, read from the page as its markup spells it."""
    spelt = [
        x.before.replace("<img", f'<img src="{escape(x.target)}"', 1) if isinstance(x, Ref) else x.text
        for x in items(page, tags)
    ]
    return plain("".join(spelt))


@pytest.mark.parametrize(
    ("page", "text"),
    [
        (
            "<div><h1 class=x>A &amp; b</h1><p id=y>One <b>two </b>three<br>four</div>",
            "<h1>A &amp; b</h1>\n<p>One <b>two</b> three<br>\nfour</p>",
        ),
        ("<div>a</div><div>b</div><section>c</section>", "a<br>\nb<br>\nc"),
        ("<ul><li>a<li>b<ol><li>c</ol></ul>d", "<ul><li>a</li>\n<li>b\n<ol><li>c</li></ol></li></ul>\nd"),
        ("x<pre> keep\n  &lt;this&gt;</pre>", "x\n<pre> keep\n  &lt;this&gt;</pre>"),
        ("<table><tr><td>1<td><td>2</table>", "<table><tr><td>1</td><td></td><td>2</td></tr></table>"),
        ("<p></p><p><i> </i></p>a<p>b", "a\n<p>b</p>"),
        ("<a href=u>link</a> and <span>more</span><script>no</script>", "link and more"),
        ('<nav>menu</nav><p>1 &lt; 2 &amp;amp; "q"</p>', '<p>1 &lt; 2 &amp;amp; "q"</p>'),
        ("<p>a<img src=x alt='\" onerror=\"x>'>b</p>", '<p>a<img alt="&quot; onerror=&quot;x&gt;">b</p>'),
    ],
)
def test_markup_is_simplified(page, text):
    assert kept(page) == text
    assert again(page) == plain(page)


def test_other_tags_can_be_chosen():
    page = "<h2>a</h2><p>b <i>c</i></p>"
    assert kept(page, ("h2",)) == "<h2>a</h2>\nb c"
    assert kept(page, ()) == "a<br><br>\nb c"
    assert again(page, ()) == plain(page)


WORDS = st.text(alphabet="ab &<>\"'\n\té\xa0;#x", min_size=1, max_size=8).map(escape)
IMAGES = st.builds(
    lambda n, alt: f'<img src="{n}.png" alt="{escape(alt)}">',
    st.integers(0, 9),
    st.text(alphabet='ab<>&" ', max_size=4),
)
INLINE = st.recursive(
    st.one_of(WORDS, IMAGES, st.just("<br>")),
    lambda inner: st.builds(
        lambda tag, parts: f"<{tag}>{''.join(parts)}</{tag}>",
        st.sampled_from(["b", "em", "span", "a", "code", "sup", "u"]),
        st.lists(inner, max_size=3),
    ),
    max_leaves=6,
)
LINE = st.lists(INLINE, max_size=4).map("".join)
ROWS = st.lists(
    st.lists(LINE, max_size=3).map(lambda cells: "<tr>" + "".join(f"<td>{c}</td>" for c in cells) + "</tr>"),
    max_size=3,
)
FIGURES = st.builds(lambda image, text, turned: _figure(image, text, turned), IMAGES, LINE, st.booleans())
BLOCK = st.recursive(
    st.one_of(
        st.builds(
            lambda tag, line: f"<{tag}>{line}</{tag}>", st.sampled_from(["p", "h1", "h3", "div", "pre"]), LINE
        ),
        ROWS.map(lambda rows: f"<table>{''.join(rows)}</table>"),
        FIGURES,
        LINE,
    ),
    lambda inner: st.one_of(
        st.builds(
            lambda tag, blocks: f"<{tag}>{''.join(blocks)}</{tag}>",
            st.sampled_from(["div", "section", "blockquote", "article"]),
            st.lists(inner, max_size=3),
        ),
        st.builds(
            lambda tag, entries: f"<{tag}>{''.join(f'<li>{e}</li>' for e in entries)}</{tag}>",
            st.sampled_from(["ul", "ol"]),
            st.lists(st.one_of(inner, LINE), min_size=1, max_size=3),
        ),
    ),
    max_leaves=8,
)
PAGES = st.lists(BLOCK, max_size=5).map(lambda blocks: f"<html><body>{''.join(blocks)}</body></html>")


def _figure(image, text, turned):
    parts = [image, f"<figcaption>{text}</figcaption>"]
    return f"<figure>{''.join(parts[::-1] if turned else parts)}</figure>"


@example("<ul><li><div><table></table><ul><li></li></ul></div></li></ul>")
@given(PAGES)
def test_without_its_markup_a_page_reads_as_without_keeping_it(page):
    assert again(page) == plain(page)


@given(PAGES)
def test_tags_are_balanced_and_only_those_declared(page):
    stack = []
    for slash, name in re.findall(r"<(/?)([a-z0-9]+)[^>]*>", kept(page)):
        if name in ("br", "img"):
            continue
        assert name in MARKUP_TAGS
        if slash:
            assert stack.pop() == name
        else:
            stack.append(name)
    assert stack == []


@given(
    st.lists(
        st.one_of(WORDS, st.sampled_from(["<b>", "</b>", "<p>", "<h1>", "<div>", "</div>"])), max_size=12
    )
)
def test_tags_taken_out_leave_the_words(parts):
    page = "<body>" + "".join(parts)
    words = " ".join(x[0] for x in plain(page) if not isinstance(x, str)).split()
    assert (
        unescape(re.sub(r"<br>|</?(?:p|h1)>", " ", kept(page).replace("<b>", "").replace("</b>", ""))).split()
        == words
    )


PAGE = """<html><body><p>Intro</p><h2>First</h2><p>Text <b>one</b>.</p>
<figure><img src="t.png" alt="A thing"><figcaption>The caption</figcaption></figure>
<h2>Second</h2><div><p>Before <img src="gone.png" alt="lost"> after.</p><h2>Third</h2>tail</div></body></html>"""


def test_a_document_holds_markup_and_a_lost_image_leaves_no_tag(bench, make_png, segments):
    bench.write("t.png", make_png())
    bench.write("x.html", PAGE)
    documents, failures = bench.read("html", markup=True, split_on="h2")
    assert [segments(d) for d in documents] == [
        [("text", "<p>Intro</p>")],
        [
            ("text", '<h2>First</h2>\n<p>Text <b>one</b>.</p><figure><img alt="A thing">'),
            ("image", "t.png"),
            ("text", "<figcaption>The caption</figcaption>"),
            ("text", "</figure>"),
        ],
        [("text", "<h2>Second</h2>\n<p>Before after.</p>")],
        [("text", "<h2>Third</h2>\ntail")],
    ]
    assert documents[1].segments[1].attrs == {"alt": "A thing"}
    assert documents[1].segments[2].attrs == {"role": "caption"}
    assert [f.reason for f in failures] == ["missing_media"]
    without, _ = bench.read("html", markup=True, images=False)
    assert not any("<img" in (s.text or "") for d in without for s in d.segments)


def test_a_page_of_tags_alone_is_empty(bench):
    bench.write("x.html", "<table><tr><td></td></tr></table><p><img src=gone.png></p>")
    documents, failures = bench.read("html", markup=True)
    assert documents == []
    assert [f.reason for f in failures] == ["missing_media", "empty_document"]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"markup": True, "extract": "resiliparse"}, "set extract: all"),
        ({"markup_tags": ["img"]}, "'img' is no element with something inside"),
        ({"markup_tags": ["P"]}, "'P' is no element"),
    ],
)
def test_settings_that_do_not_fit_are_told(bench, settings, words):
    with pytest.raises(ValueError, match=words):
        bench.source("html", **settings)
    with pytest.raises(ValueError, match="set extract: all"):
        bench.source("warc", markup=True)
