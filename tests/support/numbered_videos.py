"""Videos whose frames carry their numbers, and edits of their containers."""

import struct
from fractions import Fraction

import av
import numpy as np

WIDTH, HEIGHT = 64, 48


def picture(number, width=WIDTH, height=HEIGHT):
    """Return an RGB picture whose upper half shows `number` as 8 bars: bar b is white if bit b is 1."""
    rows, columns = np.mgrid[0:height, 0:width]
    image = np.stack([3 * columns + 5 * number, 4 * rows + 3 * number, 2 * (rows + columns)], axis=-1) % 256
    for bit in range(8):
        image[: height // 2, bit * width // 8 : (bit + 1) * width // 8] = 255 * (number >> bit & 1)
    return image.astype(np.uint8)


def number_of(frame):
    """Return the number that a frame shows."""
    height, width = frame.shape[:2]
    return sum((frame[height // 4, (2 * bit + 1) * width // 16].mean() > 128) << bit for bit in range(8))


def write_numbered(
    path,
    codec,
    *,
    numbers=range(60),
    options=None,
    pixels="yuv420p",
    container=None,
    size=(WIDTH, HEIGHT),
    pixel_aspect=None,
):
    """Write a video that shows `numbers` at 25 frames per second, and return its path."""
    with av.open(str(path), "w", format=container) as output:
        stream = output.add_stream(codec, rate=25)
        if pixel_aspect is not None:
            stream.codec_context.sample_aspect_ratio = Fraction(pixel_aspect)
        encode(output, stream, numbers=numbers, options=options, pixels=pixels, size=size)
    return path


def encode(output, stream, *, numbers, options=None, pixels="yuv420p", size=(WIDTH, HEIGHT)):
    """Write frames that show `numbers` to a stream."""
    (stream.width, stream.height), stream.pix_fmt, stream.options = size, pixels, options or {}
    for number in numbers:
        frame = av.VideoFrame.from_ndarray(picture(number, *size), format="rgb24")
        output.mux(stream.encode(frame.reformat(format=pixels)))
    output.mux(stream.encode())


def remux(source, target, change, *, options=None):
    """Copy the packets of a file to another container; `change` edits each packet."""
    with av.open(str(source)) as read, av.open(str(target), "w", options=options or {}) as written:
        stream = written.add_stream_from_template(read.streams.video[0])
        for packet in read.demux(read.streams.video[0]):
            if packet.dts is not None:
                packet.stream = stream
                change(packet)
                written.mux(packet)
    return target


def set_box(path, names, content):
    """Replace or add the box of an MP4 at the path `names`, such as ["moov", "trak", "edts"].

    The file must end with its `moov` box, so that no position of a sample changes.
    """
    data = bytearray(path.read_bytes())
    start, end, parents = 0, len(data), []
    for name in names:
        found = next((box for box in _boxes(data, start, end) if box[0] == name), None)
        if found is None:
            data[end:end] = struct.pack(">I4s", 8, name.encode())
            grown, found = 8, (name, end, 8)
        else:
            grown = 0
        for parent in parents:
            _grow(data, parent, grown)
        parents.append(found[1])
        start, end = found[1] + 8, found[1] + found[2]
    data[start:end] = content
    for parent in parents:
        _grow(data, parent, len(content) - (end - start))
    path.write_bytes(data)
    return path


def _boxes(data, start, end):
    while start + 8 <= end:
        size, name = struct.unpack_from(">I4s", data, start)
        yield name.decode("latin-1"), start, size
        start += max(size, 8)


def _grow(data, box, by):
    (size,) = struct.unpack_from(">I", data, box)
    struct.pack_into(">I", data, box, size + by)


def drop_sync_table(path):
    """Remove the table of key frames, so that every frame counts as one."""
    data = path.read_bytes()
    assert b"stss" in data
    path.write_bytes(data.replace(b"stss", b"free"))
    return path


def set_matrix(path, a, b, c, d):
    """Write a display matrix into an MP4."""
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 44
    data[at : at + 36] = struct.pack(">9i", a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30)
    path.write_bytes(data)
    return path


def set_edits(path, cuts, *, timescale=1000):
    """Write an edit list into an MP4: `cuts` are (start, end) in seconds of the media.

    The headers of `write_numbered` have this time scale for the movie.
    """
    with av.open(str(path)) as container:
        ticks = int(1 / container.streams.video[0].time_base)
    entries = [
        struct.pack(">IiI", round((end - start) * timescale), round(start * ticks), 1 << 16)
        for start, end in cuts
    ]
    content = struct.pack(">II", 0, len(entries)) + b"".join(entries)
    return set_box(path, ["moov", "trak", "edts", "elst"], content)
