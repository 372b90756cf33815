from evclip_ray.data.shards.shard_queue import ShardQueue


def test_a_queue_gives_each_shard_once_and_the_same_again_to_a_task_that_is_started_anew():
    queue = ShardQueue([b"long", b"middle", b"short"])
    assert [queue.take(0, 0), queue.take(1, 0), queue.take(0, 1)] == [b"long", b"middle", b"short"]
    assert queue.take(1, 1) is None
    assert [queue.take(0, place) for place in range(3)] == [b"long", b"short", None]
