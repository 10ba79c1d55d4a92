import pytest

from mixloom.pipeline.ingest.globs import compile_glob, matches


@pytest.mark.parametrize(
    ("pattern", "yes", "no"),
    [
        ("*.txt", ["a.txt"], ["a/b.txt", "a.txt.gz", ".hidden.txt", "a.TXT"]),
        ("**/*.txt", ["a.txt", "x/y/a.txt"], [".git/a.txt", "x/.git/a.txt", "x/.a.txt"]),
        ("a/**", ["a/b", "a/b/c"], ["a", "b/a/c"]),
        ("a/**/b.txt", ["a/b.txt", "a/x/y/b.txt"], ["a/xb.txt"]),
        ("*.{jpg,png}{,.gz}", ["a.jpg", "a.png.gz"], ["a.gif", "a.jpg.zst"]),
        ("a[0-9]?.txt", ["a1x.txt"], ["ax1.txt", "a1.txt"]),
        ("a[!0-9].txt", ["ab.txt"], ["a1.txt", "a/.txt"]),
        (".hidden/*", [".hidden/a"], ["hidden/a"]),
        ("a+(b).txt", ["a+(b).txt"], ["aab.txt"]),
    ],
)
def test_a_glob_matches_what_a_shell_would(pattern, yes, no):
    assert [p for p in yes if not matches(p, [pattern])] == []
    assert [p for p in no if matches(p, [pattern])] == []


def test_case_is_ignored_only_when_asked():
    assert matches("A.JPG", ["*.jpg"], ignore_case=True)
    assert not matches("A.JPG", ["*.jpg"])


@pytest.mark.parametrize("pattern", ["a{b", "a}b", "a[b", "{a{b,c}}", "{a,b}" * 12])
def test_an_unbalanced_or_exploding_glob_is_refused(pattern):
    with pytest.raises(ValueError, match=r"without|inside|1000"):
        compile_glob(pattern)
