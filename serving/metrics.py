"""What Prometheus reads about the server."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

from serving.model import Following

SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class Metrics:
    """The counters of one server."""

    def __init__(self, following: Following):
        self._registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self.requests = Counter("requests", "Requests by route and status", ["route", "status"], registry=registry)
        self.seconds = Histogram(
            "request_seconds", "From the request to its answer", buckets=SECONDS, registry=registry
        )
        self.images = Counter(
            "images", "Images by the reason why they have no answer, or ok", ["reason"], registry=registry
        )
        self.open_requests = Gauge("open_requests", "Requests that are read or answered now", registry=registry)
        gauges = {
            "waiting_images": ("Images that wait or are computed now", lambda: following.model.waiting),
            "head_reloads": ("Heads that replaced another one", lambda: following.reloads),
            "head_reload_failures": ("Heads that could not be loaded", lambda: following.failures),
            "child_deaths": ("Deaths of children of the present head", lambda: following.model.pool.deaths),
        }
        for name, (text, read) in gauges.items():
            Gauge(name, text, registry=registry).set_function(read)

    def text(self) -> bytes:
        """Everything, in the format of Prometheus."""
        return generate_latest(self._registry)
