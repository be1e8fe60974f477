"""Parquet tables as LeRobot writes them: data of episodes, `meta/episodes`, `meta/tasks.parquet`."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from foreact.datasets.formats.lerobot_arrow import arrow
from foreact.datasets.still_codecs import PngCodec


@dataclass(frozen=True)
class Column:
    """Values of one feature: (T,), (T, N), or (T, H, W, 3) pictures."""

    key: str
    values: Any
    kind: str = "numbers"


def episode_parquet(columns: Sequence[Column], png: PngCodec | None) -> bytes:
    """The data of one episode as a Parquet file with one row group.

    Vectors are lists of fixed size, one number per frame is a scalar, pictures are {bytes, path}. The schema says so to
    Hugging Face's `datasets` as well.
    """
    pa, pq = arrow()
    arrays, fields, features = [], [], {}
    for column in columns:
        values = column.values
        if column.kind == "image":
            assert png is not None
            rows = [{"bytes": png.encode_frame(f), "path": f"frame-{t:06d}.png"} for t, f in enumerate(values)]
            array = pa.array(rows, pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
            features[column.key] = {"_type": "Image"}
        elif values.ndim == 1 or values.shape[1] == 1:
            array = pa.array(values.reshape(-1))
            features[column.key] = {"dtype": str(values.dtype), "_type": "Value"}
        else:
            array = pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), values.shape[1])
            inner = {"dtype": str(values.dtype), "_type": "Value"}
            features[column.key] = {"feature": inner, "length": values.shape[1], "_type": "Sequence"}
        arrays.append(array)
        fields.append(pa.field(column.key, array.type))
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    table = pa.Table.from_arrays(arrays, schema=pa.schema(fields, metadata=metadata))
    out = io.BytesIO()
    pq.write_table(table, out, compression="snappy", row_group_size=max(1, table.num_rows))
    return out.getvalue()


def join_parquet(parts: Sequence[Path], out: Path) -> None:
    """Put episodes into one file, a row group each."""
    _, pq = arrow()
    out.parent.mkdir(parents=True, exist_ok=True)
    with pq.ParquetWriter(out, pq.read_schema(parts[0]), compression="snappy") as writer:
        for part in parts:
            table = pq.read_table(part)
            writer.write_table(table, row_group_size=max(1, table.num_rows))


def write_tasks(tasks: Iterable[str], out: Path) -> None:
    """`meta/tasks.parquet`: a table of pandas whose index is the sentence."""
    pa, pq = arrow()
    texts = list(tasks)
    columns = [
        {"name": name, "field_name": name, "pandas_type": kind, "numpy_type": numpy_kind, "metadata": None}
        for name, kind, numpy_kind in (("task_index", "int64", "int64"), ("task", "unicode", "object"))
    ]
    pandas: dict[str, Any] = {
        "index_columns": ["task"],
        "column_indexes": [],
        "columns": columns,
        "pandas_version": "2.2.0",
    }
    pandas["creator"] = {"library": "pyarrow", "version": pa.__version__}
    table = pa.table({"task_index": pa.array(range(len(texts)), pa.int64()), "task": pa.array(texts, pa.string())})
    pq.write_table(table.replace_schema_metadata({"pandas": json.dumps(pandas)}), out, compression="snappy")


def write_episodes(rows: Iterable[Mapping[str, Any]], out: Path, per_group: int = 500) -> None:
    """`meta/episodes`: one row per episode, with its statistics; only so many are held at once."""
    pa, pq = arrow()
    out.parent.mkdir(parents=True, exist_ok=True)
    writer: Any = None
    waiting: list[Mapping[str, Any]] = []

    def flush() -> None:
        nonlocal writer
        table = pa.Table.from_pylist(waiting, schema=writer.schema if writer else _schema(waiting[0]))
        writer = writer or pq.ParquetWriter(out, table.schema, compression="snappy")
        writer.write_table(table)
        waiting.clear()

    try:
        for row in rows:
            waiting.append(row)
            if len(waiting) == per_group:
                flush()
        if waiting:
            flush()
    finally:
        if writer is not None:
            writer.close()


def _schema(row: Mapping[str, Any]) -> Any:
    pa, _ = arrow()

    def kind(key: str, value: Any) -> Any:
        if isinstance(value, list):
            return pa.list_(kind(key, value[0]))
        if isinstance(value, str):
            return pa.string()
        whole = isinstance(value, int) and (not key.startswith("stats/") or key.endswith("/count"))
        return pa.int64() if whole else pa.float64()

    return pa.schema([pa.field(key, kind(key, value)) for key, value in row.items()])
