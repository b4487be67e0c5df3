"""The preflight of `watch-images`: the folder can be listed."""

from flows.options.watch import WatchOptions
from flows.preflight.start import Start


def check_watch(options: WatchOptions) -> Start:
    options.look()
    return Start(options)
