"""Make the records that the steps pass on, from options and from what storage returns. No Prefect or TensorFlow here."""

import logging
import os
from dataclasses import asdict, fields, replace
from functools import partial

from storage.backend.paths import Place
from storage.errors import InputError
from storage.layout import Store
from storage.manifest.kept_weights import keep_weights, read_kept, verified_copy
from storage.manifest.space import check_space, read_spec
from storage.manifest.versions import Version, read_version
from storage.planning.plan import Plan
from storage.reading.samples import Lacking
from storage.records import fingerprint
from vision.backbones.network import described
from vision.backbones.sources import checked_tensors, find_digest, kept_bytes, kept_suffix
from vision.errors import WeightsError
from vision.specs import FeatureSpec
from vision.training.head import HeadSpec
from workers.jobs.head_identity import head_name
from workers.jobs.initial_head import with_initial_head
from workers.jobs.lacking import data_name, is_half_augmented, lacking
from workers.jobs.records import HeadJob, PlanRecord, Promotion, Space, VersionRecord

logger = logging.getLogger(__name__)

NAMED_WEIGHTS = ("imagenet", "random")  # anything else is a path


def find_space(root: Place, images: Place, spec: FeatureSpec, weights: str) -> Space:
    """The feature space of a spec; this function fills in the digest of its weights.

    It reads the weights only if they are new to the store. Raises WeightsError, or InputError if the store has another
    format.
    """
    source = weights if weights in NAMED_WEIGHTS else os.path.abspath(weights)
    spec = described(spec, source)
    spec = replace(spec, weights=find_digest(spec, source, Store(root, "").cache / "weights.json"))
    space = Space(str(root), str(images), fingerprint(spec.record()), spec, source)
    check_space(space.store)
    return space


def keep_space_weights(space: Space) -> None:
    """Keep the weights of a space in the store, unless they are there: their name, or a copy of the file's tensors.

    Raises WeightsError if the file no longer has the weights of the space.
    """
    if read_kept(space.store) is None:
        source = space.weights if space.weights in NAMED_WEIGHTS else ""
        keep_weights(space.store, source, partial(_copy, space), kept_suffix(space.spec))


def _copy(space: Space) -> bytes:
    return kept_bytes(space.spec, checked_tensors(space.spec, space.weights))


def computable_space(root: Place, spec: FeatureSpec, weights: str | None = None) -> Space:
    """A stored feature space with the weights that compute its features.

    weights: `imagenet`, `random` or a path, for a store that does not have them; it keeps them from then on. Raises InputError if
    the store does not have them and none are given, WeightsError if those given are of another space.
    """
    store = Store(root, fingerprint(spec.record()))
    if weights is not None:
        space = find_space(root, root, replace(spec, weights=""), weights)
        if space.store != store:
            raise WeightsError(
                f"`weights`: {weights} are not the weights that feature space {store.fingerprint} was computed with"
            )
        try:
            keep_space_weights(space)
        except OSError as error:
            logger.warning("%s does not keep the weights: %s", root, error.strerror or error)
        return replace(space, images="")
    kept = read_kept(store)
    if kept is None:
        raise InputError(
            f"feature space {store.fingerprint} does not say which weights its features were computed with; give them once as "
            "`weights`, and the store keeps them"
        )
    return Space(str(root), "", store.fingerprint, spec, kept.source or str(verified_copy(store, kept)))


def stored_space(store: Store) -> Space:
    """An existing feature space to train on, without images and weights. Raises StoreDamaged for a damaged space.json."""
    return Space(str(store.root), "", store.fingerprint, FeatureSpec(**read_spec(store)), "")


def plan_record(space: Space, plan: Plan, path: str) -> PlanRecord:
    """The record of a plan that is saved at `path`."""
    changes = asdict(plan.changes)
    del changes["from_test"]  # not a kind of change; a finding reports it
    parent = plan.parent.number if plan.parent else None
    counts = changes | {name: getattr(plan, name) for name in ("adopted", "lost", "stale", "ignored")}
    images = {"images": plan.todo.num_rows, "rows": plan.num_rows}
    same = {field.name for field in fields(PlanRecord)} - {"path", "space", "parent", "counts", *images}
    return PlanRecord(
        path=path, space=space, parent=parent, counts=counts, **images, **{name: getattr(plan, name) for name in same}
    )


def version_record(version: Version) -> VersionRecord:
    """The record of a committed version."""
    names = sorted({name for by_class in version.classes.values() for name in by_class})
    return VersionRecord(version.number, version.data_digest, version.counts, version.classes, tuple(names))


def head_job(
    space: Space,
    version: VersionRecord,
    spec: HeadSpec,
    seed: int,
    is_forced: bool = False,
    promote: Promotion = "if_better",
) -> HeadJob:
    """The job that trains a head of `spec` on a version. A head with the job's name is the result of an earlier run.

    Raises InputError if the head that the training continues from does not exist.
    """
    lacks = Lacking()
    if spec.variants > 1:
        lacks = lacking(space.store, read_version(space.store, version.number), spec)
    data = data_name(version.data_digest, lacks)
    spec = with_initial_head(space.store, space.fingerprint, data, spec, seed)
    name = head_name(space.fingerprint, data, spec, seed)
    is_forced = is_forced or (spec.variants > 1 and is_half_augmented(space.store, name, spec))
    return HeadJob(space, version.number, name, spec, seed, is_forced, promote, lacking=lacks.samples)
