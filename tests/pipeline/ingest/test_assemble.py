from mixloom.pipeline.ingest.assemble import with_alt_texts
from mixloom.pipeline.schema import Media, Segment

PICTURE = Media(uri="a.png", sha256="0", bytes=1)


def image(alt):
    return Segment(kind="image", media=PICTURE, attrs={"alt": alt} if alt else {})


def caption(text):
    return Segment(kind="text", text=text, attrs={"role": "caption"})


def test_an_alternative_text_becomes_a_text_behind_its_image():
    out = with_alt_texts([image("a pan"), image(""), Segment(kind="text", text="a pan")])
    assert [s.text for s in out] == [None, "a pan", None, "a pan"]
    assert out[1].attrs == {"role": "alt"}


def test_it_is_left_out_where_a_caption_says_the_same():
    assert len(with_alt_texts([image("a  pan"), caption("a pan")])) == 2
    assert len(with_alt_texts([caption("a pan"), image("a pan")])) == 2
    assert len(with_alt_texts([image("a pan"), caption("another pan")])) == 3


def test_sources_say_whether_they_want_it(bench, make_png, segments):
    bench.write("a.png", make_png())
    bench.write("a.md", "See ![a pan](a.png) here")
    (document,), _ = bench.read("markdown", alt_text=True)
    assert [(s.kind, s.attrs.get("role")) for s in document.segments] == [
        ("text", None),
        ("image", None),
        ("text", "alt"),
        ("text", None),
    ]
