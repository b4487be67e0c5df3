"""The preflight of `store-maintenance`: the store exists, and has the feature space that was asked for."""

from flows.options.maintenance import MaintenanceOptions
from flows.preflight.start import Start
from storage.backend.paths import place
from storage.manifest.select import chosen_spaces


def check_maintenance(options: MaintenanceOptions) -> Start:
    return Start(options, chosen_spaces(place(options.store), options.space)[0])
