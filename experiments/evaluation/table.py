"""results.json as the tables of the model card."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from bvjax.errors import UserError

Row = list[str]


def table(parts: dict[str, Any]) -> str:
    """Markdown of all parts that there are, each under its heading.

    Raises `UserError` for a part whose content no evaluation wrote.
    """
    writers = {
        "reconstruction": _reconstruction,
        "judge": _judge,
        "pictures": _captions,
        "captions": _captions,
        "memory": _memory,
        "minutes": _minutes,
        "drift": _drift,
        "noise": _noise,
    }
    blocks = []
    for part, write in writers.items():
        if part in parts:
            try:
                section = [write(parts[part]["result"]), _provenance(parts[part])]
            except (AttributeError, LookupError, StopIteration, TypeError, ValueError) as error:
                raise UserError(
                    f"the results of part {part!r} are not what an evaluation writes "
                    f"({type(error).__name__}: {error})"
                ) from None
            blocks += [f"### {TITLES[part]}", *section]
    return "\n\n".join(blocks)


TITLES = {
    "reconstruction": "VAE reconstruction of held-out stories",
    "judge": "Accuracy of the judge",
    "pictures": "Words have a look: the first frame alone",
    "captions": "Captions matter: the first chunk",
    "memory": "Memory (a): ground-truth history, only the return chunk generated",
    "minutes": "Memory (b): whole self-generated minutes",
    "drift": "Drift along generated minutes",
    "noise": "Initial noise: independent, or shared by the chunks and shuffled",
}


def percent(entry: dict[str, Any]) -> str:
    """ "91.4 % (85.2-95.1, n = 128)"; a dash where nothing was measured."""
    if entry["rate"] is None:
        return "-"
    low, high = 100 * entry["low"], 100 * entry["high"]
    return f"{100 * entry['rate']:.1f} % ({low:.1f}-{high:.1f}, n = {entry['n']})"


def number(entry: dict[str, Any], digits: int = 2, factor: float = 1.0) -> str:
    """ "28.31 (28.02-28.60, n = 16)", and how many were infinite."""
    infinite = f", {entry['infinite']} infinite" if entry["infinite"] else ""
    if entry["mean"] is None:
        return f"-{infinite}"
    mean, low, high = (f"{factor * entry[k]:.{digits}f}" for k in ("mean", "low", "high"))
    return f"{mean} ({low} to {high}, n = {entry['n']}{infinite})"


def markdown(head: Row, rows: Iterable[Row]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _provenance(part: dict[str, Any]) -> str:
    provenance = part["provenance"]
    return f"`{provenance['command']}`, commit {provenance.get('commit', 'unknown')}, {provenance['device']}"


def _reconstruction(result: dict[str, Any]) -> str:
    names = {
        "psnr": ("PSNR, dB", 2),
        "ssim": ("SSIM", 4),
        "subject_psnr": ("PSNR of subjects, dB", 2),
    }
    rows = ([label, number(result[key], digits)] for key, (label, digits) in names.items())
    return markdown(["measure", "mean over stories (95 %)"], rows)


def _judge(result: dict[str, Any]) -> str:
    heads = list(next(iter(result.values())))
    rows = ([source, *(percent(entry[h]) for h in heads)] for source, entry in result.items())
    return markdown(["frames", *heads], rows)


def _captions(result: dict[str, Any]) -> str:
    chance = {**result["chance"], "all": result["chance"]["both"] * result["chance"]["place"]}
    chance["both, unseen pair"] = chance["both"]
    rows = (
        [head, percent(entry), f"{100 * chance[head]:.1f} %"]
        for head, entry in result.items()
        if head != "chance"
    )
    return markdown(["right in the first chunk", "rate (95 %)", "chance"], rows)


def _memory(result: dict[str, Any]) -> str:
    sharp = ([arm, number(entry["sharpness"], 3)] for arm, entry in result["arms"].items())
    text = _arms(result["arms"])
    text += "\n\n" + markdown(["arm", "clarity as a share of the true chunk's"], sharp)
    if "semantic - rolling" in result:
        text += f"\n\nSemantic minus rolling, subjects, in points: {_points(result)}"
    return text


def _points(result: dict[str, Any]) -> str:
    return number(result["semantic - rolling"], 1, 100.0)


def _minutes(result: dict[str, Any]) -> str:
    same = (
        [arm, percent(entry["same as introduced"]), str(entry["minutes"])]
        for arm, entry in result.items()
    )
    return _arms(result) + "\n\n" + markdown(["arm", "same as when introduced", "minutes"], same)


def _arms(arms: dict[str, Any]) -> str:
    heads = [
        "arm", "subject: species and colour", "retrieval hit", "same species beside",
        "unseen pair", "species", "colour", "place", "place: retrieval hit",
    ]  # fmt: skip
    rows = []
    for arm, entry in arms.items():
        subject, place = entry["subject"], entry["place"]
        recall = subject["recall"]
        rates = [
            recall["all"],
            subject["retrieval hit"],
            recall["same species beside"],
            recall["unseen pair"],
            subject["species"],
            subject["colour"],
            place["recall"],
            place["retrieval hit"],
        ]
        rows.append([arm, *map(percent, rates)])
    chance = next(iter(arms.values()))
    subject, place = (f"{100 * chance[kind]['chance']:.1f} %" for kind in ("subject", "place"))
    rows.append(["*chance*", subject, "", subject, subject, "12.5 %", "12.5 %", place, ""])
    return markdown(heads, rows)


def _drift(result: dict[str, Any]) -> str:
    heads = ["video", "clarity VDE", "/ sum(w)", "clarity", "motion VDE", "/ sum(w)", "motion, px"]
    rows = []
    for source, entry in result.items():
        if source == "segments":
            continue
        cells = []
        for measure, digits in (("clarity", 0), ("motion", 2)):
            scores = entry[measure]
            cells += [number(scores["vde"]), number(scores["vde / sum(w)"], 3)]
            cells.append(number(scores["level"], digits))
        rows.append([source, *cells])
    return markdown(heads, rows)


def _noise(result: dict[str, Any]) -> str:
    digits = {
        "replay": 3,
        "seam": 2,
        "clarity": 0,
        "clarity VDE": 1,
        "motion": 2,
        "motion VDE": 1,
    }
    rows = (
        [arm, *(number(entry[name], count) for name, count in digits.items())]
        for arm, entry in result.items()
    )
    return markdown(["initial noise", *digits], rows)
