"""`mendiff predict`: findings for images that have no labels."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Sequence
from itertools import count
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from mendiff.checkpoints.store import load
from mendiff.commands.common import Terminal, choose_device, tell_depth
from mendiff.commands.places import check_output, new_folder
from mendiff.errors import InputError
from mendiff.evaluation.labels import inspected_notes
from mendiff.images import find_images, normalise_heat, overlay, save_png, to_picture, write_bytes
from mendiff.model import Model
from mendiff.types import Detection

COLUMNS = ("image", "score", "threshold", "defective", "p_value", "stop_step", "heat_map", "reconstruction")


def run(
    model: Path,
    images: Sequence[Path],
    out: Path,
    category: str | None,
    explain: bool,
    batch_size: int,
    device: str,
    offload: bool,
    half: bool,
    overwrite: bool,
    quiet: bool,
) -> dict[str, Any]:
    """Score every readable image below `images`, and write CSV, JSON and pictures into `out`."""
    terminal = Terminal(quiet)
    check_output(out, overwrite, "findings")
    if batch_size < 1:
        raise InputError(f"--batch-size: expected at least 1, got {batch_size}.")
    loaded = load(model, choose_device(device), category, offload=offload, half=half)
    named = name_images(images)
    for note in (note for given in images for note in inspected_notes(given)):
        terminal.warn(note.sentence)
    tell_depth([path for path, _ in named], loaded.method.config.bit_depth, terminal)
    rows: list[dict[str, Any]] = []
    unreadable: list[str] = []
    with new_folder(out, overwrite, "findings") as draft:
        batches = [named[first : first + batch_size] for first in range(0, len(named), batch_size)]
        for batch in terminal.track(batches, "predicting"):
            for (path, name), picture, found in _findings(loaded, batch, explain, unreadable, terminal):
                rows.append(_write_pictures(draft, path, name, picture, found, loaded))
        if not rows:
            raise InputError(
                f"{unreadable[0]} No readable image is left." if unreadable else "images: got none."
            )
        result = {
            "model": str(model),
            "threshold": loaded.threshold,
            "images": rows,
            "unreadable": unreadable,
        }
        write_bytes(draft / "predictions.json", (json.dumps(result, indent=2) + "\n").encode())
        write_bytes(draft / "predictions.csv", _as_csv(rows).encode())
    flagged = sum(row["defective"] for row in rows)
    terminal.say(
        f"{flagged} of {len(rows)} images look defective (score above {loaded.threshold:.4g}); see {out}"
    )
    return result


def name_images(images: Sequence[Path]) -> list[tuple[Path, str]]:
    """Every image below the given files and folders, with a name of its own for what is written of it."""
    named = []
    for given in images:
        for path in find_images(given):
            relative = path.relative_to(given) if given.is_dir() else Path(path.name)
            named.append((path, relative.as_posix()))
    taken: set[str] = set()
    unique = []
    for path, name in named:
        stem = Path(name).with_suffix("").as_posix()
        names = (stem if number == 1 else f"{stem}-{number}" for number in count(1))
        free = next(one for one in names if one not in taken)
        taken.add(free)
        unique.append((path, free))
    return unique


def _findings(
    model: Model,
    batch: Sequence[tuple[Path, str]],
    explain: bool,
    unreadable: list[str],
    terminal: Terminal,
) -> Iterator[tuple[tuple[Path, str], Any, Detection]]:
    """(path and name, picture, finding) of the readable images of a batch; the others are left out."""
    kept, pictures = [], []
    for path, name in batch:
        try:
            pictures.append(model.read(path))
            kept.append((path, name))
        except InputError as error:
            unreadable.append(str(error))
            terminal.warn(str(error))
    if not kept:
        return
    prepared = torch.stack([model.prepare(picture) for picture in pictures])
    found = model.predict_batch(prepared, explain=explain)
    for index, (one, picture) in enumerate(zip(kept, pictures, strict=True)):
        row = slice(index, index + 1)
        yield (
            one,
            picture,
            Detection(
                found.score[row], found.anomaly_map[row], found.reconstruction[row], found.stop_step[row]
            ),
        )


def _write_pictures(
    folder: Path, path: Path, name: str, picture: Any, found: Detection, model: Model
) -> dict[str, Any]:
    """Heat-map overlay at the picture's own size and the reconstruction, and the row that names them."""
    heat = F.interpolate(found.anomaly_map, picture.shape[:2], mode="bilinear", align_corners=False)[
        0, 0
    ].numpy()
    scaled = normalise_heat(heat, *heat_range(model))
    places = {"heat_map": f"heat_maps/{name}.png", "reconstruction": f"reconstructions/{name}.png"}
    for place, drawn in (
        (places["heat_map"], overlay(picture, scaled)),
        (places["reconstruction"], to_picture(found.reconstruction[0])),
    ):
        (folder / place).parent.mkdir(parents=True, exist_ok=True)
        save_png(drawn, folder / place)
    score = float(found.score)
    return {
        "image": str(path),
        "score": score,
        "threshold": model.threshold,
        "defective": score > model.threshold,
        "p_value": model.calibration.p_value(score),
        "stop_step": int(found.stop_step),
        **places,
    }


def heat_range(model: Model) -> tuple[float, float]:
    """(threshold, floor) for drawing: half colour at the pixel threshold, none at half a usual good peak."""
    peaks = sorted(model.calibration.pixel_scores)
    return model.calibration.pixel_threshold, min(
        0.5 * peaks[len(peaks) // 2], 0.9 * model.calibration.pixel_threshold
    )


def _as_csv(rows: Sequence[dict[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS)
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
