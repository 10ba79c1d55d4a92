from __future__ import annotations

import re
from collections import Counter

import numpy as np
import pytest

from mixloom.pipeline.demo import things
from mixloom.pipeline.demo.drawing import draw_scene
from mixloom.pipeline.demo.guides import Picture, compose, html, markdown
from mixloom.pipeline.demo.scenes import Scene, Thing, caption, moved, relation, sample_scene, spoken


def _rng(seed: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(seed))


def _scenes(n: int) -> list[Scene]:
    rng = _rng(0)
    return [sample_scene(rng) for _ in range(n)]


RELATION = re.compile(
    r"an? (?P<a>[a-z ]+?) (?:to the )?(?P<how>left of|right of|above|below) an? (?P<b>[a-z ]+?)"
    r"(?= (?:on|in|at|under|with)\b|,|$)"
)


def test_every_relation_in_a_caption_holds_in_the_scene():
    rng, seen = _rng(1), Counter()
    for scene in _scenes(600):
        for match in RELATION.finditer(caption(scene, rng).removeprefix("a picture of ")):
            named = {t.named(article=False): t for t in scene.things}
            if match["a"] == match["b"]:
                continue
            a, b = named[match["a"]], named[match["b"]]
            dx, dy = (b.x - a.x) * scene.width, (b.y - a.y) * scene.height
            holds = {"left of": dx > 0, "right of": dx < 0, "above": dy > 0, "below": dy < 0}
            assert holds[match["how"]], (scene, match.group())
            seen[match["how"]] += 1
    assert min(seen[h] for h in ("left of", "right of", "above", "below")) >= 20


def test_every_thing_is_named_in_the_caption_and_nothing_else_is():
    rng = _rng(2)
    kinds = sorted(things.DRAW, key=len, reverse=True)
    for scene in _scenes(400):
        text = caption(scene, rng)
        told = set(re.findall("|".join(kinds), text.replace("under the stars", "")))
        assert told == {t.kind for t in (*scene.things, *scene.sky)}, text


def test_things_have_their_colour_and_lie_inside_the_picture():
    for scene in _scenes(300):
        pixels = np.asarray(draw_scene(scene)).astype(int)
        assert pixels.shape == (scene.height, scene.width, 3)
        for thing in scene.things:
            r = thing.r * min(scene.width, scene.height)
            assert thing.x * scene.width - 0.9 * r >= 0
            assert thing.x * scene.width + 0.9 * r <= scene.width
            if thing.kind in ("circle", "square", "triangle", "star", "heart", "diamond", "cross"):
                shown = pixels[int(thing.y * scene.height), int(thing.x * scene.width)]
                assert np.abs(shown - things.PALETTE[thing.colour]).max() <= 8, thing


def test_plain_things_differ_from_their_ground():
    assert all(t.colour != s.colour for s in _scenes(300) for t in s.things if s.setting == "field")


def test_scenes_are_varied():
    scenes = _scenes(300)
    assert len({s.setting for s in scenes}) == 6
    assert len({t.kind for s in scenes for t in s.things}) >= 15
    assert len({(s.width, s.height) for s in scenes}) >= 8
    rng = _rng(3)
    assert len({caption(s, rng) for s in scenes}) >= 280


def test_drawing_the_same_scene_twice_gives_the_same_pixels():
    scene = _scenes(1)[0]
    assert draw_scene(scene).tobytes() == draw_scene(scene).tobytes()


def test_a_moved_scene_is_another_picture_of_which_the_caption_is_still_true():
    rng = _rng(4)
    for scene in _scenes(200):
        other = moved(scene, rng)
        assert draw_scene(other).tobytes() != draw_scene(scene).tobytes()
        for a, b, c, d in zip(scene.things, scene.things[1:], other.things, other.things[1:]):
            assert relation(a, b, scene.width, scene.height) == relation(c, d, scene.width, scene.height)


def test_relations_use_pixels_not_fractions():
    a, b = Thing("circle", "red", 0.3, 0.3, 0.1), Thing("square", "blue", 0.6, 0.7, 0.1)
    assert relation(a, b, 300, 100) == "left of"
    assert relation(a, b, 100, 300) == "above"
    assert relation(b, a, 100, 300) == "below"


def test_what_is_spoken_names_the_first_things():
    for scene in _scenes(200):
        text = spoken(scene, _rng(5))
        assert scene.things[0].colour in text
        assert scene.things[0].kind.split()[-1] in text


@pytest.mark.parametrize("write", [markdown, html])
def test_a_page_shows_its_pictures_in_reading_order(write):
    rng = _rng(6)
    files = [f"images/{n}.png" for n in range(4)]
    page = compose(_scenes(4), files, rng)
    text = write(page)
    places = [text.index(f) for f in files]
    assert places == sorted(places)
    pictures = [b for b in page.blocks if isinstance(b, Picture)]
    assert [p.file for p in pictures] == files
    assert all(p.alt in text for p in pictures)
    assert len(page.text.split()) >= 60


def test_html_pages_escape_what_they_quote():
    scene = _scenes(1)[0]
    page = compose([scene, scene], ['a"b.png', "<c>.png"], _rng(7))
    assert 'src="a&quot;b.png"' in html(page)
    assert "&lt;c&gt;.png" in html(page)
