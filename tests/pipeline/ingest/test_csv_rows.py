"""CSV and TSV: quoted line ends, a bad row costs itself, damage ends the file and is told."""

import csv
import gzip
import io

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.text(st.characters(codec="utf-8", exclude_characters="\r\0"), min_size=1), min_size=1, max_size=8
    )
)
def test_whatever_the_csv_module_writes_is_read(bench, texts):
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(["id", "text"])
    writer.writerows(enumerate(texts))
    bench.write("a.csv", out.getvalue())
    documents, failures = bench.read("csv", meta_fields=["id"])
    filled = [(str(i), t) for i, t in enumerate(texts) if t.strip()]
    assert [d.meta["id"] for d in documents] == [i for i, _ in filled]
    assert [(d.segments[0].text or "").strip() for d in documents] == [t.strip() for _, t in filled]
    assert len(documents) + len(failures) == len(texts)


def test_quoted_line_ends_stay_and_rows_are_numbered(bench):
    bench.write("a.csv", 'text,n\n"one\ntwo ""three""",1\n\nfour,2\n')
    documents, failures = bench.read("csv", meta_fields=["n"])
    assert failures == []
    assert [d.segments[0].text for d in documents] == ['one\ntwo "three"', "four"]
    assert [(d.locator.offset, d.locator.length) for d in documents] == [(0, 1), (1, 1)]


def test_tsv_delimiters_and_no_quoting(bench):
    bench.write("a.tsv", 'text\tn\nsay "a\t1\n')
    (document,), failures = bench.read("csv", quoting=False)
    assert document.segments[0].text == 'say "a'
    assert failures == []
    bench.write("a.tsv", "text|n\nx|1\n")
    (document,), _ = bench.read("csv", delimiter="|")
    assert document.segments[0].text == "x"


def test_a_bad_row_costs_itself(bench):
    bench.write("a.csv", b'text,n\none,1\ntwo\nthr\xffee,3\n"a"b,4\nfive,5,x\nsix,6\n')
    documents, failures = bench.read("csv")
    assert [d.segments[0].text for d in documents] == ["one", "six"]
    assert [f.reason for f in failures] == ["short_row", "invalid_utf8", "bad_row", "bad_row"]
    assert "line 3: the row has 1 columns, the header has 2" in failures[0].detail
    assert "line 4: the row is not valid utf-8: byte 0xff" in failures[1].detail
    assert [f.locator.offset for f in failures] == [1, 2, 3, 4]


def test_a_quote_that_never_closes_is_told_with_its_line(bench):
    bench.write("a.csv", 'text\none\n"two\nthree\n')
    documents, (failure,) = bench.read("csv")
    assert len(documents) == 1
    assert "line 3: unexpected end of data: a quote opened there is never closed" in failure.detail


def test_damaged_compression_keeps_the_rows_before_it(bench):
    raw = gzip.compress(("text\n" + "".join(f"row {i * 7919 % 9973}\n" for i in range(9000))).encode())
    bench.write("a.csv.gz", raw[:-2000])
    documents, failures = bench.read("csv")
    assert len(documents) > 100
    assert failures[-1].reason == "truncated_gzip"
    assert f"after {failures[-1].locator.offset} rows" in failures[-1].detail


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("a,b\n1,2\n", "there is no column 'text' (the header has: a, b)"),
        ("text,text\n1,2\n", "the header has the column 'text' twice"),
        ("text\n", "the table has a header and no rows"),
        ("", "the file is empty (0 bytes)"),
    ],
)
def test_a_table_that_cannot_be_read_is_told(bench, content, says):
    bench.write("a.csv", content)
    documents, (failure,) = bench.read("csv")
    assert documents == []
    assert says in failure.detail


def test_a_field_longer_than_the_csv_modules_own_limit_is_read(bench):
    bench.write("a.csv", f'text\n"{"word " * 60000}"\n')
    (document,), failures = bench.read("csv")
    assert failures == []
    assert len(document.segments[0].text or "") == 5 * 60000 - 1


def test_encodings_with_wide_newlines(bench):
    bench.write("a.csv", "text\nGröße\n".encode("utf-16"))
    (document,), _ = bench.read("csv", encoding="utf-16")
    assert document.segments[0].text == "Größe"


def test_images_beside_the_table(bench, make_png, segments):
    bench.write("img/a.png", make_png())
    bench.write("a.csv", "text,image\nA caption,img/a.png\n")
    (document,), failures = bench.read("csv", image_field="image")
    assert failures == []
    assert segments(document) == [("image", "img/a.png"), ("text", "A caption")]
