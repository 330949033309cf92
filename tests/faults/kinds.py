"""All kinds of faults, and how many of each are tried."""

import random
from collections.abc import Callable
from typing import NamedTuple

from tests.faults import damage, signals, under_way
from tests.faults.lab import Lab, Outcome


class Kind(NamedTuple):
    """A kind of fault."""

    name: str
    number: int  # of faults, in the whole harness
    fault: Callable[[Lab, random.Random], Outcome]
    quick: bool = False  # whether make test tries one


KINDS = (
    Kind("a bit of a checkpoint's file flipped", 20, damage.checkpoint_file("flip"), quick=True),
    Kind("a checkpoint's file cut", 15, damage.checkpoint_file("cut")),
    Kind("a checkpoint's file emptied", 10, damage.checkpoint_file("empty")),
    Kind("a checkpoint's file deleted", 10, damage.checkpoint_file("delete")),
    Kind("a checkpoint's file filled with noise", 10, damage.checkpoint_file("garbage")),
    Kind("a checkpoint's file swapped for an older one", 10, damage.swapped_checkpoint_file),
    Kind("a checkpoint copied to another name", 12, damage.copied_checkpoint, quick=True),
    Kind("a number in a checkpoint's record changed", 10, damage.changed_record, quick=True),
    Kind("a checkpoint of another run", 4, damage.foreign_checkpoint),
    Kind("checkpoints gone", 6, damage.checkpoints_gone, quick=True),
    Kind("metrics.jsonl damaged half-way", 10, damage.file_of("metrics.jsonl", whole=False), quick=True),
    Kind("config.json damaged", 10, damage.file_of("config.json", whole=False)),
    Kind("summary.json damaged", 12, damage.file_of("summary.json", whole=True), quick=True),
    Kind("masks.npz damaged", 10, damage.file_of("masks.npz", whole=True), quick=True),
    Kind("metrics.jsonl damaged at the end", 10, damage.file_of("metrics.jsonl", whole=True)),
    Kind("a file of another run", 8, damage.swapped_file),
    Kind("changed data", 10, damage.changed_data, quick=True),
    Kind("changed growth rule", 10, damage.changed_rule, quick=True),
    Kind("changed fields", 8, damage.changed_fields),
    Kind("full disk", 12, under_way.full_disk, quick=True),
    Kind("read-only disk", 6, under_way.read_only),
    Kind("disk that becomes read-only", 6, under_way.read_only_under_way),
    Kind("limit of file sizes", 12, under_way.file_size_limit, quick=True),
    Kind("limit of open files", 8, under_way.few_files),
    Kind("a system call fails", 24, under_way.failing_calls, quick=True),
    Kind("deleted under way", 14, under_way.deleted, quick=True),
    Kind("two runs in one folder", 4, under_way.two_runs),
    Kind("odd names of folders", 10, under_way.odd_names, quick=True),
    Kind("SIGKILL at a random moment", 10, signals.killed),
    Kind("SIGKILL within a write", 10, signals.killed_within),
    Kind("SIGTERM, SIGINT or SIGHUP", 10, signals.asked),
    Kind("another number of devices", 4, signals.devices),
    Kind("one of two hosts killed", 3, signals.one_of_two),
)
