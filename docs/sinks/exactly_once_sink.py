"""A sink for exactly-once groups: the contract of docs/sinks.md, with SQLite, in Python's own library.

Usage: exactly_once_sink.py PORT FILE
"""

import json
import sqlite3
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock

SCHEMA = """
CREATE TABLE IF NOT EXISTS place (grp, topic, part, next, epoch, PRIMARY KEY (grp, topic, part));
CREATE TABLE IF NOT EXISTS event (seq INTEGER PRIMARY KEY, grp, id, body, UNIQUE (grp, id));
"""
BATCH = "application/cloudevents-batch+json"


class Sink(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_PUT(self):
        """A claim: from now on the epoch before it moves nothing."""
        begin = int(self.headers["orderflow-begin"])
        with self.server.lock, self.server.database as database:
            found = self.place(database)
            if found is None:
                epoch, place = 1, begin
            else:
                epoch = found["epoch"] + 1
                place = found["next"]
            database.execute("INSERT OR REPLACE INTO place VALUES (?, ?, ?, ?, ?)", (*self.partition(), place, epoch))
        self.answer(200, {"epoch": epoch, "next": place})

    def do_POST(self):
        """A batch: applied together with the place's move, in one transaction, or not at all."""
        body = self.rfile.read(int(self.headers["content-length"]))
        if self.headers["orderflow-epoch"] is None:
            return self.replay(body)
        if self.headers["content-type"] != BATCH:
            return self.answer(415, {"title": "this sink takes batches of exactly-once groups"})
        epoch, place, until = (int(self.headers[f"orderflow-{name}"]) for name in ("epoch", "place", "next"))
        with self.server.lock, self.server.database as database:
            found = self.place(database)
            if found != {"epoch": epoch, "next": place}:
                return self.answer(409, found or {"epoch": 0, "next": 0})
            for event in json.loads(body):
                self.insert(database, event["id"], json.dumps(event["data"]))
            database.execute(
                "UPDATE place SET next = ? WHERE (grp, topic, part) = (?, ?, ?)", (until, *self.partition())
            )
        self.answer(200, {"epoch": epoch, "next": until})

    def replay(self, body):
        """One event that was a dead letter: no place moves."""
        with self.server.lock, self.server.database as database:
            self.insert(database, self.headers["idempotency-key"], body.decode())
        self.answer(200, {})

    def do_GET(self):
        """What was applied, in order."""
        with self.server.lock, self.server.database as database:
            rows = database.execute("SELECT id FROM event WHERE grp = ? ORDER BY seq", (self.headers["orderflow-group"],))
            self.answer(200, [row[0] for row in rows])

    def insert(self, database, id, body):
        # The order service's relay may publish an event twice, and a letter may be replayed twice, under the same id.
        row = (self.headers["orderflow-group"], id, body)
        database.execute("INSERT OR IGNORE INTO event (grp, id, body) VALUES (?, ?, ?)", row)

    def place(self, database):
        row = database.execute(
            "SELECT epoch, next FROM place WHERE (grp, topic, part) = (?, ?, ?)", self.partition()
        ).fetchone()
        return row and {"epoch": row[0], "next": row[1]}

    def partition(self):
        return self.headers["orderflow-group"], self.headers["orderflow-topic"], int(self.headers["orderflow-partition"])

    def answer(self, status, body):
        body = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


class Server(ThreadingHTTPServer):
    def handle_error(self, *_):
        """A client that went away in the middle of a request asks again."""


def main():
    server = Server(("127.0.0.1", int(sys.argv[1])), Sink)
    server.lock = Lock()
    server.database = sqlite3.connect(sys.argv[2], check_same_thread=False)
    server.database.executescript(SCHEMA)
    print(f"listening on port {server.server_port}", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
