"""What a coordinator's requests took, counted while they run."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain

from prometheus_client import Counter
from prometheus_client.core import Metric

from coordinator.usage import DraftedBlock, Meter
from sybil_engine.core.completion import Usage
from sybil_engine.core.errors import SybilError
from sybil_engine.core.session import Commit
from sybil_engine.core.types import MODEL_DRAFTER
from sybil_engine.serving.metrics import PREFIX, seconds_histogram


class RequestMetrics:
    """Histograms and counters of all requests; written on the event loop, read on other threads."""

    def __init__(self) -> None:
        self.queue_time = seconds_histogram("request_queue_time_seconds", "Time that a request waited for its place")
        self.first_token = seconds_histogram("time_to_first_token_seconds", "From a request to its first token")
        self.inter_token = seconds_histogram(
            "inter_token_latency_seconds", "Time between tokens; those of one message share the time since the last one"
        )
        self.prompt_tokens = _counter("prompt_tokens", "Prompt tokens of requests that ended")
        self.generated_tokens = _counter("generation_tokens", "Tokens for clients")
        self.successes = _counter("request_success", "Completed requests", "finished_reason")
        self.cancellations = _counter("request_cancellations", "Requests whose clients left before the end")
        self.failures = _counter("request_failures", "Requests that were refused or failed, by error", "error")
        self.failovers = _counter("failovers", "Streams that broke and were replaced, by service", "service")
        self.drafted_tokens = _counter("drafted_tokens", "Drafted tokens that came, by drafter", "drafter")
        self.tested_tokens = _counter("tested_tokens", "Of them, those accepted or first to be rejected", "drafter")
        self.accepted_tokens = _counter("accepted_tokens", "Of them, those accepted", "drafter")
        self.verify_seconds = _counter("verify_seconds", "Time in verify passes of requests that ended")
        self.overlap_seconds = _counter("overlap_seconds", "Of it, while their drafters worked for them")

    def collect(self) -> Iterator[Metric]:
        """All of them."""
        return chain.from_iterable(each.collect() for each in vars(self).values())

    @contextmanager
    def request(self) -> Iterator["MeasuredMeter"]:
        """Measure the request that runs in the block, however it ends."""
        meter = MeasuredMeter(self)
        try:
            yield meter
        except (GeneratorExit, asyncio.CancelledError):
            if not meter.finish_reason:
                self.cancellations.inc()
            raise
        except Exception as error:
            self.failures.labels(type(error).__name__ if isinstance(error, SybilError) else "internal").inc()
            raise
        finally:
            meter.end()


class MeasuredMeter(Meter):
    """A meter that tells the metrics what it counts."""

    def __init__(self, metrics: RequestMetrics) -> None:
        super().__init__()
        self._metrics = metrics
        self._usage: Usage | None = None
        # Of the message that is being delivered.
        self._message_tokens = 0
        self._last_message_ns = self._arrived_ns

    def admitted(self) -> None:
        """See `Meter.admitted`."""
        super().admitted()
        self._metrics.queue_time.observe(self._queue_ns / 1e9)

    def drafted(self, block: DraftedBlock, arrived_ns: int) -> None:
        """See `Meter.drafted`."""
        super().drafted(block, arrived_ns)
        self._metrics.drafted_tokens.labels(self.drafter).inc(len(block.token_ids))

    def committed(self, commit: Commit, arrived_ns: int) -> None:
        """See `Meter.committed`; the tokens of the message before it are all delivered."""
        self._end_message()
        super().committed(commit, arrived_ns)
        for count in commit.drafters:
            drafter = self.drafter if count.drafter == MODEL_DRAFTER else count.drafter
            self._metrics.tested_tokens.labels(drafter).inc(count.tested)
            self._metrics.accepted_tokens.labels(drafter).inc(count.accepted)
            if drafter is not self.drafter:
                self._metrics.drafted_tokens.labels(drafter).inc(count.judged)

    def delivered(self, tokens: int) -> None:
        """See `Meter.delivered`."""
        super().delivered(tokens)
        self._message_tokens += tokens
        self._metrics.generated_tokens.inc(tokens)

    def reopened(self, service: str) -> None:
        """See `Meter.reopened`."""
        super().reopened(service)
        self._metrics.failovers.labels(service).inc()

    def usage(self, prompt_tokens: int) -> Usage:
        """See `Meter.usage`."""
        self._usage = super().usage(prompt_tokens)
        return self._usage

    def end(self) -> None:
        """Count what is known at the end of a request."""
        self._end_message()
        usage = self._usage or self.usage(0)
        self._metrics.prompt_tokens.inc(usage.prompt_tokens)
        self._metrics.verify_seconds.inc(usage.verify_ns / 1e9)
        self._metrics.overlap_seconds.inc(usage.overlap_ns / 1e9)
        if self.finish_reason:
            self._metrics.successes.labels(self.finish_reason.value).inc()

    def _end_message(self) -> None:
        """Observe the latencies of the message that was delivered last: the time since the message before it."""
        tokens = self._message_tokens
        if not tokens:
            return
        message_s = (self._last_token_ns - self._last_message_ns) / 1e9
        is_first = tokens == self._completion_tokens
        if is_first:
            self._metrics.first_token.observe(message_s)
        else:
            for _ in range(tokens):
                self._metrics.inter_token.observe(message_s / tokens)
        self._message_tokens = 0
        self._last_message_ns = self._last_token_ns


def _counter(name: str, text: str, *labels: str) -> Counter:
    return Counter(PREFIX + name, text, labels, registry=None)
