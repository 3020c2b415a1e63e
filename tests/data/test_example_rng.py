"""The random numbers of an example, however they come about."""

import threading

from unified_fm.data import order


def test_one_generator_gives_what_a_new_one_would():
    shared = order.ExampleRng()
    for numbers in ((1, 2, 3, 0), (1, 2, 4, 0), (2**40, 0, 7, -3), (1, 2, 3, 0)):
        new, same = order.example_rng(*numbers), shared(*numbers)
        assert new.random(3).tolist() == same.random(3).tolist()
        assert new.integers(2**31) == same.integers(2**31)  # leaves half a word behind
        assert new.permutation(9).tolist() == same.permutation(9).tolist()


def test_threads_do_not_draw_from_each_other():
    shared, found = order.ExampleRng(), []

    def draw(index):
        rng = shared(0, 0, index)
        barrier.wait()
        found.append((index, rng.random()))

    barrier = threading.Barrier(2)
    threads = [threading.Thread(target=draw, args=(index,)) for index in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert dict(found) == {index: order.example_rng(0, 0, index).random() for index in (0, 1)}
