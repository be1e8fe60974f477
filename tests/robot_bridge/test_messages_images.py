"""B20: a picture arrives exactly as it was sent, or is refused with a sentence."""

from __future__ import annotations

import array
import io
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image as PilImage

from foreact.robot_bridge import messages_in, messages_out
from foreact.robot_bridge.ros_make import RosbagsMaker
from foreact.robot_bridge.ros_types import decode, encode
from foreact.robot_bridge.topic_names import CameraTopic
from foreact.robot_bridge.transport_errors import BadMessage

H, W = 5, 7
RAW = CameraTopic(topic="/cam/image_raw", height=H, width=W)
PACKED = CameraTopic(topic="/cam/image_raw/compressed", height=H, width=W)
STAMP = SimpleNamespace(sec=12, nanosec=500_000_000)


def red(row: int, column: int) -> int:
    return 10 * row + column


def golden() -> np.ndarray:
    """Every pixel names its place: (red, green, blue) = (10 row + column, 100 + row, 200 + column)."""
    return np.array([[[red(r, c), 100 + r, 200 + c] for c in range(W)] for r in range(H)], np.uint8)


def pixel(encoding: str, row: int, column: int) -> list[int]:
    r, g, b = red(row, column), 100 + row, 200 + column
    return {"rgb8": [r, g, b], "bgr8": [b, g, r], "mono8": [r], "rgba8": [r, g, b, 7], "bgra8": [b, g, r, 7]}[encoding]


def raw(encoding: str = "rgb8", padding: int = 0, claimed: str = "", **changes: object) -> SimpleNamespace:
    """As rclpy has it: `data` is an array.array; written byte by byte."""
    data = []
    for row in range(H):
        for column in range(W):
            data += pixel(encoding, row, column)
        data += [255] * padding
    fields = {
        "header": SimpleNamespace(stamp=STAMP), "height": H, "width": W, "encoding": claimed or encoding,
        "is_bigendian": 0, "step": len(pixel(encoding, 0, 0)) * W + padding, "data": array.array("B", data),
    }  # fmt: skip
    return SimpleNamespace(**{**fields, **changes})


def packed(data: bytes, form: str = "jpeg") -> SimpleNamespace:
    return SimpleNamespace(header=SimpleNamespace(stamp=STAMP), format=form, data=array.array("B", data))


def file_of(image: np.ndarray, kind: str, **settings: object) -> bytes:
    out = io.BytesIO()
    PilImage.fromarray(image).save(out, kind, **settings)
    return out.getvalue()


@pytest.mark.fault("B20", n=10, event="five encodings, rows padded or not")
@pytest.mark.parametrize("padding", [0, 9])
@pytest.mark.parametrize("encoding", ["rgb8", "bgr8", "mono8", "rgba8", "bgra8"])
def test_every_encoding_gives_the_golden_pixels(encoding: str, padding: int) -> None:
    frame = messages_in.camera_frame(raw(encoding, padding), "cam", RAW, 3.0, 4)
    wanted = np.repeat(golden()[..., :1], 3, axis=2) if encoding == "mono8" else golden()
    assert frame.image.dtype == np.uint8 and np.array_equal(frame.image, wanted)
    assert (frame.camera, frame.stamp_s, frame.received_s, frame.sequence) == ("cam", 12.5, 3.0, 4)
    assert frame.encoding == encoding


def test_png_gives_the_golden_pixels_and_jpeg_what_another_decoder_sees() -> None:
    png = messages_in.camera_frame(packed(file_of(golden(), "PNG"), "rgb8; png compressed "), "cam", PACKED, 0.0, 0)
    assert np.array_equal(png.image, golden()) and png.encoding == "png"
    data = file_of(golden(), "JPEG", quality=95)
    frame = messages_in.camera_frame(packed(data, "rgb8; jpeg compressed bgr8"), "cam", PACKED, 0.0, 0)
    assert frame.encoding == "jpeg"
    assert np.array_equal(frame.image, np.asarray(PilImage.open(io.BytesIO(data))))


def test_what_we_send_is_what_we_read_through_cdr() -> None:
    make = RosbagsMaker()
    kind = "sensor_msgs/msg/Image"
    data = encode(messages_out.raw_image(make, golden(), 7.25), kind)
    frame = messages_in.camera_frame(decode(data, kind, "it"), "cam", RAW, 0.0, 0)
    assert np.array_equal(frame.image, golden()) and frame.stamp_s == 7.25
    smooth = np.full((H, W, 3), (90, 120, 60), np.uint8)
    kind = "sensor_msgs/msg/CompressedImage"
    data = encode(messages_out.compressed_image(make, smooth, 7.25), kind)
    frame = messages_in.camera_frame(decode(data, kind, "it"), "cam", PACKED, 0.0, 0)
    assert np.abs(frame.image.astype(int) - smooth).max() <= 3


JPEG = file_of(np.random.default_rng(0).integers(0, 255, (H, W, 3)).astype(np.uint8), "JPEG", quality=95)
BAD: dict[str, tuple[SimpleNamespace, CameraTopic, str]] = {
    "another size": (raw(), CameraTopic(topic="/cam", height=H, width=W + 1), "expected 5x8"),
    "upright": (raw(height=W, width=H), RAW, "7x5 pixels, expected 5x7"),
    "depth in millimetres": (raw(claimed="16UC1"), RAW, "'16UC1'"),
    "depth in metres": (raw(claimed="32FC1"), RAW, "'32FC1'"),
    "Bayer": (raw(claimed="bayer_rggb8"), RAW, "read are"),
    "step below the row": (raw(step=W * 3 - 1), RAW, "rows of 20 bytes"),
    "bytes cut off": (raw(data=array.array("B", bytes(H * W * 3 - 1))), RAW, "104 bytes"),
    "bytes too many": (raw(data=array.array("B", bytes(H * W * 3 + 1))), RAW, "106 bytes"),
    "no bytes": (raw(data=array.array("B")), RAW, "0 bytes"),
    "declared mono, sent rgb": (raw(claimed="mono8", step=W), RAW, "105 bytes"),
    "not stamped": (raw(header=SimpleNamespace(stamp=SimpleNamespace(sec=0, nanosec=0))), RAW, "stamp"),
    "stamped nonsense": (
        raw(header=SimpleNamespace(stamp=SimpleNamespace(sec=1, nanosec=10**9))), RAW, "no time",
    ),
    "JPEG cut off": (packed(JPEG[: len(JPEG) // 2]), PACKED, "damaged"),
    "JPEG of another size": (packed(file_of(np.zeros((H, W + 1, 3), np.uint8), "JPEG")), PACKED, "5x8"),
    "PNG of another size": (packed(file_of(np.zeros((H + 1, W, 3), np.uint8), "PNG"), "png"), PACKED, "6x7"),
    "PNG of 16 bits": (packed(file_of(np.zeros((H, W), np.uint16), "PNG"), "png"), PACKED, "8 bits"),
    "compressed depth": (packed(bytes(12) + JPEG, "16UC1; compressedDepth png"), PACKED, "depth"),
    "compressed depth as JPEG": (packed(JPEG, "16UC1; compressedDepth"), PACKED, "depth"),
    "GIF": (packed(file_of(golden(), "GIF"), "jpeg"), PACKED, "not a JPEG or PNG"),
    "nothing compressed": (packed(b""), PACKED, "not a JPEG or PNG"),
    "noise": (packed(bytes(range(256))), PACKED, "not a JPEG or PNG"),
    "JPEG that is only its mark": (packed(b"\xff\xd8\xff"), PACKED, "damaged"),
}  # fmt: skip


@pytest.mark.fault("B20", n=len(BAD), event="pictures that break the contract")
@pytest.mark.parametrize("name", BAD)
def test_bad_pictures_are_refused_with_a_sentence(name: str) -> None:
    message, expected, words = BAD[name]
    with pytest.raises(BadMessage, match=words):
        messages_in.camera_frame(message, "cam", expected, 0.0, 0)


@pytest.mark.fault("B20", n=2000, event="damaged bytes on an image topic")
def test_damaged_bytes_never_get_further_than_a_sentence() -> None:
    kind = "sensor_msgs/msg/Image"
    good = encode(messages_out.raw_image(RosbagsMaker(), golden(), 1.0), kind)
    random = np.random.default_rng(3)
    passed = refused = 0
    for _ in range(2000):
        data = bytearray(good)
        for place in random.integers(0, len(data), random.integers(1, 4)):
            data[place] = random.integers(256)
        try:
            end = random.integers(4, len(data) + 1) if random.random() < 0.3 else len(data)
            found = decode(bytes(data[:end]), kind, "it")
            frame = messages_in.camera_frame(found, "cam", RAW, 0.0, 0)
            assert frame.image.shape == (H, W, 3)  # only pixels, the stamp or the frame's name changed
            passed += 1
        except BadMessage:
            refused += 1
    assert refused > 200 and passed > 200
