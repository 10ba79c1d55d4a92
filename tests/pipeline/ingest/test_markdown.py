import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixloom.pipeline.ingest.assemble import Ref, Text
from mixloom.pipeline.ingest.frontmatter import split_front_matter
from mixloom.pipeline.ingest.markdown import find_images, markdown_items
from mixloom.pipeline.ingest.problems import Problem


def _cuts(text: str) -> list[str]:
    return [text[f.start : f.stop] for f in find_images(text)]


@pytest.mark.parametrize(
    ("text", "images"),
    [
        ("a ![x](p.png) b", ["![x](p.png)"]),
        ('![x](p.png "a title")\ntext', ['![x](p.png "a title")']),
        ("`![x](a.png)` ![x](a.png) `![x](a.png)`", ["![x](a.png)"]),
        ("```\n![x](a.png)\n```\n\n![y](b.png)", ["![y](b.png)"]),
        ("    ![x](a.png)\n\n![y](b.png)", ["![y](b.png)"]),
        ("# Head ![x](a.png) #\n", ["![x](a.png)"]),
        ("> quoted\n> ![x](a.png) more\n", ["![x](a.png)"]),
        ("- item\n  ![x](a.png)\n- ![y](b.png)\n", ["![x](a.png)", "![y](b.png)"]),
        ("| a | b |\n|---|---|\n| ![x](a.png) | ![x](a.png) |\n", ["![x](a.png)", "![x](a.png)"]),
        ("[![thumb](t.png)](full.png)", ["![thumb](t.png)"]),
        ("![ref][r] and ![r]\n\n[r]: a.png\n", ["![ref][r]", "![r]"]),
        ("![two\nlines](a.png)", ["![two\nlines](a.png)"]),
        ("> ![two\n> lines](a.png)", ["![two\n> lines](a.png)"]),
        ('text <img src="a.png" alt=x> more', ['<img src="a.png" alt=x>']),
        ('<div>\n<img src="a.png">\n<!-- <img src="b.png"> -->\n</div>\n', ['<img src="a.png">']),
        ("\\![x](a.png)", []),
        ("![no](a.png", []),
        ("![x](<a b.png>)", ["![x](<a b.png>)"]),
        ("Setext ![x](a.png)\n======\n", ["![x](a.png)"]),
    ],
)
def test_images_are_found_where_a_markdown_parser_sees_them(text, images):
    assert _cuts(text) == images


def test_alt_and_title_become_attributes():
    image = find_images('![a *b* `c`](p.png "T")')[0]
    assert image.attrs == {"alt": "a b c", "title": "T"}
    assert find_images('<img src="a&amp;b.png" alt="&lt;x&gt;">')[0].target == "a&b.png"
    assert find_images('<img src="a.png" alt="&lt;x&gt;">')[0].attrs == {"alt": "<x>"}


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.sampled_from(
            [
                "![x](a.png)",
                "`",
                "```\n",
                "\n",
                "\n\n",
                "> ",
                "- ",
                "# ",
                "|",
                "text",
                " ",
                "\t",
                "<img src=b>",
                "\\",
                "[",
            ]
        ),
        max_size=25,
    ).map("".join)
)
def test_text_and_images_together_are_the_source(text):
    found = find_images(text)
    rebuilt, at = "", 0
    for f in found:
        assert at <= f.start <= f.stop <= len(text)
        assert text[f.start : f.stop].startswith(("!", "<")) or f.start == f.stop
        rebuilt += text[at : f.start] + text[f.start : f.stop]
        at = f.stop
    assert rebuilt + text[at:] == text
    items = markdown_items(text)
    assert sum(isinstance(i, Ref) for i in items) == len(found)
    assert "".join(i.text for i in items if isinstance(i, Text)) == "".join(
        text[a:b]
        for a, b in zip([0, *(f.stop for f in found)], [*(f.start for f in found), len(text)], strict=True)
    )


def test_a_document_reads_text_and_images_in_order(bench, make_png, segments):
    bench.write("static/pix/a.png", make_png())
    bench.write("content/deep/b.png", make_png(6))
    bench.write(
        "content/deep/x.md",
        "---\ntitle: A dish\ntags: [one, two]\ndate: 2021-03-11\n---\n\n![A](/pix/a.png)\n\nEat *it*.\n\n![B](b.png)\nEnd.\n",
    )
    documents, failures = bench.read("markdown", media_roots=["static"])
    assert failures == []
    assert segments(documents[0]) == [
        ("image", "static/pix/a.png"),
        ("text", "Eat *it*."),
        ("image", "content/deep/b.png"),
        ("text", "End."),
    ]
    assert documents[0].meta == {"title": "A dish", "tags": "one, two", "date": "2021-03-11"}
    assert documents[0].timestamp == "2021-03-11"
    assert documents[0].segments[0].attrs == {"alt": "A"}


def test_a_bad_image_leaves_the_text_in_one_piece(bench, segments):
    bench.write("x.svg", "<svg xmlns='http://www.w3.org/2000/svg'/>")
    bench.write(
        "x.md",
        "one ![a](gone.png) two ![b](x.svg) three ![c](https://x.org/y.png) ![d](data:image/png;base64,AA==)",
    )
    documents, failures = bench.read("markdown")
    assert segments(documents[0]) == [("text", "one  two  three")]
    assert [(f.reason, f.outcome) for f in failures] == [
        ("missing_media", "failed"),
        ("svg_not_rasterised", "dropped"),
        ("remote_media", "dropped"),
        ("inline_media", "dropped"),
    ]
    assert {f.scope for f in failures} == {"media"}
    assert "image 2 of the document, 'x.svg': SVG is a drawing, not pixels" in failures[1].detail
    assert failures[0].locator.member == "gone.png"


def test_images_can_be_left_in_the_text(bench, segments):
    bench.write("x.md", "one ![a](gone.png) two")
    documents, failures = bench.read("markdown", images=False)
    assert segments(documents[0]) == [("text", "one ![a](gone.png) two")]
    assert failures == []


def test_a_name_with_escapes_is_tried_decoded_and_as_written(bench, make_png, segments):
    bench.write("a b.png", make_png())
    bench.write("c%20d.png", make_png())
    bench.write("x.md", "![a](a%20b.png?v=1#top) ![c](c%20d.png)")
    documents, failures = bench.read("markdown")
    assert failures == []
    assert segments(documents[0]) == [("image", "a b.png"), ("image", "c%20d.png")]


@pytest.mark.parametrize(
    ("text", "meta", "rest"),
    [
        ("---\na: 1\nb: true\nc: [x, 2]\nd: {e: 1}\n---\nbody", {"a": "1", "b": "true", "c": "x, 2"}, "body"),
        ('+++\na = "x"\nwhen = 2020-01-02\n+++\nbody', {"a": "x", "when": "2020-01-02"}, "body"),
        ("---\n---\nbody", {}, "body"),
        ("---\njust a sentence\n---\nbody", {}, "---\njust a sentence\n---\nbody"),
        ("---\nno end", {}, "---\nno end"),
        ("text\n---\na: 1\n---\n", {}, "text\n---\na: 1\n---\n"),
    ],
)
def test_front_matter_is_cut_off_and_kept_as_strings(text, meta, rest):
    assert split_front_matter(text) == (meta, rest)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('---\nok: 1\ntitle:\t"x"\n---\n', "line 3 of the file is not valid YAML: found character '\\t'"),
        ("---\nd: 2020-02-31\n---\n", "day is out of range"),
        ("+++\nx = \n+++\n", "the TOML header is not valid"),
        ("---\na: !!python/object:os.system x\n---\n", "could not determine a constructor"),
    ],
)
def test_a_bad_header_is_a_failure_that_says_where(text, words):
    with pytest.raises(Problem) as e:
        split_front_matter(text)
    assert words in e.value.detail
    assert "set front_matter: false to keep it as text" in e.value.detail


def test_a_header_of_aliases_does_not_explode():
    bomb = "---\na: &a [x, x]\n" + "".join(
        f"{chr(98 + i)}: &{chr(98 + i)} [*{chr(97 + i)}, *{chr(97 + i)}, *{chr(97 + i)}]\n" for i in range(20)
    )
    meta, _ = split_front_matter(bomb + "---\nbody")
    assert meta["a"] == "x, x"
    assert sum(map(len, meta.values())) < 100
