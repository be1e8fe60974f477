"""One way to resize camera frames, shared by training and acting so that both see the same pixels."""

from __future__ import annotations

import numpy as np
from PIL import Image


def resize_frame(frame: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resize one (H, W, 3) uint8 frame with an antialiased bilinear filter (Pillow's `BILINEAR`)."""
    if frame.shape[:2] == (height, width):
        return frame
    return np.asarray(Image.fromarray(frame).resize((width, height), Image.Resampling.BILINEAR))


def resize_frames(frames: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resize (N, H, W, 3) uint8 frames one by one; see `resize_frame`."""
    if frames.shape[1:3] == (height, width):
        return frames
    return np.stack([resize_frame(frame, height, width) for frame in frames])
