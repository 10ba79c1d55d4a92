"""How each kind of thing is drawn, in units of the thing itself."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from PIL import ImageDraw

from mixloom.pipeline.demo.scenes import Thing

RGB = tuple[int, int, int]
PALETTE: dict[str, RGB] = {
    "red": (214, 48, 42), "orange": (243, 140, 32), "yellow": (250, 210, 50), "green": (62, 160, 70),
    "blue": (44, 98, 206), "purple": (132, 62, 168), "pink": (240, 130, 178), "brown": (128, 82, 46),
    "black": (34, 34, 40), "white": (246, 246, 242), "gray": (150, 154, 160),
}  # fmt: skip


def shade(colour: RGB, light: float) -> RGB:
    """A colour, darker by a factor."""
    return int(colour[0] * light), int(colour[1] * light), int(colour[2] * light)


class Pen:
    """Draws in units of one thing: the centre is (0, 0), its radius 1, y downwards."""

    def __init__(self, draw: ImageDraw.ImageDraw, thing: Thing, width: int, height: int) -> None:
        self.draw, self.x, self.y = draw, thing.x * width, thing.y * height
        self.r = thing.r * min(width, height)
        self.colour = PALETTE[thing.colour]
        self.edge = shade(self.colour, 0.62)
        self.line = max(2, round(self.r * 0.06))

    def at(self, x: float, y: float) -> tuple[float, float]:
        return self.x + x * self.r, self.y + y * self.r

    def polygon(self, points: list[tuple[float, float]], fill: RGB, edge: RGB | None = None) -> None:
        place = [self.at(*p) for p in points]
        self.draw.polygon(place, fill=fill)
        if edge is not None:
            self.draw.line([*place, place[0], place[1]], fill=edge, width=self.line, joint="curve")

    def ellipse(
        self, x: float, y: float, rx: float, ry: float, fill: RGB | None, edge: RGB | None = None
    ) -> None:
        box = [self.at(x - rx, y - ry), self.at(x + rx, y + ry)]
        self.draw.ellipse(box, fill=fill, outline=edge, width=self.line if edge else 1)

    def box(
        self, left: float, top: float, right: float, bottom: float, fill: RGB, edge: RGB | None = None
    ) -> None:
        self.polygon([(left, top), (right, top), (right, bottom), (left, bottom)], fill, edge)


def _ring_points(
    count: int, radii: tuple[float, ...], turn: float = -math.pi / 2
) -> list[tuple[float, float]]:
    out = []
    for n in range(count):
        angle, r = turn + 2 * math.pi * n / count, radii[n % len(radii)]
        out.append((r * math.cos(angle), r * math.sin(angle)))
    return out


def _circle(p: Pen) -> None:
    p.ellipse(0, 0, 1, 1, p.colour, p.edge)


def _square(p: Pen) -> None:
    p.box(-0.88, -0.88, 0.88, 0.88, p.colour, p.edge)


def _triangle(p: Pen) -> None:
    p.polygon([(0, -1), (1.05, 0.85), (-1.05, 0.85)], p.colour, p.edge)


def _star(p: Pen) -> None:
    p.polygon(_ring_points(10, (1.12, 0.46)), p.colour, p.edge)


def _heart(p: Pen) -> None:
    points = []
    for n in range(60):
        t = 2 * math.pi * n / 60
        y = 13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)
        points.append((16 * math.sin(t) ** 3 / 16.5, -y / 15))
    p.polygon(points, p.colour, p.edge)


def _diamond(p: Pen) -> None:
    p.polygon([(0, -1.15), (0.8, 0), (0, 1.15), (-0.8, 0)], p.colour, p.edge)


def _ring(p: Pen) -> None:
    box = [p.at(-1, -1), p.at(1, 1)]
    p.draw.ellipse(box, outline=p.colour, width=round(p.r * 0.42))


def _cross(p: Pen) -> None:
    a = 0.34
    right = [(a, -1), (a, -a), (1, -a), (1, a), (a, a), (a, 1)]
    p.polygon([*right, *[(-x, -y) for x, y in right]], p.colour, p.edge)


def _house(p: Pen) -> None:
    roof = PALETTE["red"] if p.colour != PALETTE["red"] else PALETTE["brown"]
    p.box(0.35, -1.0, 0.6, -0.3, (120, 70, 60))
    p.box(-0.85, -0.25, 0.85, 1, p.colour, p.edge)
    p.polygon([(0, -1.15), (1.12, -0.2), (-1.12, -0.2)], roof, (110, 40, 36))
    p.box(-0.2, 0.3, 0.2, 1, (96, 60, 38))
    for x in (-0.55, 0.55):
        p.box(x - 0.18, 0.05, x + 0.18, 0.4, (190, 226, 246), (80, 84, 96))


def _tree(p: Pen) -> None:
    p.box(-0.14, 0.1, 0.14, 1, PALETTE["brown"])
    dark = shade(p.colour, 0.8)
    p.ellipse(-0.4, -0.1, 0.5, 0.48, dark)
    p.ellipse(0.4, -0.1, 0.5, 0.48, dark)
    p.ellipse(0, -0.5, 0.62, 0.62, p.colour)


def _pine(p: Pen) -> None:
    p.box(-0.12, 0.6, 0.12, 1, PALETTE["brown"])
    for top, half, light in ((-0.1, 0.8, 0.7), (-0.6, 0.62, 0.8), (-1.1, 0.44, 0.9)):
        green = shade((36, 120, 60), light)
        p.polygon([(0, top - 0.1), (half, top + 0.75), (-half, top + 0.75)], green)


def _palm(p: Pen) -> None:
    p.polygon([(-0.1, 1), (0.12, 1), (0.2, -0.6), (0.06, -0.6)], (150, 104, 60))
    for angle in (-160, -125, -55, -20, 15, 165):
        a = math.radians(angle)
        tip = (0.12 + 1.0 * math.cos(a), -0.6 + 0.85 * math.sin(a) + 0.2)
        mid = (0.12 + 0.5 * math.cos(a), -0.95 + 0.5 * math.sin(a))
        low = (0.12 + 0.5 * math.cos(a), -0.65 + 0.5 * math.sin(a))
        p.polygon([(0.12, -0.6), mid, tip, low], PALETTE["green"])


def _flower(p: Pen) -> None:
    p.box(-0.07, 0, 0.07, 1.6, (60, 130, 60))
    p.ellipse(0.3, 0.9, 0.3, 0.13, (70, 150, 70))
    for x, y in _ring_points(6, (0.62,)):
        p.ellipse(x, y, 0.44, 0.44, p.colour, p.edge)
    p.ellipse(0, 0, 0.36, 0.36, (250, 200, 40))


def _ball(p: Pen) -> None:
    p.ellipse(0, 0, 1, 1, p.colour, p.edge)
    p.draw.arc([p.at(-0.45, -1), p.at(0.45, 1)], 0, 360, fill=p.edge, width=p.line)
    p.ellipse(-0.35, -0.4, 0.2, 0.16, (255, 255, 255))


def _umbrella(p: Pen) -> None:
    p.box(-0.05, -0.5, 0.05, 1, (110, 90, 70))
    p.draw.pieslice(
        [p.at(-1.15, -1.05), p.at(1.15, 0.85)], 180, 360, fill=p.colour, outline=p.edge, width=p.line
    )
    p.draw.pieslice([p.at(-0.4, -1.05), p.at(0.4, 0.85)], 180, 360, fill=PALETTE["white"])


def _snowman(p: Pen) -> None:
    grey = (150, 164, 184)
    p.ellipse(0, 0.5, 0.6, 0.52, PALETTE["white"], grey)
    p.ellipse(0, -0.25, 0.42, 0.4, PALETTE["white"], grey)
    p.box(-0.34, -0.66, 0.34, -0.56, PALETTE["black"])
    p.box(-0.22, -1.0, 0.22, -0.6, PALETTE["black"])
    p.ellipse(-0.14, -0.32, 0.05, 0.05, PALETTE["black"])
    p.ellipse(0.14, -0.32, 0.05, 0.05, PALETTE["black"])
    p.polygon([(0, -0.24), (0.3, -0.16), (0, -0.12)], PALETTE["orange"])


def _boat(p: Pen) -> None:
    p.box(-0.04, -1.1, 0.04, 0.4, (90, 66, 46))
    sail, seam = (252, 250, 240), (120, 120, 116)
    p.polygon([(0.1, -1.05), (0.8, 0.15), (0.1, 0.15)], sail, seam)
    p.polygon([(-0.1, -0.8), (-0.6, 0.15), (-0.1, 0.15)], sail, seam)
    p.polygon([(-1, 0.3), (1, 0.3), (0.7, 0.9), (-0.7, 0.9)], p.colour, p.edge)


def _sun(p: Pen) -> None:
    p.polygon(_ring_points(32, (1.3, 1.0)), (255, 226, 110))
    p.ellipse(0, 0, 0.85, 0.85, (255, 204, 30))


def _moon(p: Pen) -> None:
    outer = [(math.sin(t), -math.cos(t)) for t in np.linspace(0, math.pi, 40)]
    inner = [(0.45 * math.sin(t), -math.cos(t)) for t in np.linspace(math.pi, 0, 40)]
    p.polygon([*outer, *inner], (246, 240, 200))


def _cloud(p: Pen) -> None:
    for x, y, r in ((-0.8, 0.15, 0.5), (-0.2, -0.2, 0.66), (0.5, -0.05, 0.55), (1.0, 0.2, 0.42)):
        p.ellipse(x, y, r, r * 0.8, (252, 253, 255))
    p.ellipse(0.1, 0.35, 1.2, 0.3, (252, 253, 255))


def _bird(p: Pen) -> None:
    for left, right in ((-1, 0), (0, 1)):
        p.draw.arc(
            [p.at(left, -0.45), p.at(right, 0.75)], 200, 340, fill=PALETTE["black"], width=round(p.r * 0.2)
        )


def _balloon(p: Pen) -> None:
    p.draw.line([p.at(0, 1), p.at(0.1, 1.9)], fill=(90, 90, 96), width=p.line)
    p.ellipse(0, 0, 0.85, 1, p.colour, p.edge)
    p.polygon([(0, 0.95), (0.16, 1.15), (-0.16, 1.15)], p.edge)
    p.ellipse(-0.3, -0.4, 0.14, 0.22, (255, 255, 255))


DRAW: dict[str, Callable[[Pen], None]] = {
    "circle": _circle, "square": _square, "triangle": _triangle, "star": _star, "heart": _heart,
    "diamond": _diamond, "ring": _ring, "cross": _cross, "house": _house, "tree": _tree, "pine tree": _pine,
    "palm tree": _palm, "flower": _flower, "ball": _ball, "umbrella": _umbrella, "snowman": _snowman,
    "boat": _boat, "sun": _sun, "moon": _moon, "cloud": _cloud, "bird": _bird, "balloon": _balloon,
}  # fmt: skip
