"""Makes posts.parquet: what the simulator reads, written by pyarrow. `python3 posts.py`; needs pyarrow."""

from datetime import datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

ROWS = [
    ("One", ["first part", "second part"], "ann", 7, "train", None),
    ("Two", ["of the test set"], "ann", 3, "test", "seen"),
    ("Three", [], "bo", 3, "train", None),
    ("Fo\u00fcr", ["\U0001f9f5 thread"], "ann", 3, "train", None),
    ("Five", ["of the test set"], "bo", 7, "test", None),
    ("Six", ["last"], "cy", 7, "train", "seen"),
]

columns = list(zip(*ROWS))
table = pa.table(
    {
        "title": pa.array(columns[0], pa.string()),
        "parts": pa.array(columns[1], pa.list_(pa.string())),
        "author": pa.array(columns[2], pa.string()).dictionary_encode(),
        "group": pa.array(columns[3], pa.uint16()),
        "split": pa.array(columns[4], pa.string()),
        "note": pa.array(columns[5], pa.string()),
        "when": pa.array([datetime(2026, 1, 1)] * len(ROWS), pa.timestamp("ms")),
    }
)
pq.write_table(table, Path(__file__).with_name("posts.parquet"), compression="zstd", row_group_size=2)
