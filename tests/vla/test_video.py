"""Videos are decoded again and compared with what went in."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from foreact.vla.foresight import foresight_errors
from foreact.vla.video import CELL_PX, VideoError, compose, rollout_frames, write_gif, write_video


def _decode(path: Path) -> tuple[list[np.ndarray], float]:
    with av.open(str(path)) as container:
        rate = container.streams.video[0].average_rate
        assert rate is not None
        return [f.to_ndarray(format="rgb24") for f in container.decode(video=0)], float(rate)


def test_written_video_decodes_to_the_same_pictures(tmp_path: Path) -> None:
    ramp = np.linspace(20, 220, 64).astype(np.uint8)
    frames = [
        np.stack([np.tile(ramp, (48, 1)), np.full((48, 64), 10 * i), np.full((48, 64), 90)], -1) for i in range(9)
    ]
    frames = [f.astype(np.uint8) for f in frames]
    assert write_video(tmp_path / "sub" / "a.mp4", frames, 30.0) == 9
    decoded, rate = _decode(tmp_path / "sub" / "a.mp4")
    assert rate == 30.0 and len(decoded) == 9
    for given, found in zip(frames, decoded, strict=True):
        assert np.abs(given.astype(int) - found.astype(int)).mean() < 6  # lossy, but neither BGR nor shifted
    assert [p.name for p in (tmp_path / "sub").iterdir()] == ["a.mp4"]


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        ([], "no frames"),
        ([np.zeros((3, 4, 3), np.uint8)], "even"),
        ([np.zeros((4, 4, 3), np.uint8), np.zeros((6, 4, 3), np.uint8)], "frame 1"),
    ],
)
def test_bad_frames_are_named_and_leave_no_file(tmp_path: Path, frames: list[np.ndarray], message: str) -> None:
    with pytest.raises(VideoError, match=message):
        write_video(tmp_path / "a.mp4", frames, 30)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_a_file_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(VideoError, match="cannot write the video"):
        write_video(tmp_path / "file" / "a.mp4", [np.zeros((4, 4, 3), np.uint8)], 30)


def test_seen_and_predicted_stand_side_by_side_with_text() -> None:
    seen = {
        "rgb_static": np.full((200, 200, 3), (200, 0, 0), np.uint8),
        "rgb_gripper": np.full((84, 84, 3), 60, np.uint8),
    }
    predicted = {"rgb_static": np.full((64, 64, 3), (0, 0, 200), np.uint8)}
    picture = compose(seen, predicted, title="press the button " * 12, status="done", good=True)
    assert picture.shape[1] == 2 * CELL_PX and picture.shape[0] % 2 == 0
    red, blue = (np.argwhere((picture == colour).all(-1)) for colour in ((200, 0, 0), (0, 0, 200)))
    assert len(red) == len(blue) == CELL_PX**2
    assert red[:, 1].max() < CELL_PX <= blue[:, 1].min() and red[:, 0].min() == blue[:, 0].min()
    header = picture[: red[:, 0].min()]
    assert (header.max(axis=-1) > 150).sum() > 200  # letters
    assert (picture[-18:, :, 1].astype(int) - picture[-18:, :, 0] > 60).any()  # good news is green
    assert compose(seen, title="x").shape[0] < picture.shape[0]  # without predictions: one row


def test_a_prediction_is_shown_beside_the_moment_it_was_made_for() -> None:
    seen = [{"rgb_static": np.zeros((100, 100, 3), np.uint8)} for _ in range(7)]
    predicted = {s: {"rgb_static": np.full((100, 100, 3), (0, 50 + 40 * s, 255), np.uint8)} for s in (0, 4)}
    pictures = list(rollout_frames(seen, predicted, steps_ahead=3, rate_hz=2, title="t", success=False))
    assert len(pictures) == 7 + 2  # the last one is held for a second
    # Made for the steps 3 and 7: nothing is near step 0, and step 6 is nearer to 7.
    for colour, expected in ((50, [False] + [True] * 5 + [False] * 3), (210, [False] * 6 + [True] * 3)):
        assert [(p == (0, colour, 255)).all(-1).any() for p in pictures] == expected


def test_a_gif_keeps_every_third_frame_and_the_speed(tmp_path: Path) -> None:
    frames = [np.full((20, 30, 3), 20 * i, np.uint8) for i in range(10)]
    assert write_gif(tmp_path / "a.gif", frames, 30, every=3) == 4
    with Image.open(tmp_path / "a.gif") as picture:
        assert (picture.size, getattr(picture, "n_frames", 0), picture.info["duration"]) == ((30, 20), 4, 100)
        for number, shown in enumerate((0, 60, 120, 180)):
            picture.seek(number)
            assert abs(int(np.asarray(picture.convert("RGB"))[0, 0, 0]) - shown) <= 4
    with pytest.raises(VideoError, match="no frames"):
        write_gif(tmp_path / "b.gif", [], 30)


def test_foresight_counts_changed_pixels_only() -> None:
    now = np.full((4, 4, 3), 100, np.uint8)
    later = now.copy()
    later[0, 0, 1], later[0, 1, 2], later[1, 1, 0] = 117, 116, 60  # +17 counts, +16 does not, -40 does
    predicted = now.copy()
    predicted[0, 0, 1], predicted[3, 3] = 114, 0  # half right where it counts, nonsense where it does not
    sums = foresight_errors(now, later, predicted)
    assert (sums.frames, sums.pixels) == (1, 2)
    assert sums.copied == 17**2 + 40**2 and sums.predicted == 3**2 + 40**2
    assert foresight_errors(now, later, later).predicted == 0
    assert foresight_errors(now, later, now).predicted == foresight_errors(now, later, now).copied


def test_foresight_is_measured_in_the_size_of_the_prediction() -> None:
    now, later = np.zeros((8, 8, 3), np.uint8), np.full((8, 8, 3), 200, np.uint8)
    assert foresight_errors(now, later, np.full((4, 4, 3), 200, np.uint8)).pixels == 16
