"""Tables: numbers stand on the right, and what people wrote is text."""

import pytest

from vicuna.page import table


@pytest.mark.parametrize("cells", [[1, 2.5], ["1,200", "−3.5"], ["12.5%", "100%"], ["", 3], ["–", "0.5"]])
def test_columns_of_numbers_stand_on_the_right(cells):
    assert table(["x"], [[cell] for cell in cells]).count('class="number"') == len(cells) + 1


@pytest.mark.parametrize("cells", [["1 s", "2 s"], ["nan"], ["1e5x"], [True], ["", "–"], ["s"], ["%"], ["3", "three"]])
def test_other_columns_stand_on_the_left(cells):
    assert 'class="number"' not in table(["x"], [[cell] for cell in cells])


def test_cells_are_escaped():
    assert "&lt;b&gt;" in table(["<b>"], [["<b>"]])
