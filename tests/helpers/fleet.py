"""A stand-in for a pipeline whose pictures are counted over all processes."""

from helpers.stub import StubPipe


class Logging(StubPipe):
    """Adds the seed of each picture to a file when it begins with it."""

    def __init__(self, log: str, seconds: float):
        super().__init__(seconds)
        self._log = log

    def _result(self, request):
        with open(self._log, "a") as file:
            file.write(f"{request.seed}\n")
        return super()._result(request)
