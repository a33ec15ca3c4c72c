"""A server that clients treat badly for a while is afterwards what it was before."""

from __future__ import annotations

import json
import os
import random
import re
import socket
import struct
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

NUM_REQUESTS = 2000
NUM_CLIENTS = 12
LONG = "Once upon a time there was a little girl. " * 40  # some steps of prefill
REFERENCE = {"prompt": "Once upon a time", "max_tokens": 40, "temperature": 0}
MAX_GROWTH = 48 << 20  # bytes of memory: the prefix cache is full before, the allocator is not
# asyncio's helper threads start when they are needed, and stay.
MAX_HELPERS = min(32, (os.cpu_count() or 1) + 4)
SECONDS = 60


class Server:
    """A wf-serve process and what the system says about it."""

    def __init__(self, model: Path) -> None:
        command = [Path(sys.executable).with_name("wf-serve"), model, "--port", "0"]
        command += ["--parallel", "4", "--max-queue", "64", "--prefix-cache", "8"]
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if found := re.search(r"http://127\.0\.0\.1:(\d+)/v1", line):
                self.port = int(found.group(1))
                break
        else:
            raise AssertionError("wf-serve did not start")
        self.http = httpx.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=SECONDS)
        self.wait(lambda: self.http.get("/health").status_code == 200)

    @staticmethod
    def wait(condition: Callable[[], bool]) -> None:
        end = time.monotonic() + SECONDS
        while not condition():
            assert time.monotonic() < end
            time.sleep(0.05)

    def reference(self) -> str:
        answer = self.http.post("/v1/completions", json=REFERENCE)
        assert answer.status_code == 200, answer.text
        text: str = answer.json()["choices"][0]["text"]
        return text

    def busy(self) -> float:
        """Generations that run or wait."""
        text = self.http.get("/metrics").text
        return sum(
            float(line.split()[-1])
            for line in text.splitlines()
            if re.match(r"wrinklefree:num_requests_(running|waiting)\b", line)
        )

    def held(self) -> tuple[int, int]:
        """Threads and open files."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        threads = re.search(r"Threads:\s+(\d+)", status)
        assert threads is not None
        return int(threads.group(1)), len([*Path(f"/proc/{self.process.pid}/fd").iterdir()])

    def resident(self) -> int:
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    def close(self) -> None:
        self.http.close()
        self.process.terminate()
        assert self.process.wait(SECONDS) == 0


@pytest.fixture
def server(data_dir: Path) -> Iterator[Server]:
    opened = Server(data_dir / "stories260k_hf")
    yield opened
    opened.close()


def request(body: object, *, length: int | None = None, path: str = "/v1/completions") -> bytes:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    head = (
        f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(content) if length is None else length}\r\n"
        "Connection: close\r\n\r\n"
    )
    return head.encode() + content


def generation(chance: random.Random, **fields: Any) -> dict[str, Any]:
    prompt = LONG[: chance.randrange(4, 900)]
    return {"prompt": prompt, "max_tokens": chance.randrange(1, 60), **fields}


def read_all(client: socket.socket) -> bytes:
    answer = b""
    while piece := client.recv(65536):
        answer += piece
    return answer


def status_of(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1]) if answer else 0


def whole(client: socket.socket, chance: random.Random) -> None:
    client.sendall(request(generation(chance, stream=chance.random() < 0.5)))
    assert status_of(read_all(client)) in (200, 429)


def hangs_up_in_a_stream(client: socket.socket, chance: random.Random) -> None:
    client.sendall(request(generation(chance, stream=True)))
    client.recv(chance.randrange(1, 900))


def resets_in_prefill(client: socket.socket, chance: random.Random) -> None:
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.sendall(request(generation(chance, stream=chance.random() < 0.5)))
    time.sleep(chance.random() * 0.02)


def half_closes(client: socket.socket, chance: random.Random) -> None:
    client.sendall(request(generation(chance)))
    client.shutdown(socket.SHUT_WR)
    assert status_of(read_all(client)) in (0, 200, 429)  # 0: taken as a hang-up


def promises_more_than_it_sends(client: socket.socket, chance: random.Random) -> None:
    client.sendall(request(generation(chance), length=10_000))
    client.shutdown(socket.SHUT_WR)
    assert status_of(read_all(client)) in (0, 400, 408)


def sends_no_json(client: socket.socket, chance: random.Random) -> None:
    client.sendall(request(bytes(chance.randrange(256) for _ in range(40))))
    assert status_of(read_all(client)) == 400


def stops_in_its_headers(client: socket.socket, chance: random.Random) -> None:
    whole_request = request(generation(chance))
    client.sendall(whole_request[: chance.randrange(1, 80)])


MANNERS = (
    whole,
    whole,
    hangs_up_in_a_stream,
    resets_in_prefill,
    resets_in_prefill,
    half_closes,
    promises_more_than_it_sends,
    sends_no_json,
    stops_in_its_headers,
)


def trouble(server: Server, numbers: range) -> Counter[str]:
    def one(number: int) -> str:
        chance = random.Random(number)
        manner = chance.choice(MANNERS)
        address = ("127.0.0.1", server.port)
        with socket.create_connection(address, timeout=SECONDS) as client:
            manner(client, chance)
        return manner.__name__

    with ThreadPoolExecutor(NUM_CLIENTS) as pool:
        done = Counter(pool.map(one, numbers))
    server.wait(lambda: server.busy() == 0)
    return done


def test_nothing_is_left_of_bad_clients(
    server: Server, record_property: Callable[[str, object], None]
) -> None:
    reference = server.reference()
    trouble(server, range(60))  # the helper threads have started, the prefix cache is full
    before, resident = server.held(), server.resident()
    done = trouble(server, range(1000, 1000 + NUM_REQUESTS))
    assert set(done) == {manner.__name__ for manner in MANNERS}
    assert server.reference() == reference
    server.wait(lambda: server.held()[1] <= before[1])
    threads, files = server.held()
    growth = server.resident() - resident
    record_property("threads, files, bytes more", (threads - before[0], files - before[1], growth))
    assert threads <= before[0] + MAX_HELPERS
    assert growth < MAX_GROWTH
