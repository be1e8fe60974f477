"""What a policy would do beside what was done: python predict.py STORE POLICY EPISODE PICTURE.png."""

import sys

import numpy as np
from PIL import Image, ImageDraw

from foreact.datasets.store import Store
from foreact.vla.checkpoint import load_policy
from foreact.vla.contract import adapt
from foreact.vla.policy import Observation
from foreact.vla.runtime import StreamingActor


def predict(store, policy, episode):
    """Recorded and predicted actions of an episode, both (T, A)."""
    actor = StreamingActor(load_policy(policy))
    adapter = adapt(actor.contract, store.contract, required_by=str(policy), offered_by=str(store.path))
    recorded = store.read(episode, resize=adapter.resize, cameras=list(adapter.resize))
    predicted = []
    for t in range(len(recorded)):
        seen = Observation(
            slots=[0],  # the history of slot 0: the frames given since `reset`
            images={camera: frames[t : t + 1] for camera, frames in recorded.images.items()},
            state=adapter.state(recorded.state[t : t + 1]),
            instruction=[recorded.instruction],
        )
        predicted.append(actor.plan(seen).actions[0, 0])  # of the planned chunk, the action to be executed now
    return recorded.action[:, list(adapter.action_index)], np.array(predicted)


def plot(names, recorded, predicted, path, width=900, height=90):
    """A row per component: recorded in black, predicted in red."""
    picture = Image.new("RGB", (width, height * len(names)), "white")
    draw = ImageDraw.Draw(picture)
    for row, name in enumerate(names):
        both = np.stack([recorded[:, row], predicted[:, row]])
        low, span = both.min(), max(np.ptp(both), 1e-6)
        x = np.linspace(0, width - 1, both.shape[1])
        for curve, colour in zip(both, ("black", "red"), strict=True):
            y = height * (row + 1) - 5 - (curve - low) / span * (height - 25)
            draw.line(list(zip(x.tolist(), y.tolist(), strict=True)), fill=colour, width=2)
        draw.text((5, height * row + 2), f"{name}, {low:.2f} to {low + span:.2f}", fill="black")
    picture.save(path)


def main(store, policy, episode, path):
    opened = Store.open(store)
    recorded, predicted = predict(opened, policy, episode)
    names = [f"{field.name}[{i}]" for field in opened.contract.action for i in range(field.size)]
    plot(names, recorded, predicted, path)
    for name, error, still in zip(
        names, np.abs(predicted - recorded).mean(axis=0), np.abs(recorded - recorded.mean(axis=0)).mean(axis=0),
        strict=True,
    ):  # fmt: skip
        print(f"{name:20} error {error:.3f}, of always the mean {still:.3f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
