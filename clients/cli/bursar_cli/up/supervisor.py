"""Brings everything up in order, tells where it is, and takes it down in the opposite order."""

import asyncio
import json
import os
import signal
from collections.abc import Callable
from typing import Any

import msgspec

from bursar_cli.up.assembly import Assembly, Options
from bursar_cli.up.data_directory import HOST, DataDirectory, Secrets
from bursar_cli.up.part import Part, PartError
from bursar_cli.up.private_files import write_private_json

ENROLMENT_S = 60.0  # a dozen small calls to a control plane on this machine
DEMO_ORGANIZATION = "organizations/acme"
PLAIN_ORGANIZATION = "organizations/default"
DEMO_KEY = "keys/k-demo"


class Supervisor:
    """One `bursar up`. `said` gets lines for people, `serving` what the ready file says."""

    def __init__(
        self,
        options: Options,
        *,
        said: Callable[[str], None],
        serving: Callable[[dict[str, Any]], None],
    ) -> None:
        self._options = options
        self._said = said
        self._serving = serving
        self._directory = DataDirectory(options.data_dir)
        self._secrets = Secrets()
        self._ports: dict[str, int] = {}
        self._assembly: Assembly | None = None
        self._parts: list[Part] = []
        self._is_serving = False
        self._stop = asyncio.Event()
        self._stops = 0

    async def run(self) -> None:
        """Serve until SIGINT or SIGTERM; a second one stops without waiting.

        Raises PartError, DataDirectoryError, OSError.
        """
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._asked_to_stop)
        try:
            starting = asyncio.create_task(self._start())
            stopped = asyncio.create_task(self._stop.wait())
            await asyncio.wait({starting, stopped}, return_when=asyncio.FIRST_COMPLETED)
            if starting.done():
                starting.result()
                await stopped
            else:
                starting.cancel()
                await asyncio.wait({starting})
        finally:
            self._is_serving = False
            await self._take_down()

    def _asked_to_stop(self) -> None:
        self._stops += 1
        if self._stops == 1:
            self._said("stopping (once more to stop without waiting)")
        else:
            for part in self._parts:
                part.hurry()
        self._stop.set()

    async def _start(self) -> None:
        options, directory = self._options, self._directory
        for stale in {directory.ready_file, options.ready_file or directory.ready_file}:
            stale.unlink(missing_ok=True)
        self._secrets = directory.secrets()
        await asyncio.to_thread(directory.see_off_leftovers)
        self._ports = directory.ports(options.port_wishes())
        self._assembly = Assembly(
            options,
            directory,
            self._secrets,
            self._ports,
            spawned=lambda: directory.keep_pids(self._pids()),
            changed=self._changed,
            said=self._said,
        )
        postgres = self._assembly.postgres()
        if postgres is not None:
            await self._bring_up(postgres)
        await self._bring_up(self._assembly.server(), self._assembly.provider())
        await self._enrol()
        sidecars = [self._assembly.sidecar(name) for name in options.sidecar_names()]
        await self._bring_up(*sidecars)
        self._is_serving = True
        self._changed()
        self._serving(self._ready())

    async def _bring_up(self, *parts: Part) -> None:
        self._parts += parts
        starts = [asyncio.create_task(part.start()) for part in parts]
        try:
            await asyncio.gather(*starts)
        finally:
            for start in starts:
                start.cancel()

    async def _take_down(self) -> None:
        """Sidecars first, while what they report to still serves; the database last."""
        by_name = {part.name: part for part in self._parts}
        names = self._options.sidecar_names()
        groups = [names, ["server"], ["provider"], ["postgres"]]
        for group in groups:
            await asyncio.gather(*(by_name[name].stop() for name in group if name in by_name))
        if self._assembly is not None:
            self._assembly.release()
        for path in {self._directory.ready_file, self._options.ready_file}:
            if path is not None:
                path.unlink(missing_ok=True)
        self._directory.keep_pids({})
        self._directory.release()

    async def _enrol(self) -> None:
        """Have the sidecars, and the demo organization, made where they are missing.

        In a process of its own: gRPC and its threads stay out of the one that forks.
        """
        demo = self._options.demo
        asked = {
            "address": f"{HOST}:{self._ports['grpc']}",
            "admin_key": self._secrets.admin_key,
            "organization": DEMO_ORGANIZATION if demo else PLAIN_ORGANIZATION,
            "demo": demo,
            "sidecars": self._options.sidecar_names(),
            "sidecar_keys": self._secrets.sidecar_keys,
            "app_keys": self._secrets.app_keys,
        }
        process = await asyncio.create_subprocess_exec(
            *self._options.programs.enrolment,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
        )
        try:
            async with asyncio.timeout(ENROLMENT_S):
                out, err = await process.communicate(json.dumps(asked).encode())
        except TimeoutError:
            raise PartError(f"setting up took longer than {ENROLMENT_S:g} s") from None
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        if process.returncode != 0:
            raise PartError(f"setting up failed: {err.decode(errors='replace').strip()}")
        made = msgspec.json.decode(out, type=dict[str, dict[str, str]])
        self._secrets.sidecar_keys = made["sidecar_keys"]
        self._secrets.app_keys = made["app_keys"]
        self._directory.keep_secrets(self._secrets)

    def _pids(self) -> dict[str, int]:
        return {part.name: part.pid for part in self._parts if part.pid is not None}

    def _changed(self) -> None:
        """A part came to serve: tell whoever looks at the ready file."""
        if self._is_serving:
            ready = self._ready()
            write_private_json(self._directory.ready_file, ready)
            if self._options.ready_file is not None:
                write_private_json(self._options.ready_file, ready)

    def _ready(self) -> dict[str, Any]:
        ports = self._ports
        names = self._options.sidecar_names()
        return {
            "grpc": f"{HOST}:{ports['grpc']}",
            "http": f"http://{HOST}:{ports['http']}",
            "sidecars": [f"http://{HOST}:{ports[name]}" for name in names],
            "sidecar": f"http://{HOST}:{ports[names[0]]}",
            "sidecar_grpcs": [f"{HOST}:{ports[f'{name}-grpc']}" for name in names],
            "sidecar_admins": [f"http://{HOST}:{ports[f'{name}-admin']}" for name in names],
            "provider": f"http://{HOST}:{ports['provider']}",
            "admin_key": self._secrets.admin_key,
            "demo_key": self._secrets.app_keys.get(DEMO_KEY, "") if self._options.demo else "",
            "organization": DEMO_ORGANIZATION if self._options.demo else PLAIN_ORGANIZATION,
            "data_dir": str(self._directory.root),
            "pids": {"supervisor": os.getpid(), **self._pids()},
        }
