import heapq

import numpy as np

from evclip_ray.data.shards.planning import count_tasks, cut, decoding_work

ROW = dict.fromkeys(["start_seconds", "end_seconds", "start_frame", "end_frame", "bytes"])


def relative_run_time(work, processes):
    """Return the run time with greedy processes, relative to the smallest possible one."""
    busy = [0.0] * processes
    for part in work:
        heapq.heappush(busy, heapq.heappop(busy) + part)
    return max(busy) * processes / sum(work)


def test_work_follows_the_part_or_the_file_size():
    long = decoding_work(ROW | {"bytes": 40_000_000}, sampled_frames=8)
    assert long == 10_008
    assert decoding_work(ROW | {"bytes": 40_000_000, "start_seconds": 60.0}, sampled_frames=8) == 8_208
    part = ROW | {"bytes": 40_000_000, "start_seconds": 3.0, "end_seconds": 5.0}
    assert decoding_work(part, sampled_frames=8) == 68
    assert decoding_work(ROW | {"start_frame": 10, "end_frame": 40}, sampled_frames=8) == 38
    assert decoding_work(ROW, sampled_frames=8) == 9


def test_cut_keeps_the_order_and_the_row_limit():
    work = np.random.default_rng(0).lognormal(6, 2, 1000)
    parts = cut(work, max_rows=42)
    assert [row for part in parts for row in range(1000)[part]] == list(range(1000))
    assert max(part.stop - part.start for part in parts) <= 42


def test_shards_of_skewed_videos_are_balanced_by_frames():
    """A tenth of the videos lasts ten minutes and comes last; the others last ten seconds."""
    work = np.array([300.0] * 900 + [18_000.0] * 100)
    by_count = [work[start : start + 42].sum() for start in range(0, len(work), 42)]
    balanced = [work[part].sum() for part in cut(work, max_rows=42)]
    assert max(by_count) / np.mean(by_count) > 8
    assert max(balanced) / np.mean(balanced) < 1.5
    assert relative_run_time(by_count, 16) > 4.5
    assert relative_run_time(sorted(balanced, reverse=True), 16) < 1.05


def test_edited_video_moves_no_other_shard():
    work = [1000.0] * 100
    edited = [90_000.0, *work[1:]]
    before, after = (cut(videos, max_rows=10) for videos in (work, edited))
    assert before[1:] == [part for part in after if part.start >= 10]


def test_task_count_depends_on_work_and_processes():
    assert count_tasks([20_000.0] * 15_000, processes=16) == 15_000 // 8 + 16
    assert count_tasks([1e6, 1e6, 1e3, 1e3], processes=2) == 4, "no more tasks than shards"
    assert count_tasks([7_000.0] * 12, processes=2) == 3
