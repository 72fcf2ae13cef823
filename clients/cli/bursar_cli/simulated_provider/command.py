"""`bursar simulate-provider`."""

import asyncio
import tomllib
from pathlib import Path
from typing import Annotated, Any, Final

import msgspec
import typer

from bursar_cli.simulated_provider.behaviour import (
    Behaviour,
    BehaviourError,
    behaviour_from,
)

DEFAULT_PORT = 7090


def _option(name: str, text: str, *, flag: bool = False) -> Any:
    spelled = name.replace("_", "-")
    names = f"--{spelled}/--no-{spelled}" if flag else f"--{spelled}"
    variable = f"BURSAR_SIMULATE_{name.upper()}"
    return typer.Option(names, envvar=variable, help=text, show_default=False)


def simulate_provider(
    context: typer.Context,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes any free one.")] = (
        DEFAULT_PORT
    ),
    ready_file: Annotated[
        Path | None, typer.Option(help="JSON with the address, written when serving.")
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, help="TOML with any of the settings below."),
    ] = None,
    seed: Annotated[
        str | None, typer.Option(help="Makes ids and drawn errors the same in every run.")
    ] = None,
    model: Annotated[
        list[str] | None, typer.Option(help="Serve only this model; may be repeated.")
    ] = None,
    require_api_key: Annotated[
        bool, typer.Option(help="Refuse calls without the dialect's API key.")
    ] = False,
    keep_calls: Annotated[
        int | None, typer.Option(min=1, help="How many served calls are kept for inspection.")
    ] = None,
    latency_ms: Annotated[int | None, _option("latency_ms", "Before the first byte.")] = None,
    input_llm_tokens: Annotated[
        int | None, _option("input_llm_tokens", "Default: derived from the prompt.")
    ] = None,
    output_llm_tokens: Annotated[
        int | None, _option("output_llm_tokens", "Default: derived from prompt and limit.")
    ] = None,
    exceed_output_limit: Annotated[
        bool | None,
        _option("exceed_output_limit", "Produce more than the request allowed.", flag=True),
    ] = None,
    cached_input_llm_tokens: Annotated[
        int | None, _option("cached_input_llm_tokens", "Part of the input.")
    ] = None,
    cache_write_5m_llm_tokens: Annotated[
        int | None, _option("cache_write_5m_llm_tokens", "Part of the input (Anthropic).")
    ] = None,
    cache_write_1h_llm_tokens: Annotated[
        int | None, _option("cache_write_1h_llm_tokens", "Part of the input (Anthropic).")
    ] = None,
    reasoning_llm_tokens: Annotated[
        int | None, _option("reasoning_llm_tokens", "Part of the output, not shown.")
    ] = None,
    searches: Annotated[
        int | None, _option("searches", "Of the provider's own tool, where it is offered.")
    ] = None,
    chunk_llm_tokens: Annotated[
        int | None, _option("chunk_llm_tokens", "Output in one chunk of a stream.")
    ] = None,
    chunk_delay_ms: Annotated[int | None, _option("chunk_delay_ms", "Between chunks.")] = None,
    error_429_rate: Annotated[float | None, _option("error_429_rate", "0 to 1.")] = None,
    error_500_rate: Annotated[float | None, _option("error_500_rate", "0 to 1.")] = None,
    timeout_rate: Annotated[
        float | None, _option("timeout_rate", "0 to 1: calls that are never answered.")
    ] = None,
    timeout_ms: Annotated[
        int | None, _option("timeout_ms", "Until such a call's connection is closed.")
    ] = None,
    retry_after_s: Annotated[int | None, _option("retry_after_s", "Told with a 429.")] = None,
    abort_rate: Annotated[
        float | None, _option("abort_rate", "0 to 1: answers cut in the middle.")
    ] = None,
    abort_after_chunks: Annotated[
        int | None, _option("abort_after_chunks", "Sent before a stream is cut.")
    ] = None,
    stall_rate: Annotated[
        float | None, _option("stall_rate", "0 to 1: answers that begin, and fall silent.")
    ] = None,
    stream_error_rate: Annotated[
        float | None, _option("stream_error_rate", "0 to 1: streams that end with an error.")
    ] = None,
    missing_usage: Annotated[
        bool | None, _option("missing_usage", "Answer without usage.", flag=True)
    ] = None,
    reported_usage: Annotated[
        str | None, _option("reported_usage", "JSON told in place of the true usage.")
    ] = None,
    usage_on_the_way: Annotated[
        str | None, _option("usage_on_the_way", "JSON list told with the chunks of a stream.")
    ] = None,
    answered_model: Annotated[
        str | None, _option("answered_model", "Model that the answers name.")
    ] = None,
    llm_tokens_billed_after_cancel: Annotated[
        int | None,
        _option("llm_tokens_billed_after_cancel", "Output billed once the app hung up."),
    ] = None,
) -> None:
    """Serve answers as OpenAI, Anthropic and Gemini do without a model, and count every call.

    Each setting of the second half can also be given for one call, in the header
    `x-simulate: {"latency_ms": 200}`. What was served: GET /simulated/calls, /simulated/totals.
    """
    # Here and not above: a plain `bursar` has no HTTP parser to import, and needs none.
    from bursar_cli.simulated_provider import program  # noqa: PLC0415
    from bursar_cli.simulated_provider.connection import Provider  # noqa: PLC0415
    from bursar_cli.simulated_provider.served_calls import DEFAULT_KEPT_CALLS  # noqa: PLC0415

    behaviour = _behaviour(config, context.params)
    provider = Provider(
        behaviour,
        seed=seed,
        models=tuple(model or ()),
        require_api_key=require_api_key,
        kept_calls=keep_calls or DEFAULT_KEPT_CALLS,
    )
    for name, value in msgspec.structs.asdict(behaviour).items():
        unset = "none" if name == "reported_usage" else "derived"
        typer.echo(f"  {name} = {unset if value is None else value}")
    try:
        with asyncio.Runner(loop_factory=program.loop_factory()) as runner:
            runner.run(program.run(provider, host, port, ready_file))
    except OSError as error:
        typer.echo(f"bursar simulate-provider: cannot listen on {host}:{port}: {error}", err=True)
        raise typer.Exit(1) from None


_JSON: Final = frozenset({"reported_usage", "usage_on_the_way"})
"""Settings whose options are JSON."""


def _behaviour(config: Path | None, given: dict[str, Any]) -> Behaviour:
    """Defaults, then the file, then environment and options."""
    behaviour = Behaviour()
    try:
        if config is not None:
            behaviour = behaviour_from(
                tomllib.loads(config.read_text()), behaviour, origin=str(config)
            )
        options: dict[str, object] = {}
        for field in msgspec.structs.fields(Behaviour):
            value = given.get(field.name)
            if value is not None:
                options[field.name] = value
        for name in options.keys() & _JSON:
            try:
                options[name] = msgspec.json.decode(str(options[name]))
            except msgspec.DecodeError as error:
                raise BehaviourError(f"{name}: not JSON: {error}") from None
        return behaviour_from(options, behaviour, origin="option or environment")
    except BehaviourError as error:
        raise typer.BadParameter(str(error)) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise typer.BadParameter(f"{config}: not TOML: {error}") from None


def register(app: typer.Typer) -> None:
    """Add this command to the `bursar` program."""
    app.command("simulate-provider")(simulate_provider)
