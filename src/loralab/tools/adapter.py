"""What the tools for adapter files share: command-line arguments, output files and metadata."""

from __future__ import annotations

import json
import re
import sys
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from pkgutil import resolve_name

import torch

from loralab.adapters import file, layouts, peft
from loralab.adapters.keys import Table
from loralab.adapters.kinds import Group
from loralab.adapters.lora import LoRA
from loralab.adapters.low_rank import RankLimit, state_of
from loralab.errors import user_error
from loralab.files import printable
from loralab.models.checkpoint import Unreadable
from loralab.places import check_place
from loralab.training.metadata import RECIPE

CPU = torch.device("cpu")
SPATIAL = re.compile(r"(conv(1|2|_in|_out)?|in_layers_2|out_layers_3|op|unet_input_blocks_0_0|unet_out_2)$")
"""Names of 3×3 convolutions; there are no other kernels but 1×1."""


def add_output(parser: ArgumentParser, what: str = ".safetensors, .ckpt, .pt or .bin") -> None:
    parser.add_argument("--output", "-o", type=Path, required=True, metavar="PATH", help=f"output path: {what}")
    parser.add_argument(
        "--precision", choices=list(file.DTYPES), help="default: that of the input, or fp16 for extract"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an existing output")


def add_allow(parser: ArgumentParser) -> None:
    words = "class, module or package of your own with the adapter's kind or model family, such as my_package."
    parser.add_argument("--allow", nargs="+", default=[], metavar="NAME", help=words)


def know(path: Path, allow: Sequence[str]) -> None:
    """Imports the kinds of adapters that the user allows: those named, and the one that a file's metadata name."""
    told = ""
    if allow:
        with suppress(Unreadable, OSError):  # which reading the tensors will report
            told = file.read_metadata(path).get("ss_network_module", "")
    below = [told] if any(told.startswith(entry.rstrip(".") + ".") for entry in allow) else []
    for name in (*allow, *below):
        try:
            resolve_name(name.rstrip("."))
        except (ImportError, AttributeError, ValueError) as error:
            remedy = "check the name, and that its folder is in PYTHONPATH"
            raise user_error("--allow", f"'{name}' could not be imported: {error}", remedy) from error


def add_size(parser: ArgumentParser) -> None:
    parser.add_argument("--rank", type=rank, metavar="N", help="maximum rank of the result")
    parser.add_argument("--keep", type=share, metavar="SHARE", help="share of each layer's norm to keep, such as 0.95")
    parser.add_argument("--device", type=device, default=CPU, help="device to compute on: cpu or cuda")


def size(args: Namespace) -> RankLimit:
    """The size asked for. Raises a UserError where neither a rank nor a share is given."""
    if args.rank is None and args.keep is None:
        raise user_error("--rank", "is missing", "give --rank 16, --keep 0.95 (of the norm), or both")
    return RankLimit(args.rank, args.keep)


def load(path: str, allow: Sequence[str], table: Table | None = None) -> file.AdapterFile:
    """Loads an adapter file; prints a note for each part that is not used."""
    know(Path(path).expanduser(), allow)
    found = file.load(path, table, "FILE")
    for note in found.notes:
        print(f"note: {printable(note)}", file=sys.stderr)
    return found


def check_output(args: Namespace, extensions: tuple[str, ...] = file.FORMATS) -> Path:
    """The output path. Raises a UserError before any work if it already exists or has an invalid extension."""
    path: Path = args.output.expanduser()
    if extensions and path.suffix.removeprefix(".") not in extensions:
        valid = ", ".join(f".{extension}" for extension in extensions)
        raise user_error("--output", f"invalid extension of {path.name!r}", f"valid: {valid}")
    if path.exists() and not args.overwrite:
        raise user_error("--output", f"{path} already exists", "choose another name, or add --overwrite")
    check_place(path, "--output", is_folder=not extensions)
    return path


def shape_of(name: str, group: Group) -> torch.Size:
    """The shape of the weight that is changed. LoHa and LoKr fold a kernel into the inputs; the name shows which."""
    out, inside, *kernel = group.shape
    folded = not kernel and SPATIAL.search(name)
    return torch.Size((out, inside // 9, 3, 3)) if folded else group.shape


def precision_of(state: Mapping[str, torch.Tensor]) -> file.Precision:
    """The precision of most of a file's tensors; fp32 if it is one that files are not written in."""
    floats = {key: tensor for key, tensor in state.items() if tensor.is_floating_point()}
    dtypes = [tensor.dtype for key, tensor in floats.items() if not key.endswith(".alpha")]
    common = max(set(dtypes), key=dtypes.count)
    names: dict[torch.dtype, file.Precision] = {dtype: name for name, dtype in file.DTYPES.items()}
    return names.get(common, "fp32")


def write(
    path: Path, groups: Mapping[str, Group], precision: file.Precision, metadata: Mapping[str, str] | None = None
) -> None:
    """Writes LoRAs in the kohya layout, with rank and alpha in the metadata updated."""
    state = state_of(dict(groups))
    save(path, state, _described(groups, metadata or {}), precision)


def save(
    path: Path,
    state: Mapping[str, torch.Tensor],
    metadata: Mapping[str, str] | None,
    precision: file.Precision | None,
) -> None:
    """Writes an adapter file, and names the metadata keys that were too large for it."""
    if left_out := file.save(path, state, metadata, precision):
        print(f"note: the metadata is larger than a file can hold; dropped: {', '.join(left_out)}", file=sys.stderr)


def _described(groups: Mapping[str, Group], metadata: Mapping[str, str]) -> dict[str, str]:
    ranks = {group.rank for group in groups.values()}
    out = lasting(metadata)
    out.pop(RECIPE, None)  # it describes another rank
    out["ss_network_dim"] = str(ranks.pop()) if len(ranks) == 1 else "Dynamic"
    out["ss_network_alpha"] = out["ss_network_dim"]
    kind = next((group.kind for group in groups.values() if group.kind.network_args), LoRA)
    out["ss_network_module"] = kind.network_module
    out["ss_network_args"] = json.dumps({name: str(value) for name, value in kind.network_args.items()})
    return out


def lasting(metadata: Mapping[str, str]) -> dict[str, str]:
    """The metadata without what describes the old tensors: hashes, PEFT's config, folded alphas."""
    of_tensors = ("sshs_", peft.IN_HEADER, layouts.FOLDED)
    return {k: v for k, v in metadata.items() if not k.startswith(of_tensors) and k not in peft.PLAIN_KEYS}


def device(text: str) -> torch.device:
    try:
        found = torch.device(text)
        torch.empty(0, device=found)
    except (RuntimeError, AssertionError) as error:
        raise ArgumentTypeError(f"device '{text}' is not available ({str(error).splitlines()[0]})") from None
    return found


def rank(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise ArgumentTypeError(f"invalid value '{text}'; valid: a whole number of at least 1")
    return int(text)


def share(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= 1:
        raise ArgumentTypeError(f"invalid value '{text}'; valid: a number above 0 and at most 1")
    return value
