"""The schema of parquet outputs, and the values that parquet cannot store."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from hymt_batch.errors import ConfigError, first_line
from hymt_batch.formats.fields import Column, ReadDocuments
from hymt_batch.formats.format import OutputSpec
from hymt_batch.formats.parquet.added_columns import AddedColumns


def extend_schema(
    schema: Any, columns: Sequence[Column], translation_field: str, meta_field: str, *, added: AddedColumns
) -> Any:
    """Append the two added columns to a schema; None stands for the schema of `columns`."""
    import pyarrow as pa

    if schema is None:
        schema = pa.schema([(column.name, pa.type_for_alias(column.type)) for column in columns])
    metadata = _extend_features(
        schema.metadata, dict(zip((translation_field, meta_field), added.features(), strict=True))
    )
    translation, meta = added.types()
    fields = [*schema, pa.field(translation_field, translation), pa.field(meta_field, meta)]
    return pa.schema(fields, metadata=metadata)


def _extend_features(metadata: dict[bytes, bytes] | None, added: dict[str, Any]) -> Any:
    """Add the two columns to the features that `datasets` stores in the schema's metadata, if there are any."""
    key = b"huggingface"
    if metadata is None or key not in metadata:
        return metadata
    try:
        dataset_info = json.loads(metadata[key])
        features = dataset_info["info"]["features"]
    except (ValueError, KeyError, TypeError):
        return metadata
    if not isinstance(features, dict):
        return metadata
    features |= added
    dataset_info.pop("fingerprint", None)  # it identifies the input's content
    return {**metadata, key: json.dumps(dataset_info).encode()}


def check_schema(spec: OutputSpec) -> None:
    """Reject a column that parquet cannot store, before anything is translated.

    Raises:
        ConfigError: pyarrow cannot write the schema.
    """
    import io

    import pyarrow as pa
    import pyarrow.parquet as pq

    added = AddedColumns(spec.preamble.text_fields)
    schema = extend_schema(spec.preamble.schema if spec.keeps_bytes else None, spec.columns, *spec.added, added=added)
    try:
        pq.ParquetWriter(io.BytesIO(), schema).close()
    except (pa.ArrowException, OSError) as error:
        raise ConfigError(
            f"{spec.input.rel} has a column that parquet cannot store",
            why=first_line(error),
            fix="Set write.format=jsonl.",
        ) from error


def check_values(rel: str, documents: ReadDocuments) -> None:
    """Reject values of a saved dataset that parquet cannot store, before anything is translated.

    Arrow has timestamps in seconds that overflow parquet's milliseconds, and dictionaries of types that parquet lacks.

    Raises:
        ConfigError: pyarrow cannot write one of the values.
    """
    import io

    import pyarrow as pa
    import pyarrow.parquet as pq

    batch: Any = None
    for document in documents():
        if document.values[0] is batch:
            continue
        batch = document.values[0]
        risky = [index for index, field in enumerate(batch.schema) if _may_be_unsupported(field.type)]
        if not risky:
            return
        try:
            pq.write_table(pa.Table.from_batches([batch]).select(risky), io.BytesIO())
        except pa.ArrowException as error:
            raise ConfigError(
                f"{rel} has a value that parquet cannot store, in row {document.row_index + 1} or later",
                why=first_line(error),
                fix="Set write.format=jsonl.",
            ) from error


def _may_be_unsupported(arrow_type: Any) -> bool:
    import pyarrow as pa

    if isinstance(arrow_type, pa.BaseExtensionType):
        return _may_be_unsupported(arrow_type.storage_type)
    if pa.types.is_timestamp(arrow_type):
        return bool(arrow_type.unit == "s")
    if pa.types.is_dictionary(arrow_type):
        return True
    return any(_may_be_unsupported(arrow_type.field(index).type) for index in range(arrow_type.num_fields))
