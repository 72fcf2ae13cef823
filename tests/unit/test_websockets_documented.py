"""docs/websockets.md is true: its settings load, and its figures are those of the code."""

from pathlib import Path

from bursar_sidecar import tunnel, tunnel_minutes, tunnel_purse, tunnels
from bursar_sidecar.settings import load_settings

TEXT = (Path(__file__).parents[2] / "docs" / "websockets.md").read_text(encoding="utf-8")


def test_the_settings_shown_are_read(tmp_path: Path) -> None:
    shown = TEXT.partition("```toml\n")[2].partition("```")[0]
    config = tmp_path / "sidecar.toml"
    provider = '[providers.openai]\nbase_url = "https://api.openai.com/v1"\n'
    config.write_text(provider + shown.replace("# model", "model"))
    (line,) = load_settings({"BURSAR_SIDECAR_KEY": "bs-x"}, config).websockets
    assert (line.longest_s, line.model) == (900, "gpt-realtime")


def test_the_figures_are_those_of_the_code() -> None:
    words = " ".join(TEXT.split())
    assert tunnel_minutes.ASK_AGAIN_S == 3
    for figure in (
        f"{tunnel_minutes.ASK_AHEAD_S:g} seconds before a paid minute is over",
        f"{tunnel_minutes.LAST_S:g} seconds before the end of what is paid",
        f"then have {tunnel.CLOSE_GRACE_S:g} seconds to answer",
        f"noticed within {tunnel_purse.KEY_CHECK_S:g} seconds",
        f"until {tunnel.CLOSE_GRACE_S + tunnels.TICK_S:g} seconds before `drain_s`",
        f"{tunnel.HIGH_WATER_BYTES // 1024} KiB and one read",
        f"{tunnels.MAX_TUNNELS:,} open connections",
        f"{tunnels.HANDSHAKE_S:g} seconds for the provider's answer",
    ):
        assert figure in words, figure
