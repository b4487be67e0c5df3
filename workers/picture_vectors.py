"""`python -m workers.picture_vectors STORE FINGERPRINT IMAGE`: the pooled features of one picture, as JSON.

`python -m storage similar` runs it for a picture that the store does not have. Decoding, engine and precision are those of
extraction, so the vectors equal those that the store would have.
"""

import json
import sys
from functools import partial

from storage.backend.paths import place
from storage.errors import InputError
from storage.layout import Store
from storage.manifest.space import read_spec
from storage.reading.pooling import pooled
from storage.reasons import MEANINGS
from storage.shards.view_ids import PLAIN
from storage.text import one_line
from vision.engines import load_engine
from vision.engines.extract import extract
from vision.engines.rates import known_rates
from vision.engines.selection import choose
from vision.specs import FeatureSpec
from workers.classifier import read_picture
from workers.devices import visible_gpus
from workers.jobs.spaces import computable_space


def picture_vectors(root: str, fingerprint: str, image: str) -> dict[str, list[float]]:
    """`average` and `maximum` of the features of an image file in a feature space, each a list of its channels.

    Raises InputError if the file is no usable image or the store does not know its weights, SpecError or WeightsError.
    """
    where = place(root)
    spec = FeatureSpec(**read_spec(Store(where, fingerprint)))
    space = computable_space(where, spec)
    engine = load_engine(choose("auto", spec, bool(visible_gpus()), known_rates(spec)), spec, space.weights, threads=1)
    found = extract(engine, [(b"", partial(read_picture, image), [PLAIN])])
    for code, message in found.errors.values():
        raise InputError(f"{image} cannot be used: {MEANINGS.get(code, message)}")
    average, maximum = pooled(found.features)
    return {"average": average[0].tolist(), "maximum": maximum[0].tolist()}


def main() -> int:
    """Print the vectors, or one line with the error on standard error. Returns the exit status."""
    try:
        found = picture_vectors(*sys.argv[1:])
    except Exception as error:
        sys.stderr.write(f"error: {one_line(str(error)) or type(error).__name__}\n")
        return getattr(error, "exit_status", 1)
    sys.stdout.write(json.dumps(found) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
