"""Map names to splits: names of folders, or values of the column `split`."""

import hashlib
import re
from collections.abc import Iterable, Mapping

# The names that need no explanation. A log line or remark tells of every other name that is read as a split.
PLAIN = {"train": "train", "validation": "validation", "val": "validation", "valid": "validation", "test": "test"}
WORDS = {
    "train": ("train", "training", "trn", "trainval"),
    "validation": ("validation", "validating", "val", "valid", "dev", "devel", "development"),
    "test": ("test", "tests", "testing", "tst"),
}
SPLITS = tuple(WORDS)
# These mean validation if no other name does, else test.
EITHER = ("eval", "evaluation", "holdout", "heldout")
# Words beside a split's name that do not change its meaning: `train_set`, `test_images`, `trainset`.
FILLERS = ("dataset", "data", "sets", "set", "split", "images", "image", "imgs", "img", "photos", "folder", "files")

_MEANING = {word: split for split, words in WORDS.items() for word in words} | dict.fromkeys(EITHER, "either")


def splits_of(names: Iterable[str]) -> dict[str, str]:
    """Map each name that means a split to train, validation or test.

    Ignores case, digits, punctuation and FILLERS: `Training Set`, `test_images` and `train2017` are splits; `trainers`,
    `test_tubes` and `Valencia` are not. The meaning of the words in EITHER depends on the other names.
    """
    found = {name: meaning for name in names if (meaning := _MEANING.get(_word(words_of(name))))}
    either = "test" if "validation" in found.values() else "validation"
    return {name: either if meaning == "either" else meaning for name, meaning in found.items()}


def as_read(splits: Mapping[str, str]) -> str:
    """Describe how names were read: `'Training' is read as train, 'dev' as validation`."""
    parts = [f"{name!a} as {split}" for name, split in sorted(splits.items())]
    return ", ".join(parts).replace(" as ", " is read as ", 1)


def stems_of(names: Iterable[str]) -> dict[str, tuple[str, str]]:
    """Map each name that begins or ends with a split's name to (rest of the name, split)."""
    found = {}
    for name in names:
        words = words_of(name)
        for word, rest in ((words[:1], words[1:]), (words[-1:], words[:-1])):
            meaning = splits_of([_word(word)]) if len(words) > 1 else {}
            if meaning:
                found[name] = " ".join(rest), *meaning.values()
    return found  # type: ignore[return-value]


def splits_with_a_stem(names: Iterable[str]) -> dict[str, str]:
    """Map names such as `seg_train` and `seg_test` to their splits.

    Empty unless all these names share one stem, and mean train and at least one other split.
    """
    stems = stems_of(names)
    distinct = {stem for stem, _ in stems.values()}
    splits = {name: split for name, (_, split) in stems.items()}
    return splits if len(distinct) == 1 and {"train"} < set(splits.values()) else {}


def meanings_of(name: str) -> set[str]:
    """The splits that a name means, begins with or ends with: `test`, `seg_test`."""
    return {*splits_of([name]).values(), *(split for _, split in stems_of([name]).values())}


def words_of(name: str) -> list[str]:
    """The words of a name, casefolded, without FILLERS."""
    apart = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name)  # TrainSet, trainA
    return [word for word in re.findall(r"[^\W\d_]+", apart.casefold()) if word not in FILLERS]


def is_filler(name: str) -> bool:
    """Whether a name consists of FILLERS only: `images`, `img_data`."""
    return bool(re.search(r"[^\W\d_]", name)) and not words_of(name)


def _word(words: list[str]) -> str:
    """Join words to one, without a filler glued to the end of a split's name."""
    word = "".join(words)
    for filler in FILLERS:
        if word.endswith(filler) and word.removesuffix(filler) in _MEANING:
            return word.removesuffix(filler)
    return word


SPLIT_SALT = b"extract-and-train split 1"


def derived_split(digest: bytes, validation_fraction: float) -> str:
    """Return `train` or `validation` by a salted hash of the digest only.

    An image never changes its split as the data set grows, and identical files always share a split.
    """
    position = int.from_bytes(hashlib.blake2b(digest, digest_size=8, key=SPLIT_SALT).digest(), "big") / 2**64
    return "validation" if position < validation_fraction else "train"
