"""Clients that ask one after the other, and keep what each request came to."""

import http.client
import threading
import time
from collections import Counter
from dataclasses import dataclass, field


@dataclass
class Load:
    """Some clients at work: `with Load(url, bodies): ...`; behind it `results` is complete.

    Every third client opens a connection for each request; every second one sends a body behind its head, as a network
    does. None of them tries again: what is lost is seen.
    """

    url: str
    bodies: list[bytes]
    clients: int = 8
    token: str | None = None
    patience_s: float = 240
    pause_s: float = 0.0  # of each client behind an answer: what starts meanwhile needs the processors too
    results: list[tuple[int | str, str]] = field(default_factory=list)  # status or error, and the model's hash or body
    _stop: threading.Event = field(default_factory=threading.Event)

    def __enter__(self):
        self._threads = [threading.Thread(target=self._ask, args=(index,)) for index in range(self.clients)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def await_results(self, count):
        """Let it work until so many more requests have come to something."""
        wanted, deadline = len(self.results) + count, time.monotonic() + self.patience_s
        while len(self.results) < wanted:
            assert time.monotonic() < deadline, f"no answers: {self.statuses}"
            time.sleep(0.05)

    @property
    def statuses(self):
        return Counter(status for status, _ in self.results)

    def _ask(self, index):
        host, connection = self.url.removeprefix("http://"), None
        headers = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        turn = index
        while not self._stop.is_set():
            body, turn = self.bodies[turn % len(self.bodies)], turn + 1
            try:
                connection = connection or http.client.HTTPConnection(host, timeout=self.patience_s)
                if index % 2:
                    connection.putrequest("POST", "/predict")
                    for name, value in {**headers, "Content-Length": str(len(body))}.items():
                        connection.putheader(name, value)
                    connection.endheaders()
                    time.sleep(0.01)
                    connection.send(body)
                else:
                    connection.request("POST", "/predict", body, headers)
                response = connection.getresponse()
                said = response.read().decode()
                self.results.append((response.status, said))
            except (OSError, http.client.HTTPException) as error:
                self.results.append((type(error).__name__, str(error)))
                connection = None
            if connection and index % 3 == 0:
                connection.close()
                connection = None
            self._stop.wait(self.pause_s)
