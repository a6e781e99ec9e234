"""Packages import only from earlier stages of the data flow (docs/architecture.md)."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from conftest import CHECKOUT

PACKAGES = ("preprocess", "hdf5_writer", "loaders", "trainer")

# Each stage may import those before it.
STAGES = [
    "preprocess.rejects",
    "preprocess.samples",
    "preprocess.segments",
    "preprocess.yaml_loader",
    "preprocess.settings",
    "preprocess.config",
    "preprocess.records",
    "preprocess.record_keys",
    "preprocess.record_formats",
    "preprocess.record_images",
    "preprocess.messages",
    "preprocess.conversation",
    "preprocess.image_files",
    "preprocess.images",
    "preprocess.tokenize.backends",
    "preprocess.tokenize.byte_level",
    "preprocess.tokenize.splitters",
    "preprocess.tokenize.folder",
    "preprocess.tokenize.tokenizer",
    "preprocess.templates.renderer",
    "preprocess.templates.llava",
    "preprocess.templates.outline",
    "preprocess.templates.chat",
    "preprocess.templates.named",
    "preprocess.templates.jinja.source",
    "preprocess.templates.jinja.sandbox",
    "preprocess.templates.jinja.marks",
    "preprocess.templates.jinja.analysis",
    "preprocess.templates.jinja.check",
    "preprocess.templates.jinja.renderer",
    "preprocess.templates",
    "preprocess.tokenize.joined",
    "preprocess.tokenize.encoder",
    "preprocess.tokenize.word_table",
    "preprocess.tokenize.batches",
]
# Modules that any reader of a dataset may import; each may import those before it.
LEAVES = [
    "preprocess.splitmix64",
    "preprocess.regular_files",
    "preprocess.atomic_files",
    "preprocess.image_files",
    "preprocess.square_images",
    "preprocess.model_pixels",
    "hdf5_writer.schema",
    "hdf5_writer.layout",
    "hdf5_writer.publish",
    "hdf5_writer.data_params",
]
# The rule for the ids of rows, which prompts must follow; atomic files.
FOR_TRAINER = {
    "preprocess.settings",
    "preprocess.config",
    "preprocess.tokenize.splitters",
    "preprocess.tokenize.folder",
    "preprocess.tokenize.tokenizer",
    "preprocess.templates.llava",
    "preprocess.templates.chat",
    "preprocess.templates.named",
    "hdf5_writer.publish",
}
NEVER_TORCH = ("preprocess", "hdf5_writer")


def modules() -> list[Path]:
    return sorted(path for package in PACKAGES for path in (CHECKOUT / package).rglob("*.py"))


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(CHECKOUT).with_suffix("").parts).removesuffix(".__init__")


def imports_of(path: Path) -> set[str]:
    """Modules that a file imports, anywhere in it; `from package import module` counts as the module."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            module = node.module or ""
            for alias in node.names:
                inner = f"{module}.{alias.name}"
                found.add(inner if _is_module(inner) else module)
    return found


def _is_module(name: str) -> bool:
    path = CHECKOUT.joinpath(*name.split("."))
    return path.with_suffix(".py").exists() or (path / "__init__.py").exists()


def is_allowed(importer: str, imported: str) -> bool:
    package, target = importer.split(".")[0], imported.split(".")[0]
    if target in ("torch", "torchvision"):
        return package not in NEVER_TORCH
    if target not in PACKAGES or imported == package:
        return True
    if importer in LEAVES:
        return imported in LEAVES[: LEAVES.index(importer)]
    if package == "preprocess":
        if target != "preprocess":
            return False
        if imported in LEAVES:
            return True
        if importer in STAGES and imported in STAGES:
            return STAGES.index(imported) < STAGES.index(importer)
        return importer not in STAGES
    if package == "hdf5_writer":
        return target in ("hdf5_writer", "preprocess")
    if package == "loaders":
        if imported in LEAVES:
            return True
        if target == "preprocess":
            return importer == "loaders.lazy"
        return target == "loaders"
    return target in ("trainer", "loaders") or imported in FOR_TRAINER


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_imports_point_to_the_left(path: Path) -> None:
    importer = name_of(path)
    wrong = [imported for imported in sorted(imports_of(path)) if not is_allowed(importer, imported)]
    assert wrong == [], f"{importer} may not import {', '.join(wrong)}"


@pytest.mark.slow
def test_one_module_imports_all_stages() -> None:
    """`stages.py` composes them for the writer, `lazy.py` for the on-the-fly dataset, the example rows for docs."""
    composing = {
        "preprocess.conversation",
        "preprocess.templates",
        "preprocess.tokenize.encoder",
        "preprocess.tokenize.batches",
    }
    meeting = [name_of(path) for path in modules() if len(composing & imports_of(path)) > 1]
    assert set(meeting) - set(STAGES) <= {"hdf5_writer.stages", "loaders.lazy", "preprocess.templates.__main__"}


@pytest.mark.parametrize(
    ("importer", "imported"),
    [
        ("preprocess.config", "preprocess.templates"),
        ("preprocess.tokenize.encoder", "hdf5_writer.schema"),
        ("hdf5_writer.schema", "hdf5_writer.layout"),
        ("hdf5_writer.data_params", "hdf5_writer.planning.plan"),
        ("hdf5_writer.task", "loaders"),
        ("hdf5_writer.task", "torch"),
        ("loaders.sampler", "hdf5_writer.planning.plan"),
        ("loaders.sampler", "preprocess.tokenize.encoder"),
        ("loaders.image_transform", "preprocess.images"),
        ("trainer.run", "hdf5_writer.schema"),
    ],
)
def test_a_forbidden_import_is_reported(importer: str, imported: str) -> None:
    assert not is_allowed(importer, imported)


def test_modules_are_short_and_have_specific_names() -> None:
    for path in modules():
        assert len(path.read_text(encoding="utf-8").splitlines()) <= 370, f"{path}: split it"
        assert path.stem not in ("utils", "util", "common", "helpers", "helper", "misc")


@pytest.mark.slow
def test_no_test_imports_from_another_test() -> None:
    """Code shared by several tests is in tests/tools, or in a conftest.py as a fixture."""
    for path in sorted((CHECKOUT / "tests").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            found = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            found += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            wrong = [name for name in found if name.rpartition(".")[2].startswith("test_")]
            assert wrong == [], f"{path}: imports {wrong}"


def test_test_helpers_are_in_one_folder() -> None:
    tests = CHECKOUT / "tests"
    helpers = [path for path in tests.rglob("*.py") if not path.name.startswith(("test_", "conftest", "__init__"))]
    assert helpers
    assert [path for path in helpers if not path.is_relative_to(tests / "tools")] == []


def test_file_names_of_tests_are_unique() -> None:
    """Folders without `__init__.py` share one namespace, and pytest refuses two test files of the same name."""
    tests = CHECKOUT / "tests"
    names = [path.name for path in tests.rglob("test_*.py") if not (path.parent / "__init__.py").exists()]
    assert sorted(name for name in set(names) if names.count(name) > 1) == []


def test_test_files_that_need_torch_are_skipped_without_it() -> None:
    for path in sorted((CHECKOUT / "tests").rglob("test_*.py")):
        for statement in ast.parse(path.read_text(encoding="utf-8")).body:
            if "importorskip('torch'" in ast.unparse(statement):
                break
            imported = {alias.name for alias in statement.names} if isinstance(statement, ast.Import) else set()
            if isinstance(statement, ast.ImportFrom):
                imported.add(statement.module or "")
            torch_users = {name for name in imported if name.split(".")[0] in ("torch", "loaders", "trainer")}
            assert not torch_users, f"{path}: imports {torch_users} before importorskip('torch')"
