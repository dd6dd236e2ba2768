from preparation.tags import fit_tags, to_slots

TAGS = [["b", "a"], ["b", "c"], ["b", "a"], ["d"], []]


def test_the_most_frequent_tags_are_kept_ties_in_order_of_the_alphabet() -> None:
    """Numbered from 1."""
    assert fit_tags(TAGS, 3) == ["b", "a", "c"]


def test_an_earlier_vocabulary_keeps_its_numbers_and_grows() -> None:
    """Until it is full."""
    assert fit_tags(TAGS, 4, ["z", "c"]) == ["z", "c", "b", "a"]
    assert fit_tags(TAGS, 2, ["z", "c", "y"]) == ["z", "c", "y"]


def test_slots_hold_an_item_s_first_known_tags() -> None:
    """Unknown ones are left out, further ones too."""
    assert to_slots([["x", "b", "a", "c"], [], ["c"]], ["a", "b", "c"], 2).tolist() == [[2, 1], [0, 0], [3, 0]]
