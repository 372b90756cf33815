import heapq

import numpy as np

from evclip_ray.data.shards.planning import count_tasks, cut, decoding_work

ROW = dict.fromkeys(["start_seconds", "end_seconds", "start_frame", "end_frame", "bytes"])


def longest_wait(work, processes):
    """How long until all is done, where each process takes the next one, over the least there can be."""
    free = [0.0] * processes
    for part in work:
        heapq.heappush(free, heapq.heappop(free) + part)
    return max(free) * processes / sum(work)


def test_a_row_is_as_long_as_its_part_or_else_as_its_file():
    long = decoding_work(ROW | {"bytes": 40_000_000}, sampled_frames=8)
    assert long == 10_008
    assert decoding_work(ROW | {"bytes": 40_000_000, "start_seconds": 60.0}, sampled_frames=8) == 8_208
    part = ROW | {"bytes": 40_000_000, "start_seconds": 3.0, "end_seconds": 5.0}
    assert decoding_work(part, sampled_frames=8) == 68
    assert decoding_work(ROW | {"start_frame": 10, "end_frame": 40}, sampled_frames=8) == 38
    assert decoding_work(ROW, sampled_frames=8) == 9


def test_every_row_is_in_one_shard_in_order_and_none_has_too_many():
    work = np.random.default_rng(0).lognormal(6, 2, 1000)
    parts = cut(work, max_rows=42)
    assert [row for part in parts for row in range(1000)[part]] == list(range(1000))
    assert max(part.stop - part.start for part in parts) <= 42


def test_shards_of_a_skewed_set_are_balanced_by_frames():
    """A tenth of the videos lasts an hour, the others ten seconds; the long ones are last, as in a folder."""
    work = np.array([300.0] * 900 + [18_000.0] * 100)
    by_count = [work[start : start + 42].sum() for start in range(0, len(work), 42)]
    balanced = [work[part].sum() for part in cut(work, max_rows=42)]
    assert max(by_count) / np.mean(by_count) > 8
    assert max(balanced) / np.mean(balanced) < 1.5
    assert longest_wait(by_count, 16) > 4.5
    assert longest_wait(sorted(balanced, reverse=True), 16) < 1.05


def test_an_edited_video_moves_no_shard_of_other_rows():
    work = [1000.0] * 100
    edited = [90_000.0, *work[1:]]
    before, after = (cut(videos, max_rows=10) for videos in (work, edited))
    assert before[1:] == [part for part in after if part.start >= 10]


def test_tasks_are_few_and_enough_for_all_shards():
    assert count_tasks([20_000.0] * 15_000, processes=16) == 15_000 // 8 + 16
    assert count_tasks([1e6, 1e6, 1e3, 1e3], processes=2) == 4, "no more tasks than shards"
    assert count_tasks([7_000.0] * 12, processes=2) == 3
