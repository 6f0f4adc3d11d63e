"""The examples in README.md and docs/ work as they stand.

A block ```sh under `<!-- run: NAME -->` is executed; blocks of one name in one file run in one shell,
in order, in a copy of the repository's root (so that `make` finds it built). A block ```sql goes to the
shell's function `sql`. `<!-- setup: NAME` to `-->` is shell of the same story that a reader is not shown. A block ```text under
`<!-- output -->` is what the block before it must have printed at its end. The well-known ports are
replaced by free ones, since the machine's own may be in use.
"""
import os
import pathlib
import re
import signal
import subprocess

import pytest

from leat.ports import free_port

TOP = pathlib.Path(__file__).resolve().parents[2]
PORTS = ("8883", "8443", "9090")
BLOCK = re.compile(r"<!-- (run: [\w-]+|output) -->\n```(sh|sql|text)\n(.*?)^```"
                   r"|<!-- (setup: [\w-]+)\n(.*?)^-->", re.M | re.S)
MARK = "@@ end of block"
LIMIT_S = 120


def stories():
    """{(file, name): [(shell text, expected output or None)]}"""
    found = {}
    for file in [TOP / "README.md", *sorted((TOP / "docs").glob("*.md"))]:
        blocks = None
        for kind, language, text, setup, hidden in BLOCK.findall(file.read_text()):
            if language == "sql":
                text = f"sql <<'END OF SQL'\n{text}END OF SQL\n"
            kind, text = kind or setup, text or hidden
            if kind == "output":
                assert blocks, f"{file.name}: output without a block before it"
                blocks[-1] = (blocks[-1][0], text)
            else:
                blocks = found.setdefault((file.name, kind.split()[1]), [])
                blocks.append((text, None))
    return found


def free_ports():
    return {name: str(free_port()) for name in PORTS}


def workplace(tmp_path):
    """A directory that looks like the repository's root, with the program under test as build/leat."""
    for entry in TOP.iterdir():
        if entry.name not in ("build", ".git"):
            (tmp_path / entry.name).symlink_to(entry)
    (tmp_path / "build").mkdir()
    leat = os.environ.get("LEAT_BIN", TOP / "build/leat")
    (tmp_path / "build/leat").symlink_to(pathlib.Path(leat).resolve())
    # `make` is what a reader runs; here everything is built.
    bin_dir = tmp_path / ".bin"
    bin_dir.mkdir()
    (bin_dir / "make").symlink_to("/bin/true")
    return {**os.environ, "PATH": f"{bin_dir}:{os.environ['PATH']}"}


def script(blocks, ports):
    text = "set -eum\n"
    for block, _ in blocks:
        text += f"{block}\nprintf '%s\\n' '{MARK}'\n"
    for port, free in ports.items():
        text = re.sub(rf"\b{port}\b", free, text)
    return text


def run(text, cwd, env):
    """bash in a session of its own; whatever it leaves behind is ended."""
    out = cwd / "stdout.txt"
    with out.open("w") as stdout, (cwd / "stderr.txt").open("w") as stderr:
        shell = subprocess.Popen(["bash", "-c", text], cwd=cwd, env=env, start_new_session=True,
                                 stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr)
        try:
            status = shell.wait(LIMIT_S)
        except subprocess.TimeoutExpired:
            status = f"still running after {LIMIT_S} s"
        finally:
            for pid in session_members(shell.pid):
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass
            shell.wait()
            for db in cwd.rglob("socket-path"):
                subprocess.run([TOP / "sql/dev-server", "stop", db.parent], capture_output=True)
    return status, out.read_text(), (cwd / "stderr.txt").read_text()


def session_members(session):
    for stat in pathlib.Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(fields[3]) == session:
            yield int(stat.parent.name)


@pytest.mark.parametrize("story", stories().items(), ids=lambda s: "-".join(s[0]))
def test_examples_work_as_they_stand(story, tmp_path):
    (_, _), blocks = story
    env = workplace(tmp_path)
    status, out, errors = run(script(blocks, free_ports()), tmp_path, env)
    printed = out.split(MARK + "\n")
    assert status == 0, f"block {len(printed)} failed ({status}):\n{out[-2000:]}\n{errors[-4000:]}"
    for (text, expected), got in zip(blocks, printed):
        assert expected is None or got.endswith(expected), f"{text}\nprinted\n{got}"
