"""What `measure_data` found, as text for people and as the table of docs/data-speed.md."""

from __future__ import annotations

from typing import Any


def as_text(found: dict[str, Any]) -> str:
    """One line per dataset."""
    width = max(len(row["row"]) for row in found["rows"])
    lines = [
        f"{found['source']}: {found['frames']} frames",
        "",
        f"{'':{width}}  windows/s (range)      vs LeRobot   CPU ms   bytes/frame   vs LeRobot   PSNR dB   best with",
    ]
    for row in found["rows"]:
        low, high = row["range_windows_per_s"]
        rate = f"{row['windows_per_s']:.0f} ({low:.0f} - {high:.0f})"
        lines.append(
            f"{row['row']:{width}}  {rate:22} "
            f"{_times(row['speed_ratio']):>10} {row['cpu_ms']:8.1f} {row['picture_bytes_per_frame']:13,.0f} "
            f"{_times(row['bytes_ratio']):>12} {_db(row['psnr_db']):>9}   {row['best']}"
        )
    lines += [f"{peer}: not measured: {why}" for peer, why in found["not_measured"].items()]
    lines += ["", _settings(found)]
    return "\n".join(lines)


def as_markdown(found: dict[str, Any]) -> str:
    """The table as it stands in docs/data-speed.md."""
    lines = [
        f"{found['source'][:1].upper()}{found['source'][1:]}: {found['frames']:,} frames. {_settings(found)}.",
        "",
        "| dataset | windows/s (range) | times LeRobot video (range) | CPU ms per window | bytes per frame "
        "| times LeRobot video | PSNR dB | best with |",
        "|---|---:|---:|---:|---:|---:|---:|---|",
    ]
    for row in found["rows"]:
        low, high = row["range_windows_per_s"]
        ratio = _times(row["speed_ratio"])
        if row["range_speed_ratio"]:
            ratio += " ({:.1f} - {:.1f})".format(*row["range_speed_ratio"])
        name = f"`{row['row']}`" if row["group"] == "foreact" else row["row"]
        lines.append(
            f"| {name} | {row['windows_per_s']:.0f} ({low:.0f} - {high:.0f}) | {ratio} | {row['cpu_ms']:.1f} "
            f"| {row['picture_bytes_per_frame']:,.0f} | {_times(row['bytes_ratio'])} | {_db(row['psnr_db'])} "
            f"| {row['best']} |"
        )
    lines += [f"| {peer} | not measured: {why} | | | | | | |" for peer, why in found["not_measured"].items()]
    return "\n".join(lines)


def _times(ratio: float | None) -> str:
    return "" if ratio is None else f"{ratio:.2f}" if ratio < 10 else f"{ratio:.1f}"


def _db(psnr: float | None) -> str:
    return "lossless" if psnr is None else f"{psnr:.1f}"


def _settings(found: dict[str, Any]) -> str:
    return ", ".join(f"{key}: {value}" for key, value in found["settings"].items())
