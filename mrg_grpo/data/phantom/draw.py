"""The phantom's pictures: a frontal chest X-ray, drawn from a case. 224 x 224, 8 bit, a few milliseconds.

Bright is dense, the patient's right is on the left of the picture. Everything is a density map on one grid: lungs are
holes with soft edges in a bright body; heart, mediastinum, ribs, clavicles and spine lie over them; each finding adds
what it adds on film. Coordinates are in picture widths, x to the right and y down, both 0..1.
"""

from __future__ import annotations

import math
import random

import numpy as np

from mrg_grpo.data.phantom.case import Finding, PhantomCase

SIDE = 224
Y, X = np.meshgrid(
    (np.arange(SIDE, dtype=np.float32) + 0.5) / SIDE, (np.arange(SIDE, dtype=np.float32) + 0.5) / SIDE, indexing="ij"
)

Array = np.ndarray


def step(distance: Array, width: float) -> Array:
    """A soft edge: 0 below -width, 1 above width, a ramp between."""
    return np.clip(0.5 + (0.5 / width) * distance, 0.0, 1.0)


def ellipse(cx: float, cy: float, rx: float, ry: float, edge: float = 0.02) -> Array:
    """1 inside, 0 outside, soft edge."""
    return step(1.0 - np.sqrt(((X - cx) / rx) ** 2 + ((Y - cy) / ry) ** 2), edge / min(rx, ry))


def blob(cx: float, cy: float, rx: float, ry: float) -> Array:
    return np.exp(-(((X - cx) / rx) ** 2 + ((Y - cy) / ry) ** 2))


def line(x0: float, y0: float, x1: float, y1: float, width: float) -> Array:
    """A bar with round ends."""
    dx, dy = x1 - x0, y1 - y0
    t = np.clip(((X - x0) * dx + (Y - y0) * dy) / max(dx * dx + dy * dy, 1e-9), 0, 1)
    distance = np.hypot(X - x0 - t * dx, Y - y0 - t * dy)
    return step(width / 2 - distance, max(0.006, width / 3))


def smooth_noise(rng: np.random.Generator, cells: int) -> Array:
    """Bilinear noise of about unit spread, `cells` lumps across."""
    grid = rng.standard_normal((cells + 2, cells + 2)).astype(np.float32)
    at = np.linspace(0, cells, SIDE, dtype=np.float32)
    i = at.astype(int)
    f = at - i
    rows = grid[i] * (1 - f[:, None]) + grid[i + 1] * f[:, None]
    return rows[:, i] * (1 - f) + rows[:, i + 1] * f


class Chest:
    """The geometry of one patient; `density` is painted onto."""

    def __init__(self, case: PhantomCase) -> None:
        self.rng: random.Random = case.rng("draw")
        self.noise = np.random.Generator(np.random.PCG64(self.rng.getrandbits(63)))
        u = self.rng.uniform
        by_name = {finding.condition: finding for finding in case.findings}
        self.middle = 0.5 + u(-0.02, 0.02)
        self.wide = u(0.92, 1.06)
        self.top, self.base = u(0.12, 0.16), u(0.76, 0.82)
        heart = by_name.get("Cardiomegaly")
        media = by_name.get("Enlarged Cardiomediastinum")
        self.heart_width = u(0.115, 0.135) * (1 + (0.62 * heart.severity if heart else 0.0))
        self.neck = u(0.040, 0.050) * (1 + (1.5 * media.severity if media else 0.0))
        self.lungs = {side: self._lung(side, by_name.get("Atelectasis")) for side in ("left", "right")}
        self.heart = ellipse(
            self.middle + 0.055 + 0.25 * (self.heart_width - 0.12), 0.615, self.heart_width, 0.155, 0.02
        )
        self.column = line(self.middle, 0.05, self.middle, 0.5, 2 * self.neck)
        for side in self.lungs:  # what lies behind the heart does not show
            self.lungs[side] = self.lungs[side] * (1 - self.heart) * (1 - self.column)
        self.field = np.maximum(self.lungs["left"], self.lungs["right"])

    def sign(self, side: str) -> int:
        """Patient's left is to the right of the picture."""
        return 1 if side == "left" else -1

    def lung_x(self, side: str, out: float = 0.5) -> float:
        """x at a depth into the lung: 0 at the mediastinum, 1 at the chest wall."""
        return self.middle + self.sign(side) * self.wide * (0.07 + 0.29 * out)

    def zone_y(self, zone: str) -> float:
        return {"upper": 0.30, "mid": 0.47, "lower": 0.64, "": 0.5}[zone]

    def floor(self, side: str) -> Array:
        """y of the diaphragm over x: a dome, higher on the right."""
        centre = self.lung_x(side, 0.45)
        return self.base - (0.025 if side == "right" else 0.0) + 1.3 * (X - centre) ** 2

    def _lung(self, side: str, atelectasis: Finding | None) -> Array:
        cx = self.middle + self.sign(side) * 0.205 * self.wide
        height = (self.base - self.top) / 2 + 0.13
        shape = ellipse(cx, self.top + height, 0.165 * self.wide, height, 0.018)
        lift = 0.05 * atelectasis.severity if atelectasis and atelectasis.side in (side, "both") else 0.0
        return shape * step(self.floor(side) - lift - Y, 0.02)

    def anatomy(self) -> Array:
        """Density without findings."""
        u = self.rng.uniform
        body = ellipse(self.middle, 0.72, 0.475 * self.wide, 0.68, 0.05)
        density = 0.56 * body
        density -= u(0.36, 0.41) * self.field
        density += 0.035 * self.field * smooth_noise(self.noise, 26) * (1 - np.abs(X - self.middle))  # vessels
        for side in ("left", "right"):
            density += 0.09 * blob(self.lung_x(side, 0.08), 0.47, 0.05, 0.09)  # hilum
            s = self.sign(side)
            density += 0.13 * line(self.middle + s * 0.05, 0.165, self.middle + s * 0.36, 0.105, 0.022)  # clavicle
        across = np.abs(X - self.middle)
        rib = (Y - 0.17 - 0.30 * (across - 0.18) ** 2 - 0.16 * (across - 0.1)) / 0.078  # ribs slope down and outwards
        nearest = (rib - np.clip(np.round(rib), 0, 7)) * 0.078
        density += (
            0.055
            * np.exp(-((nearest / 0.012) ** 2))
            * step(across - 0.05, 0.01)
            * step(0.40 * self.wide - across, 0.02)
        )
        density += 0.07 * line(self.middle, 0.0, self.middle, 1.0, 0.075) * (1 + 0.25 * np.sin(Y * 75))  # spine
        density = np.maximum(density, 0.52 * self.column)
        density += (0.56 - density) * self.heart * step(self.base + 0.03 - Y, 0.03)
        density -= 0.05 * line(self.middle, 0.0, self.middle, 0.30, 0.022)  # trachea
        density -= 0.14 * blob(self.middle + 0.17, self.base + 0.07, 0.05, 0.025)  # gastric bubble
        return density


def paint(chest: Chest, density: Array, finding: Finding) -> Array:
    """Add one finding; cardiomegaly and a wide mediastinum are already in the geometry."""
    painter = PAINTERS.get(finding.condition)
    if painter is None:
        return density
    sides = ("left", "right") if finding.side == "both" else (finding.side or "left",)
    for side in sides:
        density = painter(chest, density, finding, side)
    return density


def opacity(chest: Chest, density: Array, f: Finding, side: str) -> Array:
    """A hazy, ill-defined patch."""
    u = chest.rng.uniform
    cx, cy = chest.lung_x(side, u(0.35, 0.65)), chest.zone_y(f.zone) + u(-0.03, 0.03)
    patch = blob(cx, cy, u(0.07, 0.1), u(0.06, 0.085)) * (1 + 0.3 * smooth_noise(chest.noise, 16))
    return density + 0.30 * f.severity * patch * chest.field


def consolidation(chest: Chest, density: Array, f: Finding, side: str) -> Array:
    """A whole lobe, dense and sharply bounded by the fissure, with dark air bronchograms."""
    u = chest.rng.uniform
    fissure = 0.40 + u(-0.02, 0.02) + 0.25 * chest.sign(side) * (X - chest.lung_x(side, 0.5))
    part = step(fissure - Y, 0.012) if f.zone == "upper" else step(Y - fissure - 0.12, 0.012)
    cx, cy = chest.lung_x(side, 0.1), (0.33 if f.zone == "upper" else 0.58)
    air = np.zeros_like(X)
    for _ in range(3):
        air = np.maximum(air, line(cx, cy, chest.lung_x(side, u(0.6, 0.8)), cy + u(-0.08, 0.08), 0.008))
    return density + f.severity * chest.lungs[side] * part * (0.30 - 0.16 * air)


def pneumonia(chest: Chest, density: Array, f: Finding, side: str) -> Array:
    """Several fluffy spots that run into each other."""
    u = chest.rng.uniform
    cx, cy = chest.lung_x(side, 0.45), chest.zone_y(f.zone)
    spots = np.zeros_like(X)
    for _ in range(9):
        r = u(0.012, 0.024)
        spots += blob(cx + u(-0.085, 0.085), cy + u(-0.075, 0.075), r, r)
    return density + 0.34 * f.severity * np.minimum(spots, 1.2) * chest.field


def lesion(chest: Chest, density: Array, f: Finding, side: str) -> Array:
    """A round nodule or mass with a crisp edge."""
    u = chest.rng.uniform
    r = 0.018 + 0.034 * f.severity
    return density + (0.16 + 0.2 * f.severity) * min(1.0, f.severity / 0.3) * ellipse(
        chest.lung_x(side, u(0.35, 0.75)), chest.zone_y(f.zone) + u(-0.04, 0.04), r, r, 0.006
    )


def edema(chest: Chest, density: Array, f: Finding, side: str) -> Array:
    """Bat-wing haze around the hilum and fine horizontal lines at the edge."""
    wing = blob(chest.lung_x(side, 0.25), 0.47, 0.10, 0.15)
    lines = np.maximum(np.sin(Y * 210), 0) ** 4 * blob(chest.lung_x(side, 0.92), 0.64, 0.05, 0.09)
    return density + f.severity * chest.lungs[side] * (
        0.27 * wing * (1 + 0.25 * smooth_noise(chest.noise, 20)) + 0.18 * lines
    )


def atelectasis(chest: Chest, density: Array, f: Finding, side: str) -> Array:
    """Plate-like bands above a raised diaphragm."""
    u = chest.rng.uniform
    for _ in range(2 if f.severity < 0.6 else 3):
        y, tilt = u(0.60, 0.70), u(-0.03, 0.03)
        band = line(chest.lung_x(side, 0.2), y, chest.lung_x(side, 0.85), y + tilt, 0.012)
        density = density + 0.30 * f.severity * band * chest.lungs[side]
    return density


def pneumothorax(chest: Chest, density: Array, f: Finding, side: str) -> Array:
    """Outside a fine pleural line the lung has no markings and is black."""
    s, depth = chest.sign(side), 0.035 + 0.085 * f.severity
    cx, height = chest.middle + s * 0.205 * chest.wide, (chest.base - chest.top) / 2 + 0.13
    inner = np.sqrt(
        ((X - cx + s * depth * 0.8) / (0.165 * chest.wide)) ** 2 + ((Y - chest.top - height - depth) / height) ** 2
    )
    outside = chest.lungs[side] * step(inner - 1.0, 0.05) * step(0.62 - Y, 0.1)
    edge = np.exp(-(((inner - 1.0) / 0.035) ** 2)) * chest.lungs[side] * step(0.62 - Y, 0.1)
    clear = min(1.0, f.severity / 0.25)
    return density * (1 - clear * outside) + clear * (0.04 * outside + 0.20 * edge)


def effusion(chest: Chest, density: Array, f: Finding, side: str) -> Array:
    """Fluid hides the base, with a meniscus that climbs the wall."""
    level = chest.base - 0.02 - 0.24 * f.severity
    outward = np.clip((np.abs(X - chest.middle) - 0.1) / 0.27, 0, 1)
    surface = level - 0.10 * outward**3 + 0.03
    return density + (0.52 - density) * 0.95 * chest.lungs[side] * step(Y - surface, 0.02)


def pleural_other(chest: Chest, density: Array, f: Finding, side: str) -> Array:
    """Thickened pleura along the wall, with calcified plaques."""
    u, s = chest.rng.uniform, chest.sign(side)
    thick = 0.014 + 0.03 * f.severity
    cx, height = chest.middle + s * 0.205 * chest.wide, (chest.base - chest.top) / 2 + 0.13
    rim = np.sqrt(((X - cx) / (0.165 * chest.wide)) ** 2 + ((Y - chest.top - height) / height) ** 2)
    wall = step(rim - (1 - thick / 0.165), 0.05) * (s * (X - cx) > 0.06) * step(Y - 0.3, 0.05)
    plaque = sum(
        line(chest.lung_x(side, 0.86), y, chest.lung_x(side, 0.97), y + 0.035, 0.016)
        for y in (u(0.36, 0.44), u(0.5, 0.6))
    )
    return density + min(1.0, f.severity / 0.3) * chest.lungs[side] * (0.22 * wall + 0.26 * plaque * f.severity)


def fracture(chest: Chest, density: Array, f: Finding, side: str) -> Array:
    """Two displaced, bright rib ends with a dark gap."""
    u, s = chest.rng.uniform, chest.sign(side)
    x, y = chest.lung_x(side, u(0.7, 0.9)), chest.zone_y(f.zone) + u(-0.04, 0.04)
    shift, strength = 0.012 + 0.03 * f.severity, min(1.0, f.severity / 0.3)
    ends = line(x - s * 0.075, y - 0.03, x - s * 0.01, y, 0.017) + line(
        x + s * 0.01, y + shift, x + s * 0.06, y + 0.03 + shift, 0.017
    )
    return density + strength * (0.26 * ends - 0.14 * line(x, y - 0.01, x, y + shift + 0.01, 0.012))


def device(chest: Chest, density: Array, f: Finding, side: str) -> Array:
    """Metal and plastic: brighter than anything else."""
    u, m = chest.rng.uniform, chest.middle
    metal = np.zeros_like(X)
    if f.device == "pacemaker":
        x, y = m + 0.25, 0.22 + u(-0.02, 0.02)
        metal = ellipse(x, y, 0.052, 0.042, 0.006) + 0.8 * line(x - 0.04, y, m + 0.01, 0.30, 0.009)
        metal += 0.8 * line(m + 0.01, 0.30, m + 0.03, 0.66, 0.009)
    elif f.device == "central line":
        s = chest.sign(side)
        metal = 0.7 * line(m + s * 0.14, 0.02, m + s * 0.05, 0.20, 0.011) + 0.7 * line(
            m + s * 0.05, 0.20, m - 0.03, 0.46, 0.011
        )
    elif f.device == "endotracheal tube":
        metal = 0.75 * line(m + 0.004, 0.0, m + 0.004, 0.27 + u(-0.02, 0.02), 0.016)
    else:
        for k in range(5):
            metal = (
                metal
                + ellipse(m, 0.27 + 0.075 * k, 0.017, 0.014, 0.005)
                - 0.9 * ellipse(m, 0.27 + 0.075 * k, 0.009, 0.006, 0.005)
            )
    return density + 0.42 * np.clip(metal, 0, 1)


PAINTERS = {
    "Lung Opacity": opacity, "Lung Lesion": lesion, "Edema": edema, "Consolidation": consolidation,
    "Pneumonia": pneumonia,
    "Atelectasis": atelectasis, "Pneumothorax": pneumothorax, "Pleural Effusion": effusion,
    "Pleural Other": pleural_other,
    "Fracture": fracture, "Support Devices": device,
}  # fmt: skip


def mimic(chest: Chest, density: Array) -> Array:
    """What looks like a finding and is none: a nipple shadow, a skin fold, overlapping vessels."""
    rng = chest.rng
    side, kind = rng.choice(("left", "right")), rng.random()
    if kind < 0.12:
        return density + 0.10 * ellipse(chest.lung_x(side, 0.6), 0.66, 0.02, 0.02, 0.012)
    if kind < 0.2:
        return density + 0.07 * line(chest.lung_x(side, 0.9), 0.25, chest.lung_x(side, 0.7), 0.6, 0.008)
    if kind < 0.3:
        return density + 0.08 * blob(chest.lung_x(side, 0.3), rng.uniform(0.4, 0.65), 0.06, 0.06) * chest.field
    return density


def mark(chest: Chest, picture: Array, site: str) -> Array:
    """The hospital's habit: A collimates tightly and stamps an L; B leaves the frame open and prints a label."""
    if site == "A":
        picture = picture * (step(X - 0.03, 0.004) * step(0.97 - X, 0.004))
        letter = np.maximum(line(0.90, 0.06, 0.90, 0.11, 0.012), line(0.90, 0.11, 0.93, 0.11, 0.012))
        return np.maximum(picture, 0.95 * letter)
    label = step(X - 0.05, 0.004) * step(0.19 - X, 0.004) * step(Y - 0.90, 0.004) * step(0.95 - Y, 0.004)
    stripes = 0.55 + 0.4 * (np.sin(X * 260) > 0)
    return picture * (1 - label) + label * stripes


def render(case: PhantomCase) -> np.ndarray:
    """uint8 (224, 224), gray."""
    chest = Chest(case)
    density = chest.anatomy()
    order = [f for f in case.findings if f.condition != "Support Devices"]
    for finding in [*order, *(f for f in case.findings if f.condition == "Support Devices")]:
        density = paint(chest, density, finding)
    density = mimic(chest, density)
    gain, bias = chest.rng.uniform(0.9, 1.12), chest.rng.uniform(-0.03, 0.04)
    density = gain * density + bias + 0.008 * smooth_noise(chest.noise, 5)
    density += 0.014 * chest.noise.standard_normal(density.shape, dtype=np.float32)
    picture = np.clip(1.25 * density + 0.02, 0, 1) ** math.exp(chest.rng.uniform(-0.12, 0.12))
    return (255 * np.clip(mark(chest, picture, case.site), 0, 1)).astype(np.uint8)
