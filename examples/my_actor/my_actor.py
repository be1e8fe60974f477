"""Somebody else's policy: a hand-written rule that opens the drawer of scene D, whatever it is told to do."""

import numpy as np

from foreact.vla.policy import Plan

OVER, BEHIND_HANDLE = np.array([0.18, -0.21, 0.50]), np.array([0.18, -0.21, 0.365])  # world [m]


class DrawerOpener:
    execute_steps = 2  # of each plan's actions; `plan` is called again after them

    def __init__(self, contract):
        # What it requires: no camera here (else observation.images holds them), and of the state the TCP position.
        state = tuple(field for field in contract.state if field.name == "tcp_position")
        self.contract = contract.model_copy(update={"cameras": (), "state": state})
        self.pulling = {}  # slot -> bool: many desks are played at once, each with its own history

    def reset(self, slots):
        self.pulling.update(dict.fromkeys(slots, False))

    def observe(self, observation):
        pass

    def plan(self, observation, *, foresight=False):
        actions = np.zeros((len(observation.slots), 2, 7), np.float32)  # 0.02 m, 0.05 rad, gripper closed
        actions[:, :, 6] = -1
        for row, (slot, tcp) in enumerate(zip(observation.slots, observation.state, strict=True)):
            self.pulling[slot] |= bool(np.linalg.norm(tcp - BEHIND_HANDLE) < 0.02)
            above = np.linalg.norm((tcp - OVER)[:2]) < 0.015
            goal = tcp - [0, 0.1, 0] if self.pulling[slot] else BEHIND_HANDLE if above else OVER
            actions[row, :, :3] = np.clip((goal - tcp) / 0.03, -1, 1)
        return Plan(actions=actions)
