"""What spaCy's English tokenizer knows, as tables for a compiled kernel: character classes, units, special cases.

datatrove's rules count the tokens of spaCy's blank English pipeline (3.8), so the dialects named after it need the same
ones. The classes and lists here are its data (lang/char_classes.py, lang/punctuation.py, lang/en); how they are used
is in `chunk_kernel`.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from mixloom.pipeline import characters as ch

PREFIX = 1 << 0  # split off the front of a chunk
SUFFIX = 1 << 1  # split off its end
LETTER = 1 << 2  # joined and split by the rules for letters inside a chunk
DOT_LEFT = 1 << 3  # "." after one of these and before a DOT_RIGHT splits a chunk
DOT_RIGHT = 1 << 4
DOT_END = 1 << 5  # "." at the end of a chunk after one of these is split off
UPPER = 1 << 6  # and after two of these
LOWER = 1 << 7  # what the last part of a host name is made of
ICON = 1 << 8  # a pictograph: always a token of its own
CURRENCY = 1 << 9  # split off the end after a digit
SIGN = 1 << 10  # what datatrove calls punctuation: a token of these alone is no word
ALPHA = 1 << 11  # str.isalpha
SPACE = 1 << 12  # str.isspace
NUMBER = 1 << 13  # general category N*
# Of `sentence_flags` alone:
PUNCTUATION = 1 << 14  # general category P*
TERMINAL = 1 << 15  # a token of this character alone ends a sentence

_QUOTES = "\"',`«´»‘’‚“”„\u2329\u232a⟦⟧〈〉《》「」『』【】〔〕（）"
_STOPS = "…,:;!?¿؟¡()[]{}<>_#*&。？！，、；：～·।،۔؛٪"
_DOT_END_SIGNS = "%²-+|():?"
_CURRENCIES = "$£€¥฿₽﷼₿" + "".join(map(chr, range(0x20A0, 0x20BF)))
_UNITS = (
    "km km² km³ m m² m³ dm dm² dm³ cm cm² cm³ mm mm² mm³ ha µm nm yd in ft kg g mg µg t lb oz m/s km/h kmh mph hPa Pa "
    "mbar mb MB kb KB gb GB tb TB T G M K % км км² км³ м м² м³ дм дм² дм³ см см² см³ мм мм² мм³ нм кг г мг м/с км/ч "
    "кПа Па мбар Кб КБ кб Мб МБ мб Гб ГБ гб Тб ТБ тбكم كم² كم³ م م² م³ سم سم² سم³ مم مم² مم³ كم غرام جرام جم كغ ملغ "
    "كوب اكواب"
)
UNITS = tuple(_UNITS.split())

_CASED = (
    "41-5a 61-7a c0-d6 d8-f6 f8-1bf 1c4-2af 386 388-38a 38c 38e-38f 391-3a9 3ac-3af 3b1-3c9 3cc-3ce 400-401 403-40a "
    "40c-40d 410-451 453-45a 45c-45d 490-491 496-497 4a2-4a3 4ae-4af 4ba-4bb 4d8-4d9 4e8-4e9 1d00-1d25 1d6b-1d77 "
    "1d79-1d9a 1e00-1eff 2c60-2c7b 2c7e-2c7f a722-a76f a771-a787 a78b-a78e a790-a7b9 a7fa ab30-ab5a ab60-ab64 "
    "ff21-ff3a ff41-ff5a"
)
_UNCASED = (
    "591-5f4 620-64a 66e-6d5 6e5-6ff 750-77f 8a0-8bd 900-9ff b80-cff d80-dff 1100-137f 2e80-2fdf 2ff0-30ff 31c0-31ef "
    "3200-4dbf 4e00-9fff ac00-d7af f900-faff fb1d-fbb1 fbd3-fd3d fd50-fdc7 fdf0-fdfb fe30-fe4f fe70-fefc 1ee00-1eebb "
    "1f200-1f2ff 20000-2a6df 2a700-2ebef 2f800-2fa1f"
)
# Symbols (So) that are younger than the list of pictographs.
_NO_ICONS = (
    "166d 2b97 2bc9 2bff 2e50-2e51 32ff fd40-fd4f fdcf fdfe-fdff 1019c 11fd5-11ff1 1cf50-1cfc3 1d1e9-1d1ea 1e14f "
    "1ed2e 1f10d-1f10f 1f16c-1f16f 1f1ad 1f6d5-1f6dd 1f6de-1f6df 1f6fa-1f6fc 1f7d9-1f7f0 1f8b0-1f8b1 1f90c-1f90f "
    "1f93f 1f971-1f972 1f977-1f979 1f97b 1f9a3-1f9af 1f9ba-1f9bf 1f9c3-1f9cf 1fa00-1fa53 1fa70-1fbca"
)
_SIGNS = (
    "0-8 b-1f 22-2d 2f 3a-3e 40 5b-60 7b-9f ab b4 bb 2013-2014 2019 201c-201e 2026 2236 2501 25ba 3001 3008-300d "
    "3010-3011 ff05 ff08-ff09 ff0c ff11 ff1a-ff1b ff5e"
)

# Characters of Sentence_Terminal that are younger than spaCy's list of them.
_NO_TERMINALS = (
    "61d-61e 837 839 83d-83e 17d4-17d6 17d9-17da 1b7d-1b7e 2e53-2e54 10f55-10f59 10f86-10f89 11944 11946 11ef7-11ef8 "
    "11f43-11f44 16e98"
)

# Stems (in lower case and with a capital) and what may follow them; "|" cuts the ending in two.
_WH = "who what when where why how there that this these those"
_CONTRACTIONS = (
    ("i", "'m m 'm|a m|a"),
    ("i you he she it we they " + _WH, "'ll ll 'll|'ve ll|ve 'd d 'd|'ve d|ve"),
    ("i you we they who what when where why how there these those", "'ve ve"),
    ("you we they who what when where why how there these those", "'re re"),
    ("he she it who what when where why how there that this", "'s s"),
    (
        "ca could do does did had may might must need ought sha should wo would",
        "n't nt n't|'ve nt|ve",
    ),
    ("could might must should would", "'ve ve"),
    ("ai are is was were have has dare", "n't nt"),
    ("not", "'ve ve"),
    ("can", "not"),
    ("gon", "na"),
    ("got", "ta"),
    ("let", "'s"),
    ("c'm", "on"),
    ("how", "'d|'y"),
)
_LOWER_ONLY = "y'|all y|all"
_NO_CONTRACTIONS = "ill its hell shell shed were well whore"
# Kept whole, in lower case and with a capital.
_WHOLE_BOTH = "ma'am o'clock lovin lovin' havin havin' doin doin' goin goin' nothin nothin' nuthin nuthin' ol ol' somethin somethin'"
_WHOLE = (
    "'S 's ‘S ‘s and/or w/o 're 'Cause 'cause 'cos 'Cos 'coz 'Coz 'cuz 'Cuz 'bout 'em em 'll ll 'nuff nuff 'd ' '' "
    "Mt. Ak. Ala. Apr. Ariz. Ark. Aug. Calif. Colo. Conn. Dec. Del. Feb. Fla. Ga. Ia. Id. Ill. Ind. Jan. Jul. Jun. "
    "Kan. Kans. Ky. La. Mar. Mass. Mich. Minn. Miss. N.C. N.D. N.H. N.J. N.M. N.Y. Neb. Nebr. Nev. Nov. Oct. Okla. "
    "Ore. Pa. S.C. Sep. Sept. Tenn. Va. Wash. Wis. a.m. Adm. Bros. co. Co. Corp. D.C. Dr. e.g. E.g. E.G. Gen. Gov. "
    "i.e. I.e. I.E. Inc. Jr. Ltd. Md. Messrs. Mo. Mont. Mr. Mrs. Ms. p.m. Ph.D. Prof. Rep. Rev. Sen. St. vs. v.s. "
    'ä. ö. ü. — \\t \\n \\") <space> C++ '
    ":) :-) :)) :-)) :))) :-))) (: (-: =) (= :] :-] [: [-: [= =] :o) (o: :} :-} 8) 8-) (-8 ;) ;-) (; (-; :( :-( :(( "
    ":-(( :((( :-((( ): )-: =( >:( :') :'-) :'( :'-( :/ :-/ =/ =| :| :-| ]= =[ :1 :P :-P :p :-p :O :-O :o :-o :0 :-0 "
    ":() >:o :* :-* :3 :-3 =3 :> :-> :X :-X :x :-x :D :-D ;D ;-D =D xD XD xDD XDD 8D 8-D ^_^ ^__^ ^___^ >.< >.> <.< "
    "._. ;_; -_- -__- v.v V.V v_v V_V o_o o_O O_o O_O 0_o o_0 0_0 o.O O.o O.O o.o 0.0 o.0 0.o @_@ <3 <33 <333 </3 "
    "(^_^) (-_-) (._.) (>_<) (*_*) (¬_¬) ಠ_ಠ ಠ︵ಠ (ಠ_ಠ) ¯\\(ツ)/¯ (╯°□°）╯︵┻━┻ ><(((*>"
)


def _special_pieces() -> Iterator[tuple[str, ...]]:
    for stems, endings in _CONTRACTIONS:
        for stem in stems.split():
            for ending in endings.split():
                yield (stem, *ending.split("|"))
                yield (stem.capitalize(), *ending.split("|"))
    yield from (tuple(word.split("|")) for word in _LOWER_ONLY.split())
    for word in _WHOLE_BOTH.split():
        yield (word,)
        yield (word.capitalize(),)
    yield from ((word,) for word in _WHOLE.split())
    yield from ((f"{letter}.",) for letter in "abcdefghijklmnopqrstuvwxyz")
    yield from (("°", unit, ".") for unit in "cfkCFK")
    for hour in range(1, 13):
        yield from ((str(hour), half) for half in ("am", "a.m.", "pm", "p.m."))


@lru_cache(maxsize=1)
def special_cases() -> dict[str, tuple[str, ...]]:
    """Chunks that are cut by no rule but as listed: "don't" -> ("do", "n't"), "e.g." -> ("e.g.",)."""
    cases = {"".join(pieces): pieces for pieces in _special_pieces()}
    cases |= {
        word.replace("'", "’"): tuple(piece.replace("'", "’") for piece in pieces)
        for word, pieces in cases.items()
    }
    for word in _NO_CONTRACTIONS.split():
        cases.pop(word, None)
        cases.pop(word.capitalize(), None)
    return cases


def _codes(ranges: str) -> Iterator[int]:
    for entry in ranges.split():
        first, _, last = entry.partition("-")
        yield from range(int(first, 16), int(last or first, 16) + 1)


@lru_cache(maxsize=1)
def token_flags() -> NDArray[np.uint16]:
    """The classes above for every code point, uint16 [0x110000]."""
    base = ch.character_flags()
    flags = np.zeros(base.size, np.uint16)
    for have, flag in ((ch.ALPHA, ALPHA), (ch.SPACE, SPACE), (ch.NUMBER, NUMBER)):
        flags[(base & have) != 0] |= flag
    for code in _codes(_CASED):
        kind = unicodedata.category(chr(code))
        flags[code] |= LETTER
        if kind == "Ll" or code == 0x294:
            flags[code] |= LOWER | DOT_LEFT | DOT_END
        elif kind == "Lu" or code == 0x3A2:
            flags[code] |= UPPER | DOT_RIGHT
    for code in _codes(_UNCASED):
        flags[code] |= LETTER | LOWER | UPPER | DOT_LEFT | DOT_RIGHT | DOT_END
    for char in _QUOTES:
        flags[ord(char)] |= PREFIX | SUFFIX | DOT_LEFT | DOT_RIGHT | DOT_END
    for char in _STOPS:
        flags[ord(char)] |= PREFIX | SUFFIX | DOT_END
    for char in (*_DOT_END_SIGNS, *"0123456789"):
        flags[ord(char)] |= DOT_END
    for char in _CURRENCIES:
        flags[ord(char)] |= PREFIX | CURRENCY
    for char in "§%=—–":
        flags[ord(char)] |= PREFIX
    for char in "—–":
        flags[ord(char)] |= SUFFIX
    young = set(_codes(_NO_ICONS))
    for code in np.flatnonzero((base & ch.SYMBOL) != 0).tolist():
        if unicodedata.category(chr(code)) == "So" and code not in young:
            flags[code] |= PREFIX | SUFFIX | ICON
    for char in ch.terminal_punctuation():
        flags[ord(char)] |= SIGN
    for code in _codes(_SIGNS):
        flags[code] |= SIGN
    flags.setflags(write=False)
    return flags


@lru_cache(maxsize=1)
def sentence_flags() -> NDArray[np.uint16]:
    """`token_flags` with `PUNCTUATION` and `TERMINAL`, for counting sentences as spaCy's sentencizer does."""
    flags = token_flags().copy()
    flags[(ch.character_flags() & ch.PUNCTUATION) != 0] |= PUNCTUATION
    young = set(_codes(_NO_TERMINALS))
    for char in ch.terminal_punctuation():
        if ord(char) not in young:
            flags[ord(char)] |= TERMINAL
    flags.setflags(write=False)
    return flags
