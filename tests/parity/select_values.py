"""Cut the part of the reference values that is kept here out of the whole set.

    python tests/parity/select_values.py WHOLE tests/parity/values

Values are copied as they are; of the anomaly maps only the first image's. Every file that is not whole says
so in its notes, under "part".
"""

import json
import shutil
import sys
from pathlib import Path

from safetensors.torch import load_file, save_file

PARTS = {
    "glad/training": (("unet.", "pe.", "train."), ("train.instance_", "train.anomaly_images", "train.vae_")),
    "glad/anomaly_map": (
        (
            "dino.",
            "in.images",
            "in.reconstructions",
            "in.object_mask_ones",
            "plain.",
            "bidir.",
            "aux.gaussian",
        ),
        ("plain.masks",),
    ),
    "diad/g3_anomaly": (("in.", "map.a"), ()),
}
"""What the names of tensors begin with that are kept, and what of these is left out, by group."""
IMAGES = 1
"""Of the anomaly maps."""
PROSE = ("meanings", "meaning", "order", "rng", "env", "tensors_shape_dtype", "shapes")
"""Notes that no test reads."""


def cut(whole: Path, out: Path) -> None:
    """Write all parts, and the one group that is small enough to be kept whole."""
    for name, (kept, left_out) in PARTS.items():
        tensors = load_file(whole / f"{name}.safetensors")
        notes = json.loads((whole / f"{name}.json").read_text())
        chosen = {
            key: one for key, one in tensors.items() if key.startswith(kept) and not key.startswith(left_out)
        }
        notes = {key: one for key, one in notes.items() if key not in PROSE}
        notes["part"] = f"of {len(tensors)} tensors these {len(chosen)}"
        if name == "glad/anomaly_map":
            images = len(chosen["in.images"])
            chosen = {
                key: one[:IMAGES].clone() if key.startswith(("in.", "plain.", "bidir.")) else one
                for key, one in chosen.items()
            }
            notes["variants"] = {key: notes["variants"][key] for key in ("plain", "bidir")}
            notes["batches"] = [IMAGES]
            notes["part"] += f", and of {images} images {IMAGES}"
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        save_file(chosen, out / f"{name}.safetensors")
        (out / f"{name}.json").write_text(json.dumps(notes, indent=1) + "\n")
    (out / "ran").mkdir(exist_ok=True)
    for file in ("posterior.safetensors", "posterior.json"):
        shutil.copyfile(whole / "ran" / file, out / "ran" / file)


if __name__ == "__main__":
    cut(Path(sys.argv[1]), Path(sys.argv[2]))
