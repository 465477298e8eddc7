"""What tells one model from another: every weight, and the settings of its architecture."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from hashlib import blake2b
from typing import Any

import torch
from torch import Tensor, nn

_NOT_COMPUTED_WITH = ("architectures", "dtype", "torch_dtype", "transformers_version", "id2label", "label2id")
"""In a config, beside what begins with an underscore: where it comes from, not what it computes."""


def weights(module: nn.Module) -> str:
    """A digest of a module's tensors: names, types, shapes, and every byte, wherever they were stored.

    Of each tensor's bytes a CRC-32, in threads: it finds every changed weight at several times the speed of a hash
    that withstands forgers, and gigabytes are read each time a run starts.
    """
    tensors = sorted(module.state_dict().items())
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        checksums = pool.map(_checksum, [tensor for _, tensor in tensors])
        rows = [
            (name, str(t.dtype), tuple(t.shape), found) for (name, t), found in zip(tensors, checksums, strict=True)
        ]
    return digest(rows)


def settings(config: Any) -> dict[str, Any]:
    """What a diffusers or transformers config says, defaults included, of how its model computes."""
    return {k: value for k, value in plain(config).items() if not k.startswith("_") and k not in _NOT_COMPUTED_WITH}


def plain(config: Any) -> Mapping[str, Any]:
    """A diffusers or transformers config as a mapping."""
    return config.to_dict() if hasattr(config, "to_dict") else config


def tokenizer(tokenizer: Any) -> str:
    """A digest of what decides how a tokenizer splits a text; how it would pad and cut one is not used here."""
    used = _used(tokenizer.backend_tokenizer.to_str())
    return digest((used, tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id))


def tokenizer_rules(text: str) -> str:
    """The same of what a tokenizer.json says."""
    return digest(_used(text))


def _used(text: str) -> dict[str, Any]:
    rules = json.loads(text)
    return {name: rules.get(name) for name in ("model", "normalizer", "pre_tokenizer", "added_tokens")}


def digest(value: Any) -> str:
    """Of plain values."""
    return blake2b(repr(value).encode(), digest_size=16).hexdigest()


def _checksum(tensor: Tensor) -> int:
    return zlib.crc32(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
