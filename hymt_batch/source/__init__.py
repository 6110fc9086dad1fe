"""The source stage: rows of many formats as one stream of documents, cut into shards. Start at `stream.py`."""
