"""The parameters of the pipeline: flags, YAML keys and Prefect parameters come from this one model."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, Self

import pydantic

from flows.options.augment import move_rescale
from flows.options.features import FeatureOptions
from flows.options.images import ImageOptions
from flows.options.running import RunningOptions
from flows.options.training import TrainingOptions
from storage.classes import index_order
from storage.errors import InputError
from storage.manifest.versions import precedent
from storage.planning.options import PlanOptions
from storage.source.precedent import Precedent
from storage.text import first_few
from vision.engines.facts import is_damaged
from vision.engines.rates import known_rates, must_measure
from vision.engines.selection import choose
from vision.specs import cut_shape
from vision.training.head import HeadSpec
from workers.devices import available_cores, visible_gpus
from workers.jobs.head_identity import check_trainable
from workers.jobs.records import HeadJob, Promotion, Space, VersionRecord
from workers.jobs.spaces import find_space, head_job
from workers.runners.warm_up import WarmUp, extraction, training


# Pydantic puts the fields of the last base first: --help shows input, features, running and training. Of two validators
# of one name in two bases it keeps one, so each has a name of its own.
class PipelineOptions(TrainingOptions, RunningOptions, FeatureOptions, ImageOptions):
    """Parameters of `extract-and-train`. `title` is the group that --help shows a flag in."""

    @pydantic.model_validator(mode="before")
    @classmethod
    def _has_one_rescale(cls, values: dict[str, Any]) -> dict[str, Any]:
        return move_rescale(values)

    @pydantic.model_validator(mode="after")
    def _is_a_feature_space(self) -> Self:
        # A SpecError is raised here, not after a long scan.
        self.chosen_engine()
        cut_shape(self.spec, self.fine_tune)
        return self

    def changed(self) -> set[str]:
        """The names of the parameters that are not at their defaults."""
        return {name for name, field in type(self).model_fields.items() if getattr(self, name) != field.default}

    def space(self) -> Space:
        """The feature space of these options. Reads the weights if they are new to the store.

        Raises InputError for a store that the next scan would take for a class folder, and WeightsError.
        """
        return find_space(self.store_root, self.folder, self.spec, self.source)

    def precedent(self, space: Space) -> Callable[[], Precedent | None] | None:
        """A function that reads the labels of the newest version, for comparison; None if relabels are allowed."""
        return None if self.allow_relabels else partial(precedent, space.store)

    def chosen_engine(self) -> str:
        """The engine for this machine. Raises SpecError if none can compute these features."""
        return choose(self.engine, self.spec, bool(visible_gpus()), known_rates(self.spec))

    def plan_options(self) -> PlanOptions:
        """The options of the plan. Raises InputError for classes that cannot be trained on, before anything is extracted."""
        if self.classes is not None and len(self.classes) == 1 and not self.extract_only:
            raise InputError(
                f"--classes: training needs at least two classes, but got only {first_few(self.classes)}; "
                "name another one, or pass --extract-only"
            )
        return PlanOptions(
            self.validation_fraction,
            self.chunk_size,
            self.limit,
            self.max_removed_fraction,
            self.allow_removals,
            self.format,
            self.variants,
            self.augmentation,
            None if self.extract_only else self.classes,
            self.exclude or "",
            self.relabel or "",
        )

    def first_children(self, space: Space, num_chunks: int, pictures: int) -> tuple[WarmUp, ...]:
        """The children that a run needs first: of its extraction, and of its training if that leaves a core free.

        There are none if the run measures its engines first, which then decides what they load, or if the facts about
        engines are damaged: the run reports that before a child measures them again.
        """
        if is_damaged() or must_measure(self.engine, space.spec, bool(visible_gpus()), pictures):
            return ()
        engine, trains = self.chosen_engine(), not self.extract_only and num_chunks < available_cores()
        first = extraction(self.runner, self.placement(engine, space.spec), num_chunks, space, engine)
        return (first, training(self.runner, space)) if trains else (first,)

    def head_jobs(self, space: Space, version: VersionRecord) -> tuple[HeadJob, ...]:
        """The trainings of these options, in their order. Raises InputError if the version cannot be trained on.

        With --promote the first head becomes current without a comparison, and the second one if it is better than the first.
        """
        promote: list[Promotion] = ["always" if self.promote else "if_better", "if_better"]
        specs = [spec.untuned for spec in self._head_specs(version)]
        return tuple(self._job(space, version, *each) for each in zip(specs, promote, strict=False))

    def fine_tune_job(self, space: Space, version: VersionRecord, head: HeadJob) -> HeadJob | None:
        """The fine-tuning that continues from one of these heads; None without --fine-tune. Its result never becomes current."""
        if not self.fine_tune:
            return None
        (spec,) = (spec for spec in self._head_specs(version) if spec.kind == head.spec.kind)
        return self._job(space, version, spec, "never")

    def _head_specs(self, version: VersionRecord) -> list[HeadSpec]:
        classes = index_order(self.classes, version.classes)
        check_trainable(version.classes, classes)
        return [self.head_spec(classes, kind) for kind in self.kinds]

    def _job(self, space: Space, version: VersionRecord, spec: HeadSpec, promote: Promotion) -> HeadJob:
        job = head_job(space, version, spec, self.seed, self.force_retrain, promote)
        own = {"checkpoint_seconds": self.checkpoint_seconds, "read_threads": self.read_threads}
        return replace(job, **own, engine=self.chosen_engine())  # type: ignore[arg-type]
