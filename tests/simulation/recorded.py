"""Histories that once made the simulation complain, cut down: (seed of the world, steps)."""

from typing import Final

from tests.simulation.world import Step

RECORDED: Final[dict[str, tuple[int, list[Step]]]] = {
    "a copied journal and its original settle the same calls": (
        10497,
        [
            Step("flow", 116, 38671, 20770),
            Step("call", 252, 58210, 40987),
            Step("flow", 78, 26005, 56010),
            Step("call", 116, 48622, 59306),
            Step("call", 170, 36177, 18084),
            Step("flow", 4, 22580, 15257),
            Step("call", 58, 3270, 51544),
            Step("flow", 146, 18631, 59971),
            Step("clone", 102, 43616, 26558),
            Step("depose", 148, 56717, 42199),
        ],
    ),
    "a copied journal, and more calls": (
        10731,
        [
            Step("flow", 70, 39935, 4591),
            Step("call", 10, 19658, 52371),
            Step("flow", 105, 57843, 1278),
            Step("call", 39, 18853, 11818),
            Step("call", 76, 6932, 19019),
            Step("call", 250, 20315, 64732),
            Step("flow", 8, 11866, 17604),
            Step("call", 46, 54517, 37694),
            Step("finish", 225, 51665, 46399),
            Step("call", 81, 39949, 52080),
            Step("finish", 214, 16907, 12248),
            Step("call", 188, 47662, 44963),
            Step("flow", 206, 8474, 8597),
            Step("clone", 83, 22096, 61989),
            Step("flow", 193, 54894, 4548),
        ],
    ),
    "a charge that could not be written was lost with its process": (
        10755,
        [
            Step("flow", 118, 36870, 20471),
            Step("clone", 30, 22654, 35392),
            Step("call", 253, 25407, 23153),
            Step("flow", 173, 15277, 34768),
            Step("call", 61, 57279, 55677),
            Step("flow", 13, 54806, 12089),
            Step("fill", 181, 17309, 62015),
            Step("finish", 129, 49242, 27684),
            Step("clone", 6, 8527, 57700),
            Step("kill", 96, 52007, 33584),
        ],
    ),
}
