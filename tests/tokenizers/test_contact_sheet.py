import numpy as np
import pytest
from PIL import Image

from mixloom.tokenizers.contact_sheet import contact_sheet, write_sheet


def colours(*values: int) -> np.ndarray:
    return np.stack([np.full((64, 64, 3), v, np.uint8) for v in values])


def test_each_picture_stands_left_of_what_was_drawn_of_it():
    sheet = np.asarray(contact_sheet(colours(10, 20, 30), colours(110, 120, 130), pairs=2))
    cells = [[int(sheet[top, left].mean()) for left in (60, 200, 325, 460)] for top in (60, 200)]
    assert cells == [[10, 110, 20, 120], [30, 130, 255, 255]]


def test_small_pictures_are_enlarged_by_a_whole_number_and_large_ones_left():
    assert contact_sheet(colours(1), colours(2)).size == (4 + 2 * 128 + 2 + 4, 4 + 128 + 4)
    large = np.zeros((1, 200, 200, 3), np.uint8)
    assert contact_sheet(large, large).size == (410, 208)


def test_pictures_that_do_not_pair_up_are_refused():
    with pytest.raises(ValueError, match="expected as many"):
        contact_sheet(colours(1, 2), colours(1))
    with pytest.raises(ValueError, match="expected as many"):
        contact_sheet(colours(1)[:0], colours(1)[:0])


def test_a_written_sheet_is_the_same_png_every_time(tmp_path):
    for name in ("a.png", "b.png"):
        write_sheet(tmp_path / name, colours(*range(50)), colours(*range(50)))
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    with Image.open(tmp_path / "a.png") as sheet:
        assert sheet.size[1] < 6 * 140, "36 pairs at most"
