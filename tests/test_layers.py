"""Who may import whom: a module its own layer or a lower one, without circles; third parties stay in their rooms."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest
from torch.utils.data import DataLoader

from tests import ROOT

SRC = ROOT / "src"
LAYERS: list[tuple[str, ...]] = [
    (
        *("types", "rng", "errors", "files", "places", "writing", "packages", "gpus", "progress", "signals", "console"),
        *("stages", "imports", "at_least", "ranks", "rendezvous", "urls", "remote"),
    ),
    ("schema",),
    ("diffusion", "data", "adapters", "models", "optim", "scorers"),
    (
        *("data.dataset", "adapters.inject", "adapters.attach", "adapters.file"),
        *("training.metadata", "training.flow_metadata", "training.network_metadata"),
    ),
    ("training", "data.module", "data.loader"),
    ("callbacks", "checks", "importers"),
    ("command", "tools", "launch", "shared", "run", "report", "cli", "bench", "grid", "memory"),
]
ROOMS: dict[str, tuple[str, ...]] = {
    "diffusers": ("models", "tools.extract", "tools.merge", "bench"),
    "transformers": ("models", "scorers.clip", "tools.doctor", "bench"),
    "lightning": ("training", "data.module", "callbacks", "run", "report", "bench"),
    "hydra": ("schema", "command", "importers", "launch", "run", "report", "memory"),
    "hydra._internal": ("schema.compose", "command.start", "command.flags"),
    "omegaconf": ("schema", "command", "checks", "importers", "launch", "run", "report", "grid"),
    "PIL": ("data.images", "callbacks", "tools", "report", "bench", "grid"),
    "bitsandbytes": ("models.quantize",),
}
MODULES = {
    ".".join(file.relative_to(SRC / "loralab").with_suffix("").parts).removesuffix(".__init__"): file
    for file in (SRC / "loralab").rglob("*.py")
}


@cache
def imports(file: Path, also_lazy: bool = True) -> frozenset[str]:
    """Modules that a file imports; those under TYPE_CHECKING are no imports."""
    found: set[str] = set()

    def visit(node: ast.AST) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
                continue
            if isinstance(child, ast.Import):
                found.update(alias.name for alias in child.names)
            elif isinstance(child, ast.ImportFrom) and child.module:
                found.update(f"{child.module}.{alias.name}" for alias in child.names)
            elif also_lazy or not isinstance(child, ast.FunctionDef):
                visit(child)

    visit(ast.parse(file.read_text(encoding="utf8")))
    return frozenset(found)


def inside(module: str, room: str) -> bool:
    return module == room or module.startswith(room + ".")


def layer(module: str) -> int:
    """The layer of the longest entry that holds the module."""
    entries = [(len(name), number) for number, names in enumerate(LAYERS) for name in names if inside(module, name)]
    return max(entries)[1] if entries else len(LAYERS)


def ours(file: Path, also_lazy: bool = True) -> set[str]:
    """loralab's own modules that a file imports, without the package's name."""
    names = [name.removeprefix("loralab.") for name in imports(file, also_lazy) if name.startswith("loralab.")]
    return {name if name in MODULES else name.rpartition(".")[0] for name in names} & set(MODULES)


@pytest.mark.parametrize("module", sorted(MODULES))
def test_imports_point_down(module: str) -> None:
    higher = {other for other in ours(MODULES[module]) if layer(other) > layer(module)}
    assert not higher


def test_no_circles() -> None:
    seen: dict[str, int] = {}

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, " → ".join((*path, module))
        if seen.setdefault(module, 0):
            return
        for other in ours(MODULES[module], also_lazy=False):
            visit(other, (*path, module))
        seen[module] = 1

    for module in MODULES:
        visit(module, ())


@pytest.mark.parametrize("depth", [1, 2])
def test_no_circles_of_folders(depth: int) -> None:
    """Lazy imports count: they hide a circle, they do not cut it. A folder and those inside it are one."""

    def folder(module: str) -> str:
        return ".".join(module.split(".")[:-1][:depth])

    folders: dict[str, set[str]] = {}
    for module, file in MODULES.items():
        own = folder(module)
        others = {folder(other) for other in ours(file)}
        folders.setdefault(own, set()).update(o for o in others if not inside(o, own) and not inside(own, o))
    del folders[""]  # the modules of no folder
    while free := [name for name, others in folders.items() if not others & folders.keys()]:
        for name in free:
            del folders[name]
    assert not folders, f"folders that import each other: {folders}"


@pytest.mark.parametrize("library", ROOMS)
def test_third_parties_stay_in_their_rooms(library: str) -> None:
    users = {m for m, file in MODULES.items() if any(inside(name, library) for name in imports(file))}
    assert users, f"nothing imports {library}: the rule is out of date"
    assert not {user for user in users if not any(inside(user, room) for room in ROOMS[library])}


def test_test_files_share_by_tests_support() -> None:
    """None imports from another test file, nor from a conftest."""
    files = [*(ROOT / "tests").rglob("*.py")]
    shared = {name for file in files for name in imports(file) if re.search(r"(^|\.)(test_\w+|conftest)\.", name)}
    assert not shared


LIGHTNINGS = {"trainer", "fit_loop", "epoch_loop", "strategy", "launcher", "_checkpoint_connector"}


def private_names(file: Path) -> set[str]:
    """Private names of Lightning's objects, as far as they are called by their usual names."""
    nodes = [node for node in ast.walk(ast.parse(file.read_text(encoding="utf8"))) if isinstance(node, ast.Attribute)]
    return {n.attr for n in nodes if n.attr.startswith("_") and ast.unparse(n.value).rpartition(".")[2] in LIGHTNINGS}


def test_private_names_of_lightning_stay_in_one_place() -> None:
    used = {module: names for module, file in MODULES.items() if (names := private_names(file))}
    assert used.keys() == {"training.internals"}


def test_lightning_still_has_the_private_names() -> None:
    """What this names is what an upgrade of Lightning broke."""
    from lightning import Trainer

    trainer = Trainer(logger=False, enable_checkpointing=False, accelerator="cpu")
    assert callable(trainer._checkpoint_connector.dump_checkpoint)
    assert hasattr(trainer._checkpoint_connector, "_loaded_checkpoint")
    assert callable(trainer.fit_loop._should_accumulate)
    assert private_names(MODULES["training.internals"]) == {
        "_checkpoint_connector",
        "_loaded_checkpoint",
        "_should_accumulate",
    }


def test_torch_still_keeps_the_iterator_of_workers_where_the_loader_puts_it() -> None:
    assert DataLoader([0])._iterator is None
