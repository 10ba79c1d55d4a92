"""Scenes as data: what stands where, and sentences that say so.

A sentence is always derived from the things and their places, never the other way round, so a caption is true
by construction. Places are fractions of the picture: x to the right, y downwards.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

SHAPES = ("circle", "square", "triangle", "star", "heart", "diamond", "ring", "cross")
COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white")
FIELDS = ("green", "blue", "yellow", "pink", "gray", "white", "purple", "orange", "black")
LANDS = ("meadow", "beach", "snow", "sea", "night")
SIZES = (
    (64, 64),
    (96, 96),
    (128, 128),
    (160, 120),
    (120, 160),
    (192, 128),
    (128, 192),
    (200, 150),
    (192, 108),
    (224, 96),
)
NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
_GROUND = {
    "meadow": ("house", "tree", "pine tree", "flower", "ball"),
    "beach": ("ball", "umbrella", "house", "palm tree"),
    "snow": ("house", "pine tree", "snowman"),
    "sea": ("boat",),
    "night": ("house", "tree", "pine tree"),
}
_SKY = {
    "meadow": ("sun", "cloud", "balloon", "bird"),
    "beach": ("sun", "cloud", "balloon", "bird"),
    "snow": ("cloud", "sun", "bird"),
    "sea": ("sun", "cloud", "bird", "balloon"),
    "night": ("moon",),
}
_WHERE = {
    "meadow": ("on a green meadow", "in a green meadow", "on the grass"),
    "beach": ("on a sandy beach", "on the yellow sand"),
    "snow": ("in the snow", "on a white field of snow"),
    "sea": ("on the blue sea", "on the water"),
    "night": ("on a dark night", "at night under the stars"),
}
_PAINTED = {"house", "ball", "boat", "balloon", "flower", "umbrella"}  # these come in any bright colour
_FIXED = {"tree": "green", "pine tree": "green", "palm tree": "green", "sun": "yellow", "moon": "white"}
_FIXED |= {"cloud": "white", "bird": "black", "snowman": "white"}
_BRIGHT = ("red", "orange", "yellow", "blue", "purple", "pink", "white")


@dataclass(frozen=True, slots=True)
class Thing:
    """One thing: its centre (x, y), and its radius r as a fraction of the shorter side of the picture."""

    kind: str
    colour: str
    x: float
    y: float
    r: float
    size: str = ""  # "small", "large" or nothing to say

    def named(self, article: bool = True) -> str:
        """ "a small red circle"; without the article, "small red circle"."""
        bare = self.kind in _FIXED and self.kind not in ("tree",)
        words = " ".join(w for w in (self.size, "" if bare else self.colour, self.kind) if w)
        if self.kind == "sun" and article:
            return "a yellow sun"
        return f"{'an' if words[0] in 'aeiou' else 'a'} {words}" if article else words


@dataclass(frozen=True, slots=True)
class Scene:
    """A picture of `width` x `height` pixels: a plain field of one colour, or a land with ground and sky."""

    setting: str  # "field" or one of LANDS
    colour: str  # of a plain field; "" for a land
    width: int
    height: int
    things: tuple[Thing, ...]
    sky: tuple[Thing, ...] = ()


def relation(a: Thing, b: Thing, width: int, height: int) -> str:
    """Where a is, seen from b: "left of", "right of", "above" or "below", by the larger distance in pixels."""
    dx, dy = (a.x - b.x) * width, (a.y - b.y) * height
    if abs(dx) >= abs(dy):
        return "left of" if dx < 0 else "right of"
    return "above" if dy < 0 else "below"


def sample_scene(rng: np.random.Generator, size: tuple[int, int] | None = None) -> Scene:
    """A scene: half of them shapes on a plain field, half of them a land."""
    width, height = size or SIZES[int(rng.integers(len(SIZES)))]
    return _field(rng, width, height) if rng.random() < 0.5 else _land(rng, width, height)


def _pick(rng: np.random.Generator, options: Sequence[str], but: Sequence[str] = ()) -> str:
    left = [o for o in options if o not in but]
    return left[int(rng.integers(len(left)))]


def _field(rng: np.random.Generator, width: int, height: int) -> Scene:
    ground = _pick(rng, FIELDS)
    count = int(rng.choice([1, 2, 2, 2, 3]))
    across = width > height or (width == height and rng.random() < 0.5)
    things: list[Thing] = []
    same = count == 3 and rng.random() < 0.5  # three of a kind
    for n in range(count):
        if same and things:
            kind, colour = things[0].kind, things[0].colour
        else:
            taken = [t.colour for t in things]
            kind = _pick(rng, SHAPES, [t.kind for t in things])
            colour = _pick(rng, COLOURS, [*taken, ground])
        size = "" if count == 3 else str(rng.choice(["", "", "small", "large"]))
        r = {"small": 0.12, "": 0.17, "large": 0.22}[size] if count < 3 else 0.125
        along = (n + 0.5) / count + float(rng.uniform(-0.02, 0.02))
        side = 0.5 + float(rng.uniform(-0.08, 0.08))
        x, y = (along, side) if across else (side, along)
        if count == 1:
            x, y = float(rng.choice([0.3, 0.5, 0.7])), float(rng.choice([0.35, 0.5, 0.65]))
        things.append(Thing(kind, colour, x, y, r, size))
    return Scene("field", ground, width, height, tuple(things))


def _land(rng: np.random.Generator, width: int, height: int) -> Scene:
    setting = _pick(rng, LANDS)
    wide = width > 1.6 * height
    count = int(rng.integers(1, 4 if wide else 3))
    things: list[Thing] = []
    for n in range(count):
        kind = _pick(rng, _GROUND[setting], [] if setting == "sea" else [t.kind for t in things])
        colour = _FIXED.get(kind) or _pick(rng, _BRIGHT, [t.colour for t in things] + _hidden(setting))
        if kind == "tree":
            colour = _pick(rng, ("green", "green", "orange"))
        small = kind in ("ball", "flower")
        x = (n + 0.5) / count + float(rng.uniform(-0.03, 0.03))
        r = (0.12 if small else 0.21) if count < 3 else (0.1 if small else 0.17)
        things.append(Thing(kind, colour, x, 0.78 - r * 0.5 * min(width, height) / height, r))
    sky: list[Thing] = []
    if rng.random() < 0.85:
        kind = _pick(rng, _SKY[setting])
        colour = _FIXED.get(kind) or _pick(rng, _BRIGHT, ["blue", "white"])
        sky.append(Thing(kind, colour, float(rng.choice([0.2, 0.5, 0.8])), 0.18, 0.13))
    return Scene(setting, "", width, height, tuple(things), tuple(sky))


def _hidden(setting: str) -> list[str]:
    """Colours that would not show against the ground of a land."""
    return {"beach": ["yellow", "orange"], "snow": ["white"], "sea": ["blue"]}.get(setting, [])


def ground_phrase(scene: Scene, rng: np.random.Generator) -> str:
    """ "on a green field", "in the snow"."""
    if scene.setting != "field":
        return _pick(rng, _WHERE[scene.setting])
    article = "an" if scene.colour[0] in "aeiou" else "a"
    return f"on {article} {scene.colour} {_pick(rng, ('field', 'background', 'ground'))}"


def caption(scene: Scene, rng: np.random.Generator) -> str:
    """One or two clauses that say what is in a scene and how it stands to each other."""
    body, ground, above = _things_phrase(scene, rng), ground_phrase(scene, rng), _sky_phrase(scene, rng)
    forms: tuple[str, ...] = (
        f"{body} {ground}{above}",
        f"a picture of {body} {ground}{above}",
        f"{ground}, {body}{above}",
        f"there is {body} {ground}{above}",
        f"{body}{above}, {ground}",
    )
    if body.startswith("three"):
        forms = tuple(f.replace("there is", "there are") for f in forms)
    return forms[int(rng.integers(len(forms)))]


def description(scene: Scene, rng: np.random.Generator) -> str:
    """What is in a scene as a noun phrase that fits into a sentence."""
    return f"{_things_phrase(scene, rng)} {ground_phrase(scene, rng)}{_sky_phrase(scene, rng)}"


def _things_phrase(scene: Scene, rng: np.random.Generator) -> str:
    things = scene.things
    if len(things) == 1:
        return things[0].named()
    if len(things) == 2:
        a, b = things if rng.random() < 0.5 else things[::-1]
        how = relation(a, b, scene.width, scene.height)
        if "of" in how and rng.random() < 0.3:
            how = f"to the {how}"
        return f"{a.named()} {how} {b.named()}"
    across = relation(things[0], things[-1], scene.width, scene.height) == "left of"
    if len({(t.kind, t.colour) for t in things}) == 1:
        return f"three {things[0].colour} {_plural(things[0].kind)} in a {'row' if across else 'column'}"
    way = "from left to right" if across else "from top to bottom"
    return f"{things[0].named()}, {things[1].named()} and {things[2].named()} {way}"


def _sky_phrase(scene: Scene, rng: np.random.Generator) -> str:
    if not scene.sky:
        return ""
    up = scene.sky[0].named()
    return _pick(rng, (f" under {up}", f" with {up} in the sky", f", and {up} above"))


def spoken(scene: Scene, rng: np.random.Generator) -> str:
    """A scene in the few words of the speech vocabulary: "red circle above blue square"."""
    things = scene.things[:2]
    if len(things) == 1 or len({(t.kind, t.colour) for t in scene.things}) == 1:
        text = _colour_kind(things[0])
        return f"three {_plural(text)} in a row" if len(scene.things) == 3 else f"one {text}"
    a, b = things if rng.random() < 0.5 else things[::-1]
    return f"{_colour_kind(a)} {relation(a, b, scene.width, scene.height)} {_colour_kind(b)}"


def _colour_kind(thing: Thing) -> str:
    return f"{thing.colour} {thing.kind.removeprefix('pine ').removeprefix('palm ')}"


def _plural(words: str) -> str:
    return words + ("es" if words.endswith("s") else "s")


def moved(scene: Scene, rng: np.random.Generator) -> Scene:
    """A different picture of which every caption of `scene` is still true: things shift a little, none passes another."""

    def shift(t: Thing) -> Thing:
        return replace(t, x=t.x + float(rng.uniform(-0.04, 0.04)), r=t.r * float(rng.uniform(0.85, 0.95)))

    return replace(scene, things=tuple(map(shift, scene.things)), sky=tuple(map(shift, scene.sky)))
