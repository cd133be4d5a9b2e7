"""The drawing of the package's rooms."""

from benchmarks import drawing, rooms


def test_all_rooms_but_small_ones_are_drawn():
  texts = {text.get_text() for text in drawing.draw().axes[0].texts}
  assert texts == set(rooms.MAY_IMPORT) - drawing._LEFT_OUT


def test_arrows_lead_down_and_hold_none_that_follows_from_others():
  for room in set(rooms.MAY_IMPORT) - drawing._LEFT_OUT:
    near = drawing.arrows(room)
    assert all(drawing.level(other) < drawing.level(room) for other in near)
    assert not any(far in drawing.below(other) for far in near for other in near)
