"""Batch translation with Tencent's Hunyuan translation models: streamed, checkpointed, reproducible."""
