"""The bytes that `report/tensorboard.rs` is tested against, from TensorBoard's own messages and writer.

    pip install tensorboard
    python3 sim/tests/numbers/tensorboard_events.py     writes the two .hex files beside this one
    python3 sim/tests/numbers/tensorboard_events.py DIR reads what gossamer-sim wrote and prints it
"""

import io
import pathlib
import sys

from tensorboard.compat.proto import event_pb2, summary_pb2
from tensorboard.summary.writer.record_writer import RecordWriter


class Kept(io.BytesIO):
    def close(self):
        pass


def record(event):
    kept = Kept()
    RecordWriter(kept).write(event.SerializeToString(deterministic=True))
    return kept.getvalue().hex()


def write():
    here = pathlib.Path(__file__).parent
    version = event_pb2.Event(wall_time=0.0, file_version="brain.Event:2")
    # proto3 leaves a zero double out; readers take both. Ours writes it, so it is put in by hand.
    kept = Kept()
    RecordWriter(kept).write(b"\x09" + bytes(8) + version.SerializeToString())
    (here / "tensorboard_version.hex").write_text(kept.getvalue().hex() + "\n")
    value = lambda tag, x: summary_pb2.Summary.Value(tag=tag, simple_value=x)
    values = [
        value("loss/train", 1.5),
        value("loss/heldout", float("nan")),
        value("bytes/upload", 1e6),
        value("bytes/download", 0.0),
        value("bytes/cumulative", 123456789.0),
    ]
    row = event_pb2.Event(wall_time=2.25, step=300, summary=summary_pb2.Summary(value=values))
    (here / "tensorboard_row.hex").write_text(record(row) + "\n")


def read(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(folder)
    events.Reload()
    for tag in events.Tags()["scalars"]:
        print(tag, [(e.step, round(e.value, 6)) for e in events.Scalars(tag)])


if __name__ == "__main__":
    read(sys.argv[1]) if len(sys.argv) > 1 else write()
