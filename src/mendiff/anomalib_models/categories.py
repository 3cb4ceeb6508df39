"""Several categories as one anomalib data module; every item has a category name.

    from anomalib.data import MVTecAD
    from mendiff.anomalib_models import Categories

    data = Categories({name: MVTecAD(category=name) for name in ("bottle", "cable")}, balance="category")
    Engine().fit(Diad(), data)

Works with every anomalib model: items and batches are anomalib's with an additional field.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar

import pandas as pd
import torch
from anomalib import TaskType
from anomalib.data import AnomalibDataModule, AnomalibDataset, Folder, ImageBatch, ImageItem
from torch import Generator, Tensor
from torch.utils.data import DataLoader, WeightedRandomSampler

from mendiff.errors import InputError, check_choice

BALANCES = ("image", "category")


@dataclass
class CategoryItem(ImageItem):
    """anomalib's item with the name of its category."""

    category: str = ""


@dataclass
class CategoryBatch(ImageBatch):
    """anomalib's batch with the category of every image."""

    item_class: ClassVar[type[CategoryItem]] = CategoryItem
    category: list[str] = field(default_factory=list)


def category_numbers(batch: Any, known: Sequence[str]) -> Tensor:
    """The numbers of the images' categories among those that a method knows, (B,)."""
    found = getattr(batch, "category", None)
    if not found or not set(found) <= set(known):
        raise InputError(
            f"categories: expected batches whose images are each of one of {', '.join(known)}, as "
            f"mendiff.anomalib_models.Categories gives them, got {found or 'none'}."
        )
    return torch.tensor([known.index(name) for name in found], device=batch.image.device)


class CategoryDataset(AnomalibDataset):
    """The images of several data sets; with masks if all data sets have masks.

    Args:
        parts: data sets by category.
    """

    def __init__(self, parts: Mapping[str, AnomalibDataset]) -> None:
        super().__init__()
        empty = [name for name, part in parts.items() if len(part) == 0]
        if empty:
            raise InputError(f"category {empty[0]}: expected images, found none; omit it or add images.")
        frames = [part.samples.assign(category=name) for name, part in parts.items()]
        masked = all(part.task == TaskType.SEGMENTATION for part in parts.values())
        self.samples = pd.concat(frames, ignore_index=True)
        self.samples.attrs["task"] = TaskType.SEGMENTATION if masked else TaskType.CLASSIFICATION

    def __getitem__(self, index: int) -> CategoryItem:
        item = super().__getitem__(index)
        known = {one.name: getattr(item, one.name) for one in fields(item)}
        return CategoryItem(**known, category=str(self.samples.iloc[index].category))

    @property
    def collate_fn(self) -> Callable[..., Any]:
        return CategoryBatch.collate


class Categories(AnomalibDataModule):
    """Several of anomalib's data modules as the categories of a multi-class model.

    Args:
        parts: data modules by category.
        balance: "image" or "category": which of them is drawn with equal frequency in training.
        train_batch_size, eval_batch_size: images per batch.
        num_workers: processes that read images.
        seed: of the training order with balance="category".
    """

    def __init__(
        self,
        parts: Mapping[str, AnomalibDataModule],
        balance: str = "image",
        train_batch_size: int = 32,
        eval_batch_size: int = 32,
        num_workers: int = 0,
        seed: int = 0,
    ) -> None:
        if not parts:
            raise InputError("parts: expected at least one data module, got none.")
        check_choice("balance", balance, BALANCES)
        super().__init__(train_batch_size, eval_batch_size, num_workers, seed=seed)
        self.parts, self.balance = dict(parts), balance

    @classmethod
    def from_folder(cls, root: str | Path, **options: Any) -> Categories:
        """Categories from the sub-folders of a root in MVTec layout.

        Args:
            root: the folder.
            options: arguments of the class.
        """
        parts: dict[str, AnomalibDataModule] = {}
        for place in sorted(one for one in Path(root).iterdir() if (one / "train/good").is_dir()):
            tests = sorted(one.name for one in place.glob("test/*") if one.is_dir())
            defects = [name for name in tests if name != "good"]
            parts[place.name] = Folder(
                place.name,
                root=place,
                normal_dir="train/good",
                abnormal_dir=[f"test/{defect}" for defect in defects] or None,
                normal_test_dir="test/good" if "good" in tests else None,
                mask_dir=[f"ground_truth/{one}" for one in defects]
                if (place / "ground_truth").is_dir()
                else None,
                # The default uses half of the test images for validation and thresholds.
                val_split_mode="none",
            )
        return cls(parts, **options)

    def _setup(self, _stage: str | None = None) -> None:
        for part in self.parts.values():
            part.setup()
        for subset in ("train_data", "val_data", "test_data"):
            if all(hasattr(part, subset) for part in self.parts.values()):
                joined = {name: getattr(part, subset) for name, part in self.parts.items()}
                setattr(self, subset, CategoryDataset(joined))

    def _create_test_split(self) -> None:
        """Nothing: the parts are already split."""

    _create_val_split = _create_test_split

    def val_dataloader(self) -> Any:
        return super().val_dataloader() if hasattr(self, "val_data") else []

    def train_dataloader(self) -> DataLoader:
        if self.balance == "image":
            return super().train_dataloader()
        category = self.train_data.samples["category"]
        weights = (1 / category.map(category.value_counts())).tolist()
        rng = Generator().manual_seed(int(self.seed or 0))
        return DataLoader(
            self.train_data,
            batch_size=self.train_batch_size,
            sampler=WeightedRandomSampler(weights, len(weights), generator=rng),
            num_workers=self.num_workers,
            collate_fn=self.external_collate_fn or self.train_data.collate_fn,
        )
