"""Recognises good images, defective images and labels by the names of folders and files."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from itertools import pairwise

GOOD, DEFECTIVE, LABELS = "good", "defective", "labels"


def _set(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Words are compared without case, accents and digits. Each line is a language.
GOOD_WORDS = _set(
    "good goods ok okay io normal normals nominal pass passed golden conform intact flawless healthy "
    "gut gute guter bon bons bonne bonnes conforme conformes bueno buenos buena buenas buono buoni bom bons "
    "良品 正常 合格 合格品 良好 정상 양품"
)
DEFECTIVE_WORDS = _set(
    "bad ng nok ko nio nonconform ungood notgood notok abnormal abnormals anomaly anomalies anomalous "
    "defect defects defective defectives defected fault faults faulty fail fails failed failure failures "
    "reject rejects rejected scrap damage damages damaged broken flaw flaws flawed "
    "fehler fehlerhaft fehlerhafte defekt defekte schlecht schlechte ausschuss anomalie anomalien "
    "mauvais mauvaise defaut defauts defectueux defectueuse rebut rebuts anormal anormaux anormale "
    "malo malos mala malas defecto defectos defectuoso defectuosos anomalia anomalias rechazo rechazos "
    "difetto difetti difettoso difettosi scarto scarti defeito defeitos ruim "
    "不良 不良品 缺陷 异常 異常 次品 不合格 不合格品 欠陥 불량 결함 불량품"
)
LABEL_WORDS = _set(
    "mask masks gt gts groundtruth label labels labelled annotation annotations annotated segmentation "
    "segmentations segmentationclass segmentationobject heatmap heatmaps overlay overlays prediction "
    "predictions maske masken masque masques mascara mascaras etiqueta etiquetas "
    "掩膜 掩码 标注 标签 마스크 라벨"
)
DEFECT_TYPES = _set(
    "scratch scratches scratched crack cracks cracked dent dents dented hole holes stain stains stained "
    "contamination contaminated chip chips chipped burr burrs bent rust rusty corrosion corroded missing "
    "kratzer riss risse delle loch fleck rayure rayures fissure fissures rasguno grieta graffio crepa "
    "划痕 裂纹 污渍 キズ 傷 スクラッチ 스크래치 균열"
)
"""Frequent types of defects. They are no label on their own: a set of parts may be named after a hole."""
WIDE = frozenset(
    word for word in GOOD_WORDS | DEFECTIVE_WORDS | LABEL_WORDS if not word.isascii() and len(word) > 1
)
SPLIT_NAMES = frozenset(("test", "tests", "testing"))
"""Folders of a data set that usually contain defects; whole names only."""
NOT = _set("no not non nicht kein keine n un pas without ohne sans sin sem senza")
FREE = frozenset(("free", "frei", "less"))
TWIN_MARKS = _set("label labels mask masks gt seg segmentation annotation anno groundtruth lbl msk truth")
"""Word in the name of a label image besides the name of its image: part_mask.png of part.jpg."""

RANDOM = 4
"""Letters directly after digits from which a name is a random number, whose short words mean nothing."""
SYSTEM_FOLDERS = _set(
    "@eadir __macosx lost+found #recycle #snapshot @recycle @recently-snapshot @tmp $recycle.bin recycler "
    "thumbs thumbnail thumbnails"
) | {"system volume information"}
"""Folders of file servers, archives and desktops, in lower case; hidden folders begin with a dot."""


def words(name: str) -> list[str]:
    """The words of a name: no_defect2 and NoDefect have the words no and defect."""
    # Accents and width variants are removed; other scripts do not change.
    plain = unicodedata.normalize("NFKD", name)
    plain = "".join(letter for letter in plain if not unicodedata.combining(letter))
    plain = re.sub(r"([a-z])([A-Z])", r"\1 \2", plain)
    found = [unicodedata.normalize("NFC", word).casefold() for word in re.findall(r"[^\W\d_]+", plain)]
    # 9f0bad31c7e2 is a number, not a bad part.
    random = len(re.findall(r"\d[^\W\d_]", plain)) >= RANDOM
    return [word for word in found if len(word) > 3 or not word.isascii()] if random else found


def meaning(name: str) -> str:
    """The meaning of a name: GOOD, DEFECTIVE or LABELS; empty if unknown."""
    found = words(name)
    joined = "".join(found)
    if joined in GOOD_WORDS:
        return GOOD
    if joined in DEFECTIVE_WORDS:
        return DEFECTIVE
    pairs = [first + second for first, second in pairwise(found)]
    if _contains([*found, *pairs], LABEL_WORDS):
        return LABELS
    if _contains([*found, *pairs], DEFECTIVE_WORDS):
        return GOOD if _negated(found, DEFECTIVE_WORDS) else DEFECTIVE
    if _contains(found, GOOD_WORDS):
        return DEFECTIVE if _negated(found, GOOD_WORDS) else GOOD
    return ""


def _contains(found: Iterable[str], known: frozenset[str]) -> bool:
    """Whether any word is known; Chinese, Japanese and Korean have no spaces between words."""
    return any(
        word in known or (not word.isascii() and any(part in word for part in WIDE & known)) for word in found
    )


def _negated(found: Sequence[str], known: frozenset[str]) -> bool:
    """Whether a known word follows "no" or precedes "free"; "no" elsewhere may mean number."""
    return any(
        (first in NOT and second in known) or (first in known and second in FREE)
        for first, second in pairwise(found)
    )


def is_good_alone(name: str) -> bool:
    """Whether a name means good only, such as OK, Good2 and defect-free."""
    if meaning(name) != GOOD:
        return False
    found = words(name)
    rest = set(found) - GOOD_WORDS - DEFECTIVE_WORDS - NOT - FREE - {"images", "image", "img", "test"}
    return not rest or "".join(found) in GOOD_WORDS


def is_labels_alone(name: str) -> bool:
    """Whether a name means labels only, such as mask and GT."""
    found = words(name)
    return bool(found) and (set(found) <= LABEL_WORDS or "".join(found) in LABEL_WORDS)


def is_system_folder(name: str) -> bool:
    """Whether a folder belongs to an operating system or a file server."""
    return name.casefold() in SYSTEM_FOLDERS or name.casefold().startswith(".trash")


def twin_of(stem: str) -> str:
    """The stem of the image of a label image, according to its name; otherwise empty."""
    parts = re.split(r"([ _.\-]+)", stem)
    if len(parts) >= 3 and parts[-1].casefold() in TWIN_MARKS:
        return "".join(parts[:-2])
    if len(parts) >= 3 and parts[0].casefold() in TWIN_MARKS:
        return "".join(parts[2:])
    # Without a separator: Part3Label.
    glued = re.fullmatch(r"(.*[a-z0-9])(Label|Mask|Gt|GT|Seg)", stem)
    return glued[1] if glued else ""


def same_name(name: str) -> str:
    """A name in Unicode form NFC; an accented letter may be one or two characters."""
    return unicodedata.normalize("NFC", name)
