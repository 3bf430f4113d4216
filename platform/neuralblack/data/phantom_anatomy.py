"""A made-up head as solids in space: scalp, skull, brain and face of one patient, cut by any plane.

Places are millimetres in the axes of the MNI atlas: x to the right, y to the front, z up, zero at the anterior
commissure. Brightness is that of a T1-weighted image after contrast, 1 for fat: an artist's model for tests and
the demo, and no atlas.
"""

from dataclasses import dataclass

import numpy as np

from neuralblack.data.phantom_shapes import Array, Waves, cover, ellipsoid, paint, tube

AIR, BONE, CSF, MUSCLE, FAT, VESSEL = 0.01, 0.05, 0.12, 0.34, 0.95, 0.80

CALLOSUM = [(0, 20, -1, 2), (0, 30, 5, 4), (0, 24, 18, 4), (0, 2, 26, 3), (0, -22, 25, 3), (0, -38, 15, 5)]
VENTRICLE = [(11, 34, 2, 2), (7, 16, 11, 5), (8, -6, 20, 5), (15, -28, 22, 5), (24, -44, 14, 6), (24, -68, 8, 1)]
TEMPORAL_HORN = [(24, -44, 14, 4), (32, -30, -8, 2), (32, -10, -18, 1)]
BRAINSTEM = [
    (0, -16, 4, 13),
    (0, -22, -14, 11),
    (0, -26, -32, 14),
    (0, -36, -52, 8),
    (0, -46, -80, 6),
    (0, -50, -150, 6),
]
SYLVIAN = [(20, 4, -16, 1.5), (38, 4, -8, 2.5), (56, -4, -2, 2.5), (64, -26, 12, 1)]


@dataclass(frozen=True)
class Head:
    """One patient's head: what differs between people, and between scanners' grey and white."""

    scale: tuple[float, float, float]  # width, length and height against the atlas
    skull: float  # millimetres of bone
    scalp: float  # millimetres of skin and fat
    csf: float  # millimetres between bone and brain
    ventricle: float  # millimetres added to the ventricles' radius
    sulcus: float  # millimetres, half the width of a sulcus at the surface
    depth: float  # millimetres that sulci go in
    white: float
    grey: float
    warp: tuple[Waves, Waves, Waves]
    folds: Waves
    patches: Waves
    grain: Waves

    @classmethod
    def draw(cls, rng: np.random.Generator) -> "Head":
        """Draw a person."""
        age = rng.uniform()  # with age ventricles and sulci widen
        white = rng.uniform(0.40, 0.50)
        width, length, height = rng.normal(1, (0.035, 0.04, 0.035)).clip(0.9, 1.1)
        return cls(
            scale=(width, length, height),
            skull=rng.uniform(5, 8),
            scalp=rng.uniform(4, 8),
            csf=rng.uniform(1.5, 2.5) + 2 * age,
            ventricle=rng.uniform(-1, 0.5) + 3.5 * age,
            sulcus=rng.uniform(0.3, 0.6) + 0.7 * age,
            depth=rng.uniform(13, 19),
            white=white,
            grey=white * rng.uniform(0.74, 0.86),
            warp=tuple(Waves.draw(rng, wavelength=95, count=5) for _ in "xyz"),  # type: ignore[arg-type]
            folds=Waves.draw(rng, wavelength=rng.uniform(20, 25), count=14),
            patches=Waves.draw(rng, wavelength=48, count=6),
            grain=Waves.draw(rng, wavelength=15, count=8),
        )

    def place(self, points: Array) -> Array:
        """Bring points of the scanner into the atlas: scale, and bend a little, as no head is an ellipsoid."""
        placed = points / np.asarray(self.scale, np.float32)[:, None, None]
        bent = [np.float32(2.2) * warp(placed) for warp in self.warp]
        return np.asarray(placed + np.stack(bent), np.float32)

    def find(self, place: Array) -> Array:
        """Where in the scanner a place of the atlas lies, (3,) to (3,): `place` the other way round."""
        scale = np.asarray(self.scale, np.float32)
        guess = place * scale
        for _ in range(8):
            guess = guess - (self.place(guess[:, None, None])[:, 0, 0] - place) * scale
        return np.asarray(guess, np.float32)


def mirrored(points: Array) -> Array:
    """Both halves on the right: what is drawn once appears on both sides."""
    return np.concatenate([np.abs(points[:1]), points[1:]])


def cavity(points: Array) -> Array:
    """Signed distance to the inside of the skull, negative inside. (3, ...) atlas millimetres -> (...)."""
    right = mirrored(points)
    vault = ellipsoid(points, (0, -17, 16), (67, 86, 62))
    temporal = ellipsoid(right, (38, -8, -22), (27, 42, 24))
    behind = ellipsoid(points, (0, -64, -34), (54, 38, 35))
    canal = tube(points, [(0, -38, -50, 14), (0, -48, -80, 10), (0, -52, -160, 9)])
    hollow = np.minimum.reduce([vault, temporal, behind, canal])
    base = ellipsoid(points, (0, 24, -56), (20, 36, 28))  # sphenoid and clivus; the sella is its top
    roof = ellipsoid(right, (32, 52, -40), (24, 32, 24))  # the orbits
    petrous = tube(right, [(14, -16, -42, 5), (50, -36, -40, 12)])
    return np.asarray(np.maximum.reduce([hollow, -base, -roof, -petrous]))


def draw_head(head: Head, points: Array, brain_points: Array, *, edge: float) -> Array:
    """Brightness of every point: scalp, bone and face, then the brain inside.

    Args:
        head: whose.
        points: (3, H, W) atlas millimetres.
        brain_points: the same, where a mass has pushed the brain aside; the bone stays.
        edge: millimetres over which a border blurs, about a pixel.

    Returns:
        (H, W) float32, about 0..1.
    """
    inner = cavity(points)
    image = _draw_outside(head, points, inner, edge)
    paint(image, cover(inner, edge), CSF)
    brain = _draw_brain(head, brain_points, inner if brain_points is points else cavity(brain_points), edge)
    paint(image, cover(inner + np.float32(0.5), edge), brain)
    x, _, z = points
    dura = cover(np.abs(inner) - np.float32(0.5), edge)
    paint(image, dura * np.float32(0.5), 0.45)
    sinus = np.maximum.reduce([np.abs(x) - np.float32(4.5) - 0.6 * inner, np.abs(inner + 2) - np.float32(2.8), -8 - z])
    paint(image, cover(sinus, edge), VESSEL)
    return image


def _draw_outside(head: Head, points: Array, inner: Array, edge: float) -> Array:
    """Scalp, bone, face and neck."""
    right = mirrored(points)
    vault = ellipsoid(points, (0, -17, 10), (67, 86, 68)) - np.float32(head.skull + head.scalp)
    face = ellipsoid(points, (0, 40, -62), (60, 54, 72))
    nose = tube(points, [(0, 78, -14, 14), (0, 93, -46, 14), (0, 84, -60, 18)])
    neck = tube(points, [(0, -44, -60, 48), (0, -36, -170, 50)])
    nape = ellipsoid(points, (0, -60, -30), (60, 42, 42)) - np.float32(head.skull + head.scalp)
    jaw = tube(points, [(0, 4, -56, 58), (0, 6, -104, 50), (0, 58, -108, 38)])
    outer = np.minimum.reduce([vault, nape, face, nose, neck, jaw])
    grain, patches = head.grain(points), head.patches(points)
    fatty = cover(np.float32(0.9) - patches - 0.7 * grain, 1.2)
    flesh = MUSCLE + 0.04 * grain + 0.22 * fatty
    image = np.full(inner.shape, AIR, np.float32)
    paint(image, cover(outer, edge), flesh)
    fat = cover(np.abs(outer + np.float32(head.scalp / 2 + 1)) - np.float32(head.scalp / 2), edge)
    paint(image, fat, FAT + 0.05 * grain)
    shell = np.float32(head.skull)
    paint(image, cover(inner - shell, edge), BONE)
    diploe = cover(np.abs(inner - shell / 2) - shell / 5, 2 * edge)
    paint(image, diploe * cover(np.float32(10) - points[2], 30), 0.30 + 0.08 * grain)
    clivus = tube(points, [(0, -2, -44, 6), (0, -18, -62, 5)])
    paint(image, cover(clivus, edge), 0.62 + 0.06 * grain)
    for air in (
        ellipsoid(points, (0, 16, -46), (13, 14, 9)),  # sphenoid sinus
        tube(right, [(9, 44, -44, 6), (7, 78, -52, 6)]),  # nose
        tube(points, [(0, 12, -66, 7), (0, 4, -100, 8), (0, 10, -170, 9)]),  # throat
        ellipsoid(right, (30, 48, -64), (11, 15, 14)),  # jaw sinus
        ellipsoid(right, (11, 74, 2), (10, 4, 12)),  # frontal sinus
        tube(right, [(52, -30, -42, 5), (74, -30, -44, 3)]),  # ear
    ):
        paint(image, cover(air, edge), AIR + 0.02)
    paint(image, cover(ellipsoid(points, (0, 46, -92), (24, 32, 17)), edge), MUSCLE + 0.06 * grain)  # tongue
    orbit = cover(ellipsoid(right, (31, 54, -34), (15, 24, 15)), edge)
    paint(image, orbit, FAT - 0.1)
    paint(image, cover(ellipsoid(right, (32, 65, -34), (11.5, 12, 11.5)), edge), 0.2)
    paint(image, cover(tube(right, [(30, 50, -34, 2), (14, 22, -26, 2)]), edge), 0.40)
    spine = np.maximum(
        np.abs((points[2] + 200) % 18 - 9) - np.float32(7.5), tube(points, [(0, -24, -78, 9), (0, -28, -170, 9)])
    )
    paint(image, cover(spine, edge), 0.48)
    return image


def _draw_brain(head: Head, points: Array, inner: Array, edge: float) -> Array:
    """What fills the skull: folded cerebrum, ventricles, deep nuclei, brainstem and cerebellum."""
    right = mirrored(points)
    x, y, z = right
    pial = -(inner + np.float32(head.csf))  # millimetres below the brain's surface
    tent = z - (np.float32(2) - 0.32 * x - 0.24 * np.maximum(-45 - y, 0))  # above it positive
    below = np.maximum(tent, y + 36)
    stem_room = tube(points, BRAINSTEM[1:5]) - np.float32(7)
    cistern = ellipsoid(points, (0, 4, -22), (15, 13, 9))
    sylvian = tube(right, SYLVIAN)
    halves = np.maximum(x, np.float32(7) - _above_callosum(points))  # the two halves' inner faces
    gaps = np.minimum.reduce([np.abs(tent) + np.maximum(y + 36, 0), stem_room, cistern, sylvian])
    depth = np.minimum.reduce([pial, gaps - np.float32(0.6 * head.sulcus), halves + 1])
    reach = np.sqrt((right * right).sum(0)) + np.float32(1)
    folds = head.folds(points * (np.float32(62) / reach) ** np.float32(0.55))
    reached = np.float32(head.depth) * (1 + 0.25 * head.patches(points)).clip(0.5, 1.4)
    wall = np.hypot(np.abs(folds) * np.float32(3.4), np.maximum(np.minimum(pial, halves) - reached, 0))
    wall -= np.float32(head.sulcus) * (1 - pial / reached).clip(-1, 1)
    ribbon = np.minimum(depth, wall)  # millimetres to the nearest cerebrospinal fluid
    tissue = head.white - (head.white - head.grey) * cover(ribbon - np.float32(3.0), 1.6 + edge)
    for nucleus in (
        ellipsoid(right, (11, -18, 8), (9, 14, 9)),  # thalamus
        ellipsoid(right, (13, 13, 8), (6, 10, 9)),  # caudate
        ellipsoid(right, (27, 1, 2), (6, 17, 10)),  # putamen
        ellipsoid(right, (23, -12, -20), (8, 16, 7)),  # hippocampus
    ):
        paint(tissue, cover(nucleus, 1.5 * edge), head.grey * 1.04)
    paint(tissue, cover(np.maximum(tube(points, CALLOSUM), x - 18), edge), head.white * 1.04)
    image = np.full(inner.shape, CSF, np.float32)
    paint(image, cover(-ribbon, edge), tissue)
    paint(image, cover(np.maximum(below, inner), edge), CSF)
    _draw_below(head, image, points, inner, below, edge)
    _draw_fluid(head, image, points, right, edge)
    paint(image, cover(np.maximum(halves - 1, inner + 1), edge) * np.float32(0.45), CSF)
    paint(
        image,
        cover(np.maximum.reduce([np.abs(tent) - np.float32(0.5), y + 40, inner + 1]), edge) * np.float32(0.7),
        0.5,
    )
    return image


def _above_callosum(points: Array) -> Array:
    """Millimetres outside the callosum's arch, where the halves are apart; small within it."""
    return ellipsoid(np.concatenate([0 * points[:1], points[1:]]), (0, -5, 2), (300, 34, 24)) + np.float32(2)


def _draw_below(head: Head, image: Array, points: Array, inner: Array, below: Array, edge: float) -> None:
    """Cerebellum with its leaves, and the brainstem."""
    room = np.float32(3 + head.csf) - tube(points, BRAINSTEM[1:5])
    cerebellum = np.maximum.reduce([inner + np.float32(head.csf), below + np.float32(2), room])
    x, y, z = points
    core = np.sqrt(0.35 * x**2 + (y + 46) ** 2 + (z + 36) ** 2)
    leaves = np.cos(core * np.float32(2 * np.pi / 5.5) + head.grain(points))
    leaf = head.grey + 0.07 * leaves
    paint(image, cover(cerebellum, edge), leaf)
    arbor = np.hypot(cerebellum + np.float32(19), 3 * head.folds(points)) - np.float32(8)
    paint(image, cover(arbor, 3) * cover(cerebellum, edge), head.white)
    stem = tube(points, BRAINSTEM)
    paint(image, cover(stem, edge), head.white * 0.97)


def _draw_fluid(head: Head, image: Array, points: Array, right: Array, edge: float) -> None:
    """Ventricles, their plexus, and the vessels that contrast makes bright."""
    ventricles = np.minimum.reduce(
        [
            tube(right, VENTRICLE) - np.float32(head.ventricle),
            tube(right, TEMPORAL_HORN) - np.float32(0.5 * head.ventricle),
            ellipsoid(right, (0, -14, -2), (1.6 + 0.6 * head.ventricle, 13, 10)),  # third
            ellipsoid(points, (0, -43, -34), (6, 5, 8)),  # fourth
            tube(points, [(0, -32, -6, 1), (0, -38, -26, 1.2)]),  # aqueduct
        ]
    )
    septum = cover(right[0] - np.float32(0.7), edge) * cover(-right[2] + 4, 2)
    paint(image, cover(ventricles, edge) * (1 - septum), CSF)
    plexus = ellipsoid(right, (23, -42, 14), (2.5, 5, 3))
    paint(image, cover(plexus, edge) * cover(ventricles, edge), VESSEL - 0.1)
    vessels = np.minimum.reduce(
        [
            ellipsoid(points, (0, 3, -29), (6, 5, 3.5)),  # the healthy pituitary gland
            tube(points, [(0, 2, -27, 1), (0, 0, -15, 0.8)]),  # and its stalk
            tube(points, [(0, -8, -16, 1.5), (0, -10, -36, 1.6)]),  # basilar
            tube(right, [(9, 4, -24, 1.8), (34, 2, -14, 1.4), (46, -2, -8, 1)]),  # middle cerebral
            tube(points, [(0, 14, -14, 1.2), (0, 38, 4, 1.2), (0, 30, 26, 1)]),  # anterior cerebral
            tube(points, [(0, -42, 12, 1.8), (0, -62, 8, 1.8), (0, -96, 0, 2.2)]),  # straight sinus
        ]
    )
    paint(image, cover(vessels, edge), VESSEL)
