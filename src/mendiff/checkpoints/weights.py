"""Reading and writing of safetensors files."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from mendiff.checkpoints.names import check_finite
from mendiff.errors import InputError

ZIPPED = b"PK\x03\x04"
"""First bytes of files of the current torch.save."""
PICKLED = (ZIPPED, b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
"""First bytes of files of torch.save or pickle."""


def write_weights(state: Mapping[str, Tensor], path: Path) -> None:
    """Write tensors as safetensors with the default permissions of new files, which safetensors ignores."""
    path.touch()
    mode = path.stat().st_mode
    save_file({key: value.contiguous() for key, value in state.items()}, path)
    path.chmod(mode)


def read_weights(
    path: str | Path, prefixes: tuple[str, ...] = ("",), infinite: Collection[str] = ()
) -> dict[str, Tensor]:
    """Read the tensors of a safetensors file; floating ones in float32. NaN and infinity are an error.

    Args:
        path: path of the file.
        prefixes: read only names that begin with one of these.
        infinite: names whose values may be infinite.
    """
    path = Path(path)
    if not path.is_file():
        found = "it is a folder; name the file in it" if path.is_dir() else "there is no such file"
        raise InputError(f"{path}: expected a safetensors file, but {found}.")
    try:
        with safe_open(path, "pt") as file:
            names = [name for name in file.keys() if name.startswith(prefixes)]  # noqa: SIM118 - no dictionary
            read = {name: file.get_tensor(name) for name in names}
        tensors = {name: one.float() if one.is_floating_point() else one for name, one in read.items()}
    except (SafetensorError, NotImplementedError) as error:  # NotImplementedError: 4-bit numbers
        raise _unreadable(path, error) from error
    check_finite(tensors, str(path), infinite)
    return tensors


def read_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Shapes of the tensors of a safetensors file by name; values are not read."""
    try:
        with safe_open(path, "pt") as file:
            return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> InputError:
    with path.open("rb") as raw:
        pickled = raw.read(4).startswith(PICKLED)
    if pickled:
        return InputError(
            f"{path}: expected a safetensors file, but it is a pickle, which can execute code; save its "
            "tensors with safetensors.torch.save_file, or use 'mendiff convert' for published files."
        )
    return InputError(
        f"{path}: expected a safetensors file, but it is damaged or of another format ({error}); download "
        "it again."
    )
