"""What a sidecar owes and holds, as people see it while it runs."""

import json
import os
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import openai

from bursar_cli.exit_codes import UNREACHABLE
from tests.fakes.stack import Stack, running
from tests.fakes.until import until

PROMPT = "a secret between the two of us: swordfish"


def command(stack: Stack, *arguments: str) -> Any:
    done = stack.cli(*arguments, "-o", "json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_the_journal_and_the_exposure_of_a_running_sidecar_are_shown(tmp_path: Path) -> None:
    tmp_path.chmod(0o711)
    with running(tmp_path) as stack:
        app = openai.OpenAI(
            api_key=stack.ready["demo_key"], base_url=f"{stack.ready['sidecar']}/v1"
        )
        answer = app.chat.completions.create(
            model="gpt-4o-mini", max_tokens=100, messages=[{"role": "user", "content": PROMPT}]
        )
        text = answer.choices[0].message.content or ""
        journal = next((tmp_path / "data" / "sidecar-1").rglob("*.journal")).parent

        def acknowledged() -> Any:
            told = command(stack, "sidecar", "journal", str(journal))
            return told if any(one["acknowledged"] for one in told["sessions"]) else None

        told = until(acknowledged, "the call's charge is acknowledged")
        kinds = [record["kind"] for record in told["records"] if record["n"] == 1]
        assert kinds.count("opened") == kinds.count("settled") == kinds.count("acknowledged")
        session = next(one for one in told["sessions"] if one["opened"])
        assert (session["state"], session["owed"], session["inFlight"]) == ("complete", 0, 0)

        written = b"".join(path.read_bytes() for path in journal.iterdir())
        secrets = json.loads((tmp_path / "data" / "secrets.json").read_text())
        for hidden in (PROMPT, text, stack.ready["demo_key"], *strings(secrets)):
            assert hidden, "nothing to look for"
            assert hidden.encode() not in written
            assert hidden not in json.dumps(told)

        [sidecar] = command(stack, "sidecar", "list", "--org", "acme")
        held = [each for one in sidecar["sessions"] for each in one["allowances"]]
        assert held
        for each in held:
            budget = command(stack, "budget", "show", "--org", "acme", each["budget"])
            [holder] = budget["standing"]["holders"]
            assert holder["sidecar"] == sidecar["name"]
            assert holder["inDoubt"]["nanos"] == each["inDoubt"]["nanos"] == "0"

        with urllib.request.urlopen(f"{stack.ready['http']}/metrics") as page:
            assert b'bursar_outstanding_nanos{currency="USD",organization="acme"}' in page.read()


def strings(secrets: Any) -> list[str]:
    """Every secret, however they are nested."""
    if isinstance(secrets, str):
        return [secrets] if len(secrets) > 16 else []
    values = secrets.values() if isinstance(secrets, dict) else secrets
    return [text for value in values for text in strings(value)]


def test_a_database_in_the_settings_file_is_used(tmp_path: Path) -> None:
    settings = tmp_path / "server.toml"
    # A socket's directory without a socket: nobody serves there.
    url = f"postgresql:///none?host={tmp_path}"
    settings.write_text(f'database_url = "{url}"\ndatabase_wait_ms = 0\n')
    clean = {name: value for name, value in os.environ.items() if not name.startswith("BURSAR_")}
    told: list[tuple[list[str], dict[str, str]]] = [
        (["--config", str(settings)], {}),
        ([f"--config={settings}"], {}),
        ([], {"BURSAR_CONFIG": str(settings)}),
    ]
    for arguments, environment in told:
        done = subprocess.run(
            [
                *(sys.executable, "-m", "bursar_cli", "server", *arguments),
                *("--data-dir", str(tmp_path / "data")),
            ],
            capture_output=True,
            text=True,
            env={**clean, **environment},
            check=False,
        )
        assert done.returncode == UNREACHABLE, done.stderr
        assert not (tmp_path / "data").exists()
