"""Time and requests for the record of videos in an object storage, against a local server of S3's protocol.

A server (moto, in a process of its own) is filled with tiny objects. The rows of their list are recorded
and compared with the record, as `tune` does at its start and when it is resumed. Requests are counted, and
the CPU time of the client is printed next to the wall time. moto goes through all keys in each listing, so
most of the wall time is the server's. A real S3 takes about 0.1 s for a listing of 1,000 objects.

The layouts are 700 class folders, a folder for each video, and one flat folder.

Needs moto[server] and s3fs. Run: python benchmarks/manifest.py --objects classes [--rows 650000]
"""

import collections
import logging
import multiprocessing
import os
import resource
import time
from multiprocessing.connection import Connection

import fsspec
import pyarrow as pa
from fsspec.core import url_to_fs

from evclip_ray.data.manifest.manifest import Manifest
from evclip_ray.data.manifest.row_record import RowRecord

CLASSES = 700
BUCKET = "videos"
LAYOUTS = {
    "classes": lambda row: f"class {row % CLASSES}/v{row:010d}.mp4",
    "videos": lambda row: f"class {row % CLASSES}/v{row:010d}/clip.mp4",
    "flat": lambda row: f"v{row:010d}.mp4",
}


def serve(rows: int, layout: str, ready: Connection) -> None:
    """Start a server with `rows` objects and send its address."""
    from moto.core import DEFAULT_ACCOUNT_ID
    from moto.s3.models import s3_backends
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    storage = s3_backends[DEFAULT_ACCOUNT_ID]["aws"]
    storage.create_bucket(BUCKET, "us-east-1")
    # Objects of other sizes have other tags.
    for row in range(rows):
        storage.put_object(BUCKET, f"set/{LAYOUTS[layout](row)}", str(row).encode())
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    ready.send(server.get_host_and_port())
    ready.recv()


def counted_requests() -> collections.Counter[str]:
    """Return a counter of the requests of the storage's client, by kind."""
    counts: collections.Counter[str] = collections.Counter()

    def count(request, **_: object) -> None:
        kind = "listing" if "list-type=2" in request.url else "object"
        counts[f"{request.method} {kind}"] += 1

    # The same instance as in the package: fsspec keeps one for each set of arguments.
    system, _ = url_to_fs(f"s3://{BUCKET}/set", use_listings_cache=False)
    system.connect()
    system.s3.meta.events.register("before-send.s3", count)
    return counts


def measure(rows: int, layout: str) -> None:
    """Record and compare the rows of `rows` objects, and print times and requests."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    server = context.Process(target=serve, args=(rows, layout, theirs), daemon=True)
    server.start()
    host, port = ours.recv()
    os.environ |= {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    # One page of a large flat folder takes moto more than the client's usual limit.
    fsspec.config.conf["s3"] = {"config_kwargs": {"read_timeout": 600}}
    counts = counted_requests()
    table = pa.table(
        {
            "path": [LAYOUTS[layout](row) for row in range(rows)],
            "label": [f"class {row % CLASSES}" for row in range(rows)],
            "split": ["val" if row // CLASSES % 20 == 0 else "train" for row in range(rows)],
        }
    )
    manifest = Manifest(table, f"s3://{BUCKET}/set", "benchmark")
    used = {split: manifest.in_split(split) for split in ("train", "val")}
    record = None
    for step in ("record rows", "compare rows"):
        counts.clear()
        wall, cpu = time.perf_counter(), time.process_time()
        new = RowRecord.of(manifest, used, known=record)
        assert record is None or not record.difference(new)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        contents = new.table["content"].to_pylist()
        assert all(content is not None and content.startswith("version:") for content in contents)
        requests = ", ".join(f"{number:,} {kind}" for kind, number in sorted(counts.items()))
        print(f"{step:<14} {rows:,} rows: {wall:6.1f} s, client's CPU {cpu:5.1f} s; requests: {requests}")
        record = new
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"peak memory of the client: {peak:.2f} GB")
    ours.send(None)
    server.join()
