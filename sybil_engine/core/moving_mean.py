"""A mean that follows what changes."""


class MovingMean:
    """An exponential moving average: the newest value has a fixed weight."""

    def __init__(self, prior: float, weight: float) -> None:
        self.value = prior
        self._weight = weight

    def add(self, value: float) -> None:
        self.value += self._weight * (value - self.value)
