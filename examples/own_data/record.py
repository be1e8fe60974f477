"""Recordings, one sub-folder each, into a trajectory store: python record.py RECORDINGS STORE."""

import sys
from pathlib import Path

import av
import numpy as np
from PIL import Image

from foreact.datasets.episode import EpisodeData
from foreact.datasets.recorder import Recorder
from foreact.vla.contract import Contract
from foreact.vla.errors import ForeActError
from foreact.vla.images import resize_frames

contract = Contract.load(Path(__file__).with_name("arm.yaml"))
one = np.array([0.02, 0.02, 0.02, 0.05, 0.05, 0.05])  # what 1.0 of an action is, in metres and radians


def film(path):
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def read(folder):
    table = np.loadtxt(folder / "robot.csv", delimiter=",", skiprows=1, ndmin=2)  # time, 7 measured, 7 commanded
    pngs = [np.asarray(Image.open(path).convert("RGB")) for path in sorted((folder / "wrist").glob("*.png"))]
    images = {"front": film(folder / "front.mp4"), "wrist": np.stack(pngs)}
    gripper = np.where(table[:, 14:] > 0.5, 1.0, -1.0)  # recorded as 1 open, 0 closed
    return EpisodeData(
        images={c.name: resize_frames(images[c.name], c.height, c.width) for c in contract.cameras},
        state=table[:, 1:8],
        action=np.concatenate([table[:, 8:14] / one, gripper], axis=1),
        extras={"time_s": table[:, 0]},
        instruction=(folder / "instruction.txt").read_text().strip(),
    )


def main(recordings, store):
    recorder = Recorder(store, contract)
    for folder in sorted(path for path in Path(recordings).iterdir() if path.is_dir()):
        if not recorder.has(folder.name):  # a second run goes on where the first one ended
            try:
                recorder.write(read(folder), name=folder.name)
            except ForeActError as error:
                print(f"left out: {error}")


if __name__ == "__main__":
    main(*sys.argv[1:])
