"""Time and requests for the record of videos in an object storage, against a local server of S3's protocol.

The rows of a list are recorded and compared with the record, as `tune` does at its start and when it is
resumed. Requests are counted, and the CPU time of the client is printed next to the wall time.

The server is a process of its own. It finds the keys of a listing by bisection in a sorted list and returns
pages of up to 1,000 keys, so that a listing costs what its page costs, as in a real storage. (moto, which the
tests use, goes through all keys of the bucket in each listing.) A constant delay for each request stands for
the network and the storage. Different requests wait at the same time.

The layouts are 700 class folders, a folder for each video, and one flat folder.

Needs s3fs. Run: python benchmarks/manifest.py --objects classes [--rows 650000] [--delays 0 50 100]
"""

import bisect
import collections
import hashlib
import itertools
import multiprocessing
import os
import resource
import threading
import time
import urllib.parse
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing.connection import Connection
from xml.sax.saxutils import escape

import pyarrow as pa
from fsspec.core import url_to_fs

from evclip_ray.data.manifest.manifest import Manifest
from evclip_ray.data.manifest.row_record import RowRecord

CLASSES = 700
BUCKET = "videos"
PAGE = 1000
"""Most keys of one listing, as in S3."""
LAYOUTS = {
    "classes": lambda row: f"class {row % CLASSES}/v{row:010d}.mp4",
    "videos": lambda row: f"class {row % CLASSES}/v{row:010d}/clip.mp4",
    "flat": lambda row: f"v{row:010d}.mp4",
}


class Server(ThreadingHTTPServer):
    """Read-only storage of small objects, each with its key as content."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, keys: Sequence[str]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.keys = sorted(keys)
        self.delay = 0.0

    def page(self, prefix: str, delimiter: str, after: str) -> tuple[list[str], list[str], str | None]:
        """Return the keys and common prefixes of a page, and the start of the next one, None at the end."""
        keys: list[str] = []
        common: list[str] = []
        position = max(bisect.bisect_left(self.keys, prefix), bisect.bisect_right(self.keys, after))
        while position < len(self.keys) and (key := self.keys[position]).startswith(prefix):
            if len(keys) + len(common) == PAGE:
                return keys, common, max(keys[-1:] + [each + "\U0010ffff" for each in common[-1:]])
            end = key.find(delimiter, len(prefix)) + 1 if delimiter else 0
            if end:
                common.append(key[:end])
                # The next key that does not begin with this prefix.
                position = bisect.bisect_left(self.keys, key[:end] + "\U0010ffff", position)
            else:
                keys.append(key)
                position += 1
        return keys, common, None


class Handler(BaseHTTPRequestHandler):
    """ListObjectsV2, HeadObject and GetObject with a range."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Server

    def do_HEAD(self) -> None:
        """Reply with the metadata of an object."""
        self._object()

    def do_GET(self) -> None:
        """Reply with a listing or an object."""
        url = urllib.parse.urlsplit(self.path)
        query = {name: values[0] for name, values in urllib.parse.parse_qs(url.query).items()}
        if "list-type" in query:
            self._listing(query)
        else:
            self._object()

    def _listing(self, query: dict[str, str]) -> None:
        keys, common, after = self.server.page(
            query.get("prefix", ""), query.get("delimiter", ""), query.get("continuation-token", "")
        )
        coded = urllib.parse.quote if query.get("encoding-type") == "url" else escape
        parts = [
            '<?xml version="1.0"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">',
            f"<IsTruncated>{str(after is not None).lower()}</IsTruncated>",
            "<EncodingType>url</EncodingType>" if "encoding-type" in query else "",
            f"<NextContinuationToken>{escape(after)}</NextContinuationToken>" if after else "",
        ]
        parts += [
            f"<Contents><Key>{coded(key)}</Key><LastModified>2026-11-01T00:00:00.000Z</LastModified>"
            f"<ETag>&quot;{tag(key)}&quot;</ETag><Size>{len(key)}</Size>"
            "<StorageClass>STANDARD</StorageClass></Contents>"
            for key in keys
        ]
        parts += [f"<CommonPrefixes><Prefix>{coded(each)}</Prefix></CommonPrefixes>" for each in common]
        parts.append("</ListBucketResult>")
        self._reply(200, "".join(parts).encode(), {"Content-Type": "application/xml"})

    def _object(self) -> None:
        key = urllib.parse.unquote(urllib.parse.urlsplit(self.path).path).removeprefix(f"/{BUCKET}/")
        position = bisect.bisect_left(self.server.keys, key)
        if self.server.keys[position : position + 1] != [key]:
            self._reply(404, b"", {})
            return
        body, status = key.encode(), 200
        headers = {"ETag": f'"{tag(key)}"', "Last-Modified": "Sun, 01 Nov 2026 00:00:00 GMT"}
        if span := self.headers.get("Range"):
            first, _, last = span.removeprefix("bytes=").partition("-")
            headers["Content-Range"] = f"bytes {first}-{last}/{len(body)}"
            body, status = body[int(first) : int(last) + 1 if last else None], 206
        self._reply(status, body, headers)

    def _reply(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        time.sleep(self.server.delay)
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Print nothing."""


def tag(key: str) -> str:
    """Return a version tag of the form that S3 uses."""
    return hashlib.md5(key.encode(), usedforsecurity=False).hexdigest()


def serve(rows: int, layout: str, control: Connection) -> None:
    """Serve `rows` objects. Send the port, then receive delays in seconds until None, and the CPU time."""
    server = Server([f"set/{LAYOUTS[layout](row)}" for row in range(rows)])
    threading.Thread(target=server.serve_forever, daemon=True).start()
    control.send(server.server_address[1])
    while (delay := control.recv()) is not None:
        server.delay = delay
        control.send(time.process_time())


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


def measure(rows: int, layout: str, delays: Sequence[float]) -> None:
    """Record and compare the rows of `rows` objects, and print times and requests.

    Args:
        rows: Number of objects.
        layout: One of `LAYOUTS`.
        delays: Delays of each request in ms, one after the other.
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    server = context.Process(target=serve, args=(rows, layout, theirs), daemon=True)
    server.start()
    os.environ |= {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{ours.recv()}",
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
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
    print(f"{rows:,} rows, layout {layout}: delay, step | wall | CPU of client | of server | requests")
    record = None
    for delay, step in itertools.product(delays, ("record", "compare")):
        ours.send(delay / 1000)
        served = ours.recv()
        counts.clear()
        wall, cpu = time.perf_counter(), time.process_time()
        new = RowRecord.of(manifest, used, known=record if step == "compare" else None)
        assert record is None or not record.difference(new)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        ours.send(delay / 1000)
        served = ours.recv() - served
        contents = new.table["content"].to_pylist()
        assert all(content is not None and content.startswith("version:") for content in contents)
        requests = ", ".join(f"{number:,} {kind}" for kind, number in sorted(counts.items()))
        print(
            f"{delay:g} ms {step:<8} | {wall:.1f} s | {cpu:.1f} s | {served:.1f} s | {requests}", flush=True
        )
        record = new
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"peak memory of the client: {peak:.2f} GB")
    ours.send(None)
    server.join()
