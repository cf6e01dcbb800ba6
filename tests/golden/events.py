#!/usr/bin/env python3
"""Writes events.tfevents with TensorBoard itself; a test in diffusion-core/cli/src/tensorboard.rs writes the same bytes.

    pip install tensorboard && python tests/golden/events.py

Four records: the version, the start of a session, two scalars, and an image of one red and one blue pixel.
"""
import struct
import zlib
from pathlib import Path

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter


def chunk(name, data):
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


header = struct.pack(">IIBBBBB", 2, 1, 8, 2, 0, 0, 0)
pixels = zlib.compress(b"\0\xff\0\0\0\0\xff")
png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
scalars = [Summary.Value(tag="loss", simple_value=0.1), Summary.Value(tag="validation_loss", simple_value=0.0)]
image = Summary.Image(height=1, width=2, colorspace=3, encoded_image_string=png)
events = [
    Event(wall_time=1700000000.5, file_version="brain.Event:2"),
    Event(wall_time=1700000000.5, step=200, session_log=SessionLog(status=SessionLog.START)),
    Event(wall_time=1700000001.5, step=200, summary=Summary(value=scalars)),
    Event(wall_time=1700000002.5, step=201, summary=Summary(value=[Summary.Value(tag="samples", image=image)])),
]
with open(Path(__file__).with_suffix(".tfevents"), "wb") as file:
    writer = RecordWriter(file)
    for event in events:
        writer.write(event.SerializeToString())
