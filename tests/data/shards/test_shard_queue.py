from evclip_ray.data.shards.shard_queue import ShardQueue


def test_restarted_task_receives_the_same_shards():
    queue = ShardQueue([b"long", b"middle", b"short"])
    assert [queue.take(0, 0), queue.take(1, 0), queue.take(0, 1)] == [b"long", b"middle", b"short"]
    assert queue.take(1, 1) is None
    assert [queue.take(0, index) for index in range(3)] == [b"long", b"short", None]
