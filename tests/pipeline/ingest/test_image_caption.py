import json

import pytest

from mixloom.pipeline.errors import UserError

COCO = {
    "licenses": [{"id": 4, "name": "CC BY 2.0"}],
    "images": [
        {"id": 1, "file_name": "a.png", "license": 4, "flickr_url": "http://f/a"},
        {"id": 2, "file_name": "gone.png", "license": 4},
        {"id": 3, "file_name": "c.png"},
    ],
    "annotations": [
        {"image_id": 1, "caption": "first"},
        {"image_id": 2, "caption": "no image"},
        {"image_id": 1, "caption": " second "},
        {"image_id": 9, "caption": "stray"},
        {"image_id": 1},
    ],
}


@pytest.fixture
def coco(bench, make_png):
    bench.write("images/a.png", make_png())
    bench.write("images/c.png", make_png(4))
    bench.write("captions.json", json.dumps(COCO))
    return bench


def test_coco_captions_follow_their_image(coco, segments):
    captions = {"kind": "coco", "path": "captions.json", "meta_fields": ["license", "flickr_url"]}
    documents, failures = coco.read("image_caption", captions=captions)
    assert [segments(d) for d in documents] == [
        [("image", "images/a.png"), ("text", "first"), ("text", "second")]
    ]
    assert documents[0].meta == {"license": "CC BY 2.0", "flickr_url": "http://f/a"}
    assert [s.attrs.get("role") for s in documents[0].segments] == [None, "caption", "caption"]
    assert sorted((f.reason, f.locator.uri) for f in failures) == [
        ("bad_row", "captions.json"),
        ("missing_caption", "images/c.png"),
        ("missing_media", "captions.json"),
        ("missing_media", "captions.json"),
    ]
    text = " ".join(f.detail for f in failures)
    assert "row 2 ('gone.png') has no image" in text
    assert "annotation 4 is for image_id 9, which is not among `images`" in text
    assert "'captions.json' has none for it (looked for 'c.png')" in text


def test_the_first_caption_can_come_first(coco, segments):
    captions = {"kind": "coco", "path": "captions.json"}
    documents, _ = coco.read(
        "image_caption", captions=captions, captions_policy="first", order="caption_first"
    )
    assert segments(documents[0]) == [("text", "first"), ("image", "images/a.png")]


def test_captions_from_a_table_with_quotes_and_line_breaks(bench, make_png, segments):
    bench.write("i/a.png", make_png())
    bench.write("t.csv", 'file,cap\ni/a.png,"two\nlines, ""quoted"""\n')
    captions = {
        "kind": "table",
        "path": "t.csv",
        "image_column": "file",
        "caption_column": "cap",
        "match": "path",
    }
    documents, failures = bench.read("image_caption", captions=captions)
    assert failures == []
    assert segments(documents[0])[1] == ("text", 'two\nlines, "quoted"')


def test_captions_from_files_beside_the_images(bench, make_png, segments):
    bench.write("a.png", make_png())
    bench.write("a.txt", "a caption\n")
    bench.write("b.png", make_png(4))
    bench.write("c.txt", "no image")
    documents, failures = bench.read("image_caption", captions={"kind": "sidecar"})
    assert segments(documents[0]) == [("image", "a.png"), ("text", "a caption")]
    assert sorted((f.reason, f.locator.uri) for f in failures) == [
        ("missing_caption", "b.png"),
        ("missing_media", "c.txt"),
    ]
    assert "the caption file 'c.txt' has no image" in failures[0].detail


def test_captions_from_file_names(bench, make_png, segments):
    bench.write("a_red-dog_001.png", make_png())
    captions = {"kind": "file_name", "pattern": r"(?P<caption>[^/]+?)_\d+\.png$"}
    documents, _ = bench.read("image_caption", captions=captions)
    assert segments(documents[0])[1] == ("text", "a red dog")


def test_a_bad_image_costs_the_whole_pair(bench, make_png):
    bench.write("a.png", make_png(80, 60)[:2000])
    bench.write("a.txt", "caption")
    documents, failures = bench.read("image_caption", captions={"kind": "sidecar"})
    assert documents == []
    assert [(f.scope, f.reason) for f in failures] == [("document", "truncated_image")]


@pytest.mark.parametrize(
    ("content", "captions", "words"),
    [
        ("{", {"kind": "coco", "path": "t"}, "table 't': not valid JSON"),
        ("{}", {"kind": "coco", "path": "t"}, "not a COCO captions file"),
        (
            "file,text\na.png,x\n",
            {"kind": "table", "path": "t", "image_column": "file", "caption_column": "caption"},
            "there is no column 'caption' (the header has: file, text)",
        ),
        (
            "other.png,x\n",
            {"kind": "table", "path": "t", "image_column": 0, "caption_column": 1},
            "no row of 't' belongs to any file (the table has 'other.png', the files have 'a.png')",
        ),
        (
            "a.png\n",
            {"kind": "table", "path": "t", "image_column": 0, "caption_column": 1},
            "row 1 has 1 columns, the source needs 2 (delimiter ',')",
        ),
        (
            b"\xff\xfea",
            {"kind": "table", "path": "t", "image_column": 0, "caption_column": 1},
            "the table is not valid utf-16-le",
        ),
        ("x", {"kind": "coco", "path": "nope.json"}, "the table 'nope.json' does not exist below"),
    ],
)
def test_a_table_that_does_not_fit_stops_before_anything_runs(bench, make_png, content, captions, words):
    bench.write("a.png", make_png())
    bench.write("t", content)
    with pytest.raises(UserError) as e:
        bench.read("image_caption", captions=captions)
    assert words in str(e.value)
    assert "source 's'" in str(e.value)
