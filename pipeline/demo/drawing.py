"""Scenes as pictures: our own drawing code on Pillow, four times too large and then reduced, for smooth edges."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw

from mixloom.pipeline.demo.scenes import Scene
from mixloom.pipeline.demo.things import DRAW, RGB, Pen

# A plain field is paler than a thing of the same name, as coloured paper is.
_PAPER: dict[str, RGB] = {
    "green": (150, 206, 146), "blue": (150, 194, 236), "yellow": (250, 234, 150), "pink": (250, 204, 220),
    "gray": (184, 188, 194), "white": (248, 248, 246), "purple": (204, 174, 226), "orange": (250, 200, 140),
    "black": (48, 50, 58),
}  # fmt: skip
_LANDS: dict[str, tuple[RGB, RGB, RGB, RGB]] = {  # sky top, sky bottom, ground top, ground bottom
    "meadow": ((104, 176, 240), (214, 236, 250), (124, 190, 82), (78, 148, 58)),
    "beach": ((92, 178, 238), (220, 240, 250), (244, 222, 160), (230, 198, 126)),
    "snow": ((150, 176, 206), (222, 232, 242), (250, 252, 255), (216, 226, 240)),
    "sea": ((120, 190, 244), (226, 242, 252), (46, 120, 190), (22, 76, 146)),
    "night": ((14, 18, 54), (50, 56, 110), (44, 78, 62), (26, 52, 44)),
}
_OVER = 4  # supersampling
_HORIZON = 0.62


def draw_scene(scene: Scene) -> Image.Image:
    """The picture of a scene: RGB, width x height pixels; the same scene gives the same pixels."""
    width, height = scene.width * _OVER, scene.height * _OVER
    picture = _background(scene, width, height)
    draw = ImageDraw.Draw(picture)
    if scene.setting == "night":
        _stars(draw, width, height)
    for thing in (*scene.sky, *scene.things):
        DRAW[thing.kind](Pen(draw, thing, width, height))
    if scene.setting == "sea":
        _waves(draw, width, height)
    return picture.resize((scene.width, scene.height), Image.Resampling.BOX)


def _background(scene: Scene, width: int, height: int) -> Image.Image:
    if scene.setting == "field":
        return Image.new("RGB", (width, height), _PAPER[scene.colour])
    sky_top, sky_low, ground_top, ground_low = (np.array(c, np.float64) for c in _LANDS[scene.setting])
    edge = round(height * _HORIZON)
    down = np.linspace(0, 1, edge)[:, None]
    below = np.linspace(0, 1, height - edge)[:, None]
    rows = np.concatenate(
        [sky_top + (sky_low - sky_top) * down, ground_top + (ground_low - ground_top) * below]
    )
    pixels = np.repeat(np.rint(rows).astype(np.uint8)[:, None, :], width, axis=1)
    return Image.fromarray(np.ascontiguousarray(pixels), "RGB")


def _stars(draw: ImageDraw.ImageDraw, width: int, height: int) -> None:
    # A fixed scatter (steps by two unrelated irrationals): stars are decor, no caption counts them.
    for n in range(24):
        x, y = (n * 0.7548777) % 1 * width, (n * 0.5698403) % 1 * height * 0.55
        r = (1.2 + n % 3) * height / 500
        draw.ellipse([x - r, y - r, x + r, y + r], fill=(240, 240, 220))


def _waves(draw: ImageDraw.ImageDraw, width: int, height: int) -> None:
    for row in range(3):
        y, step = height * (0.9 + 0.035 * row), width / 9
        for n in range(-1, 10):
            x = (n + 0.5 * (row % 2)) * step
            draw.arc(
                [x, y, x + step, y + height * 0.04],
                200,
                340,
                fill=(150, 200, 236),
                width=max(2, height // 120),
            )
