"""What every page and fragment of a report must hold to, whatever the data."""

import pytest
from lxml import html

HOSTILE = {
    "script": "<script>alert(1)</script>",
    "closed_style": "</style><script>alert(2)</script>",
    "closed_script": "</script><img src=x onerror=alert(3)>",
    "quotes": '" onmouseover="alert(4)" x=\'y\' `z`',
    "attribute": "'><svg onload=alert(5)>",
    "comment": "--><!-- ]]> <![CDATA[",
    "entities": "&lt;b&gt; &#x3C;script&#x3E; &amp;amp;",
    "link": "javascript:alert(6)",
    "direction": "\u202eevil\u202c \u2066x\u2069 \u05d0\u05d1\u05d2",
    "control": "a\x00b\x01c\x1bd\x7fe\x85f\ufffe",
    "surrogate": "a\ud800b",
    "long_line": "<x>" + "w" * 1_000_000,
    "emoji": "\U0001f9f5 \u0645\u0631\u062d\u0628\u0627",
}


def check(markup: str, scripts: int = 0):
    """Parse and assert that nothing can run, and nothing is fetched; returns the tree."""
    markup.encode("utf-8")
    whole = markup if "<html" in markup else f"<html><body>{markup}</body></html>"
    tree = html.document_fromstring(whole, parser=html.HTMLParser(huge_tree=True))
    assert len(tree.xpath("//script")) == scripts
    assert not tree.xpath("//iframe | //object | //embed | //link | //base | //form | //foreignObject")
    for element in tree.iter():
        for name, value in element.attrib.items():
            assert not name.lower().startswith("on"), (element.tag, name, value[:80])
            assert name != "style", (element.tag, value[:80])
            if name in ("src", "href", "srcset", "data", "action", "poster", "xlink:href"):
                assert value.startswith(("data:image/", "data:audio/wav", "#")), (
                    element.tag,
                    name,
                    value[:80],
                )
    return tree


@pytest.fixture(params=list(HOSTILE))
def hostile(request):
    return HOSTILE[request.param]


@pytest.fixture
def audit():
    return check
