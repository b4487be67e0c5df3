"""Which split a name means: a folder's name, or a value of the column `split`."""

import hashlib
import re
from collections.abc import Iterable, Mapping

# The names that need no word of explanation. Everything else that is read as a split is said.
PLAIN = {"train": "train", "validation": "validation", "val": "validation", "valid": "validation", "test": "test"}
WORDS = {
    "train": ("train", "training", "trn", "trainval"),
    "validation": ("validation", "validating", "val", "valid", "dev", "devel", "development"),
    "test": ("test", "tests", "testing", "tst"),
}
SPLITS = tuple(WORDS)
# Validation where no other name means that, else test.
EITHER = ("eval", "evaluation", "holdout", "heldout")
# What stands beside a split's name and changes nothing: `train_set`, `test_images`, `trainset`.
FILLERS = ("dataset", "data", "sets", "set", "split", "images", "image", "imgs", "img", "photos", "folder", "files")

_MEANING = {word: split for split, words in WORDS.items() for word in words} | dict.fromkeys(EITHER, "either")


def splits_of(names: Iterable[str]) -> dict[str, str]:
    """The names that mean a split → train, validation or test.

    Case, digits, punctuation and FILLERS do not count: `Training Set`, `test_images` and `train2017` are splits,
    `trainers`, `test_tubes` and `Valencia` are not. What EITHER has depends on the other names.
    """
    found = {name: meaning for name in names if (meaning := _MEANING.get(_word(words_of(name))))}
    either = "test" if "validation" in found.values() else "validation"
    return {name: either if meaning == "either" else meaning for name, meaning in found.items()}


def as_read(splits: Mapping[str, str]) -> str:
    """How names were read, in words: `'Training' is read as train, 'dev' as validation`."""
    told = [f"{name!a} as {split}" for name, split in sorted(splits.items())]
    return ", ".join(told).replace(" as ", " is read as ", 1)


def stems_of(names: Iterable[str]) -> dict[str, tuple[str, str]]:
    """The names that begin or end with a split's name → the rest of the name, and the split."""
    found = {}
    for name in names:
        words = words_of(name)
        for word, rest in ((words[:1], words[1:]), (words[-1:], words[:-1])):
            meaning = splits_of([_word(word)]) if len(words) > 1 else {}
            if meaning:
                found[name] = " ".join(rest), *meaning.values()
    return found  # type: ignore[return-value]


def splits_with_a_stem(names: Iterable[str]) -> dict[str, str]:
    """`seg_train`, `seg_test`: the splits where names begin or end alike, train and another among them."""
    stems = stems_of(names)
    alike = {stem for stem, _ in stems.values()}
    splits = {name: split for name, (_, split) in stems.items()}
    return splits if len(alike) == 1 and {"train"} < set(splits.values()) else {}


def meanings_of(name: str) -> set[str]:
    """The splits that a name means, or begins or ends with: `test`, `seg_test`."""
    return {*splits_of([name]).values(), *(split for _, split in stems_of([name]).values())}


def words_of(name: str) -> list[str]:
    """The words of a name, folded, without FILLERS."""
    apart = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name)  # TrainSet, trainA
    return [word for word in re.findall(r"[^\W\d_]+", apart.casefold()) if word not in FILLERS]


def is_filler(name: str) -> bool:
    """Whether a name is of FILLERS alone: `images`, `img_data`."""
    return bool(re.search(r"[^\W\d_]", name)) and not words_of(name)


def _word(words: list[str]) -> str:
    """Words as one, without a filler that is glued to its end."""
    word = "".join(words)
    for filler in FILLERS:
        if word.endswith(filler) and word.removesuffix(filler) in _MEANING:
            return word.removesuffix(filler)
    return word


SPLIT_SALT = b"extract-and-train split 1"


def derived_split(digest: bytes, validation_fraction: float) -> str:
    """`train` or `validation`, by a salted hash of the image's bytes alone.

    An image never changes side as the data grow, and identical files are always on the same side.
    """
    position = int.from_bytes(hashlib.blake2b(digest, digest_size=8, key=SPLIT_SALT).digest(), "big") / 2**64
    return "validation" if position < validation_fraction else "train"
