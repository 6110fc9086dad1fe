"""Twelve corruptions of a model folder, each applied to a copy of the demo model.

Tests and a campaign run hymt-batch and plain `from_pretrained` on them.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TEMPLATE_7B = (
    "{% for message in messages %}{% if loop.index0 == 0 %}{{ '<|startoftext|>' }}{% endif %}"
    "{{ message['content'] }}{% if message['role'] == 'user' %}{{ '<|extra_0|>' }}{% endif %}{% endfor %}"
)


@dataclass(frozen=True, slots=True)
class Corruption:
    """One corruption."""

    name: str
    id: str  # id in catalogue.toml
    damage: Callable[[Path], None]
    pinned: bool = False  # True if model.sha256 must be set to the hash of the intact file
    at_load: bool = False  # True if it is detected while the weights load, still before any output


def edit(path: Path, **changes: Any) -> None:
    """Change fields of a JSON file; the value None removes a field."""
    content = {**json.loads(path.read_text(encoding="utf-8")), **changes}
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not None}), encoding="utf-8")


def weights(folder: Path) -> Path:
    return folder / "model.safetensors"


def read(path: Path) -> tuple[dict[str, Any], bytearray]:
    """Return the header and the data of a safetensors file."""
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + length]), bytearray(data[8 + length :])


def write(path: Path, header: dict[str, Any], data: bytes) -> None:
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


def shards(folder: Path, leave_out: str = "") -> None:
    """Split the weights into two files with an index."""
    header, data = read(weights(folder))
    names = [name for name in header if name != "__metadata__" and name != leave_out]
    index = {}
    for file_number, part_names in enumerate((names[::2], names[1::2]), 1):
        file, entries, part_data = f"model-0000{file_number}-of-00002.safetensors", {}, bytearray()
        for name in part_names:
            start, end = header[name]["data_offsets"]
            entries[name] = {**header[name], "data_offsets": [len(part_data), len(part_data) + end - start]}
            part_data += data[start:end]
            index[name] = file
        write(folder / file, {"__metadata__": {"format": "pt"}, **entries}, bytes(part_data))
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {}, "weight_map": index}), encoding="utf-8"
    )
    weights(folder).unlink()


def truncated(folder: Path) -> None:
    weights(folder).write_bytes(weights(folder).read_bytes()[:-100])


def empty(folder: Path) -> None:
    weights(folder).write_bytes(b"")


def lfs_pointer(folder: Path) -> None:
    weights(folder).write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 3582161408\n")


def missing_shard(folder: Path) -> None:
    shards(folder)
    (folder / "model-00002-of-00002.safetensors").unlink()


def absent_tensor(folder: Path) -> None:
    shards(folder, leave_out="model.layers.1.mlp.down_proj.weight")


def bit_flip(folder: Path) -> None:
    header, data = read(weights(folder))
    data[header["model.layers.1.mlp.down_proj.weight"]["data_offsets"][0]] ^= 1
    write(weights(folder), header, bytes(data))


def permuted_embedding(folder: Path) -> None:
    header, data = read(weights(folder))
    entry = header["model.embed_tokens.weight"]
    start, end = entry["data_offsets"]
    row = (end - start) // entry["shape"][0]
    data[start:end] = data[start + row : end] + data[start : start + row]
    write(weights(folder), header, bytes(data))


def nan_weight(folder: Path) -> None:
    header, data = read(weights(folder))
    start = header["model.layers.2.self_attn.q_proj.weight"]["data_offsets"][0]
    data[start : start + 2] = b"\xc0\x7f"
    write(weights(folder), header, bytes(data))


def pickles_only(folder: Path) -> None:
    import torch
    from safetensors.torch import load_file

    torch.save(load_file(weights(folder)), folder / "pytorch_model.bin")
    weights(folder).unlink()


def index_leaves_the_folder(folder: Path) -> None:
    shards(folder)
    outside = folder.parent / f"{folder.name}-outside.safetensors"
    (folder / "model-00002-of-00002.safetensors").rename(outside)
    path = folder / "model.safetensors.index.json"
    text = path.read_text(encoding="utf-8").replace("model-00002-of-00002.safetensors", f"../{outside.name}")
    path.write_text(text, encoding="utf-8")


def wrong_tokenizer(folder: Path) -> None:
    """Install the tokenizer of another model of the family: a smaller vocabulary, other control tokens and ids."""
    path = folder / "tokenizer.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    first_id = min(token["id"] for token in content["added_tokens"]) - 200
    vocab = {text: token_id for text, token_id in content["model"]["vocab"].items() if token_id < first_id}
    pairs = [merge.split(" ") if isinstance(merge, str) else merge for merge in content["model"]["merges"]]
    content["model"]["vocab"] = vocab
    content["model"]["merges"] = [pair for pair in pairs if {*pair, "".join(pair)} <= set(vocab)]
    names = ["<|startoftext|>", "<|eos|>", "<|pad|>", "<|extra_0|>"]
    content["added_tokens"] = [
        {**content["added_tokens"][0], "id": first_id + index, "content": name} for index, name in enumerate(names)
    ]
    path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    edit(
        folder / "tokenizer_config.json",
        added_tokens_decoder=None,
        additional_special_tokens=["<|extra_0|>"],
        bos_token="<|startoftext|>",
        eos_token="<|eos|>",
        pad_token="<|pad|>",
        chat_template=TEMPLATE_7B,
    )
    (folder / "special_tokens_map.json").unlink()


def wrong_template(folder: Path) -> None:
    edit(folder / "tokenizer_config.json", chat_template=TEMPLATE_7B)


ALL = (
    Corruption("truncated weights", "B2", truncated),
    Corruption("weights of zero length", "B23", empty),
    Corruption("Git-LFS pointer", "B1", lfs_pointer),
    Corruption("missing shard", "B3", missing_shard),
    Corruption("absent tensor", "B9", absent_tensor),
    Corruption("bit flip, sha256 pinned", "B13", bit_flip, pinned=True),
    Corruption("permuted embedding, sha256 pinned", "B13", permuted_embedding, pinned=True),
    Corruption("NaN in a weight", "B21", nan_weight, at_load=True),
    Corruption("pickled weights only", "B14", pickles_only),
    Corruption("'../' in the index", "B15", index_leaves_the_folder),
    Corruption("tokenizer of another model", "B19", wrong_tokenizer),
    Corruption("chat template of another model", "B20", wrong_template),
)
