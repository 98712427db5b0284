"""Tables: numbers stand on the right, and what people wrote is text."""

import pytest

from vicuna.page import bars, columns, table


@pytest.mark.parametrize("cells", [[1, 2.5], ["1,200", "−3.5"], ["12.5%", "100%"], ["", 3], ["–", "0.5"]])
def test_columns_of_numbers_stand_on_the_right(cells):
    assert table(["x"], [[cell] for cell in cells]).count('class="number"') == len(cells) + 1


@pytest.mark.parametrize("cells", [["1 s", "2 s"], ["nan"], ["1e5x"], [True], ["", "–"], ["s"], ["%"], ["3", "three"]])
def test_other_columns_stand_on_the_left(cells):
    assert 'class="number"' not in table(["x"], [[cell] for cell in cells])


def test_cells_are_escaped():
    assert "&lt;b&gt;" in table(["<b>"], [["<b>"]])


def test_bars_are_as_long_as_their_values_and_a_table_says_the_same():
    drawn = bars(("language", "n"), [("<en>", 30), ("de", 15), ("fr", 0)], [30, 15, 0], ["#111", "#222", "#333"])
    assert "&lt;en&gt;" in drawn
    assert [drawn.count(f"width:{size}%") for size in ("100.0", "50.0", "0.0")] == [1, 1, 1]
    assert bars(("a", "n"), [], []).count("<tr>") == 1


def test_a_histogram_has_a_column_for_each_bin_and_says_its_ends():
    drawn = columns([0, 5, 10, 2], 0, 400, "tokens <x>", "samples")
    assert drawn.count("<rect") == 4
    assert "<title>100-200: 5</title>" in drawn
    assert "tokens &lt;x&gt;" in drawn
    assert "<rect" not in columns([], 0, 1, "a", "b")
