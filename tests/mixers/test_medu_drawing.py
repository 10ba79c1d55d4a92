"""Drawing by hashed ids."""

from hypothesis import given
from hypothesis import strategies as st

from mixloom.mixers.medu_drawing import Smallest, draw_key

ROWS = st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 40)), max_size=60)


@given(ROWS, st.integers(1, 9), st.randoms(use_true_random=False))
def test_the_smallest_keys_of_every_group_stay_in_order_whatever_came_first(rows, most, chance):
    distinct = {(g, f"{g}{n}") for g, n in rows}
    wanted = {
        g: sorted((draw_key(i, 7), i) for h, i in distinct if h == g)[:most] for g in {g for g, _ in distinct}
    }
    shuffled = [(g, f"{g}{n}") for g, n in rows]
    chance.shuffle(shuffled)
    held = Smallest(most)
    for group, doc_id in shuffled:
        key = draw_key(doc_id, 7)
        if key <= held.limit(group):  # what it has no room for need not be added
            held.add(group, key, doc_id, (key, doc_id))
    assert held.groups() == wanted
    assert list(held.groups()) == sorted(wanted)


def test_keys_depend_on_id_and_seed():
    assert draw_key("a", 0) == draw_key("a", 0)
    assert len({draw_key("a", 0), draw_key("a", 1), draw_key("b", 0)}) == 3
    assert 0 <= draw_key("a", 0) < 1 << 64
