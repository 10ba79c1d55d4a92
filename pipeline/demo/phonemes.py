"""The sounds of the demo's voices, and the words they can say.

Formant frequencies of the vowels are the averages for men of Peterson and Barney, "Control methods used in a
study of the vowels" (1952), table II; those of the consonants are round figures in the manner of Klatt,
"Software for a cascade/parallel formant synthesizer" (1980). Phoneme names follow ARPAbet.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Target:
    """A stretch of steady sound: where the first three formants (Hz) aim, and how the throat is driven.

    `voice`, `breath` and `hiss` are amplitudes of voicing, aspiration and frication; `centre` and `band` (Hz)
    shape the hiss; `nasal` damps the formants as an open nose does.
    """

    ms: float
    formants: tuple[float, float, float]
    voice: float = 0.0
    breath: float = 0.0
    hiss: float = 0.0
    centre: float = 4000.0
    band: float = 1500.0
    nasal: bool = False


def _vowel(ms: float, *formants: tuple[float, float, float]) -> tuple[Target, ...]:
    return tuple(Target(ms / len(formants), f, voice=1.0) for f in formants)


def _stop(
    formants: tuple[float, float, float], voiced: bool, centre: float, band: float
) -> tuple[Target, ...]:
    closed = Target(55, formants, voice=0.12 if voiced else 0.0)
    burst = Target(12, formants, hiss=0.7, centre=centre, band=band, voice=0.2 if voiced else 0.0)
    rest = (
        Target(8, formants, voice=0.5)
        if voiced
        else Target(38, formants, breath=0.5, hiss=0.08, centre=centre)
    )
    return (closed, burst, rest)


def _hissed(ms: float, formants: tuple[float, float, float], hiss: float, centre: float, band: float,
            voice: float = 0.0) -> tuple[Target, ...]:  # fmt: skip
    return (Target(ms, formants, voice=voice, hiss=hiss, centre=centre, band=band),)


_IY, _IH, _EH, _AE = (270, 2290, 3010), (390, 1990, 2550), (530, 1840, 2480), (660, 1720, 2410)
_AA, _AO, _UH, _UW = (730, 1090, 2440), (570, 840, 2410), (440, 1020, 2240), (300, 870, 2240)
_AH, _ER = (640, 1190, 2390), (490, 1350, 1690)
_LIP, _TONGUE, _THROAT = (220, 1000, 2200), (220, 1700, 2600), (230, 1900, 2300)

PHONEMES: dict[str, tuple[Target, ...]] = {
    "IY": _vowel(150, _IY), "IH": _vowel(110, _IH), "EH": _vowel(130, _EH), "AE": _vowel(160, _AE),
    "AA": _vowel(160, _AA), "AO": _vowel(160, _AO), "UH": _vowel(110, _UH), "UW": _vowel(150, _UW),
    "AH": _vowel(110, _AH), "ER": _vowel(140, _ER), "AX": _vowel(70, (500, 1400, 2400)),
    "AY": _vowel(210, _AA, (560, 1600, 2450), (330, 2150, 2700)), "AW": _vowel(210, _AA, (600, 1000, 2350), (360, 900, 2240)),
    "EY": _vowel(180, (480, 1950, 2550), (330, 2200, 2800)), "OW": _vowel(180, (540, 950, 2400), (380, 850, 2260)),
    "W": (Target(75, (290, 610, 2150), voice=0.7),), "Y": (Target(70, (260, 2250, 3000), voice=0.7),),
    "R": (Target(80, (310, 1060, 1400), voice=0.7),), "L": (Target(75, (330, 1050, 2880), voice=0.7),),
    "M": (Target(85, (250, 1000, 2200), voice=0.45, nasal=True),),
    "N": (Target(80, (250, 1600, 2600), voice=0.45, nasal=True),),
    "NG": (Target(85, (250, 2100, 2600), voice=0.45, nasal=True),),
    "B": _stop(_LIP, True, 900, 1200), "P": _stop(_LIP, False, 1000, 1500),
    "D": _stop(_TONGUE, True, 4200, 1800), "T": _stop(_TONGUE, False, 4500, 2000),
    "G": _stop(_THROAT, True, 2000, 700), "K": _stop(_THROAT, False, 2100, 800),
    "F": _hissed(95, (320, 1200, 2300), 0.16, 5500, 4000), "V": _hissed(60, (300, 1200, 2300), 0.08, 5000, 4000, 0.45),
    "TH": _hissed(90, (320, 1400, 2550), 0.14, 6200, 3000), "DH": _hissed(50, (300, 1400, 2550), 0.06, 6000, 3000, 0.5),
    "S": _hissed(110, (320, 1600, 2600), 0.55, 6000, 1500), "Z": _hissed(80, (300, 1600, 2600), 0.35, 6000, 1500, 0.4),
    "SH": _hissed(110, (320, 1850, 2550), 0.55, 2900, 1100),
    "CH": (Target(50, _TONGUE), *_hissed(75, (320, 1850, 2550), 0.55, 2900, 1100)),
    "JH": (Target(40, _TONGUE, voice=0.1), *_hissed(55, (300, 1850, 2550), 0.4, 2900, 1100, 0.35)),
    "HH": (Target(65, (500, 1500, 2500), breath=0.5),),
}  # fmt: skip

LEXICON: dict[str, str] = {
    "zero": "Z IY R OW", "one": "W AH N", "two": "T UW", "three": "TH R IY", "four": "F AO R", "five": "F AY V",
    "six": "S IH K S", "seven": "S EH V AX N", "eight": "EY T", "nine": "N AY N",
    "red": "R EH D", "orange": "AO R IH N JH", "yellow": "Y EH L OW", "green": "G R IY N", "blue": "B L UW",
    "purple": "P ER P AX L", "pink": "P IH NG K", "brown": "B R AW N", "black": "B L AE K", "white": "W AY T",
    "circle": "S ER K AX L", "square": "S K W EH R", "triangle": "T R AY AE NG G AX L", "star": "S T AA R",
    "heart": "HH AA R T", "diamond": "D AY M AX N D", "ring": "R IH NG", "cross": "K R AO S", "house": "HH AW S",
    "tree": "T R IY", "flower": "F L AW ER", "ball": "B AO L", "umbrella": "AH M B R EH L AX",
    "snowman": "S N OW M AE N", "boat": "B OW T", "left": "L EH F T", "right": "R AY T", "of": "AX V",
    "above": "AX B AH V", "below": "B IH L OW", "in": "IH N", "a": "AX", "row": "R OW", "number": "N AH M B ER",
}  # fmt: skip


def pronounce(word: str) -> tuple[str, ...]:
    """Phonemes of a word; a plural of a known word is said with S, Z or IH Z.

    Raises:
        KeyError: a word the voices cannot say.
    """
    if word in LEXICON:
        return tuple(LEXICON[word].split())
    if word.endswith("es") and word[:-2] in LEXICON:
        stem = pronounce(word[:-2])
        if stem[-1] in ("S", "Z", "SH", "CH", "JH"):
            return (*stem, "IH", "Z")
    if word.endswith("s") and word[:-1] in LEXICON:
        stem = pronounce(word[:-1])
        return (*stem, "S" if stem[-1] in ("P", "T", "K", "F", "TH") else "Z")
    raise KeyError(f"no voice can say '{word}'")
