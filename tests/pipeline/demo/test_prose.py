from __future__ import annotations

import itertools
import sys

from mixloom.pipeline.demo import prose
from mixloom.pipeline.demo.shingles import ShingleIndex, jaccard, words

PARAGRAPH = (
    "The {0} of the gardener have been described in the first of the long letters that the {0} wrote to a "
    "friend of the family, and they are to be read with care by all who want to know about {0} and weather. "
)
MODULE = '''"""{module}"""
import sys
sys.marker = "imported"

class Spade:
    """Dig.

    >>> Spade().dig()
    42 worms in a heap

    Digging is done in the morning.
    """

    async def turn(self):
        """Turn the soil over, slowly."""

    if sys:
        def hidden(self):
            """Found inside an if as well."""
'''


def test_docstrings_come_in_source_order_without_sessions_and_without_running_the_module(tmp_path):
    file = tmp_path / "garden.py"
    file.write_text(MODULE.format(module="About gardens."))
    found = prose.docstrings(file)
    assert found == [
        "About gardens.",
        "Dig.\n\nDigging is done in the morning.",
        "Turn the soil over, slowly.",
        "Found inside an if as well.",
    ]
    assert not hasattr(sys, "marker")


def test_a_file_this_python_cannot_parse_gives_nothing(tmp_path):
    (tmp_path / "new.py").write_text("this is not python at all")
    assert prose.docstrings(tmp_path / "new.py") == []


def test_help_topics_are_read_without_headings_and_grammar(tmp_path):
    (tmp_path / "pydoc_data").mkdir()
    file = tmp_path / "pydoc_data" / "topics.py"
    text = "Loops\n*****\n\nA loop repeats.\n\n   loop ::= 'while'\n\nIt ends\nat last.\n"
    file.write_text(f"topics = {{'loops': {text!r}}}\n")
    assert prose.docstrings(file) == ["A loop repeats.\n\nIt ends\nat last."]


def test_short_docstrings_are_joined_and_long_ones_cut():
    short = [PARAGRAPH.format(w) for w in ("roses", "beans")]
    joined = list(prose.documents(short))
    assert len(joined) == 1
    assert "roses" in joined[0]
    assert "beans" in joined[0]
    names = [f"plant{i}" for i in range(30)]
    long = "\n\n".join(PARAGRAPH.format(n) + " ".join(f"{n}w{j}" for j in range(20)) for n in names)
    cut = list(prose.documents([long]))
    assert len(cut) > 2
    assert all(60 <= len(words(t)) <= 400 for t in cut)
    assert [n for t in cut for n in names if f"The {n} of" in t] == names


def test_code_and_lists_of_names_are_no_prose():
    assert list(prose.documents(["x = [1, 2, 3] + 4 * 5 # !! ; " * 20])) == []
    assert list(prose.documents(["alpha beta gamma delta epsilon zeta eta " * 20])) == []


def test_the_running_library_gives_distinct_documents_of_most_families():
    found = prose.read_families(prose.standard_library(), ShingleIndex())
    assert len(found) >= len(prose.FAMILIES) - 2  # turtle is missing where there is no tkinter
    assert list(found) == [d for d in prose.FAMILIES if d in found]
    assert all(len(docs) >= 30 for docs in found.values())
    texts = [p.text for docs in found.values() for p in docs]
    assert len(set(texts)) == len(texts)
    assert all(jaccard(a, b) < 0.2 for a, b in itertools.pairwise(texts))
    assert all(len(words(t)) >= 60 for t in texts)


def test_a_library_without_the_modules_gives_no_families(tmp_path):
    assert prose.read_families(tmp_path, ShingleIndex()) == {}
