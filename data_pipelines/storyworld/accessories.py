"""Hats, scarves, bow ties and backpacks, hung on the anchors of a species.

Their colours are neutral (charcoal, white, brown), so that none is mistaken for a subject's own.
"""

from __future__ import annotations

from data_pipelines.storyworld.rig import Part, Rig

CHARCOAL = (0.20, 0.19, 0.24)
CLOTH = (0.97, 0.96, 0.93)
STRIPE = (0.58, 0.57, 0.60)
LEATHER = (0.52, 0.34, 0.20)
STRAP = (0.36, 0.23, 0.14)


def _hat(r: Rig) -> None:
    x, y, k = r.anchors["head"]
    r.poly(((x - 0.10 * k, y + 0.03), (x + 0.10 * k, y + 0.03), (x + 0.115 * k, y + 0.26 * k),
            (x - 0.115 * k, y + 0.26 * k)), CHARCOAL, radius=0.02)  # fmt: skip
    r.cap(x - 0.09 * k, y + 0.08 * k, x + 0.09 * k, y + 0.08 * k, 0.03 * k, 0.03 * k, CLOTH, rim=0)
    r.cap(x - 0.17 * k, y + 0.02, x + 0.17 * k, y + 0.02, 0.035 * k, 0.035 * k, CHARCOAL)


def _scarf(r: Rig) -> None:
    x, y, k = r.anchors["neck"]
    r.cap(
        x - 0.13 * k * (r.f or 1),
        y,
        x - 0.19 * k * (r.f or 1),
        y - 0.24 * k,
        0.06 * k,
        0.065 * k,
        CLOTH,
    )
    r.cap(x - 0.18 * k, y, x + 0.18 * k, y, 0.078 * k, 0.078 * k, CLOTH)
    for s in (-0.10, 0.10):
        r.cap(x + s * k, y + 0.05 * k, x + s * k, y - 0.05 * k, 0.028 * k, 0.028 * k, STRIPE, rim=0)


def _bow_tie(r: Rig) -> None:
    x, y, k = r.anchors["neck"]
    for s in (-1, 1):
        side = x + s * 0.17 * k
        r.poly(((x, y), (side, y + 0.10 * k), (side, y - 0.10 * k)), CHARCOAL, radius=0.025)
    r.ell(x, y, 0.055 * k, 0.06 * k, CLOTH, rim=0.01)


def _backpack(r: Rig) -> list[Part]:
    """Painted behind the body; returns the straps, painted in front."""
    x, y, k = r.anchors["back"]
    hold, r.parts = r.parts, []
    away = -0.12 * (r.f if abs(r.f) > 0.2 else 0.2)
    r.poly(
        (
            (x + away - 0.13 * k, y - 0.17 * k),
            (x + away + 0.13 * k, y - 0.17 * k),
            (x + away + 0.13 * k, y + 0.17 * k),
            (x + away - 0.13 * k, y + 0.17 * k),
        ),
        LEATHER,
        radius=0.06 * k,
    )
    r.cap(
        x + away - 0.10 * k,
        y + 0.05 * k,
        x + away + 0.10 * k,
        y + 0.05 * k,
        0.03,
        0.03,
        STRAP,
        rim=0,
    )
    pack, r.parts = r.parts, hold
    return pack


def dress(rig: Rig, accessory: str) -> list[Part]:
    """All parts of the subject, with its accessory, from back to front."""
    if accessory == "backpack":
        return _backpack(rig) + rig.parts
    if accessory == "hat":
        _hat(rig)
    elif accessory == "scarf":
        _scarf(rig)
    elif accessory == "bow tie":
        _bow_tie(rig)
    return rig.parts
