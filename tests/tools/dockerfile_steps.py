"""Runs the steps of a Dockerfile in order, in a clean folder, without a Docker engine.

Each stage gets a folder that stands for `/`, with nothing in it but what the steps put there; the environment
holds nothing but what the image would have and the settings of pip. Absolute paths below the folders that
the Dockerfile makes (`/app`, `/opt`, `/src`) are moved into it. What the base image brings (Python, a shell)
is this machine's. Then the container's command and its health check run, as the user that the Dockerfile
names when this process is root.
"""

import fnmatch
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_OWN_PATH = re.compile(r"(?<![\w./])/(?=(?:app|opt|src)(?:/|\b))")
_PASSED_ON = re.compile(r"^(PIP_|SSL_|REQUESTS_|https?_proxy$|no_proxy$)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Step:
    """One instruction of a Dockerfile."""

    name: str
    text: str

    def words(self) -> list[str]:
        """Returns the instruction's words, from its JSON form or its shell form."""
        return [str(word) for word in json.loads(self.text)] if self.text.startswith("[") else shlex.split(self.text)

    def command(self) -> list[str]:
        """Returns what is executed: a JSON form as it stands, a shell form through the shell."""
        return self.words() if self.text.startswith("[") else ["/bin/sh", "-c", self.text]


def parse(text: str) -> list[Step]:
    """Returns the instructions in order, with continued lines joined and comments left out."""
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    pairs = (line.split(maxsplit=1) for line in joined.splitlines())
    return [Step(name.upper(), rest.strip()) for name, rest in pairs]


def is_ignored(path: str, patterns: list[str]) -> bool:
    """Returns whether `.dockerignore` keeps the path out of the build; the last pattern that fits decides."""
    ignored = False
    for pattern in patterns:
        wanted = pattern.removeprefix("!").removeprefix("**/")
        parts = Path(path).parts
        heads = ["/".join(parts[: end + 1]) for end in range(len(parts))]
        candidates = parts if "**/" in pattern else heads
        if any(fnmatch.fnmatch(candidate, wanted) for candidate in candidates):
            ignored = not pattern.startswith("!")
    return ignored


def base_python(copy: Path) -> Path:
    """Returns the prefix of a Python that every user may run: this one, or a copy if its home is private."""
    prefix = Path(sys.base_prefix)
    if all(folder.stat().st_mode & 0o001 for folder in [prefix, *prefix.parents]):
        return prefix
    if not copy.exists():
        unneeded = shutil.ignore_patterns("test", "site-packages", "config-*", "__pycache__", "idlelib", "*.a")
        for part in ("bin", "lib"):
            shutil.copytree(prefix / part, copy / part, symlinks=True, ignore=unneeded)
    return copy


@dataclass(slots=True)
class Image:
    """What the steps have built so far; it lives as long as its temporary folder."""

    context: Path
    folder: Path
    env: dict[str, str] = field(default_factory=dict)
    stage: str = ""
    workdir: str = "/"
    user: int | None = None
    command: list[str] = field(default_factory=list)
    health: list[str] = field(default_factory=list)

    @property
    def root(self) -> Path:
        """The folder that stands for `/` in the current stage; one for all, as scripts hold its path."""
        return self.folder / "root"

    def inside(self, text: str) -> str:
        """Returns the text with the image's own absolute paths moved into the folder."""
        return _OWN_PATH.sub(f"{self.root}/", text)

    def run(self, step: Step) -> None:
        """Executes one instruction.

        Raises:
            ValueError: this runner does not know the instruction, so it would prove nothing.
            subprocess.CalledProcessError: a command of the image failed.
        """
        known = {
            "FROM": self._from,
            "WORKDIR": self._workdir,
            "ENV": self._env,
            "RUN": self._run,
            "COPY": self._copy,
            "USER": self._user,
            "EXPOSE": self._expose,
            "CMD": self._cmd,
            "HEALTHCHECK": self._health,
        }
        if step.name not in known:
            raise ValueError(f"{step.name} is not known here: {step.text}")
        known[step.name](step)

    def _from(self, step: Step) -> None:
        if self.root.exists():
            self.root.rename(self.folder / f"stage-{self.stage}")
        self.root.mkdir(parents=True)
        words = step.words()
        self.stage = words[2] if len(words) == 3 else "final"
        base = base_python(self.folder / "base")
        self.env = {
            "LD_LIBRARY_PATH": f"{base}/lib",  # a copied Python finds its library by it
            "PATH": f"{base}/bin:/usr/local/bin:/usr/bin:/bin",
            "HOME": str(self.root),
        }
        self.env |= {name: value for name, value in os.environ.items() if _PASSED_ON.match(name)}
        self.workdir, self.user, self.command, self.health = "/", None, [], []

    def _workdir(self, step: Step) -> None:
        self.workdir = step.text
        self._here().mkdir(parents=True, exist_ok=True)

    def _env(self, step: Step) -> None:
        for word in step.words():
            name, value = word.split("=", 1)
            self.env[name] = self.inside(value).replace("$PATH", self.env["PATH"])

    def _run(self, step: Step) -> None:
        command = [self.inside(word) for word in step.command()]
        subprocess.run(command, cwd=self._here(), env=self.env, check=True)

    def _copy(self, step: Step) -> None:
        words = step.words()
        stage = words.pop(0).removeprefix("--from=") if words[0].startswith("--from=") else None
        *sources, target = words
        goal = self._here() / self.inside(target)
        for name in sources:
            source = self.folder / f"stage-{stage}" / name.lstrip("/") if stage else self.context / name
            self._place(source, goal, into=len(sources) > 1 or target.endswith("/"), filtered=stage is None)

    def _place(self, source: Path, goal: Path, *, into: bool, filtered: bool) -> None:
        patterns = (self.context / ".dockerignore").read_text().split("\n") if filtered else []
        patterns = [line.strip() for line in patterns if line.strip() and not line.startswith("#")]

        def left_out(folder: str, names: list[str]) -> list[str]:
            inner = Path(folder).relative_to(self.context)
            return [name for name in names if is_ignored(str(inner / name), patterns)]

        if filtered and is_ignored(str(source.relative_to(self.context)), patterns):
            raise FileNotFoundError(f"{source.name} is kept out of the build by .dockerignore")
        if source.is_dir():
            shutil.copytree(source, goal, symlinks=True, dirs_exist_ok=True, ignore=left_out if filtered else None)
        else:
            goal.mkdir(parents=True, exist_ok=True) if into else goal.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, goal)

    def _user(self, step: Step) -> None:
        self.user = int(step.text.split(":")[0])

    def _expose(self, step: Step) -> None:
        int(step.text)

    def _cmd(self, step: Step) -> None:
        self.command = step.command()

    def _health(self, step: Step) -> None:
        self.health = Step("CMD", step.text.split("CMD", 1)[1].strip()).command()

    def _here(self) -> Path:
        return Path(self.inside(self.workdir)) if self.workdir != "/" else self.root

    def start(self, command: list[str], port: int, env: dict[str, str] | None = None) -> subprocess.Popen[bytes]:
        """Returns a process of the image: its command or its health check, on a port of our choice."""
        words = [self.inside(word).replace("5001", str(port)) for word in command]
        program = shutil.which(words[0], path=self.env["PATH"])
        if program is None:
            raise FileNotFoundError(f"{words[0]} is not on the image's PATH")
        user = self.user if os.getuid() == 0 else None
        return subprocess.Popen(
            [program, *words[1:]],
            cwd=self._here(),
            env=self.env | (env or {}),
            user=user,
            group=user,
            extra_groups=None if user is None else [],
        )

    def is_healthy(self, port: int) -> bool:
        """Returns whether the health check passes, as Docker would run it."""
        return self.start(self.health, port).wait(timeout=10) == 0


@contextmanager
def built(context: Path = ROOT) -> Iterator[Image]:
    """Yields the image after all steps; its folder is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="fs-image-", ignore_cleanup_errors=True) as name:
        Path(name).chmod(0o755)
        image = Image(context, Path(name))
        for step in parse((context / "Dockerfile").read_text()):
            print(f"{step.name} {step.text}", flush=True)
            image.run(step)
        yield image


def main() -> int:
    """Builds, runs and checks the image of this repository; returns 0 when its health check passed."""
    port = int(sys.argv[1]) if len(sys.argv) > 1 else 5001
    with built() as image:
        site = image.start(image.command, port, {"FASTSTATE_SECRET_KEY": os.urandom(32).hex()})
        try:
            end = time.monotonic() + 30
            while not (healthy := image.is_healthy(port)) and time.monotonic() < end and site.poll() is None:
                time.sleep(0.5)  # the interval of a container's health check
        finally:
            site.terminate()
            site.wait(15)
    print("healthy" if healthy else "not healthy")
    return 0 if healthy else 1


if __name__ == "__main__":
    sys.exit(main())
