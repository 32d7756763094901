"""What the names of folders tell: a system's, a split's (train, test), one of several parts.

Only names are looked at here, in any case; `class_folders` looks into the folders.
"""

import re
import unicodedata
from typing import NamedTuple

TRAIN, TEST, VALIDATION = "train", "test", "validation"

# Of operating systems, network drives, viewers and programming tools; beside .names and ._names.
_SYSTEM = {
    *("thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "__macosx", "lost+found"),
    *("$recycle.bin", "recycler", "system volume information"),
    *("found.000", "@eadir", "@tmp", "#recycle", "#snapshot"),
    *("__pycache__", "node_modules", "site-packages"),
}
# Beside train/ they are not a second class, even if there are images in them.
_BESIDE_TRAIN = re.compile(
    r"(models?|checkpoints?|runs|samples?|sample_(images|submission)|masks?|annotations?|labels?"
    r"|segmentations?|ground_?truth|(seg_)?pred(ict(ions?)?)?|submissions?|extra|unsup(ervised)?"
    r"|un-?label?led)s?"
)
# What a folder is called that only holds the one below it.
_WRAPPER = re.compile(
    r"(the_?)?(train(ing)?_?|test(ing)?_?|val(id(ation)?)?_?|raw_?|all_?|my_?)?"
    r"((jpe?g|png)?[_]?images?|imgs?|imagery|jpe?gs?|pngs?|pics?|pictures?|photos?|photographs?|fotos?|bilder"
    r"|data|datasets?|data_sets?|archive|download|input|raw|content|classes|class|categories|files)"
    r"(_?\d+)?"
)
# One of several parts of a data set, each with all classes in it.
_PART = re.compile(
    r"((19|20)\d\d([_-]?\d\d)?([_-]?\d\d)?)"
    r"|((cv|k?fold|part(ition)?|batch|split|(sub)?set|chunk|shard|session|run|round|volume|vol|disc"
    r"|disk|archive|data(set)?|download|dump|version|v|trial|take)s?[_-]?([0-9]+|[a-e]))"
    r"|(un)?label?led|unsup|hold_?out|dev|pool|source|target|query|gallery|probe|original|augment(ed|ation)|raw"
    r"|processed|old|new|other"
)
_OF_SPLITS = {
    TRAIN: r"train(?:ing)?",
    TEST: r"test(?:ing)?",
    VALIDATION: r"val(?:id(?:ate|ation)?)?|eval(?:uation)?",
}
_KINDS = "|".join(f"(?P<{kind}>{names})" for kind, names in _OF_SPLITS.items())
_SPLIT = re.compile(
    rf"(?:(?P<before>.+?)_)?(?:{_KINDS})"
    r"(?P<after>_?(?:set|data|dataset|images?|imgs?|img)|_?(?:19|20)\d\d|_?\d)?"
)
_STARTS = re.compile(
    r"(?P<split>train(?:ing)?|test(?:ing)?|val(?:id(?:ate|ation)?)?)(?P<rest>.*)"
)


class Split(NamedTuple):
    """What a name tells of a split; `family` is what the names of the other splits share."""

    kind: str
    family: str


def is_system(name: str) -> bool:
    """Tells whether a file or folder is the system's or hidden, not a person's data."""
    return name.startswith(".") or name.casefold() in _SYSTEM


def read_split(name: str) -> Split | None:
    """Returns which split a folder is called after: "train", "seg_train", "Test_images" ..."""
    found = _SPLIT.fullmatch(_plain(name))
    if not found:
        return None
    kind = next(k for k in _OF_SPLITS if found[k])
    return Split(kind, found["before"] or "")


def read_class_of_split(name: str) -> tuple[str, str] | None:
    """Returns (split, class) of a name that joins the two, such as trainA or test_cat."""
    found = _STARTS.fullmatch(_plain(name))
    if found and (rest := found["rest"].strip("_")):
        return found["split"][:2], rest
    return None


def is_wrapper(name: str) -> bool:
    """Tells whether a folder is called as what holds all images ("images", "data")."""
    return bool(_WRAPPER.fullmatch(_plain(name)))


def is_beside_train(name: str) -> bool:
    """Tells whether a folder is called as something that lies beside train/ but is no class."""
    return bool(_BESIDE_TRAIN.fullmatch(_plain(name)))


def is_part(name: str) -> bool:
    """Tells whether a folder is called as one of several parts: a year, fold, batch, split."""
    plain = _plain(name)
    return bool(_PART.fullmatch(plain) or read_split(name) or is_wrapper(name)) or (
        plain.startswith("seg_") or is_beside_train(name)
    )


def fold(name: str) -> str:
    """Returns what is left of a class's name without case, accents' encoding and separators."""
    return re.sub(
        r"[\s_-]+", " ", unicodedata.normalize("NFC", name).casefold()
    ).strip()


def _plain(name: str) -> str:
    return fold(name).replace(" ", "_")
