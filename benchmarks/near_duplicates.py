"""Which known edits of real photos are found as near-duplicates, and is anything else? The last line is one JSON object.

    python benchmarks/near_duplicates.py --photos FOLDER --weights vgg16_notop.weights.h5 [--count 40] [--store FOLDER]

The first photos of each class of FOLDER/train stay as they are. Of every second one each edit becomes a further file. The real command
line extracts features, and the job finds pairs. A pair is right if both files come from one photo. Precision is over all pairs in which
that edit has a part, against the originals; recall over the edited photos. The distributions of feature similarity and of picture
correlation are those from which the thresholds were chosen.
"""

import argparse
import io
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from itertools import combinations
from pathlib import Path

import numpy as np
from PIL import Image

PROJECT = Path(__file__).parents[1]
sys.path.insert(0, str(PROJECT))

from dataclasses import replace  # noqa: E402

from storage.backend.paths import place  # noqa: E402
from storage.manifest.select import chosen_version, one_space  # noqa: E402
from storage.reading.pooled import pooled_files, pooled_vectors  # noqa: E402
from vision.inspection.close_pairs import units  # noqa: E402
from vision.inspection.same_picture import SAME, same_picture  # noqa: E402
from workers.jobs.leaks import CANDIDATE_SIMILARITY, near_pairs, small_picture  # noqa: E402
from workers.jobs.spaces import stored_space  # noqa: E402


def jpeg(image: Image.Image, quality: int = 90) -> bytes:
    sink = io.BytesIO()
    image.convert("RGB").save(sink, "JPEG", quality=quality)
    return sink.getvalue()


def crop(image: Image.Image, left: float, top: float, right: float, bottom: float) -> Image.Image:
    width, height = image.size
    return image.crop((int(width * left), int(height * top), int(width * (1 - right)), int(height * (1 - bottom))))


MIRROR = Image.Transpose.FLIP_LEFT_RIGHT
EDITS: dict[str, Callable[[Image.Image], bytes]] = {
    "recompressed_50": lambda image: jpeg(image, 50),
    "recompressed_20": lambda image: jpeg(image, 20),
    "resized_half": lambda image: jpeg(image.resize((image.width // 2, image.height // 2))),
    "resized_double": lambda image: jpeg(image.resize((image.width * 2, image.height * 2))),
    "resized_to_a_square_of_128": lambda image: jpeg(image.resize((128, 128))),
    "cropped_5_percent": lambda image: jpeg(crop(image, 0.05, 0.05, 0.05, 0.05)),
    "cropped_at_one_side": lambda image: jpeg(crop(image, 0, 0.1, 0.05, 0)),
    "flipped": lambda image: jpeg(image.transpose(MIRROR)),
    "flipped_and_cropped": lambda image: jpeg(crop(image, 0.03, 0.03, 0.03, 0.03).transpose(MIRROR), 70),
}


def make_photos(photos: Path, folder: Path, count: int) -> None:
    """`<class>/<photo>__<edit>.jpg`, and each photo itself as `<photo>__.jpg`."""
    for source in sorted((photos / "train").iterdir()):
        (folder / source.name).mkdir(parents=True)
        for index, path in enumerate(sorted(source.glob("*.jpg"))[:count]):
            (folder / source.name / f"{path.stem}__.jpg").write_bytes(path.read_bytes())
            if index % 2 == 0:
                with Image.open(path) as image:
                    for name, edit in EDITS.items():
                        (folder / source.name / f"{path.stem}__{name}.jpg").write_bytes(edit(image))


def origin(path: bytes) -> tuple[str, str]:
    """(photo, edit) of a path."""
    photo, _, edit = path.decode().rpartition("/")[2].removesuffix(".jpg").partition("__")
    return photo, edit


def measured(store_root: Path, images: Path) -> dict:
    store = one_space(place(store_root), "")
    space = replace(stored_space(store), images=str(images))
    version = chosen_version(store, None)
    vectors = pooled_vectors(store, version)
    files = pooled_files(store, version, vectors)
    path_of = dict(zip(files["row"].to_pylist(), files["path"].to_pylist(), strict=True))
    found = near_pairs(space, vectors.average, files)
    pairs = [
        (path_of[one], path_of[other]) for one, other in zip(found.first.tolist(), found.second.tolist(), strict=True)
    ]
    return {
        "images": files.num_rows,
        "thresholds": [CANDIDATE_SIMILARITY, SAME],
        **rated(files, pairs),
        **distributions(space, vectors, files),
    }


def rated(files, pairs: list[tuple[bytes, bytes]]) -> dict:
    """Precision and recall of each edit, and the pairs that come from different photos."""
    wrong = [pair for pair in pairs if origin(pair[0])[0] != origin(pair[1])[0]]
    edited = [origin(path) for path in files["path"].to_pylist()]
    kinds = {}
    for name in EDITS:
        ours = [pair for pair in pairs if {name, ""} == {origin(path)[1] for path in pair}]
        right = {origin(one)[0] for one, other in ours if origin(one)[0] == origin(other)[0]}
        photos = {photo for photo, edit in edited if edit == name}
        precision = sum(origin(one)[0] == origin(other)[0] for one, other in ours) / len(ours) if ours else None
        kinds[name] = {"recall": round(len(right) / len(photos), 4), "precision": precision and round(precision, 4)}
    return {
        "pairs": len(pairs),
        "kinds": kinds,
        "of_different_photos": [[path.decode() for path in pair] for pair in wrong],
    }


def distributions(space, vectors, files) -> dict:
    """Feature similarity and picture correlation of edits with their photos, and of different photos."""
    listed = {origin(file["path"]): file for file in files.to_pylist()}
    unit = units(np.array(vectors.average))
    root = place(space.images)
    small = {key: small_picture(root, file["path"], file["digest"], space.spec) for key, file in listed.items()}
    lowest = {}
    for name in EDITS:
        keys = [(photo, name) for photo, edit in listed if edit == name]
        cosines = [float(unit[listed[photo, ""]["row"]] @ unit[listed[photo, edit]["row"]]) for photo, edit in keys]
        scores = [same_picture(small[photo, ""], small[photo, edit]) for photo, edit in keys]
        lowest[name] = {
            "features": [round(float(v), 4) for v in np.percentile(cosines, [0, 1, 5, 50])],
            "pictures": round(min(scores), 4),
        }
    originals = [key for key in listed if not key[1]]
    others = sorted(
        (
            (float(unit[listed[one]["row"]] @ unit[listed[other]["row"]]), one, other)
            for one, other in combinations(originals, 2)
        ),
        reverse=True,
    )[:300]
    compared = sorted((round(same_picture(small[one], small[other]), 4) for _, one, other in others), reverse=True)
    return {
        "edits_percentiles_0_1_5_50": lowest,
        "different_photos_features_highest": [round(cosine, 4) for cosine, *_ in others[:5]],
        "different_photos_pictures_highest": compared[:5],
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--count", type=int, default=40, help="photos of each class")
    parser.add_argument("--store", type=Path, help="a folder that keeps the pictures and the store, to measure again")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.store or Path(temporary)
        images, store = folder / "images", folder / "store"
        if not images.exists():
            make_photos(given.photos, images, given.count)
        command = [sys.executable, "flows/pipeline.py", "--images", str(images), "--store", str(store)]
        subprocess.run(
            [*command, "--weights", str(given.weights), "--extract-only"], cwd=PROJECT, check=True, stdout=sys.stderr
        )
        print(json.dumps(measured(store, images)))


if __name__ == "__main__":
    main()
