"""Transfers that share a simulated link."""

import pytest
import simpy
from simulation.link import Link


def ends(transfers, *, total, each):
    """Return the end time of each transfer (start, bytes), and the link."""
    env = simpy.Environment()
    link, found = Link(env, total=total, each=each), {}

    def one(number, start, num_bytes):
        yield env.timeout(start)
        yield link.transfer(num_bytes)
        found[number] = env.now

    for number, (start, num_bytes) in enumerate(transfers):
        env.process(one(number, start, num_bytes))
    env.run()
    return [found[number] for number in range(len(transfers))], link


def test_single_transfer_runs_at_its_own_limit():
    assert ends([(0, 100)], total=50, each=10)[0] == pytest.approx([10])


def test_transfers_share_the_total_equally():
    # Both run at 5 bytes/s. The shorter ends at 10 s, then the other runs at 10 bytes/s.
    assert ends([(0, 50), (0, 100)], total=10, each=10)[0] == pytest.approx([10, 15])


def test_later_transfer_slows_an_earlier_one():
    assert ends([(0, 100), (5, 25)], total=10, each=10)[0] == pytest.approx([12.5, 10])


def test_link_counts_bytes_and_busy_time():
    _, link = ends([(0, 100), (30, 100)], total=40, each=10)
    assert link.num_bytes == 200
    assert link.busy_seconds == pytest.approx(200 / 40)


def test_empty_transfer_takes_no_time():
    assert ends([(3, 0)], total=1, each=1)[0] == [3]


def test_many_transfers_end_in_order_despite_rounding():
    sizes = [0.1 * number for number in range(1, 500)]
    found, link = ends([(0, size) for size in sizes], total=7e9, each=7e9)
    assert found == sorted(found)
    assert found[-1] == pytest.approx(sum(sizes) / 7e9, rel=1e-6)
    assert link.num_bytes == pytest.approx(sum(sizes))
