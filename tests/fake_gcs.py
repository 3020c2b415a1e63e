"""A server on this machine that speaks as Google Cloud Storage does, for the clients' own code.

`gcsfs`, TensorStore, the reader of ArrayRecord and `google-cloud-storage` are told by variables of
the environment (`environment`) to ask it in place of Google's. Objects lie in memory.
"""

import base64
import contextlib
import hashlib
import http.server
import itertools
import json
import re
import sys
import threading
import urllib.parse

_OBJECT = re.compile(r"/(?:download/)?storage/v1/b/([^/]+)/o/([^/]+)")
_COPY = re.compile(r"/storage/v1/b/([^/]+)/o/([^/]+)/(?:rewriteTo|copyTo)/b/([^/]+)/o/([^/]+)")
_MOVE = re.compile(r"/storage/v1/b/([^/]+)/o/([^/]+)/moveTo/o/([^/]+)")
_LIST = re.compile(r"/storage/v1/b/([^/]+)/o")
_UPLOAD = re.compile(r"/(?:resumable/)?upload/storage/v1/b/([^/]+)/o")
_BUCKET = re.compile(r"/storage/v1/b/([^/]+)")
_TIME = "2026-01-01T00:00:00.000Z"


class Refused(Exception):
    """An answer that is an error: its number."""


class Server(http.server.ThreadingHTTPServer):
    """`objects` is {(bucket, name): (generation, content)}; `asked` are the requests."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.objects, self.uploads, self.asked = {}, {}, []
        self.count, self.lock = itertools.count(1), threading.Lock()

    @property
    def environment(self):
        """What makes the clients ask this server, and look for no credentials."""
        url = f"http://127.0.0.1:{self.server_port}"
        return {
            "STORAGE_EMULATOR_HOST": url,
            "CLOUD_STORAGE_EMULATOR_ENDPOINT": url,
            "TENSORSTORE_GCS_HTTP_URL": url,
            "GOOGLE_AUTH_TOKEN_FOR_TESTING": "none",
            "FSSPEC_GCS_TOKEN": "anon",
            "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",  # it would ask Google what bucket this is
            "NO_GCE_CHECK": "true",
        }

    def handle_error(self, request, client_address):
        """A client may ask two things at once, and hang up when it knows enough."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)

    def put(self, bucket, name, content, match=None):
        """Writes an object; `match` is the generation that must be there, "0" for none."""
        with self.lock:
            there = self.objects.get((bucket, name), (0, b""))[0]
            if match is not None and int(match) != there:
                raise Refused(412)
            self.objects[bucket, name] = next(self.count), bytes(content)
        return self.about(bucket, name)

    def about(self, bucket, name):
        """The metadata of an object."""
        with self.lock:
            if (bucket, name) not in self.objects:
                raise Refused(404)
            generation, content = self.objects[bucket, name]
        return {
            "kind": "storage#object",
            "bucket": bucket,
            "name": name,
            "size": str(len(content)),
            "generation": str(generation),
            "metageneration": "1",
            "etag": f"e{generation}",
            "md5Hash": base64.b64encode(hashlib.md5(content).digest()).decode(),
            "contentType": "application/octet-stream",
            "timeCreated": _TIME,
            "updated": _TIME,
        }


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers one client."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        """Says nothing: the tests count `asked`."""

    def do_GET(self):
        """Metadata, contents, listings."""
        self._answered(self._get)

    def do_POST(self):
        """Uploads and copies."""
        self._answered(self._post)

    def do_PUT(self):
        """Parts of an upload."""
        self._answered(self._part)

    def do_DELETE(self):
        """Removes an object."""
        self._answered(self._delete)

    def _answered(self, answer):
        path, _, query = self.path.partition("?")
        self.asked = {k: v[-1] for k, v in urllib.parse.parse_qs(query, True).items()}
        self.server.asked.append((self.command, self.path))
        self.body = self._body()
        try:
            answer(path)
        except Refused as refused:
            code = refused.args[0]
            error = {"error": {"code": code, "message": f"{self.command} {path}: {code}"}}
            self._send(code, b"" if code in (304, 308) else json.dumps(error).encode())

    def _body(self):
        if self.headers.get("Transfer-Encoding", "") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _send(self, code, content=b"", **headers):
        self.send_response(code)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _json(self, found, **headers):
        self._send(200, json.dumps(found).encode(), Content_Type="application/json", **headers)

    def _get(self, path):
        if match := _LIST.fullmatch(path):
            return self._json(self._listed(match[1]))
        if match := _BUCKET.fullmatch(path):
            return self._json({"kind": "storage#bucket", "name": match[1], "id": match[1]})
        match = _OBJECT.fullmatch(path) or re.fullmatch(r"/([^/]+)/(.+)", path)
        bucket, name = urllib.parse.unquote(match[1]), urllib.parse.unquote(match[2])
        about = self.server.about(bucket, name)
        wanted, unwanted = (
            self.asked.get("ifGenerationMatch"),
            self.asked.get("ifGenerationNotMatch"),
        )
        if wanted not in (None, about["generation"]):
            raise Refused(412)
        if unwanted == about["generation"]:
            raise Refused(304)
        if self.asked.get("alt") != "media" and path.startswith("/storage"):
            return self._json(about)
        return self._content(self.server.objects[bucket, name][1], about)

    def _content(self, content, about):
        headers = {"x_goog_generation": about["generation"], "ETag": about["etag"]}
        headers |= {"x_goog_stored_content_length": about["size"], "x_goog_metageneration": "1"}
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if not asked:
            return self._send(200, content, **headers)
        start, end = int(asked[1]), min(int(asked[2] or 1 << 62) + 1, len(content))
        if start >= len(content):
            raise Refused(416)
        headers["Content_Range"] = f"bytes {start}-{end - 1}/{len(content)}"
        return self._send(206, content[start:end], **headers)

    def _listed(self, bucket):
        prefix, sign = self.asked.get("prefix", ""), self.asked.get("delimiter", "")
        with self.server.lock:
            names = sorted(name for where, name in self.server.objects if where == bucket)
        first, last = self.asked.get("startOffset", ""), self.asked.get("endOffset")
        names = [n for n in names if n.startswith(prefix) and first <= n and (not last or n < last)]
        items, folders = [], []
        for name in names:
            head, found, _ = name[len(prefix) :].partition(sign) if sign else ("", "", "")
            if found:
                folders.append(prefix + head + sign)
            else:
                with contextlib.suppress(Refused):  # removed meanwhile
                    items.append(self.server.about(bucket, name))
        return {"kind": "storage#objects", "items": items, "prefixes": sorted(set(folders))}

    def _post(self, path):
        if match := _COPY.fullmatch(path):
            source, target = [urllib.parse.unquote(each) for each in match.groups()], None
            self.server.about(*source[:2])
            content = self.server.objects[tuple(source[:2])][1]
            target = self.server.put(*source[2:], content)
            size = target["size"]
            answer = {"done": True, "resource": target, "objectSize": size}
            return self._json(answer | {"totalBytesRewritten": size, "kind": "storage#rewrite"})
        if match := _MOVE.fullmatch(path):
            bucket, name, new = [urllib.parse.unquote(each) for each in match.groups()]
            self.server.about(bucket, name)
            with self.server.lock:
                content = self.server.objects.pop((bucket, name))[1]
            return self._json(self.server.put(bucket, new, content))
        match, kind = _UPLOAD.fullmatch(path), self.asked.get("uploadType")
        if not match:
            raise Refused(404)
        if "upload_id" in self.asked:
            return self._part(path)
        bucket, name, limit = match[1], self.asked.get("name"), self.asked.get("ifGenerationMatch")
        if kind == "media":
            return self._json(self.server.put(bucket, name, self.body, limit))
        if kind == "multipart":
            mark = re.search(r'boundary="?([^";]+)', self.headers["Content-Type"])[1].encode()
            about, content = self.body.split(b"--" + mark)[1:3]
            name = (
                name
                or json.loads(about.partition(b"\r\n\r\n")[2] or about.split(b"\n\n")[1])["name"]
            )
            content = re.split(rb"\r?\n\r?\n", content, maxsplit=1)[1]
            content = content.removesuffix(b"\n").removesuffix(b"\r")
            return self._json(self.server.put(bucket, name, content, limit))
        name = name or json.loads(self.body)["name"]
        number = str(next(self.server.count))
        self.server.uploads[number] = [bucket, name, limit, b""]
        place = f"http://127.0.0.1:{self.server.server_port}{path}?upload_id={number}"
        return self._send(200, Location=place, X_GUploader_UploadID=number)

    def _part(self, path):
        upload = self.server.uploads[self.asked["upload_id"]]
        upload[3] += self.body
        total = self.headers.get("Content-Range", "").rpartition("/")[2]
        if total == "*":  # more is to come
            return self._send(308, Range=f"bytes=0-{len(upload[3]) - 1}")
        return self._json(self.server.put(upload[0], upload[1], upload[3], upload[2]))

    def _delete(self, path):
        match = _OBJECT.fullmatch(path)
        bucket, name = urllib.parse.unquote(match[1]), urllib.parse.unquote(match[2])
        there = self.server.about(bucket, name)["generation"]
        if self.asked.get("ifGenerationMatch") not in (None, there):
            raise Refused(412)
        with self.server.lock:
            self.server.objects.pop((bucket, name), None)
        return self._send(204)


@contextlib.contextmanager
def running():
    """A server, as long as the body runs."""
    with Server() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield server
        finally:
            server.shutdown()
