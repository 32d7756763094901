"""Tests of cglo_jax/data/budget.py."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from cglo_jax.data.budget import Budget


def test_never_more_than_the_total_is_held():
    budget, lock, held, most = Budget(10), threading.Lock(), 0, 0

    def use(amount: int) -> None:
        nonlocal held, most
        with budget.take(amount):
            with lock:
                held += amount
                most = max(most, held)
            time.sleep(0.002)
            with lock:
                held -= amount

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(use, [4, 10, 1, 7, 3, 5, 5, 10, 2, 4] * 4))
    assert held == 0
    assert 7 < most <= 10  # several at once, but for the largest


def test_more_than_there_is_is_had_alone():
    budget, taken = Budget(3), threading.Event()

    def take_one() -> None:
        with budget.take(1):
            taken.set()

    with ThreadPoolExecutor(1) as pool:
        with budget.take(100):
            pool.submit(take_one)
            assert not taken.wait(0.05)
        assert taken.wait(10)


def test_an_error_gives_back_what_was_taken():
    budget = Budget(3)
    for _ in range(3):
        with pytest.raises(KeyError), budget.take(3):
            raise KeyError
    with budget.take(3):
        pass
