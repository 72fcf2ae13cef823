"""The baseline of a proxy: aiohttp in, aiohttp out, every byte passed on, nothing looked at.

`python -m benchmarks.passthrough_aiohttp URL` forwards to URL, and prints its own address; with
`asyncio` behind it, on asyncio's own loop instead of uvloop's.
"""

import asyncio
import signal
import sys

import aiohttp
import uvloop
from aiohttp import web

HOP_BY_HOP = {"host", "connection", "content-length", "transfer-encoding", "keep-alive"}
EVENT_STREAM = "text/event-stream"


async def _application(upstream: str) -> web.Application:
    session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), auto_decompress=False)

    async def pass_on(request: web.Request) -> web.StreamResponse:
        headers = {k: v for k, v in request.headers.items() if k.lower() not in HOP_BY_HOP}
        body = await request.read()
        async with session.request(
            request.method, upstream + request.path_qs, headers=headers, data=body
        ) as answer:
            kept = {k: v for k, v in answer.headers.items() if k.lower() not in HOP_BY_HOP}
            if answer.content_type != EVENT_STREAM:
                return web.Response(status=answer.status, headers=kept, body=await answer.read())
            response = web.StreamResponse(status=answer.status, headers=kept)
            await response.prepare(request)
            async for part in answer.content.iter_any():
                await response.write(part)
            await response.write_eof()
            return response

    async def close(application: web.Application) -> None:
        await session.close()

    application = web.Application(client_max_size=50 * 1024 * 1024)
    application.router.add_route("*", "/{path:.*}", pass_on)
    application.on_cleanup.append(close)
    return application


async def _serve(upstream: str) -> None:
    runner = web.AppRunner(await _application(upstream), access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0][:2]
    print(f"http://{host}:{port}", flush=True)
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    await stopped.wait()
    await runner.cleanup()


def main() -> None:
    """Serve on a free port until SIGTERM."""
    own_loop = sys.argv[2:] == ["asyncio"]
    (asyncio.run if own_loop else uvloop.run)(_serve(sys.argv[1]))


if __name__ == "__main__":
    main()
