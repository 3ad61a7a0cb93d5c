"""`make torture`: kill runs at random moments of every stage, resume them, and compare with one that was left alone."""

from __future__ import annotations

import argparse
import random
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import List, NamedTuple, Optional, Tuple

from dso_nas.files import PARTIAL
from tests.torture.runs import STAGES, Event, Moment, differences, finish, nth, stop_at

CHECKPOINT = "checkpoint-"
# Checkpoints that a resumed stage waits for at most: two kills of a stage then still find something to kill.
MOST = 4
LINE = "{:>3}  {:>3}  {:<8}  {:<21}  {:>5}  {:<34}  {}"


class Kill(NamedTuple):
    """A moment to kill at: the `count`th file `name` of a stage, while or after it is written, `delay` seconds on."""

    stage: str
    name: str
    count: int
    written: bool
    delay: float

    @property
    def moment(self) -> Moment:
        """As `stop_at` takes it."""
        return nth(self.count, self.stage, self.name, self.written)

    @property
    def words(self) -> str:
        """For the table."""
        what = "checkpoint" if self.name == CHECKPOINT else self.name
        return f"{'between steps' if self.written else f'writing {what}'}"


def draw(rng: random.Random, stage: str, late: bool) -> Kill:
    """A random moment of a stage; `late` in the search may be while its result is written."""
    if late and stage == "search" and rng.random() < 0.5:
        return Kill(stage, "genotype", 1, False, 0.0)
    # Writing takes a millisecond or two, most of it in the disk's hands.
    writing = rng.random() < 0.5
    delay = rng.uniform(0, 0.002) if writing else rng.uniform(0, 0.3)
    return Kill(stage, CHECKPOINT, rng.randint(1, MOST), not writing, delay)


def victim(rng: random.Random, folder: Path, whole: Path, first: int, kills: int) -> List[str]:
    """Kill one run `kills` times through the stages, let it end, and compare; its failures."""
    stages = sorted((STAGES[index % len(STAGES)] for index in range(kills)), key=STAGES.index)
    for number, stage in enumerate(stages, start=first):
        kill = draw(rng, stage, number > first and stages[number - first - 1] == stage)
        found, status = stop_at(folder, kill.moment, signal.SIGKILL, kill.delay)
        print(LINE.format(number, first, stage, kill.words, *_aftermath(folder, stage, found, status)), flush=True)
    finish(folder, "--resume")
    return differences(whole, folder)


def _aftermath(folder: Path, stage: str, found: Optional[Event], status: int) -> Tuple[str, str, str]:
    torn = list((folder / stage).glob(f".*{PARTIAL}"))
    newest = max((path.name for path in (folder / stage).glob(f"{CHECKPOINT}*")), default="none")
    said = "killed" if status == -signal.SIGKILL and found else f"had ended, status {status}"
    return "yes" if torn else "no", newest, said


def main() -> int:
    """Print the table; 1 if a run that was killed ended otherwise than the one that was not."""
    parser = argparse.ArgumentParser(prog="python -m tests.torture", description=__doc__)
    parser.add_argument("--kills", type=int, default=30, help="moments to kill at (default: %(default)s)")
    parser.add_argument("--each", type=int, default=6, help="kills of one run before it may end (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=int(time.time()), help="chooses the moments (default: the time)")
    options = parser.parse_args()
    rng, failures = random.Random(options.seed), []
    print(f"seed {options.seed}; {options.kills} kills, at most {options.each} of one run", flush=True)
    print(LINE.format("#", "run", "stage", "moment", "torn", "newest checkpoint after it", "process"))
    with tempfile.TemporaryDirectory() as name:
        whole = Path(name) / "whole" / "work"
        finish(whole)
        for first in range(1, options.kills + 1, options.each):
            folder = Path(name) / f"run-{first}" / "work"
            found = victim(rng, folder, whole, first, min(options.each, options.kills + 1 - first))
            print(f"run {first}: {'the same bits as the run left alone' if not found else f'DIFFERS: {found[:5]}'}",
                  flush=True)
            failures += found
    print(f"{options.kills} kills: {'nothing lost' if not failures else f'{len(failures)} differences'}")
    return bool(failures)


if __name__ == "__main__":
    sys.exit(main())
