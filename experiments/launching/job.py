"""The job that a launcher starts: the command of training on so many machines, checked before any file is written."""

from __future__ import annotations

import dataclasses
import re
import shlex

from bvjax.distributed.start import RESTART
from bvjax.errors import UserError
from experiments.launching.flags import FLAGS

NAME = re.compile(r"[a-z]([-a-z0-9]{0,38}[a-z0-9])?")  # legal in Kubernetes, SLURM and in a path
# Codes after which the same command goes on: the state is saved (or a device hung), or a signal ended a process, as it
# does when the machine of another one is lost. Not 130, Ctrl-C: a person stopped it.
RESTARTED = (RESTART, *(code for code in range(128, 256) if code != 130))
_OWN = ("config", "workdir", "coordinator", "num-processes", "process-id")


@dataclasses.dataclass(frozen=True)
class Job:
    """One run of `experiments.train` on `hosts` machines, a process on each, which drives all its devices."""

    name: str
    config: str
    workdir: str  # seen alike by all machines: a shared disk, or gs://
    chip: str  # of `flags.FLAGS`
    hosts: int
    devices_per_host: int
    image: str = ""  # a container with the project in it; "": the machines have it
    project: str = ""  # folder of the project there; "": where the launcher begins
    python: str = "python"  # there: a path from its folder, or from /
    restarts: int = 10
    grace_seconds: int = 600  # from SIGTERM until the machine goes: a checkpoint has to fit
    words: tuple[str, ...] = ()  # of the command, behind the config and the folder

    def __post_init__(self):
        """Raises `UserError` for values that no launcher can use."""
        if not NAME.fullmatch(self.name):
            raise UserError(
                f"`name` is {self.name!r}; it must be small letters, digits and hyphens, at most 40, a letter first"
            )
        if self.chip not in FLAGS:
            raise UserError(f"`chip` is {self.chip!r}; it can be {', '.join(FLAGS)}")
        for name, least in (
            ("hosts", 1),
            ("devices_per_host", 1),
            ("restarts", 0),
            ("grace_seconds", 30),
        ):
            if getattr(self, name) < least:
                raise UserError(f"`{name}` is {getattr(self, name)}; it must be {least} or more")
        for text in (self.config, self.workdir, self.image, self.project, self.python, *self.words):
            if any(ord(letter) < 32 or letter == "\x7f" for letter in text):
                raise UserError(f"{text!r} has a control character, which no launcher can pass on")
            if any(0xD800 <= ord(letter) < 0xE000 for letter in text):
                raise UserError(f"{text!r} is not Unicode")
        for name in ("config", "python"):
            if not getattr(self, name).strip() or getattr(self, name).startswith("-"):
                raise UserError(f"`{name}` is {getattr(self, name)!r}; it must name a file")
        if not re.fullmatch(r"/.*|gs://[^/]+/.+", self.workdir):
            raise UserError(
                f"`workdir` is {self.workdir!r}; it must be a path from / of a disk that all machines share, "
                "or gs://BUCKET/FOLDER"
            )
        for word in self.words:
            name = re.match(r"--?([\w-]+)", word)
            if name is None:
                raise UserError(f"{word!r} is no option of experiments.train (--NAME=VALUE)")
            if name[1].replace("_", "-") in _OWN and not re.match(r"--?config\.", word):
                raise UserError(f"{word!r} is said by the launcher and cannot be given again")

    @property
    def tpu(self) -> bool:
        """Whether the chips are TPUs."""
        return self.chip.startswith("v")

    @property
    def stored(self) -> bool:
        """Whether the folder is in an object store, not on a disk."""
        return self.workdir.startswith("gs://")

    def arguments(self) -> list[str]:
        """The words of the command, one argument each."""
        own = (f"--config={self.config}", f"--workdir={self.workdir}", *self.words)
        return [self.python, "-m", "experiments.train", *own]

    def command(self) -> str:
        """The command, quoted for a shell."""
        return shlex.join(self.arguments())

    def environment(self) -> dict[str, str]:
        """Variables that the processes get: XLA's flags."""
        return dict(FLAGS[self.chip].environment)

    def restarted_test(self) -> str:
        """A shell's test of `$code` for `RESTARTED`."""
        return f'[ "$code" -eq {RESTART} ] || {{ [ "$code" -ge 128 ] && [ "$code" -ne 130 ]; }}'
