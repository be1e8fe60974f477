"""From ROS 2 messages to what the bridge works with. Pure functions of messages with ROS's attribute names, so the same
ones serve DDS, Zenoh and rclpy.

Every message is judged whole: it is as its topic promises, or it is refused with a sentence that says why.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from typing import Any

import numpy as np

from foreact.datasets.formats import ros_messages
from foreact.datasets.formats.base import FormatError
from foreact.robot_bridge.robot_side import ReceivedTrajectory
from foreact.robot_bridge.topic_names import CameraTopic
from foreact.robot_bridge.transport_errors import BadMessage
from foreact.robot_bridge.types import CameraFrame, JointSample, RobotMode

MAX_INSTRUCTION_BYTES = 512
MAX_POINTS = 10_000
_JPEG = b"\xff\xd8\xff"


def stamp_s(message: Any, what: str) -> float:
    """Time of a header [s].

    Raises:
        BadMessage: If there is none, or it is no time.
    """
    stamp = message.header.stamp
    seconds, nanoseconds = int(stamp.sec), int(stamp.nanosec)
    if seconds < 0 or not 0 <= nanoseconds < 1_000_000_000:
        raise BadMessage(f"{what} is stamped {seconds} s and {nanoseconds} ns, which is no time")
    if seconds == nanoseconds == 0:
        raise BadMessage(f"{what} is not stamped; its sender must fill in header.stamp, so that its age is known")
    return seconds + nanoseconds * 1e-9


def camera_frame(message: Any, camera: str, expected: CameraTopic, received_s: float, sequence: int) -> CameraFrame:
    """A picture out of a sensor_msgs/msg/Image or CompressedImage. It may be a read-only view of the message.

    Raises:
        BadMessage: If its size, encoding, rows or bytes are not as they should be. Nothing is resized.
    """
    what = f"camera {camera} ({expected.topic})"
    when = stamp_s(message, what)
    size = (expected.height, expected.width)
    try:
        if expected.compressed:
            image, encoding = _unpack(message, what, size)
        else:
            check_size((int(message.height), int(message.width)), size, what)
            image = ros_messages.pixels(message, "sensor_msgs/msg/Image", what)
            encoding = str(message.encoding)
    except FormatError as error:
        raise BadMessage(str(error)) from error
    return CameraFrame(
        camera=camera, image=image, stamp_s=when, received_s=received_s, sequence=sequence, encoding=encoding
    )


def check_size(found: tuple[int, int], expected: tuple[int, int], what: str) -> None:
    """Compare (height, width).

    Raises:
        BadMessage: If they differ.
    """
    if found != expected:
        raise BadMessage(
            f"{what} sends {found[0]}x{found[1]} pixels, expected {expected[0]}x{expected[1]}; set the camera to that "
            "size (pictures are not resized here)"
        )


def _unpack(message: Any, what: str, size: tuple[int, int]) -> tuple[np.ndarray, str]:
    data = bytes(message.data)
    if not data.startswith(_JPEG):
        return ros_messages.pixels(message, "sensor_msgs/msg/CompressedImage", what, size), "png"
    if "compressedDepth" in message.format:
        raise BadMessage(f"{what} is a depth image ({message.format!r:.60}), not a colour picture")
    import simplejpeg  # releases the interpreter's lock while it decodes

    try:
        height, width, *_ = simplejpeg.decode_jpeg_header(data)
        check_size((int(height), int(width)), size, what)
        return simplejpeg.decode_jpeg(data, colorspace="RGB", strict=True), "jpeg"
    except ValueError as error:
        raise BadMessage(f"{what} sends a damaged JPEG: {error!s:.100}") from error


def joint_sample(
    message: Any, arm_joints: Sequence[str], gripper_joints: Sequence[str], received_s: float
) -> JointSample | None:
    """Measured joints out of a sensor_msgs/msg/JointState, by name: their order in a message is not fixed.

    Returns:
        None if the message names no joint of the arm: it is another device's.

    Raises:
        BadMessage: If joints are missing or named twice, lengths differ, or numbers are not finite.
    """
    what = "the joint states"
    names = list(message.name)
    place = {name: i for i, name in enumerate(names)}
    missing = [joint for joint in arm_joints if joint not in place]
    if len(missing) == len(arm_joints) and len(place) == len(names):
        return None
    if missing:
        raise BadMessage(f"{what} lack {', '.join(missing)}; they have {', '.join(map(str, names)):.200}")
    if len(place) != len(names):
        raise BadMessage(f"{what} name a joint twice: {', '.join(map(str, names)):.200}")
    position = np.asarray(message.position, np.float64)
    velocity = np.asarray(message.velocity, np.float64)
    if position.shape != (len(names),):
        raise BadMessage(f"{what} have {position.size} positions of {len(names)} joints")
    if velocity.shape not in ((0,), (len(names),)):
        raise BadMessage(f"{what} have {velocity.size} velocities of {len(names)} joints; all or none are expected")
    arm = [place[joint] for joint in arm_joints]
    fingers = [place[joint] for joint in gripper_joints if joint in place]
    if 0 < len(fingers) < len(gripper_joints):
        raise BadMessage(f"{what} have only some of the gripper's joints {', '.join(gripper_joints)}")
    wanted = position[arm + fingers]
    if not np.isfinite(wanted).all() or (velocity.size and not np.isfinite(velocity[arm]).all()):
        raise BadMessage(f"{what} hold numbers that are not finite: {wanted!s:.120}")
    return JointSample(
        position=position[arm],
        velocity=velocity[arm] if velocity.size else None,
        gripper_width_m=float(position[fingers].sum()) if fingers else None,
        stamp_s=stamp_s(message, what),
        received_s=received_s,
    )


MAX_URDF = 4 << 20


def description(message: Any) -> str:
    """The URDF in a std_msgs/msg/String.

    Raises:
        BadMessage: If it is empty or longer than `MAX_URDF` characters.
    """
    if not isinstance(message.data, str) or not 0 < len(message.data) <= MAX_URDF:
        raise BadMessage(f"a robot description has 1 to {MAX_URDF} characters, this one {len(message.data)}")
    return message.data


def instruction(message: Any) -> str:
    """The words of a std_msgs/msg/String, white space at its ends removed.

    Raises:
        BadMessage: If it is empty, longer than 512 bytes of UTF-8, or holds characters that do not print.
    """
    return check_instruction(message.data)


def check_instruction(text: object) -> str:
    """As `instruction`, of a text from anywhere.

    Raises:
        BadMessage: Likewise.
    """
    if not isinstance(text, str):
        raise BadMessage(f"the instruction is no text: {text!r:.60}")
    words = text.strip()
    try:
        size = len(words.encode("utf-8"))
    except UnicodeEncodeError as error:
        raise BadMessage("the instruction is not UTF-8") from error
    if not words:
        raise BadMessage("the instruction is empty")
    if size > MAX_INSTRUCTION_BYTES:
        raise BadMessage(f"the instruction has {size:,} bytes; at most {MAX_INSTRUCTION_BYTES} are taken")
    for at, char in enumerate(words):
        if unicodedata.category(char) in ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"):
            raise BadMessage(f"the instruction holds U+{ord(char):04X} at place {at}, a character that does not print")
    return words


_UR_SAFETY = {
    1: RobotMode.OK, 2: RobotMode.OK, 3: RobotMode.PROTECTIVE_STOP, 4: RobotMode.PROTECTIVE_STOP,
    5: RobotMode.PROTECTIVE_STOP, 6: RobotMode.EMERGENCY_STOP, 7: RobotMode.EMERGENCY_STOP,
    8: RobotMode.REFLEX, 9: RobotMode.REFLEX, 12: RobotMode.PROTECTIVE_STOP, 13: RobotMode.PROTECTIVE_STOP,
}  # fmt: skip
"""Universal Robots' safety modes; those not named are unknown."""


def robot_mode(message: Any, kind: str) -> RobotMode:
    """How the robot is. What it says in words that are not known is `RobotMode.UNKNOWN`.

    Raises:
        BadMessage: If `kind` is none of `topic_names.MODE_TYPES`.
    """
    if kind == "std_msgs/msg/String":
        found = str(message.data).strip().lower()
        return RobotMode(found) if found in set(RobotMode) else RobotMode.UNKNOWN
    if kind == "std_msgs/msg/Bool":
        return RobotMode.EMERGENCY_STOP if message.data else RobotMode.OK
    if kind == "ur_dashboard_msgs/msg/SafetyMode":
        return _UR_SAFETY.get(int(message.mode), RobotMode.UNKNOWN)
    raise BadMessage(f"cannot read a mode from {kind!r}")


def trajectory(message: Any, received_s: float) -> ReceivedTrajectory:
    """What a controller is told by a trajectory_msgs/msg/JointTrajectory; only lengths are checked.

    Raises:
        BadMessage: If points have not as many positions as there are joints, or only some have velocities.
    """
    joints = tuple(message.joint_names)
    points = list(message.points)
    if len(points) > MAX_POINTS:
        raise BadMessage(f"the trajectory has {len(points):,} points; at most {MAX_POINTS:,} are taken")
    times = [int(p.time_from_start.sec) + int(p.time_from_start.nanosec) * 1e-9 for p in points]
    stamp = message.header.stamp
    position = _rows(points, "positions", joints)
    if position is None and points:
        raise BadMessage("the trajectory has no positions")
    return ReceivedTrajectory(
        joints=joints,
        stamp_s=int(stamp.sec) + int(stamp.nanosec) * 1e-9,
        time_from_start_s=np.array(times, np.float64),
        position=np.empty((0, len(joints))) if position is None else position,
        velocity=_rows(points, "velocities", joints),
        acceleration=_rows(points, "accelerations", joints),
        received_s=received_s,
    )


def _rows(points: list[Any], name: str, joints: Sequence[str]) -> np.ndarray | None:
    rows = [np.asarray(getattr(point, name), np.float64) for point in points]
    if not any(row.size for row in rows):
        return None
    for i, row in enumerate(rows):
        if row.shape != (len(joints),):
            raise BadMessage(f"point {i} of the trajectory has {row.size} {name} for {len(joints)} joints")
    return np.stack(rows)


def gripper(message: Any, open_m: float, closed_m: float, fingers: int) -> float:
    """+1 (open) or -1 (close) out of a std_msgs/msg/Float64MultiArray: a position [m] for each finger.

    Raises:
        BadMessage: If there are not as many numbers as fingers, or they are not finite.
    """
    data = np.asarray(message.data, np.float64)
    if data.shape != (fingers,) or not np.isfinite(data).all():
        raise BadMessage(f"the gripper's command is {data!s:.60}; expected {fingers} finite numbers")
    return 1.0 if float(data.sum()) > (open_m + closed_m) / 2 else -1.0
