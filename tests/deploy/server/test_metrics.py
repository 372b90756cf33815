from evclip_ray.deploy.server import metrics
from evclip_ray.deploy.server.metrics import Metrics, MetricsBoard


def test_board_adds_the_replicas_up(monkeypatch):
    first, second, board = Metrics(), Metrics(), MetricsBoard()
    first.requests.labels("200").inc(2)
    second.requests.labels("200").inc(3)
    second.requests.labels("413").inc()
    first.batch_views.observe(4)
    second.batch_views.observe(1)
    first.running.set(2)
    second.running.set(5)
    board.update("first", first.families())
    board.update("first", first.families())
    board.update("second", second.families())
    text = board.render().decode()
    assert 'evclip_ray_requests_total{status="200"} 5.0' in text
    assert 'evclip_ray_requests_total{status="413"} 1.0' in text
    assert 'evclip_ray_batch_views_bucket{le="1.0"} 1.0' in text
    assert "evclip_ray_batch_views_sum 5.0" in text
    assert "evclip_ray_requests_running 7.0" in text
    # Counts of replicas that ended stay, and their gauges do not.
    now = metrics.time.monotonic()
    monkeypatch.setattr(metrics.time, "monotonic", lambda: now + 60)
    board.update("second", second.families())
    text = board.render().decode()
    assert 'evclip_ray_requests_total{status="200"} 5.0' in text
    assert "evclip_ray_requests_running 5.0" in text
