"""The four play tables: the numbers in which scenes A, B, C and D differ.

Source of every number: CALVIN, mees/calvin_env (MIT): the scene configurations `calvin_scene_{A,B,C,D}` and
the table URDFs, with the loader's global scaling of 0.8 already applied. World frame: z up, the desk is
centred at x = y = 0, the robot stands on the -y side and looks along +y; +x is "right". Metres, radians.
The values marked "ours" have no counterpart there.
"""

from __future__ import annotations

from dataclasses import dataclass

from foreact.vla.errors import ForeActError, did_you_mean

Rgb = tuple[int, int, int]
Range = tuple[float, float]

BLOCKS: tuple[str, ...] = ("block_red", "block_blue", "block_pink")
"""The block bodies, in the order of colours that is the same in every scene."""

DOOR_WIDTH = 0.28
DRAWER_TRAVEL = 0.22
BUTTON_TRAVEL = 0.02
SWITCH_TRAVEL = 0.088

DARK_BROWN: Rgb = (121, 70, 46)
LIGHT: Rgb = (244, 196, 140)
MID_BROWN: Rgb = (159, 108, 64)
OAK: Rgb = (157, 117, 78)

SMALL = (0.04, 0.04, 0.04)
MIDDLE = (0.056, 0.04, 0.04)
LARGE = (0.08, 0.04, 0.04)


@dataclass(frozen=True, kw_only=True)
class SceneSpec:
    """One play table. Lengths in metres, joint values as in `scene_obs`, colours 0-255."""

    name: str
    """One of A, B, C, D."""
    table_rgb: Rgb
    """Mean colour of the wood of table and plank."""
    front_rgb: Rgb
    """Mean colour of the wood of the slide door and the drawer front."""
    grain: str
    """Which procedural grain the wood has: fine, straight or oak (ours)."""
    block_sizes: dict[str, tuple[float, float, float]]
    """Full edge lengths (x, y, z) of each block."""
    slot_order: tuple[str, str, str]
    """Which block fills dims 6-11, 12-17 and 18-23 of `scene_obs`; it differs between scenes."""
    button_xy: tuple[float, float]
    switch_x: float
    bulb_xy: tuple[float, float]
    led_x: float
    door_x: float
    """Left edge of the door plate at joint value 0; the plate reaches to door_x + 0.28."""
    door_travel: float
    """Range of the slide joint; a positive value moves the door towards -x."""
    niche_x: Range
    """Extent of the niche behind the door (the plank is its floor)."""
    drawer_x: float
    """Centre of the drawer; its cavity is 0.40 wide."""
    desk_area_x: Range
    """Where a random reset puts blocks on the desk; y is DESK_AREA_Y."""
    niche_left_x: Range
    niche_right_x: Range
    anchor_left_xyz: tuple[float, float, float]
    """Where an evaluation reset puts a block in the left half of the niche."""
    anchor_right_xyz: tuple[float, float, float]


DESK_AREA_Y: Range = (-0.15, -0.03)
NICHE_AREA_Y: Range = (0.05, 0.12)
BLOCK_SPAWN_Z = 0.46
NICHE_SPAWN_Z = 0.461

SCENES: dict[str, SceneSpec] = {
    "A": SceneSpec(
        name="A",
        table_rgb=DARK_BROWN,
        front_rgb=DARK_BROWN,
        grain="fine",
        block_sizes={"block_red": MIDDLE, "block_blue": LARGE, "block_pink": SMALL},
        slot_order=("block_pink", "block_blue", "block_red"),
        button_xy=(-0.28, -0.12),
        switch_x=0.30,
        bulb_xy=(0.30, 0.132),
        led_x=-0.28,
        door_x=-0.10,
        door_travel=0.28,
        niche_x=(-0.36, 0.16),
        drawer_x=0.10,
        desk_area_x=(-0.20, 0.35),
        niche_left_x=(-0.32, -0.16),
        niche_right_x=(-0.05, 0.13),
        anchor_left_xyz=(-0.241, 0.092404, 0.46099),
        anchor_right_xyz=(0.070, 0.092404, 0.46099),
    ),
    "B": SceneSpec(
        name="B",
        table_rgb=LIGHT,
        front_rgb=LIGHT,
        grain="straight",
        block_sizes={"block_red": SMALL, "block_blue": LARGE, "block_pink": MIDDLE},
        slot_order=("block_red", "block_blue", "block_pink"),
        button_xy=(0.28, -0.12),
        switch_x=-0.32,
        bulb_xy=(-0.32, 0.136),
        led_x=0.28,
        door_x=0.088,
        door_travel=0.304,
        niche_x=(-0.18, 0.34),
        drawer_x=0.18,
        desk_area_x=(-0.35, 0.15),
        niche_left_x=(-0.12, 0.06),
        niche_right_x=(0.15, 0.33),
        anchor_left_xyz=(-0.03, 0.092404, 0.46099),  # ours: the official evaluator knows scene D only
        anchor_right_xyz=(0.24, 0.092404, 0.46099),  # ours
    ),
    "C": SceneSpec(
        name="C",
        table_rgb=MID_BROWN,
        front_rgb=DARK_BROWN,
        grain="straight",
        block_sizes={"block_red": LARGE, "block_blue": SMALL, "block_pink": MIDDLE},
        slot_order=("block_blue", "block_red", "block_pink"),
        button_xy=(-0.12, -0.12),
        switch_x=-0.32,
        bulb_xy=(-0.32, 0.132),
        led_x=-0.12,
        door_x=0.06,
        door_travel=0.24,
        niche_x=(-0.18, 0.34),
        drawer_x=0.10,
        desk_area_x=(0.00, 0.35),
        niche_left_x=(-0.12, 0.06),
        niche_right_x=(0.15, 0.30),
        anchor_left_xyz=(-0.03, 0.092404, 0.46099),  # ours
        anchor_right_xyz=(0.24, 0.092404, 0.46099),  # ours
    ),
    "D": SceneSpec(
        name="D",
        table_rgb=OAK,
        front_rgb=OAK,
        grain="oak",
        block_sizes={"block_red": MIDDLE, "block_blue": SMALL, "block_pink": LARGE},
        slot_order=("block_red", "block_blue", "block_pink"),
        button_xy=(-0.12, -0.12),
        switch_x=0.30,
        bulb_xy=(0.30, 0.132),
        led_x=-0.12,
        door_x=-0.10,
        door_travel=0.28,
        niche_x=(-0.36, 0.16),
        drawer_x=0.18,
        desk_area_x=(0.00, 0.35),
        niche_left_x=(-0.32, -0.16),
        niche_right_x=(-0.05, 0.13),
        anchor_left_xyz=(-0.240852, 0.092404, 0.46099),
        anchor_right_xyz=(0.070342, 0.092404, 0.46099),
    ),
}


class UnknownScene(ForeActError):
    """A scene name is not one of A, B, C, D."""

    exit_code = 2

    def __init__(self, name: str) -> None:
        super().__init__(f"no scene {name!r}; {did_you_mean(name, SCENES)}")


def get_scene(name: str) -> SceneSpec:
    """The scene of that name.

    Raises:
        UnknownScene: If the name is not A, B, C or D.
    """
    try:
        return SCENES[name]
    except KeyError:
        raise UnknownScene(name) from None
