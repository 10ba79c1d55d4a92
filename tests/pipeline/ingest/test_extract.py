"""Main content of pages: what is kept, images in their places, and bounds on what a page may do."""

import pytest

from mixloom.pipeline.errors import UserError
from mixloom.pipeline.ingest.assemble import Ref, Text
from mixloom.pipeline.ingest.extract import _split, image_ref, main_content
from mixloom.pipeline.ingest.problems import Problem
from mixloom.pipeline.ingest.web_config import Extraction

BOTH = ["resiliparse", "trafilatura"]
LONG = "A paragraph of some length says what there is to be said about the matter, and a little more. " * 3


def extracted(html: str, extract: str, **settings):
    return main_content(html, Extraction(extract=extract, **settings))


def text(items) -> str:
    return "\n".join(x.text for x in items if isinstance(x, Text))


def article(inner: str, around: str = "") -> str:
    return (
        f"<html><body><nav><ul><li><a href='/x'>Menu entry</a></li></ul></nav>{around}<main><article>"
        f"<h1>The heading</h1><p>{LONG}</p>{inner}<p>{LONG}</p></article></main>"
        "<footer>All rights somewhere</footer></body></html>"
    )


@pytest.mark.parametrize("extract", BOTH)
def test_the_article_is_kept_and_what_stands_around_is_not(extract):
    found = text(extracted(article("<p>The middle.</p>"), extract))
    assert "The heading" in found
    assert "The middle." in found
    assert "Menu entry" not in found
    assert "All rights" not in found


@pytest.mark.parametrize("extract", BOTH)
def test_images_come_in_reading_order_with_their_attributes(extract):
    inner = f"<img src='a.png' alt='An  A' title='t'><p>One. {LONG}</p><p>Two, <img src='b.jpg'> inline. {LONG}</p>"
    items = extracted(article(inner), extract)
    images = [x for x in items if isinstance(x, Ref)]
    assert [i.target for i in images] == ["a.png", "b.jpg"]
    assert images[0].attrs == {"alt": "An A", "title": "t"}
    between = text(items[items.index(images[0]) : items.index(images[1])])
    assert "One." in between
    assert between.rstrip().endswith("Two,")


@pytest.mark.parametrize("extract", BOTH)
def test_the_text_is_the_same_with_and_without_images(extract):
    with_images = article(
        f"<p>One.</p><img src='a.png' alt='words of the alternative text'><p>Two. {LONG}</p>"
    )
    without = with_images.replace("<img src='a.png' alt='words of the alternative text'>", "")
    words = [text(extracted(h, extract)).split() for h in (with_images, without)]
    assert words[0] == words[1]


def test_a_figure_caption_is_a_segment_of_its_own():
    inner = f"<figure><img src='a.png'><figcaption>What it <b>shows</b></figcaption></figure><p>{LONG}</p>"
    items = extracted(article(inner), "resiliparse")
    at = next(i for i, x in enumerate(items) if isinstance(x, Ref))
    assert items[at + 1] == Text("What it shows", {"role": "caption"}, flow=False)


def test_a_list_of_images_leaves_no_bullets_behind():
    split = _split(
        "a\n\u2022 \ufdd00\ufdd1\n  1. \ufdd01\ufdd1\n\u2022 b", [Ref("image", "p"), Ref("image", "q")]
    )
    assert [x.text.strip() if isinstance(x, Text) else x.target for x in split] == ["a", "p", "q", "\u2022 b"]


def test_noncharacters_in_a_page_are_not_taken_for_marks():
    items = extracted(article("<p>see \ufdd00\ufdd1 and \ufdd2x\ufdd3</p>"), "resiliparse")
    assert not any(isinstance(x, Ref) or x.attrs for x in items)
    assert "see \ufffd0\ufffd and \ufffdx\ufffd" in text(items)


@pytest.mark.parametrize("extract", BOTH)
def test_dropped_elements_go_with_all_they_hold(extract):
    html = article(
        f"<div class='advert'><p>Buy this. {LONG}</p><img src='x.png'></div><aside>Beside.</aside>"
    )
    items = extracted(html, extract, drop=[".advert", "aside", "nav"])
    assert "Buy this" not in text(items)
    assert "Beside" not in text(items)
    assert not any(isinstance(x, Ref) for x in items)


def test_comments_are_left_out_unless_wanted():
    html = article("").replace("</main>", f"</main><div id='comments'><p>A reader says: {LONG}</p></div>")
    assert "A reader says" not in text(extracted(html, "resiliparse"))
    assert "A reader says" in text(extracted(html, "resiliparse", comments=True))


@pytest.mark.parametrize("extract", BOTH)
@pytest.mark.parametrize("html", ["", " ", "no markup", "<", "<html></html>", "<p>\0\ud800</p>", "<img>"])
def test_little_or_odd_input_is_no_error(extract, html):
    assert all(isinstance(x, Text) for x in extracted(html, extract))


@pytest.mark.parametrize("extract", BOTH)
def test_a_page_nested_too_deeply_is_refused_before_it_costs_time(extract):
    with pytest.raises(Problem, match=r"bad_html.*(nests div and article|Excessive depth)"):
        extracted("<div>" * 50_000 + "x", extract)


def test_many_elements_side_by_side_are_no_nesting():
    items = extracted("<body>" + f"<div><p>{LONG}</p></div>" * 1500, "resiliparse")
    assert text(items).count("A paragraph") == 4500


def test_image_sources_are_ranked_and_data_urls_come_last():
    assert image_ref({"alt": "x"}) is None
    assert image_ref({"src": " "}) is None
    ref = image_ref({"src": "data:image/gif;base64,A", "data-src": "b.png", "srcset": "c.png 1x, d.png 2x"})
    assert (ref.target, ref.others) == ("b.png", ("c.png", "d.png", "data:image/gif;base64,A"))


def test_a_srcset_may_be_written_without_spaces_and_its_urls_may_hold_commas():
    ref = image_ref({"srcset": "a.png 1x,b,1.png 2x, c.png 640w,d.png 1280w"})
    assert (ref.target, ref.others) == ("a.png", ("b,1.png", "c.png", "d.png"))


@pytest.mark.parametrize("extract", BOTH)
@pytest.mark.parametrize(
    "odd", ["", "<p title='a > b <img src=no>'>x</p>"]
)  # the second is read through the tree
def test_the_sources_of_a_picture_are_other_places_of_its_image(extract, odd):
    inner = (
        "<video><source src='film.mp4' srcset='no.png'></video><img src='1.png'>"
        f"<p>{LONG}</p><picture><source srcset='2.webp 1x,2b.webp 2x' type='image/webp'><source data-srcset='2.avif'>"
        f"<img src='2.png' alt='two'></picture><p>{LONG}</p>{odd}<img src='3.png'>"
    )
    refs = [x for x in extracted(article(inner), extract) if isinstance(x, Ref)]
    assert [(r.target, r.others) for r in refs] == [
        ("1.png", ()), ("2.png", ("2.webp", "2b.webp", "2.avif")), ("3.png", ())
    ]  # fmt: skip


def test_a_missing_library_is_told_before_anything_is_read(monkeypatch):
    import mixloom.pipeline.ingest.extract as extract

    monkeypatch.setattr(extract, "find_spec", lambda name: None if name == "lxml_html_clean" else object())
    assert extract.extractor_version("resiliparse").startswith("resiliparse ")
    with pytest.raises(
        UserError, match=r"extract: trafilatura needs the package lxml_html_clean.*\n.*pip install"
    ):
        extract.extractor_version("trafilatura")
