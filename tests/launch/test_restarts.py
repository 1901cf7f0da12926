"""How often and how soon something is started again."""

from launch import restarts
from launch.restarts import Restarts


def test_delay_doubles_while_ends_are_early_up_to_the_limit():
    budget = Restarts(8)
    assert [budget.next_delay() for _ in range(9)] == [1, 2, 4, 8, 16, 30, 30, 30, None]
    assert str(budget) == "restart 8 of 8"


def test_a_healthy_life_begins_anew_but_counts(monkeypatch):
    budget = Restarts(5)
    assert [budget.next_delay(), budget.next_delay()] == [1, 2]
    monkeypatch.setattr(restarts, "_HEALTHY_AFTER", -60)
    assert budget.next_delay() == 1
    assert str(budget) == "restart 3 of 5"


def test_none_may_be_allowed():
    assert Restarts(0).next_delay() is None
