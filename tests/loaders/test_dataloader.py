"""The loader: one order for all ranks, workers and restarts; the contents of a batch; invalid arguments."""

from __future__ import annotations

import copy
import itertools
import json
import pickle
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the loaders need torch")

from written import IMAGES, first, second  # noqa: E402

from loaders import LlavaDataLoader, create_dataloader  # noqa: E402

GLOBAL_BATCH = 24
RANKS = {world: GLOBAL_BATCH // world for world in (1, 2, 3, 4, 8)}
TEXT = ("text_input_ids", "labels", "loss_mask", "key_padding_mask")
ORDERS: dict[str, dict[str, Any]] = {
    "shuffled": {"shuffle_window": 2},
    "stored": {"shuffle": False},
    "not dropped": {"drop_last": False},
    "grouped": {"group_by_modality": True, "shuffle_window": 2},
    "grouped, not dropped": {"group_by_modality": True, "drop_last": False},
}
# Resumed from many positions, including the first, by every world size.
RESUMED = ("shuffled", "mixture", "grouped, not dropped")


def make(order: str = "shuffled", **options: Any) -> LlavaDataLoader:
    """Without images, unless asked for."""
    data: dict[str, Any] = {"data_dir": [first().root, second().root]}
    if order == "mixture":
        data = {"mixture": [(first().root, 0.3), (second().root, 0.7)]}
    return create_dataloader(**data, **{"shuffle_window": 2, "batch_size": 24, **ORDERS.get(order, {}), **options})


def row_keys(batch: dict[str, Any]) -> list[bytes]:
    """A key for each row of a batch, unique among all rows and including its loss."""
    return [b"".join(batch[name][i].numpy().tobytes() for name in TEXT) for i in range(len(batch["labels"]))]


def global_batches(order: str, world_size: int, *, at: int = 0, **options: Any) -> list[list[bytes]]:
    """The batches of all ranks from batch `at` on, concatenated in rank order."""
    ranks = []
    for rank in range(world_size):
        loader = make(order, batch_size=RANKS[world_size], rank=rank, world_size=world_size, **options)
        if at:
            reference = make(order)
            batches = iter(reference)
            for _ in range(at):
                next(batches)
            loader.load_state_dict(json.loads(json.dumps(reference.state_dict())))
        ranks.append([row_keys(batch) for batch in loader])
    assert len({len(batches) for batches in ranks}) == 1, "every rank has the same number of batches"
    return [list(itertools.chain(*parts)) for parts in zip(*ranks, strict=True)]


class _Doubled:
    """A user's wrapper of our collator: it writes into a tensor, replaces one, or adds one."""

    def __init__(self, collate: Any, change: str) -> None:
        self.collate, self.change = collate, change

    def __call__(self, samples: Any) -> Any:
        batch = self.collate(samples)
        if self.change == "written into":
            batch["labels"].mul_(2)
        elif self.change == "replaced":
            batch["labels"] = batch["labels"] * 2
        elif self.change == "added":
            batch["doubled"] = batch["labels"] * 2
        return batch


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "change"),
    [
        ({}, "none"),
        ({}, "written into"),
        ({}, "replaced"),
        ({}, "added"),
        ({"trim_to": 8, "ignore_index": -100}, "none"),
        ({"trim_to": 8, "ignore_index": -100}, "written into"),
        ({"img_data_dir": IMAGES}, "none"),
        ({"img_data_dir": IMAGES}, "replaced"),
    ],
)
def test_a_batch_from_a_worker_equals_one_made_without_workers(options: dict[str, Any], change: str) -> None:
    here, there = make(**options, batch_size=7), make(**options, batch_size=7, num_workers=1)
    here.collate_fn, there.collate_fn = (_Doubled(loader.collate_fn, change) for loader in (here, there))
    batches = itertools.islice(zip(here, there, strict=True), 12 if "img_data_dir" in options else None)
    for mine, theirs in batches:
        assert list(mine) == list(theirs)
        for name, tensor in mine.items():
            assert tensor.dtype == theirs[name].dtype, name
            assert torch.equal(tensor, theirs[name]), name
            assert theirs[name].is_contiguous()


def test_a_batch_can_be_copied_and_pickled() -> None:
    batch = next(iter(make()))
    batch["labels"] += 1
    batch.failed_images = 3
    for again in (pickle.loads(pickle.dumps(batch)), copy.deepcopy(batch)):
        assert type(again) is type(batch)
        assert again.failed_images == 3
        assert all(torch.equal(again[name], tensor) for name, tensor in batch.items())


@pytest.mark.slow
@pytest.mark.parametrize(
    "order",
    [pytest.param(order, marks=pytest.mark.long) if order in RESUMED else order for order in (*ORDERS, "mixture")],
)
def test_global_batches_are_the_same_for_every_world_size(order: str) -> None:
    expected = global_batches(order, 1)
    assert len(expected) >= 15
    for world_size in RANKS:
        assert global_batches(order, world_size) == expected


@pytest.mark.slow
@pytest.mark.parametrize("order", RESUMED)
@pytest.mark.parametrize("step", [7, pytest.param(1, marks=pytest.mark.long)])
def test_any_world_size_can_resume_from_any_position(order: str, step: int) -> None:
    expected = global_batches(order, 1)
    for at in range(0, len(expected), step):
        world_size = list(RANKS)[at % len(RANKS)]
        assert global_batches(order, world_size, at=at) == expected[at:]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")
@pytest.mark.parametrize(
    ("workers", "world_sizes"), [(1, (1, 8)), (2, (2, 3)), pytest.param(4, (1, 4), marks=pytest.mark.long)]
)
def test_global_batches_are_the_same_for_every_number_of_workers(workers: int, world_sizes: tuple[int, ...]) -> None:
    expected = global_batches("mixture", 1)
    for world_size, at in zip(world_sizes, (0, 5), strict=True):
        assert global_batches("mixture", world_size, at=at, num_workers=workers) == expected[at:]


def test_a_mixture_draws_in_proportion_to_the_weights() -> None:
    keys = {
        row_keys({name: torch.from_numpy(second().arrays[name][i : i + 1].astype(np.int32)) for name in TEXT})[0]
        for i in range(second().rows)
    }
    drawn = [key for batch in global_batches("mixture", 1) for key in batch]
    assert sum(key in keys for key in drawn) / len(drawn) == pytest.approx(0.7, abs=0.01)


def test_an_epoch_contains_every_row_once_and_epochs_differ() -> None:
    loader = make("not dropped")
    epochs = []
    for _ in range(2):
        keys = [key for batch in loader for key in row_keys(batch)]
        assert len(keys) == 17 * 24
        assert len(set(keys[:400])) == 400
        epochs.append(keys)
    assert epochs[0] != epochs[1]
    assert set(epochs[0][:400]) == set(epochs[1][:400])
    assert loader.epoch == 2


@pytest.mark.slow
def test_rows_that_fill_the_last_batch_have_no_loss_and_are_otherwise_unchanged() -> None:
    last = list(make("not dropped"))[-1]
    real = 400 - 16 * 24
    assert (last["loss_mask"].sum(1) > 0).tolist() == [True] * real + [False] * (24 - real)
    assert torch.equal(last["text_input_ids"][real:], last["text_input_ids"][: 24 - real])
    labels = list(make("not dropped", ignore_index=-100))[-1]["labels"]
    assert (labels[real:] == -100).all()


@pytest.mark.slow
def test_state_counts_batches_received_and_not_prefetched() -> None:
    loader = make(num_workers=2, prefetch_factor=4)
    expected = global_batches("shuffled", 1)
    batches = iter(loader)
    for _ in range(3):
        next(batches)
    state = loader.state_dict()
    assert (state["epoch"], state["batch"]) == (0, 3)
    assert len(json.dumps(state)) < 1024
    loader.load_state_dict(state)  # into the loader that is in use
    assert [row_keys(batch) for batch in loader] == expected[3:]


def test_state_with_many_dirs_stays_small() -> None:
    loader = create_dataloader(mixture=[(first().root, 1 / (i + 1)) for i in range(50)], batch_size=8)
    assert len(json.dumps(loader.state_dict())) < 1024


def test_state_at_the_end_of_an_epoch_resumes_at_the_start_of_the_next() -> None:
    loader = make()
    for _ in loader:
        state = loader.state_dict()
    assert (state["epoch"], state["batch"]) == (1, 0)
    other = make()
    other.load_state_dict(state)
    assert [row_keys(batch) for batch in other] == [row_keys(batch) for batch in loader]


def test_an_abandoned_epoch_restarts_from_its_first_batch() -> None:
    loader = make()
    for batch in loader:
        begun = row_keys(batch)
        break
    assert row_keys(next(iter(loader))) == begun
    assert loader.state_dict()["batch"] == 1


def test_an_older_iterator_does_not_change_the_position() -> None:
    loader = make()
    before = iter(loader)
    next(before)
    now = iter(loader)
    next(now)
    for _ in before:
        pass
    assert (loader.state_dict()["epoch"], loader.state_dict()["batch"]) == (0, 1)


def test_set_epoch_chooses_the_order_and_keeps_a_resumed_position() -> None:
    loader = make()
    loader.set_epoch(7)
    batches = iter(loader)
    next(batches)
    state = loader.state_dict()
    second_batch = row_keys(next(batches))
    resumed = make()
    resumed.load_state_dict(state)
    resumed.set_epoch(7)  # as training loops do at the top of an epoch
    assert row_keys(next(iter(resumed))) == second_batch
    resumed.set_epoch(8)
    assert resumed.state_dict()["batch"] == 0


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"shuffle_seed": 1}, "shuffle_seed"),
        ({"batch_size": 12}, "global_batch_size"),
        ({"shuffle_window": 3}, "shuffle_window"),
        ({"group_by_modality": True}, "group_by_modality"),
        ({"order": "mixture"}, "weights"),
    ],
)
def test_a_state_of_another_order_is_refused_and_the_difference_named(options: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=f"the state has {named}"):
        make(**options).load_state_dict(make().state_dict())
    with pytest.raises(ValueError, match="the state has data"):
        create_dataloader(first().root, batch_size=24, shuffle_window=2).load_state_dict(make().state_dict())


def test_grouping_that_would_leave_out_a_modality_is_refused() -> None:
    text_rows = int((first().arrays["modality_lengths"] < 0).sum())
    options: dict[str, Any] = {"batch_size": text_rows + 1, "group_by_modality": True}
    with pytest.raises(ValueError, match=f"leave out all text rows: there are {text_rows}"):
        create_dataloader(first().root, **options)
    kinds = {bool(batch["has_image"].any()) for batch in create_dataloader(first().root, drop_last=False, **options)}
    assert kinds == {True, False}


def test_each_group_has_one_modality() -> None:
    seen = set()
    for batch in make("grouped"):
        kinds = set(batch["has_image"].tolist())
        assert len(kinds) == 1
        seen |= kinds
    assert seen == {True, False}


@pytest.mark.slow
@pytest.mark.parametrize("multiple", [1, 32, 64, 10_000])
def test_trim_cuts_to_the_longest_row_and_never_into_image_slots(multiple: int) -> None:
    whole = list(make(batch_size=4, group_by_modality=True))
    trimmed = list(make(batch_size=4, group_by_modality=True, trim_to=multiple))
    lengths = set()
    for before, after in zip(whole, trimmed, strict=True):
        length = after["labels"].shape[1]
        lengths.add(length)
        for name in TEXT:
            assert torch.equal(before[name][:, :length], after[name])
        assert bool((before["key_padding_mask"][:, length:] == 1).all())
        assert bool((before["loss_mask"][:, length:] == 0).all())
        assert length == 256 or length % multiple == 0
        used = int((before["key_padding_mask"] == 0).any(0).nonzero().max()) + 1
        assert length == min(256, -(-max(used, 33 + 64) // multiple) * multiple)
    assert multiple > 256 or len(lengths) > 1


def test_ignore_index_replaces_the_labels_without_loss() -> None:
    for plain, ready in zip(make(), make(ignore_index=-100), strict=True):
        assert torch.equal(ready["labels"] == -100, plain["loss_mask"] == 0)
        kept = plain["loss_mask"] == 1
        assert torch.equal(ready["labels"][kept], plain["labels"][kept])


@pytest.mark.slow
def test_a_spawned_worker_gives_the_same_batches() -> None:
    options: dict[str, Any] = {"img_data_dir": IMAGES, "batch_size": 20}
    spawned = make(**options, num_workers=1, multiprocessing_context="spawn")
    for ours, theirs in itertools.islice(zip(make(**options), spawned, strict=True), 4):
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.slow
def test_a_dataset_already_read_in_the_parent_can_be_read_in_forked_workers() -> None:
    loader = make(num_workers=2, multiprocessing_context="fork")
    loader.dataset[0]  # opens files and fills caches before the fork
    assert [row_keys(batch) for batch in loader] == global_batches("shuffled", 1)
    loader.dataset[399]


@pytest.mark.slow
def test_persistent_workers_continue_with_the_next_epoch() -> None:
    kept, fresh = make(num_workers=1, persistent_workers=True), make()
    for _ in range(2):
        assert [row_keys(batch) for batch in kept] == [row_keys(batch) for batch in fresh]


def test_a_pickled_dataset_carries_no_open_files() -> None:
    dataset = make().dataset
    before = len(pickle.dumps(dataset))
    dataset[0]
    assert len(pickle.dumps(dataset)) == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"data_dir": None}, "give either data_dir or mixture"),
        ({"mixture": []}, "give either data_dir or mixture"),
        ({"data_dir": None, "mixture": []}, "no folder is given"),
        ({"data_dir": None, "mixture": {"out": 1.0}}, r"mixture is a mapping, expected \[\(folder, weight\)"),
        ({"data_dir": None, "mixture": ["out"]}, r"mixture has the entry 'out', expected \(folder, weight\)"),
        ({"data_dir": None, "mixture": [("out", "1")]}, r"mixture has the entry \('out', '1'\)"),
        ({"data_dir": []}, "no folder is given"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"batch_size": "4"}, "batch_size is '4', expected a whole number of at least 1"),
        ({"batch_size": 1000}, "do not fill one global batch of 1000"),
        ({"batch_size": 200, "rank": 0, "world_size": 2}, r"batch_size 200 x world_size 2"),
        ({"rank": 2, "world_size": 2}, "rank is 2 of world_size 2"),
        ({"rank": 0}, "give both or neither"),
        ({"shuffle_window": 0}, "shuffle_window is 0"),
        ({"num_workers": -1}, "num_workers is -1"),
        ({"open_files": 0}, "open_files 0"),
        ({"trim_to": 0}, "trim_to is 0"),
        ({"image_aspect_ratio": "anyres"}, "image_aspect_ratio is 'anyres'"),
        ({"on_image_error": "skip"}, "on_image_error is 'skip'"),
        ({"img_data_dir": "/nowhere"}, "img_data_dir /nowhere: no such folder"),
        ({"img_data_dir": [IMAGES, IMAGES]}, "2 folders for 1 data dirs"),
    ],
)
def test_wrong_arguments_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        create_dataloader(**{"data_dir": first().root, "batch_size": 4, **options})


def test_rank_and_world_size_are_those_of_torch_distributed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: 1)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    expected = [row_keys(batch) for batch in make(batch_size=12, rank=1, world_size=2)]
    assert [row_keys(batch) for batch in make(batch_size=12)] == expected


def test_torchrun_without_a_process_group_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every rank would silently train on the same rows."""
    monkeypatch.setenv("WORLD_SIZE", "4")
    with pytest.raises(ValueError, match=r"WORLD_SIZE 4, but torch.distributed is not initialised"):
        make()


@pytest.mark.parametrize("state", [None, "loader.json", []])
def test_a_state_that_is_not_a_mapping_is_refused_with_what_was_expected(state: Any) -> None:
    with pytest.raises(ValueError, match=r"expected what state_dict\(\) returned"):
        make().load_state_dict(state)


@pytest.mark.parametrize(("key", "number"), [("epoch", -1), ("epoch", "1"), ("batch", -1), ("batch", None)])
def test_a_state_with_an_impossible_position_is_refused(key: str, number: Any) -> None:
    loader = make()
    with pytest.raises(ValueError, match=f"the state has {key} {number!r}, expected an integer of at least 0"):
        loader.load_state_dict({**loader.state_dict(), key: number})
