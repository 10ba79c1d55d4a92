"""Illustrated pages: short walks through a few scenes, text and pictures in reading order.

A page is a list of blocks; `markdown` and `html` write the same blocks in either format.
"""

from __future__ import annotations

import html as escapes
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mixloom.pipeline.demo.scenes import NUMBERS, Scene, caption, description

_WHO = (
    "Ada",
    "Ben",
    "Clara",
    "Dmitri",
    "Elena",
    "Farid",
    "Grace",
    "Hugo",
    "Ines",
    "Jonas",
    "Kofi",
    "Lena",
    "Mei",
    "Noor",
)
_KIN = ("sister", "brother", "grandmother", "neighbour", "teacher", "cousin", "uncle", "best friend")
_WHEN = ("On Monday morning", "After lunch", "One rainy day", "Late in the evening", "Before school", "Last summer",
         "During the holidays", "At the weekend", "Early in spring", "On the first day of the year")  # fmt: skip
_TOOL = ("soft pencils", "a box of crayons", "water colours", "coloured paper and glue", "a thick brush", "felt pens",
         "chalk", "a borrowed paint set")  # fmt: skip
_PLACE = ("at the kitchen table", "in the garden shed", "on the floor of the hall", "by the open window",
          "in the back of the library", "on a bench in the park", "under the old stairs")  # fmt: skip
_LOOK = ("Look at it for a while before you go on.", "Count the colours, then close your eyes and name them.",
         "Which part would you paint first?", "Turn the page upside down and look again.",
         "Notice how much room is left around it.", "The shadows were left out on purpose.",
         "It took three tries to get the edges straight.", "Cover one half with your hand and see what changes.",
         "Try to say what you see without pointing.", "Somebody asked whether it should have been bigger.")  # fmt: skip
_OPINION = ("said that it was the best one so far", "wanted more colour in it", "laughed and asked for a copy",
            "thought that it looked like home", "would have put everything closer together",
            "asked why nobody was in it", "hung it on the door of the fridge", "kept it in a drawer for years")  # fmt: skip
_LEAD = ("The picture shows", "Here you can see", "It began with", "Next came", "Then there was", "On this sheet is",
         "The one below has", "What you find here is")  # fmt: skip
_END = ("That was all for the day.", "The rest of the paper stayed white.", "Everything was dry by the evening.",
        "Nobody could say which one was the finest.", "The box was put away until the next time.",
        "Now it is your turn to make one.")  # fmt: skip


@dataclass(frozen=True, slots=True)
class Paragraph:
    text: str


@dataclass(frozen=True, slots=True)
class Picture:
    """A scene, the file it lies in (relative to the page) and its alt text."""

    scene: Scene
    file: str
    alt: str


@dataclass(frozen=True, slots=True)
class Guide:
    """A page: its title and its blocks in reading order."""

    title: str
    blocks: tuple[Paragraph | Picture, ...]

    @property
    def text(self) -> str:
        """Title and paragraphs, one per line."""
        return "\n".join([self.title, *(b.text for b in self.blocks if isinstance(b, Paragraph))])


def compose(scenes: Sequence[Scene], files: Sequence[str], rng: np.random.Generator) -> Guide:
    """A page about 2 to 4 scenes, whose pictures lie in `files`."""

    def pick(options: Sequence[str]) -> str:
        return options[int(rng.integers(len(options)))]

    who, kin = pick(_WHO), pick(_KIN)
    count = NUMBERS[len(scenes)]
    things = [s.things[0] for s in scenes]
    title = pick(
        (
            f"{count.capitalize()} pictures by {who}",
            f"How {who} drew {things[0].named()}",
            f"From {things[0].named()} to {things[-1].named()}",
            f"{who} and {things[-1].named()}",
        )
    )
    blocks: list[Paragraph | Picture] = [
        Paragraph(
            f"{pick(_WHEN)} {who} sat down {pick(_PLACE)} with {pick(_TOOL)} and made {count} pictures. "
            f"{'An' if kin[0] in 'aeiou' else 'A'} {kin} {pick(_OPINION)}."
        )
    ]
    for scene, file in zip(scenes, files, strict=True):
        said = Paragraph(
            f"{pick(_LEAD)} {description(scene, rng)}. {pick(_LOOK)} {pick((who, f'The {kin}'))} {pick(_OPINION)}."
        )
        shown = Picture(scene, file, caption(scene, rng))
        blocks += [said, shown] if rng.random() < 0.6 else [shown, said]
    blocks.append(
        Paragraph(f"{pick(_END)} {pick(_WHEN)} {who} will go on {pick(_PLACE)}, with {pick(_TOOL)}.")
    )
    return Guide(title, tuple(blocks))


def markdown(guide: Guide) -> str:
    """The page as Markdown, pictures as `![alt](file)` on lines of their own."""
    parts = [f"# {guide.title}"]
    parts += [b.text if isinstance(b, Paragraph) else f"![{b.alt}]({b.file})" for b in guide.blocks]
    return "\n\n".join(parts) + "\n"


def html(guide: Guide) -> str:
    """The page as an HTML document, pictures as figures."""
    title = escapes.escape(guide.title)
    lines = [
        "<!DOCTYPE html>",
        '<html lang="en">',
        f'<head><meta charset="utf-8"><title>{title}</title></head>',
        "<body>",
    ]
    lines.append(f"<h1>{title}</h1>")
    for b in guide.blocks:
        if isinstance(b, Paragraph):
            lines.append(f"<p>{escapes.escape(b.text)}</p>")
        else:
            lines.append(
                f'<figure><img src="{escapes.escape(b.file)}" alt="{escapes.escape(b.alt)}"></figure>'
            )
    return "\n".join([*lines, "</body>", "</html>"]) + "\n"
