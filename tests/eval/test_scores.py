"""Outcomes of matches: both orders, flips, and what cannot be scored."""

import pytest

from vicuna.eval.scores import Verdict, accuracy, by_scores, matches, summarise


def verdict(question, first, second, scores, category="general"):
    return Verdict(question, category, first, second, scores, by_scores(scores), "first line", "text")


def both(question, scores_ab, scores_ba, category="general"):
    return [verdict(question, "a", "b", scores_ab, category), verdict(question, "b", "a", scores_ba, category)]


@pytest.mark.parametrize(
    ("shown_first", "shown_second", "outcome", "flipped"),
    [
        ((9, 5), (5, 9), "win", False),
        ((5, 9), (9, 5), "loss", False),
        ((7, 7), (7, 7), "tie", False),
        ((9, 5), (9, 5), "tie", True),  # whoever is first wins: the judge followed the place
        ((9, 5), (7, 7), "tie", True),
        ((9, 5), None, "unscored", False),
        (None, None, "unscored", False),
    ],
)
def test_a_match_is_won_only_if_both_orders_agree(shown_first, shown_second, outcome, flipped):
    (game,) = matches(both("q", shown_first, shown_second), "a", "b")
    assert (game.outcome, game.flipped) == (outcome, flipped)


def test_seen_from_the_other_side_a_win_is_a_loss():
    verdicts = both("q", (9, 5), (5, 9))
    assert matches(verdicts, "b", "a")[0].outcome == "loss"


def test_the_summary_counts_every_match_once_and_hides_none():
    verdicts = [
        *both("1", (9, 5), (5, 8), "x"), *both("2", (9, 5), (9, 5), "x"), *both("3", (2, 6), (7, 3), "y"),
        *both("4", None, (5, 9), "y"),
    ]  # fmt: skip
    pair = summarise(matches(verdicts, "a", "b"), "judge", 500, 0)
    overall = pair.overall
    assert (overall.win, overall.tie, overall.loss, overall.unscored) == (1, 1, 1, 1)
    assert overall.win_rate.value == 0.5
    assert overall.win_rate.n == 3
    assert (pair.flips, pair.both_orders, pair.unscored_share) == (1, 3, 0.25)
    assert pair.worst_case == (1.5 / 4, 2.5 / 4)
    assert pair.totals == (8.5 + 7 + 2.5, 5 + 7 + 6.5)
    assert sum(each.scored + each.unscored for each in pair.categories.values()) == 4
    assert (pair.first_wins, pair.second_wins) == (3 + 1, 3)


def test_a_judge_that_likes_length_shows_in_the_correlation():
    games = matches([each for n in range(6) for each in both(str(n), (5 + n % 2, 5), (5, 5 + n % 2))], "a", "b")
    lengths = {("a", str(n)): 100 + 50 * (n % 2) for n in range(6)} | {("b", str(n)): 100 for n in range(6)}
    assert summarise(games, "judge", 200, 0, lengths).length_correlation == pytest.approx(1)


def test_nothing_readable_gives_no_win_rate_rather_than_zero():
    pair = summarise(matches(both("1", None, None), "a", "b"), "judge", 500, 0)
    assert pair.overall.win_rate is None
    assert pair.totals is None


def test_one_order_alone_is_scored_but_is_no_flip_evidence():
    pair = summarise(matches([verdict("1", "b", "a", (3, 9))], "a", "b"), "judge", 500, 0)
    assert (pair.overall.win, pair.flip_rate) == (1, None)


def test_accuracy_is_a_share_with_wilson_interval_by_category():
    overall, parts = accuracy([("x", True), ("x", False), ("y", True)])
    assert overall.value == pytest.approx(2 / 3)
    assert parts["x"].value == 0.5
    assert (overall.method, overall.n) == ("wilson", 3)
