"""Language codes: which labels of a model are languages, and how we spell them."""

from __future__ import annotations

import re

UNKNOWN = "und"  # ISO 639-2: undetermined

# ISO 639-1, with the withdrawn codes that models still use (bh, iw, in, ji, jw, mo, sh).
_CODES = """
    aa ab ae af ak am an ar as av ay az ba be bg bh bi bm bn bo br bs ca ce ch co cr cs cu cv cy da de dv dz ee el
    en eo es et eu fa ff fi fj fo fr fy ga gd gl gn gu gv ha he hi ho hr ht hu hy hz ia id ie ig ii ik in io is it
    iu iw ja ji jv jw ka kg ki kj kk kl km kn ko kr ks ku kv kw ky la lb lg li ln lo lt lu lv mg mh mi mk ml mn mo
    mr ms mt my na nb nd ne ng nl nn no nr nv ny oc oj om or os pa pi pl ps pt qu rm rn ro ru rw sa sc sd se sg sh
    si sk sl sm sn so sq sr ss st su sv sw ta te tg th ti tk tl tn to tr ts tt tw ty ug uk ur uz ve vi vo wa wo xh
    yi yo za zh zu
"""
TWO_LETTERS = frozenset(_CODES.split())
_REPLACED = {"iw": "he", "in": "id", "ji": "yi", "jw": "jv", "mo": "ro"}
# A code of two or three letters, and perhaps a script: "en", "arz", "eng_Latn", "zh-Hant".
_LABEL = re.compile(r"([a-z]{2,3})(?:[-_]([A-Z][a-z]{3}))?\Z")


def language_code(label: str) -> str | None:
    """The code a label stands for, or None when it is no language.

    ISO 639-1 where the model uses it, else ISO 639-3 (which 3-letter words are codes is not checked); a script is
    kept as the model writes it (`eng_Latn`); withdrawn codes become those that replaced them (iw: he).
    """
    found = _LABEL.match(label)
    if found is None:
        return None
    code = found[1]
    if len(code) == 2 and code not in TWO_LETTERS:
        return None
    return _REPLACED.get(code, code) + label[len(code) :]
